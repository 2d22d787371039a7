"""A comparison's page: from results.json alone, complete, and safe with whatever names and texts hold."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distillkit.comparison import page
from distillkit.report.drawing import Drawing
from distillkit.report.markup import as_html
from tests.unit.comparison.example import EXAMPLE, MODELS, SCORES, results

HOSTILE = "<img src=x onerror=alert(1)>|**b** `c` [a](javascript:x) &lt; _d_ $\\frac{$"
HEADINGS = [
    "Scores", "Scores of each task", "All metrics", "Efficiency", "Where models and bert disagree", "The recipe",
    "The tasks", "Failures", "The command", "Machine",
]  # fmt: skip
FAILED = {"model": "albert", "task": "sst2", "seed": 2, "error": "NumericalError: the loss is nan"}


class Shown(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which take seconds."""
    monkeypatch.setattr(page, "draw", lambda facts: [])


def test_page_and_figures_are_written_when_a_comparison_is(tmp_path: Path) -> None:
    scores = {name: {"sst2": row["sst2"]} for name, row in SCORES.items()}
    facts = results(scores) | {"failed": [FAILED]}
    written = page.write_comparison(facts, tmp_path / "new" / "place")
    place = tmp_path / "new" / "place"
    assert {Path(path).name for path in written.values()} == {"results.json", "report.md", "report.html"}
    found = json.loads((place / "results.json").read_text())
    assert {key: value for key, value in found.items() if key != "figures"} == facts
    assert {path.name for path in (place / "figures").iterdir()} == set(found["figures"])
    text = (place / "report.md").read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == HEADINGS
    assert "| bert | 12 | 109.5 M | 1.0x | 92.4 ± 0.3 | 92.4 ± 0.3 | 100.0% |" in text.splitlines()
    html = Shown((place / "report.html").read_text())
    tables = [tag for tag, _ in html.tags if tag == "table"]
    assert len(tables) == len([attrs for tag, attrs in html.tags if attrs.get("class") == "scroll"]) > 4
    pictures = [attrs["src"] for tag, attrs in html.tags if tag == "img"]
    assert len(pictures) == 3 and all(str(source).startswith("data:image/png") for source in pictures)


def test_page_is_that_of_the_json_when_made_again(tmp_path: Path, undrawn: None) -> None:
    page.write_comparison(results(), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert page.as_markdown(json.loads((tmp_path / "results.json").read_text()), []) == text


def test_page_tells_failures_notes_machine_and_command_when_there_are_any() -> None:
    facts = results() | {"failed": [FAILED], "notes": ["The machine was busy."], "price_per_hour": 1.5}
    facts["models"]["albert"]["shared_on_disk"] = False
    text = page.as_markdown(facts, [])
    for part in (
        "- albert, sst2, seed 2: NumericalError: the loss is nan", "- The machine was busy.",
        "A CPU, 8 CPUs, 2 threads",
        "    distillkit compare 'models=[bert,distilbert,albert,control]' 'tasks=[sst2,wnut17,demo_imdb,squad]'",
        "albert: parameters are shared but stored once for every use",
        "means over 3 seeds, ± their standard deviation",
        "at 1.5 USD an hour", "Throughput: batches of 16 texts", "| learning rate |",
        "Every number of this page is in results.json beside it.",
    ):  # fmt: skip
        assert part in text, part


def test_page_tells_which_tasks_the_averages_are_of_when_a_model_lacks_one() -> None:
    facts = results(SCORES | {"albert": {"sst2": 0.871, "squad": 0.774}})
    drawing = Drawing("cost", "size", "Size and score", {})
    caption = (
        "Scores on average over {}, bars are their standard deviation over seeds. The score does not begin at zero."
    )
    text = page.as_markdown(facts, [drawing])
    assert caption.format("the 2 tasks that all models have") in text
    assert "| albert | 12 | 11.2 M (96.9 M) | 1.0x | 87.1 ± 0.3 | - | - | 77.4 ± 0.3 | - | - |" in text
    assert caption.format("4 tasks") in page.as_markdown(results(), [drawing])


def test_page_says_that_the_scores_begin_at_zero_by_saying_nothing_when_they_do() -> None:
    facts = results({"bert": {"cola": 0.5}, "albert": {"cola": 0.05}})
    text = page.as_markdown(facts, [Drawing("cost", "size", "Size and score", {})])
    assert "Scores on cola, bars are" in text and "begin at zero" not in text


def test_page_shortens_texts_when_examples_are_long() -> None:
    lines = [line for line in page.as_markdown(results(), []).splitlines() if "right: **" in line]
    assert len(lines) == 4 * 3 * 2
    text = " ".join(EXAMPLE["text"].split())
    assert all("…" in line and len(line) < 300 and text not in line for line in lines)
    assert lines[0].endswith("(right: **positive**; bert: positive; distilbert: negative)")


@pytest.mark.parametrize(
    "facts",
    [
        results({"albert": {"sst2": 0.871}}, models={"albert": MODELS["albert"]}, reference=None, seeds=[0]),
        results({}, tasks=["sst2"]),
        results({"bert": {"sst2": 0.9}, "albert": {"squad": 0.5}}),
        results(SCORES, reference=None) | {"price_per_hour": None, "measured": {}},
    ],
    ids=["one model, task and seed", "nothing ran", "no average", "no reference, nothing measured"],
)
def test_page_is_made_when_little_is_known(
    facts: dict[str, Any], tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    files = page.write_comparison(facts, tmp_path)
    text = Path(files["markdown"]).read_text()
    assert "None" not in text and "nan" not in text
    assert ("disagree" in text) is (facts["disagreements"].get("squad", {}) != {})
    page.print_comparison(facts)
    assert "model" in capsys.readouterr().out


def test_page_has_a_row_a_model_and_a_column_a_task_when_there_are_many() -> None:
    rows = {f"owner/model_{number}": MODELS["bert"] | {"role": "model"} for number in range(12)}
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
    facts = results({name: dict.fromkeys(tasks, 0.8) for name in rows}, models=rows, reference="owner/model_0")
    lines = page.as_markdown(facts, []).splitlines()
    assert lines[0] == "# Comparison: 12 models on 9 tasks"
    assert len([line for line in lines if line.startswith("| owner/model_") and line.count("|") == 16]) == 12
    assert any("GLUE average (9 of 9)" in line for line in lines)


def test_names_and_texts_stay_text_when_hostile(undrawn: None) -> None:
    facts = results()
    for key in ("models", "scores"):
        facts[key] = {HOSTILE if name == "albert" else name: row for name, row in facts[key].items()}
    example = dict.fromkeys(EXAMPLE, HOSTILE)
    entry = facts["disagreements"]["sst2"].pop("albert") | {"examples": [example]}
    facts["disagreements"]["sst2"][HOSTILE] = entry
    facts["failed"] = [FAILED | {"error": HOSTILE}]
    html = Shown(as_html(page.as_markdown(facts, []), []))
    assert html.text.count(HOSTILE) >= 8
    assert {tag for tag, _ in html.tags}.isdisjoint({"img", "em", "script", "a"})
    assert not [attrs for _, attrs in html.tags if "onerror" in attrs]


def test_page_keeps_no_secret_when_the_command_line_had_one(tmp_path: Path, undrawn: None) -> None:
    facts = results()
    facts["command"] += ["+task.sst2.api_key=S3CRET", "seeds=[0]"]
    kept = copy.deepcopy(facts)
    files = page.write_comparison(facts, tmp_path)
    texts = [Path(path).read_text() for path in files.values()]
    assert not [text for text in texts if "S3CRET" in text] and all("seeds=[0]" in text for text in texts)
    assert facts == kept


def test_outdated_figures_go_when_a_comparison_is_written_again(tmp_path: Path) -> None:
    one = {"bert": {"sst2": 0.9}}
    rows = {"bert": MODELS["bert"]}
    page.write_comparison(results({"bert": {"sst2": 0.9, "rte": 0.7}}, models=rows), tmp_path)
    (tmp_path / "figures" / "mine.png").touch()
    page.write_comparison(results(one, models=rows), tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "mine.png", "task_1_light.png", "task_1_dark.png"
    }  # fmt: skip


def test_terminal_shows_scores_and_failures_when_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page.print_comparison(results() | {"failed": [FAILED], "notes": ["busy"]})
    out = capsys.readouterr().out
    assert "distilbert" in out and "90.7 ± 0.3" in out and "96.4%" in out
    assert "note: busy" in out and "note: albert, sst2, seed 2 failed: NumericalError: the loss is nan" in out
