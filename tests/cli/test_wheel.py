"""What a user gets who installs the wheel and has no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASSET = "distillkit/assets/minilm_mlm_delta.safetensors"

pytestmark = [pytest.mark.slow, pytest.mark.ci]


def _call(*words: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    _call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed and its console script; a checkout stands behind it on sys.path at most."""
    folder = tmp_path_factory.mktemp("installed")
    _call(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_configuration_and_the_delta_when_built(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
    conf = {f"distillkit/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "distillkit").rglob("*.py")}
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "distillkit").rglob("*.jinja")}
    assert conf and templates and files.keys() >= conf | modules | templates
    assert files[ASSET] == (ROOT / ASSET).stat().st_size
    strangers = {name for name in files if not name.startswith(("distillkit/", "distillkit-"))}
    assert not strangers


def test_installed_command_helps_and_composes_when_the_checkout_is_away(installed: Path, tmp_path: Path) -> None:
    command, path = installed / "bin" / "distillkit", {"PYTHONPATH": str(installed)}
    home = "import distillkit, distillkit.config as c; print(distillkit.__file__); print(c.conf_dir())"
    places = _call(sys.executable, "-c", home, cwd=tmp_path, **path).split()
    assert [Path(place) for place in places] == [
        installed / "distillkit" / "__init__.py",
        installed / "distillkit" / "conf",
    ]
    assert "first steps" in _call(sys.executable, command, "--help", cwd=tmp_path, **path)
    shown = _call(
        sys.executable,
        command,
        "train",
        "experiment=demo_distilbert",
        "loss.gamma=0.25",
        "--cfg",
        "job",
        cwd=tmp_path,
        **path,
    )
    assert "gamma: 0.25" in shown
    assert not list(tmp_path.iterdir())
