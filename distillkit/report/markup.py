"""Pages as Markdown, and as HTML made from the Markdown, so that the two cannot differ."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from rich import table as terminal
from rich.markup import escape

from distillkit.progress import results_console
from distillkit.report.drawing import Drawing

Row = tuple[str, list[str]]
"""A line of a table: its label and its cells."""
NOTHING = "-"
_OWN = "distillkit.report"
_DETAILS = "sh"
_SPECIAL = re.compile(r"([\\`*\[\]<>|&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


class Table(NamedTuple):
    """A heading for each cell, and the rows."""

    head: list[str]
    rows: list[Row]


def cell(value: Any, show: Callable[[Any], str]) -> str:
    """A value as it is shown, a dash for None."""
    return NOTHING if value is None else show(value)


def known(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of nothing but dashes."""
    return [(label, cells) for label, cells in rows if set(cells) - {NOTHING}]


def escaped(text: Any) -> str:
    """Text that Markdown shows as it is, on one line; a Markup is Markdown already."""
    return text if isinstance(text, Markup) else _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def render(package: str, template: str, **values: Any) -> str:
    """A Markdown page. Its values are escaped; the report's own templates can be included.

    Args:
        package: whose templates/ holds the template.
        template: its file. The filters `table(head)`, `images`, `code` and `details(summary)` make Markdown of rows,
            drawings, a line, lines of code that HTML folds away.
        values: what it shows.
    """
    # every value is escaped for Markdown where it is put in; autoescape would escape for HTML
    jinja = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_OWN)]), finalize=escaped,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    jinja.filters |= {"code": _code, "details": _details, "images": _images, "table": _table}
    return jinja.get_template(template).render(**values)


def _code(text: str) -> Markup:
    """A line of an indented block, in which nothing is special."""
    return Markup(" ".join(text.splitlines()))


def _details(lines: Sequence[str], summary: str) -> Markup:
    """A fence whose info ends with the summary; lines that begin with a word cannot end it."""
    return Markup("\n".join([f"```{_DETAILS} {summary}", *(" ".join(line.splitlines()) for line in lines), "```"]))


def _images(drawings: Sequence[Drawing]) -> Markup:
    return Markup("\n".join(f"![{escaped(drawing.title)}]({drawing.path('light')})" for drawing in drawings))


def _table(rows: Sequence[Row], head: Sequence[str], label: str = "", numbers: bool = True) -> Markup:
    """A table with a heading for each cell, and for the labels; numbers stand to the right."""
    lines = [
        "|" + "".join(f" {escaped(text)} |" if text else " |" for text in (name, *cells))
        for name, cells in [(label, head), *rows]
    ]
    return Markup("\n".join([lines[0], "|---|" + ("---:|" if numbers else "---|") * len(head), *lines[1:]]))


def as_html(markdown: str, drawings: Sequence[Drawing]) -> str:
    """The page as one HTML file that needs no other.

    Args:
        markdown: of `render`.
        drawings: those it shows; put into the file in both themes.
    """
    images = {drawing.path("light"): drawing.images for drawing in drawings}
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")  # raw HTML in a name stays text
    parser.add_render_rule("image", lambda _, tokens, i, *rest: _picture(images, tokens[i]))
    parser.add_render_rule("table_open", lambda *rest: '<div class="scroll"><table>')
    parser.add_render_rule("table_close", lambda *rest: "</table></div>")
    parser.add_render_rule("fence", lambda _, tokens, i, *rest: _folded(tokens[i]))
    heading = parser.parse(markdown)[1]
    title = "".join(child.content for child in heading.children or [])
    body = Markup(parser.render(markdown))
    jinja = Environment(loader=PackageLoader(_OWN), autoescape=True, undefined=StrictUndefined)
    return jinja.get_template("page.html.jinja").render(title=title, body=body)


def _picture(images: Mapping[str, Mapping[str, bytes]], token: Token) -> str:
    themes, title = images[str(token.attrs["src"])], "".join(child.content for child in token.children or [])
    light, dark = (f"data:image/png;base64,{base64.b64encode(themes[t]).decode()}" for t in ("light", "dark"))
    source = Markup('<picture><source srcset="{}" media="(prefers-color-scheme: dark)">').format(dark)
    return source + Markup('<img src="{}" alt="{}"></picture>').format(light, title)


def _folded(token: Token) -> str:
    summary = token.info.removeprefix(_DETAILS).strip()
    return Markup("<details><summary>{}</summary><pre><code>{}</code></pre></details>\n").format(summary, token.content)


def print_rows(rows: Sequence[Row], head: Sequence[str], notes: Sequence[str], label: str = "") -> None:
    """Prints a table and notes to stdout.

    Args:
        rows, head, label: the table, as in `render`.
        notes: a line each.
    """
    table = terminal.Table()
    table.add_column(label, overflow="fold")
    for text in head:
        table.add_column(escape(text), overflow="fold", justify="right")
    for name, cells in rows:
        table.add_row(escape(name), *map(escape, cells))
    console = results_console()
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False)
