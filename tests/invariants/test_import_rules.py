"""Who may import whom, read off the syntax tree of every file, so that lazy imports count as well."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "distillkit"
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"comparison", "hashing", "inspection", "probe", "publishing", "sweeps"},
    {"config", "run", "validation"},
    {"building", "report", "status"},
    {"shared_teacher", "teacher_cache"},
    {"cached_rows", "card", "evaluation", "tracking", "training", "vocabulary"},
    {"data", "export", "objective", "students", "teachers"},
    {"chunks", "demo_teacher", "encoding", "flops", "meters", "redaction", "rowstore", "rundir", "sharing"},
    {
        "albert_shape",
        "attention",
        "digest",
        "heads",
        "hidden_bytes",
        "hub",
        "launching",
        "layout",
        "licenses",
        "linear",
        "locking",
        "losses",
        "machine",
        "phases",
        "progress",
        "roof",
        "rules",
        "storage",
        "targets",
    },
    {"errors", "types"},
)
DEPTH = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
STRANGERS = next(layer for layer in LAYERS if "teachers" in layer)
OWNERS = {
    "hydra": {"building", "cli", "config", "sweeps"},
    "omegaconf": {"commands", "config"},
    "wandb": {"tracking"},
    "lightning": set(),
}
HEAVY = ("torch", "pytorch_lightning", "transformers", "datasets")
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|Users|root|work)/\w+")


class Import(NamedTuple):
    """One import: the part of the package it stands in, where, and the dotted name it takes."""

    part: str
    place: str
    name: str

    @property
    def target(self) -> str | None:
        """The part of the package it takes; None for anything outside."""
        return self.name.split(".")[1] if self.name.startswith("distillkit.") else None


def _imports() -> Iterator[Import]:
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = "." * node.level + (node.module or "")
                names = [f"{origin}.{a.name}" for a in node.names] if origin == "distillkit" else [origin]
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (Import(part, f"{path.relative_to(ROOT)}:{node.lineno}", name) for name in names)


IMPORTS = list(_imports())
INNER = [item for item in IMPORTS if item.target not in (None, "__version__", item.part)]


def _offenders(items: list[Import]) -> str:
    return "; ".join(f"{item.place} imports {item.name}" for item in items)


def test_imports_are_found_when_the_package_is_read() -> None:
    assert {"distillkit.losses", "torch", "hydra", "pytorch_lightning"} <= {item.name for item in IMPORTS}


def test_parts_have_a_layer_when_they_exist() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert parts - {"__init__", "__pycache__", "assets", *DEPTH} == set(), "name their layer in LAYERS"


def test_imports_are_absolute_when_inside_the_package() -> None:
    assert not (relative := [item for item in IMPORTS if item.name.startswith(".")]), _offenders(relative)


def test_imports_go_down_the_layers_when_between_parts() -> None:
    upward = [i for i in INNER if i.target not in DEPTH or DEPTH.get(i.part, -1) > DEPTH[str(i.target)]]
    assert not upward, _offenders(upward)


def test_parts_of_a_run_are_strangers_when_put_together_by_run() -> None:
    meeting = [item for item in INNER if {item.part, item.target} <= STRANGERS]
    assert not meeting, _offenders(meeting)


def test_evaluation_never_imports_training_when_measuring() -> None:
    wrong = [item for item in INNER if item.part == "evaluation" and item.target == "training"]
    assert not wrong, _offenders(wrong)


def test_losses_import_torch_and_types_only_when_computing() -> None:
    allowed = {"torch", "distillkit.types", "distillkit.errors"} | sys.stdlib_module_names
    own = [item for item in IMPORTS if item.part == "losses"]
    wrong = [i for i in own if not {i.name, i.name.split(".")[0]} & allowed]
    assert own and not wrong, _offenders(wrong)


def test_package_itself_imports_the_standard_library_only_when_first_imported() -> None:
    wrong = [i for i in IMPORTS if i.part == "__init__" and i.name.split(".")[0] not in sys.stdlib_module_names]
    assert not wrong, _offenders(wrong)


@pytest.mark.parametrize("library", OWNERS)
def test_library_stays_with_its_owners_when_imported(library: str) -> None:
    wrong = [i for i in IMPORTS if i.name.split(".")[0] == library and i.part not in OWNERS[library]]
    assert not wrong, _offenders(wrong)


@pytest.mark.parametrize("code", ["import distillkit.cli", "import distillkit.cli as cli; cli.main(['--help'])"])
def test_cli_imports_nothing_heavy_when_it_only_helps(code: str) -> None:
    probe = f"{code}; import sys; sys.exit(' '.join(n for n in {HEAVY} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr.strip(), f"it imports {done.stderr}"


def test_contributing_tells_the_layers_and_the_owners_when_read() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    chain = re.search(r"^    cli ->.*?(?=\n\n)", text, re.S | re.M)
    parts = {path.stem for path in PACKAGE.iterdir()} - {"__main__"}
    assert chain and [set(re.findall(r"\w+", layer)) for layer in chain[0].split("->")] == [
        layer & parts for layer in LAYERS if layer & parts
    ]
    for library, room in (("Hydra", r"Hydra stays in (.*?), OmegaConf"), ("OmegaConf", r"OmegaConf in\s(.*?):")):
        named = re.search(room, text, re.S)
        assert named and set(re.findall(r"`(\w+)[./]", named[1])) == OWNERS[library.lower()]


def test_files_name_no_developer_machine_when_shipped() -> None:
    folders = [ROOT / name for name in ("distillkit", "conf", "tests", "scripts", "docs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".md")]
    files += [*ROOT.glob("*.md"), *ROOT.glob("*.t*"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    texts = {path.relative_to(ROOT): path.read_text() for path in files}
    found = [f"{name}: {hit.group()}" for name, text in texts.items() for hit in MACHINE_PATH.finditer(text)]
    assert len(files) > 50 and not found, "; ".join(found)
