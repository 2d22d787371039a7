"""`distillkit report`: facts, figures and page, written into one folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillkit.errors import ConfigError
from distillkit.progress import activity
from distillkit.report.facts import gather
from distillkit.report.figures import draw
from distillkit.report.page import as_markdown
from distillkit.report.writing import check_writable, write_page
from distillkit.rundir import RunFolder

FACTS = "report.json"


def write_report(run_dirs: Sequence[str | Path], output: str | Path | None = None) -> dict[str, Any]:
    """Writes report.json, report.md, report.html and figures/ of one or several runs.

    Args:
        run_dirs: the runs' folders; one named twice counts once.
        output: the folder to write into; by default the run's own, for several a new one, runs/report_<date_time>.

    Returns:
        As `write_page`, of the facts of `facts.gather`.

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
    check_writable(place)
    facts = gather(folders)
    with activity("drawing"):
        drawings = draw(facts)
    return write_page(place, FACTS, facts, as_markdown(facts, drawings), drawings)


def _own_folder(run_dirs: Sequence[Path]) -> Path:
    """The run's folder; a new one for several."""
    return run_dirs[0] if len(run_dirs) == 1 else Path("runs") / time.strftime("report_%Y-%m-%d_%H-%M-%S")
