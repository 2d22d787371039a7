"""`distillkit report`: facts, figures and page, written into one folder."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distillkit.errors import ConfigError, StorageError
from distillkit.progress import activity
from distillkit.report.facts import gather
from distillkit.report.figures import FIGURES, draw
from distillkit.report.page import as_html, as_markdown
from distillkit.rundir import RunFolder
from distillkit.storage import write_bytes, write_text

REPORT = {"facts": "report.json", "markdown": "report.md", "html": "report.html"}


def write_report(run_dirs: Sequence[str | Path], output: str | Path | None = None) -> dict[str, Any]:
    """Writes report.json, report.md, report.html and figures/ of one or several runs.

    Args:
        run_dirs: the runs' folders; one named twice counts once.
        output: the folder to write into; by default the run's own, for several a new one, runs/report_<date_time>.

    Returns:
        The facts, as in report.json (`facts.gather`, and under "figures" the files in figures/), and under "files" the
        paths written, by REPORT's names.

    Raises:
        ConfigError: no run is named.
        RunStateError: a folder is not a run's.
        StorageError: the folder cannot be written.
    """
    if not run_dirs:
        raise ConfigError("name a run's folder", key="RUN_DIR", value="", fix="distillkit report RUN_DIR")
    unique = {Path(path).resolve(): Path(path) for path in run_dirs}
    folders = [RunFolder(path, new=False, held=False) for path in unique.values()]
    place = Path(output).expanduser() if output is not None else _own_folder(list(unique.values()))
    _check_writable(place)
    facts = gather(folders)
    with activity("drawing"):
        drawings = draw(facts)
    for drawing in drawings:
        for theme, image in drawing.images.items():
            write_bytes(place / drawing.path(theme), image)
    facts["figures"] = [Path(drawing.path(theme)).name for drawing in drawings for theme in drawing.images]
    _remove_outdated(place, facts["figures"])
    text = as_markdown(facts, drawings)
    write_text(place / REPORT["markdown"], text)
    write_text(place / REPORT["html"], as_html(text, drawings))
    write_text(place / REPORT["facts"], json.dumps(facts, indent=1, allow_nan=False) + "\n")
    return facts | {"files": {name: str(place / file) for name, file in REPORT.items()}}


def _own_folder(run_dirs: Sequence[Path]) -> Path:
    """The run's folder; a new one for several."""
    return run_dirs[0] if len(run_dirs) == 1 else Path("runs") / time.strftime("report_%Y-%m-%d_%H-%M-%S")


def _remove_outdated(place: Path, written: Iterable[str]) -> None:
    """Removes the figures that the report before this one wrote and this one did not; no other file."""
    try:
        earlier = json.loads((place / REPORT["facts"]).read_text()).get("figures", [])
    except (FileNotFoundError, ValueError):
        return
    for picture in (place / FIGURES).glob("*.png"):
        if picture.name in set(earlier) - set(written):
            picture.unlink()


def _check_writable(place: Path) -> None:
    """Raises StorageError before anything is measured: that takes a while."""
    try:
        (place / FIGURES).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place / FIGURES).close()
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", key="output", value=place, fix="choose another folder: output=DIR"
        ) from error
