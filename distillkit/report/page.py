"""The page of a report: Markdown from the facts, HTML from the Markdown, so that the two cannot differ."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from distillkit.progress import duration, results_console
from distillkit.report.figures import SECTIONS, Drawing

Row = tuple[str, list[str]]
NOTHING = "-"

MODEL_ROWS: dict[str, tuple[str, str]] = {
    "layers": ("layers", "{:,}"),
    "unique_parameters": ("unique parameters", "{:,}"),
    "nominal_parameters": ("nominal parameters", "{:,}"),
    "disk_mb": ("size on disk, MB", "{:,.1f}"),
    "latency_ms": ("CPU latency, median ms", "{:.2f}"),
    "latency_p95_ms": ("CPU latency, p95 ms", "{:.2f}"),
    "latency_spread": ("CPU latency, spread", "{:.0%}"),
    "peak_memory_mb": ("peak memory, MB", "{:,.0f}"),
    "mlm_loss": ("held-out MLM loss, nats", "{:.3f}"),
    "perplexity": ("perplexity", "{:,.1f}"),
    "top1": ("top-1", "{:.1%}"),
    "of_teacher": ("top-1, share of the teacher's", "{:.1%}"),
    "agreement": ("agreement with the teacher", "{:.1%}"),
    "kl": ("KL to the teacher, nats", "{:.3f}"),
}
_SPECIAL = re.compile(r"([\\`*\[\]<>|&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def model_table(facts: Mapping[str, Any]) -> list[Row]:
    """The main table: a label and one cell a model, in the order of facts["models"].

    A dash stands where nothing is known; a row of nothing but dashes is left out.
    """
    rows = [
        (label, [_cell(model.get(key), form.format) for model in facts["models"].values()])
        for key, (label, form) in MODEL_ROWS.items()
    ]
    return _known(rows)


def run_table(facts: Mapping[str, Any]) -> list[Row]:
    """How the runs went: a label and one cell a run, in the order of facts["runs"].

    A row of nothing but dashes is left out.
    """
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "state": lambda run: run["state"],
        "optimizer steps": lambda run: f"{run['step']:,}" + (f" of {run['steps']:,}" if run["steps"] else ""),
        "tokens seen": lambda run: _cell(run["tokens"], "{:,}".format),
        "time": lambda run: duration(run["seconds"]),
        "sessions": lambda run: str(run["sessions"]),
        "tokens/s, median": lambda run: _cell(run["tokens_per_second"], "{:,.0f}".format),
        "peak memory of training, MB": lambda run: _cell(run["training"]["peak_memory_mb"], "{:,.0f}".format),
        "peak GPU memory of training, MB": lambda run: _cell(run["training"]["peak_gpu_memory_mb"], "{:,.0f}".format),
        "threads": lambda run: str(run["threads"]),
        "loss": lambda run: ", ".join(f"{weight:g} {term}" for term, weight in run["weights"].items() if weight),
        "temperature": lambda run: _cell(run["temperature"], "{:g}".format),
        "distillkit": lambda run: run["version"],
    }
    return _known([(label, [show(run) for run in facts["runs"].values()]) for label, show in rows.items()])


def _known(rows: Sequence[Row]) -> list[Row]:
    return [(label, cells) for label, cells in rows if set(cells) != {NOTHING}]


def _cell(value: Any, show: Callable[[Any], str]) -> str:
    return NOTHING if value is None else show(value)


def escaped(text: Any) -> str:
    """Text that Markdown shows as it is, on one line; a Markup is Markdown already."""
    return text if isinstance(text, Markup) else _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def as_markdown(facts: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """The page as Markdown, with links to the light figures.

    Args:
        facts: of `facts.gather`, or as read from report.json.
        drawings: of `figures.draw`.
    """
    # every value is escaped for Markdown where it is put in; autoescape would escape for HTML
    jinja = Environment(
        loader=PackageLoader("distillkit.report"), finalize=escaped, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    jinja.filters |= {"code": _code, "images": _images}
    sections = {section: [drawing for drawing in drawings if drawing.section == section] for section in SECTIONS}
    tables = {"model_rows": model_table(facts), "run_rows": run_table(facts)}
    return jinja.get_template("report.md.jinja").render(facts=facts, drawings=sections, **tables)


def _code(text: str) -> Markup:
    """A line of an indented block, in which nothing is special."""
    return Markup(" ".join(text.splitlines()))


def _images(drawings: Sequence[Drawing]) -> Markup:
    return Markup("\n".join(f"![{escaped(drawing.title)}]({drawing.path('light')})" for drawing in drawings))


def as_html(markdown: str, drawings: Sequence[Drawing]) -> str:
    """The page as one HTML file that needs no other.

    Args:
        markdown: of `as_markdown`.
        drawings: those it shows; put into the file in both themes.
    """
    images = {drawing.path("light"): drawing.images for drawing in drawings}
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")  # raw HTML in a name stays text
    parser.add_render_rule("image", lambda _, tokens, i, *rest: _picture(images, tokens[i]))
    parser.add_render_rule("table_open", lambda *rest: '<div class="scroll"><table>')
    parser.add_render_rule("table_close", lambda *rest: "</table></div>")
    heading = parser.parse(markdown)[1]
    title = "".join(child.content for child in heading.children or [])
    body = Markup(parser.render(markdown))
    jinja = Environment(loader=PackageLoader("distillkit.report"), autoescape=True, undefined=StrictUndefined)
    return jinja.get_template("report.html.jinja").render(title=title, body=body)


def _picture(images: Mapping[str, Mapping[str, bytes]], token: Token) -> str:
    themes, title = images[str(token.attrs["src"])], "".join(child.content for child in token.children or [])
    light, dark = (f"data:image/png;base64,{base64.b64encode(themes[t]).decode()}" for t in ("light", "dark"))
    source = Markup('<picture><source srcset="{}" media="(prefers-color-scheme: dark)">').format(dark)
    return source + Markup('<img src="{}" alt="{}"></picture>').format(light, title)


def print_models(facts: Mapping[str, Any]) -> None:
    """Prints the main table and the notes to stdout."""
    table = Table("", *(escape(name) for name in facts["models"]))
    for column in table.columns[1:]:
        column.justify = "right"
    for label, cells in model_table(facts):
        table.add_row(label, *cells)
    console = results_console()
    console.print(table)
    for note in facts["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
