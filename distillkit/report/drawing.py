"""What every figure of a page shares: its looks for a light and for a dark page, names that stay readable."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FIGURES = "figures"
LABELLED = 5
"""Most points whose names stand beside them; the names of more stand below the figure."""
SIZE, DPI = (4.2, 3.0), 170


class Theme(NamedTuple):
    """Colours of a page: what is behind, what is written, lines of little weight, one colour a student."""

    back: str
    text: str
    faint: str
    students: tuple[str, ...]


# hues of Okabe and Ito, which colour-blind readers tell apart; lighter ones on the dark page
THEMES = {
    "light": Theme("#ffffff", "#1c1e21", "#c9ccd1", ("#0072b2", "#d55e00", "#009e73", "#b4558f", "#a87900", "#2f8fc4")),
    "dark": Theme("#15171b", "#e6e8eb", "#4a4f57", ("#56b4e9", "#ff8f52", "#35cfa0", "#e79ac6", "#f0c64a", "#a5dcff")),
}
_STROKES, _MARKS = ("-", "--", ":", "-."), "osD^vP"


@dataclass(frozen=True)
class Drawing:
    """A figure of a page.

    Attributes:
        section: of the page.
        name: of its files.
        title: says what it shows, also to who cannot see it.
        images: theme -> PNG.
    """

    section: str
    name: str
    title: str
    images: dict[str, bytes]

    def path(self, theme: str) -> str:
        """Its file for a theme, relative to the page."""
        return f"{FIGURES}/{self.name}_{theme}.png"


class Look(NamedTuple):
    """How a model is drawn: colour, stroke of its curves, mark of its points."""

    color: str
    stroke: str
    mark: str


class Point(NamedTuple):
    """A model in a plane; spread is the standard deviation of y, None where unknown."""

    x: float
    y: float
    spread: float | None = None


Painter = Callable[[Axes, Theme], None]


class Plan(NamedTuple):
    """A figure before it is drawn: where it belongs, its file's name, its title, its inches and what paints it."""

    section: str
    name: str
    title: str
    size: tuple[float, float]
    paint: Painter


def draw_all(plans: Iterable[Plan]) -> list[Drawing]:
    """Draws each figure in every theme."""
    return [
        Drawing(
            plan.section,
            plan.name,
            plan.title,
            {theme: _render(plan.paint, plan.title, colors, plan.size) for theme, colors in THEMES.items()},
        )
        for plan in plans
    ]


def by_section(drawings: Sequence[Drawing], sections: Iterable[str]) -> dict[str, list[Drawing]]:
    """The drawings of each section."""
    return {section: [drawing for drawing in drawings if drawing.section == section] for section in sections}


def short(name: str, most: int = 26) -> str:
    """A name that fits into a figure; its end tells more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _render(paint: Painter, title: str, theme: Theme, size: tuple[float, float]) -> bytes:
    """PNG of one figure; rc_context leaves the caller's settings alone, and Figure keeps pyplot out of it."""
    settings: Any = {
        "font.size": 10, "text.color": theme.text, "axes.labelcolor": theme.text, "xtick.color": theme.text,
        "ytick.color": theme.text, "axes.edgecolor": theme.faint, "axes.facecolor": theme.back,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": theme.faint,
        "grid.alpha": 0.45, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "legend.frameon": False, "legend.fontsize": 9, "legend.handlelength": 1.6, "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, dpi=DPI, facecolor=theme.back, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title)
        paint(axes, theme)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def looks(names: Iterable[str], theme: Theme, plain: Collection[str] = ()) -> dict[str, Look]:
    """One look a name, the same in every figure; beyond six, strokes and marks tell those of one colour apart.

    Args:
        names: of all models of the page.
        theme: of the page.
        plain: those that the others are measured against: a star in the colour of the text.
    """
    found, number = {}, 0
    for name in names:
        if name in plain:
            found[name] = Look(theme.text, "-", "*")
            continue
        again, color = divmod(number, len(theme.students))
        stroke, mark = _STROKES[again % len(_STROKES)], _MARKS[(number + again) % len(_MARKS)]
        found[name] = Look(theme.students[color], stroke, mark)
        number += 1
    return found


def legend(axes: Axes, handles: Mapping[str, Artist], label_color: str = "linecolor") -> None:
    """Names below the axes, where they cover nothing; the figure grows by their lines."""
    # matplotlib leaves names that begin with an underscore out of a legend
    labels = [f" {short(name, 40)}" for name in handles]
    columns = 2 if max(map(len, labels)) <= 19 else 1
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))
    figure.legend(list(handles.values()), labels, loc="outside lower left", ncols=columns, labelcolor=label_color)


def scatter(
    points: Mapping[str, Point], found: Mapping[str, Look], axes: Axes, theme: Theme, *, floor: float = 0.0
) -> None:
    """Draws named points, their spreads as bars; names beside the points, below the figure when there are many.

    Args:
        points: name -> point; x from 0.
        found: of `looks`.
        axes, theme: to draw on.
        floor: where the y axis begins.
    """
    handles: dict[str, Artist] = {}
    for name, point in points.items():
        look = found[name]
        if point.spread:
            axes.errorbar(point.x, point.y, yerr=point.spread, color=look.color, lw=1.2, capsize=3, zorder=2)
        (handles[name],) = axes.plot(
            point.x, point.y, look.mark, color=look.color, markersize=13 if look.mark == "*" else 9,
            markeredgecolor=theme.back, clip_on=False, zorder=3,
        )  # fmt: skip
    highest = max(point.y + (point.spread or 0.0) for point in points.values())
    axes.set_xlim(0, max(point.x for point in points.values()) * 1.12)
    axes.set_ylim(floor, highest + 0.2 * ((highest - floor) or 1.0))
    if len(points) > LABELLED:
        legend(axes, handles)
    else:
        _label_points(axes, theme, points, found)


def strips(
    rows: Mapping[str, tuple[Sequence[float], float, float | None]],
    found: Mapping[str, Look],
    axes: Axes,
    *,
    most: int = 22,
) -> None:
    """Draws a line a name: each seed a faint stroke, their mean with its spread.

    Args:
        rows: name -> values of the seeds, mean, standard deviation or None.
        found: of `looks`.
        axes: to draw on.
        most: characters of a name.
    """
    for line, (name, (seeds, mean, spread)) in enumerate(rows.items()):
        look = found[name]
        axes.plot(seeds, [line] * len(seeds), "|", color=look.color, alpha=0.6, markersize=9, zorder=2)
        axes.errorbar(
            mean, line, xerr=spread, fmt=look.mark, color=look.color, capsize=3, lw=1.2,
            markersize=9 if look.mark == "*" else 6, zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [short(name, most) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _label_points(axes: Axes, theme: Theme, points: Mapping[str, Point], found: Mapping[str, Look]) -> None:
    """Writes each name beside its point, upwards from the lowest, a line apart, so that equal points stay readable."""
    widest, (lowest, highest) = axes.get_xlim()[1], axes.get_ylim()
    line, height = (highest - lowest) * 0.09, -math.inf
    for name, (x, y, _) in sorted(points.items(), key=lambda item: item[1].y):
        left, height = x > widest / 2, max(y, height + line)
        axes.annotate(
            short(name), (x, height), xytext=(-9 if left else 9, 0), textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=9, color=found[name].color,
            bbox={"facecolor": theme.back, "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )  # fmt: skip
    axes.set_ylim(lowest, max(highest, height + line))
