"""A page's files in their folder: facts, Markdown, HTML and figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.errors import StorageError
from distillkit.report.drawing import FIGURES, Drawing
from distillkit.report.markup import as_html
from distillkit.storage import write_bytes, write_text

PAGE = "report"


def write_page(
    place: Path, name: str, facts: Mapping[str, Any], markdown: str, drawings: Sequence[Drawing], *, page: str = PAGE
) -> dict[str, Any]:
    """Writes a page's facts, Markdown, HTML and figures/; figures of the page before it that it lacks go.

    Args:
        place: the folder, seen to be writable by `check_writable`.
        name: of the facts' file.
        facts: plain values that JSON holds.
        markdown: the page.
        drawings: those it shows.
        page: name of the Markdown and the HTML, without .md and .html.

    Returns:
        The facts as written, with the files in figures/ under "figures"; and under "files" the paths of facts,
        markdown and html.

    Raises:
        StorageError: a file cannot be written.
    """
    for drawing in drawings:
        for theme, image in drawing.images.items():
            write_bytes(place / drawing.path(theme), image)
    figures = [Path(drawing.path(theme)).name for drawing in drawings for theme in drawing.images]
    found = {**facts, "figures": figures}
    _remove_outdated(place, name, figures)
    write_text(place / f"{page}.md", markdown)
    write_text(place / f"{page}.html", as_html(markdown, drawings))
    write_text(place / name, json.dumps(found, indent=1, allow_nan=False) + "\n")
    paths = {"facts": name, "markdown": f"{page}.md", "html": f"{page}.html"}
    return found | {"files": {kind: str(place / file) for kind, file in paths.items()}}


def check_writable(place: Path) -> None:
    """Makes the folder; raises StorageError when it cannot be written: asked before anything is measured."""
    try:
        (place / FIGURES).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place / FIGURES).close()
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", key="output", value=place, fix="choose another folder: output=DIR"
        ) from error


def _remove_outdated(place: Path, name: str, written: Iterable[str]) -> None:
    """Removes the figures that the page before this one had and this one has not; no other file."""
    try:
        earlier = json.loads((place / name).read_text()).get("figures", [])
    except (FileNotFoundError, ValueError):
        return
    for picture in (place / FIGURES).glob("*.png"):
        if picture.name in set(earlier) - set(written):
            picture.unlink()
