"""What README and docs/ show: every command composes, and runs where the page says so; links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from distillkit import cli, config, run, validation
from distillkit.sweeps import definition, multirun
from scripts import measure_albert_scratch
from tests.cli.test_readme import ROOT, make_teacher_and_corpus
from tests.faults.fixtures import Call
from tests.faults.harness import CHECKOUT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_VERBS = ("train", "info", "sweep", "evaluate", "report", "export", "resume", "status", "hash", "tokenizer")
LIGHT = ["data.batch_size=2", "checkpoint.every_n_steps=1", "logger=none", "run.evaluation_batches=1"]
"""Added where a page's command is run: the same command, sooner done."""


class Command(NamedTuple):
    """A line of a page that starts with distillkit: its words, and whether it can be run by itself.

    Not when the page says that it was not tried, nor inside a construct of the shell.
    """

    page: Path
    words: list[str]
    alone: bool

    def __str__(self) -> str:
        return f"{self.page.stem}: {shlex.join(self.words)}"


def commands() -> Iterator[Command]:
    """Every command in the code of every page."""
    for page in PAGES:
        for indent, line in re.findall(r"^ {4}( *)distillkit (.*)$", page.read_text().replace("\\\n", ""), re.M):
            yield Command(page, shlex.split(line, comments=True), not indent and "# not tried" not in line)


COMMANDS = list(commands())


def overrides(words: list[str]) -> list[str]:
    return [word for word in words if "=" in word]


def test_pages_and_commands_are_found_when_read() -> None:
    assert len(PAGES) >= 9 and len(COMMANDS) >= 30
    assert {command.words[0] for command in COMMANDS} >= set(OWN_VERBS)


def test_script_of_a_curve_runs_what_the_page_shows_when_it_measures() -> None:
    shown = [c for c in COMMANDS if c.page.stem == "albert" and c.words[0] == "train" and "optimizer=lamb" in c.words]
    assert len(shown) == 1
    assert {*measure_albert_scratch.RECIPE, "tokenizer.path=vocab8k"} == {*overrides(shown[0].words)}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_composes_and_validates_when_shown(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLKIT_RUN_DIR", "unused")
    verb, *words = command.words
    assert verb in cli.VERBS or verb.startswith("-"), "no such verb"
    args = cli._parse(verb, words) if verb in OWN_VERBS else None
    if verb == "train" and args is not None and args.multirun:
        assert len(multirun._arms(args.words, None)) > 1
    elif verb == "sweep":
        assert args is not None and definition.plan(args.words, None)
    elif verb in ("train", "info"):
        validation.validate(config.settle(*config.load("train", overrides(words))))
    elif verb == "evaluate":
        config.settle(*config.load("evaluate", overrides(words)))
        assert words[0] not in overrides(words), "no folder"
    elif verb == "tokenizer":
        validation.validate_tokenizer(config.settle(*config.load("tokenizer", overrides(words))))
    elif verb == "resume":
        assert {word.partition("=")[0] for word in words[1:]} <= set(run.RESUMABLE_CHANGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_scripts_are_there_when_a_page_names_them(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"\b(?:src|srcset)=\"([^\"]+)\"", text)
    targets = [target for target in named if not re.match(r"[a-z]+:", target)]
    missing = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    missing += [name for name in re.findall(r"\bscripts/\w+\.py", text) if not (ROOT / name).is_file()]
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_compile_when_shown(page: Path) -> None:
    for code in python_blocks(page):
        assert compile(code, str(page), "exec").co_code, "a block without a statement"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_keys_exist_when_a_page_names_them(page: Path) -> None:
    groups = ("student", "loss", "data", "trainer", "teacher", "masking", "optimizer", "scheduler", "checkpoint", "run")
    named = set(re.findall(rf"`((?:{'|'.join(groups)})\.[a-z_.]+)(?:=[^`]*)?`", page.read_text()))
    listed = set(re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs" / "keys.md").read_text(), re.M))
    assert named <= listed | {"run.json"}


def test_resume_page_lists_the_keys_that_may_change_when_read() -> None:
    text = (ROOT / "docs" / "how-to" / "resume.md").read_text()
    listed = re.search(r"These keys may change on resume(.*?)Any other is refused", text, re.S)
    assert listed and set(re.findall(r"`([^`]+)`", listed[1])) == set(run.RESUMABLE_CHANGES)


# --- the commands, run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the how-to pages name, tiny."""
    folder = tmp_path_factory.mktemp("world")
    make_teacher_and_corpus(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "my_bert", trust_remote_code=False)
    bert = AutoModelForMaskedLM.from_pretrained(folder / "my_bert", trust_remote_code=False)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    roberta = RobertaForMaskedLM(RobertaConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes))
    for name, model in {"my_encoder": bert.bert, "my_roberta": roberta}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lines = (folder / "corpus" / "a.txt").read_text().splitlines()
    (folder / "corpus" / "b.txt").write_text("\n".join(reversed(lines)))
    (folder / "held_out.txt").write_text("\n".join(lines[:40]))
    (folder / "reviews.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in lines))
    (folder / "reviews.csv").write_text("\n".join(["stars;body", *(f"3;{line}" for line in lines)]))
    (folder / "shards").mkdir()
    datasets.Dataset.from_dict({"body": lines}).to_parquet(folder / "shards" / "0.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda page: page.stem)
def test_commands_run_in_their_order_when_typed(
    page: Path, world: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in world.iterdir():
        (tmp_path / "cwd" / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path / "cwd")
    for command in (c for c in COMMANDS if c.page == page and c.alone and c.words[0] in OWN_VERBS):
        words = light(command.words)
        monkeypatch.delenv("DISTILLKIT_RUN_DIR", raising=False)
        if any(word.startswith("trainer.devices") for word in words) or "runs/two_cpu" in words or "-m" in words:
            shell = [sys.executable, "-m", "distillkit", *words]
            done = subprocess.run(shell, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        elif (result := call(*words)).code:
            raise AssertionError(f"{command}: {result.err}")


def light(words: list[str]) -> list[str]:
    """The same command over the tiny world, two steps long; one that resumes for longer goes on to four."""
    if words[0] == "resume":
        return [re.sub(r"^trainer\.max_steps=.*", "trainer.max_steps=4", word) for word in words]
    if words[0] not in ("train", "info", "sweep"):
        return words
    kept = {override.partition("=")[0] for override in words}
    added = [word for word in LIGHT if word.partition("=")[0] not in kept]
    fewer = {"trainer.max_steps": "trainer.max_steps=2"} | {key: f"{key}=2" for key in kept & {"sweep.trials"}}
    return [*(word for word in words if word.partition("=")[0] not in fewer), *added, *fewer.values()]


@pytest.mark.slow
def test_from_python_script_runs_when_its_blocks_are_joined(world: Path, tmp_path: Path) -> None:
    for name in ("my_bert", "corpus"):
        (tmp_path / name).symlink_to(world / name)
    code = "\n".join(python_blocks(ROOT / "docs" / "how-to" / "from-python.md"))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mlm_loss" in done.stdout and (tmp_path / "student" / "model.safetensors").is_file()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_00000004", "step_00000008"}
