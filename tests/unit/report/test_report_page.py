"""The page: the facts' numbers, one file that needs no other, and names that stay text."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

from distillkit.errors import ConfigError, RunStateError, StorageError
from distillkit.report import document
from distillkit.report.drawing import Drawing
from distillkit.report.figures import draw
from distillkit.report.markup import as_html
from distillkit.report.page import as_markdown, model_table, run_table
from tests.unit.report.conftest import MakeRun

HOSTILE = "<img src=x onerror=alert(1)>|**b** `c` [a](javascript:x) &lt; _d_ $\\frac{$"


class Page(HTMLParser):
    """The tags with their attributes, and each table as rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text, self._cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def found(report: Path) -> dict[str, Any]:
    return json.loads((report / "report.json").read_text())


@pytest.fixture(scope="module")
def html(report: Path) -> str:
    return (report / "report.html").read_text()


def test_page_shows_the_evaluation_when_made(report: Path, html: str) -> None:
    lines = (report / "report.md").read_text().splitlines()
    assert "| | teacher | distilbert | albert | control |" in lines
    assert "| held-out MLM loss, nats | 3.250 | 4.125 | 4.125 | 4.500 |" in lines
    assert "| top-1 | 50.0% | 37.5% | 37.5% | 25.0% |" in lines
    assert "| top-1, share of the teacher's | - | 75.0% | 75.0% | 50.0% |" in lines
    assert "| agreement with the teacher | - | 61.3% | 61.3% | - |" in lines
    assert "| tokens seen | 6,144 | 6,144 | 6,144 |" in lines
    assert "| time | 32 s | 32 s | 32 s |" in lines
    assert "    distillkit train experiment=demo" in lines
    table_lines = [line.replace("\\", "").strip("|") for line in lines if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in table_lines]
    shown = [[cell.strip() for cell in row] for table in Page(html).tables for row in table]
    assert shown == [row for row in rows if not row[0].startswith("---")]


def test_html_needs_no_other_file_when_opened(html: str) -> None:
    page = Page(html)
    places = [attrs[name] for _, attrs in page.tags for name in ("src", "srcset", "href") if name in attrs]
    assert len(places) >= 2 * 8 and all(str(place).startswith("data:image/png;base64,") for place in places)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert style and "url(" not in style and "@import" not in style
    dark = [attrs for tag, attrs in page.tags if tag == "source"]
    assert dark and all(attrs["media"] == "(prefers-color-scheme: dark)" for attrs in dark)
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_markdown_links_every_figure_when_written(report: Path) -> None:
    files = {path.relative_to(report).as_posix() for path in (report / "figures").iterdir()}
    links = {part.partition(")")[0] for part in (report / "report.md").read_text().split("](")[1:]}
    assert links == {name for name in files if name.endswith("_light.png")}
    assert {name.replace("_light", "_dark") for name in links} | links == files


def test_memory_of_training_stands_with_the_runs_when_one_of_them_tells(found: dict[str, Any]) -> None:
    facts = copy.deepcopy(found)
    assert not [label for label, _ in run_table(facts) if "memory" in label]
    facts["runs"]["albert"]["training"] = {"seconds": 7.0, "peak_memory_mb": 1234.4, "peak_gpu_memory_mb": None}
    assert [row for row in run_table(facts) if "memory" in row[0]] == [
        ("peak memory of training, MB", ["-", "1,234", "-"])
    ]


def test_names_and_words_stay_text_when_hostile(found: dict[str, Any]) -> None:
    facts = copy.deepcopy(found)
    facts["runs"] = {HOSTILE if name == "albert" else name: run for name, run in facts["runs"].items()}
    facts["models"] = {HOSTILE if name == "albert" else name: model for name, model in facts["models"].items()}
    facts["runs"][HOSTILE]["commands"] = [f"distillkit train '{HOSTILE}\n```\n# x'"]
    facts["notes"].append(HOSTILE)
    facts["examples"] = [{"text": HOSTILE, "predictions": {HOSTILE: [{"token": "<b>|", "score": 0.5}]}}]
    for run in facts["runs"].values():
        run["curves"] = {"train/mlm": run["curves"]["train/mlm"]}
    drawings = draw(facts)
    page = Page(as_html(as_markdown(facts, drawings), drawings))
    shown = [*page.tables[0][0], *page.tables[2][1]]
    assert shown.count(HOSTILE) == 2 and "<b>| 50.0%" in shown
    assert [len(row) for row in page.tables[0]] == [5] * len(page.tables[0])
    assert page.text.count(HOSTILE) >= 6
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "em", "script", "a"})
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]


def test_figures_are_the_same_when_redrawn_from_the_json(found: dict[str, Any], report: Path) -> None:
    drawings = draw(found)
    assert {drawing.section for drawing in drawings} == {"cost", "training", "held_out", "speed", "layers"}
    for drawing in drawings:
        for theme, image in drawing.images.items():
            assert (report / drawing.path(theme)).read_bytes() == image, drawing.name
    assert as_markdown(found, drawings) == (report / "report.md").read_text()
    changed = {"axes.facecolor", "text.parse_math", "font.size"}
    assert all(matplotlib.rcParams[name] == matplotlib.rcParamsDefault[name] for name in changed)
    assert not pyplot.get_fignums()


def test_rows_are_left_out_when_no_model_has_a_figure() -> None:
    models = {"teacher": {"role": "teacher", "layers": 6, "top1": None}, "a": {"role": "student", "layers": None}}
    assert model_table({"models": models}) == [("layers", ["6", "-"])]


@pytest.mark.usefixtures("cheap")
def test_page_shows_every_command_and_no_secret_when_the_command_line_had_one(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "draw", lambda facts: [])
    secrets = ("+logger.wandb.settings.api_key=S3CRET", "+logger.wandb.settings={api_key:S3CRET}")
    run = make_run(tmp_path / "run", overrides=("experiment=demo", *secrets, "+run.dir=S3CRET"))
    with (run / "events.jsonl").open("a") as events:
        events.write(json.dumps({"time": 140.0, "event": "resume", "step": 12, "overrides": ["trainer.max_steps=20"]}))
        events.write("\n")
    files = document.write_report([run])["files"]
    lines = ["    distillkit train experiment=demo", "    distillkit resume RUN_DIR trainer.max_steps=20"]
    assert "\n".join(lines) in Path(files["markdown"]).read_text()
    assert "\n".join(line.strip() for line in lines) in Path(files["html"]).read_text()
    assert not [file for file in files.values() if "S3CRET" in Path(file).read_text()]


@pytest.mark.usefixtures("cheap")
def test_report_goes_where_the_runs_are_when_no_output_is_named(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "draw", lambda facts: [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    one, two = make_run(tmp_path / "base" / "one"), make_run(tmp_path / "base" / "deep" / "two")
    asked = (([one], None), ([one, two, one], None), ([two], tmp_path / "new" / "place"), ([one, two], "~/page"))
    written = [document.write_report(runs, output)["files"] for runs, output in asked]
    own, several, named, home = (Path(files["html"]).parent for files in written)
    assert (own, named, home) == (one, tmp_path / "new" / "place", tmp_path / "home" / "page")
    assert re.fullmatch(r"runs/report_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", str(several))
    assert list(json.loads((several / "report.json").read_text())["runs"]) == ["one", "two"]
    assert all(Path(file).is_file() for files in written for file in files.values())
    assert not (tmp_path / "base" / "report.html").exists() and not (two / "report.html").exists()


@pytest.mark.usefixtures("cheap")
def test_outdated_figures_go_and_a_users_stay_when_a_report_is_written_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [Drawing("cost", name, name, {"light": b"1", "dark": b"2"}) for name in ("size", "layers_1")]
    run, place = make_run(tmp_path / "run"), tmp_path / "page"
    (place / "figures").mkdir(parents=True)
    (place / "figures" / "mine_light.png").touch()
    for count, names in ((2, {"size", "layers_1"}), (1, {"size"})):
        monkeypatch.setattr(document, "draw", lambda facts, count=count: pictures[:count])
        found = document.write_report([run], place)
        made = {f"{name}_{theme}.png" for name in names for theme in ("light", "dark")}
        assert {path.name for path in (place / "figures").iterdir()} == made | {"mine_light.png"}
        assert set(found["figures"]) == made
    (place / "report.json").write_text("{")
    document.write_report([run], place)


def test_report_is_refused_before_it_measures_when_it_cannot_be_written_or_is_no_run(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "gather", lambda folders: pytest.fail("measured"))
    run, in_the_way = make_run(tmp_path / "run"), tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(StorageError, match="output="):
        document.write_report([run], in_the_way / "below")
    with pytest.raises(RunStateError, match="not a run's folder"):
        document.write_report([run, tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ConfigError, match="name a run's folder"):
        document.write_report([])
    assert not (tmp_path / "out").exists() and not (tmp_path / "nowhere").exists()
