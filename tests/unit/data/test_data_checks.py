"""Bad corpora end in one line that names the file and the place; odd but good ones work."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillkit.data.checks import check_text, find_files
from distillkit.data.column_corpus import CsvCorpus, JsonlCorpus, ParquetCorpus
from distillkit.data.corpus import TextCorpus
from distillkit.data.hub_corpus import HubCorpus
from distillkit.errors import ConfigError, DataError


def texts_of(corpus, folder: Path) -> list[str]:
    """All the documents of a corpus, held-out ones included, sorted."""
    splits = corpus.splits(folder)
    return sorted([*splits.train["text"][:], *(splits.valid["text"][:] if splits.valid else [])])


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n  \r\n\t\n\xef\xbb\xbf\n", "nothing but blank"),
        (b"good\nbad\0line\n", "NUL byte at byte 8 (line 2)"),
        (b"good\nb\xe9d\n", "invalid UTF-8 at byte 6 (line 2)"),
        (b"good\ncut \xe2\x82", "invalid UTF-8 at byte 9 (line 2)"),
        ("text\n".encode("utf-16"), "invalid UTF-8 at byte 0 (line 1)"),
        (b"\x1f\x8b\x08\x00compressed", "invalid UTF-8 at byte 1 (line 1)"),
    ],
)
def test_text_corpus_names_the_place_when_the_file_is_bad(tmp_path: Path, content: bytes, said: str) -> None:
    path = write(tmp_path / "c.txt", content)
    with pytest.raises(DataError) as caught:
        TextCorpus(path).splits(tmp_path / "work")
    assert said in str(caught.value)
    assert caught.value.key == "data.path"
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_text_counts_from_the_file_start_when_a_character_spans_two_pieces(tmp_path: Path) -> None:
    good = b"x" * (2**20 - 2) + b"\n" + "€".encode()  # the euro sign begins in the first piece of 1 MB
    check_text(write(tmp_path / "good.txt", good), key="data.path")
    with pytest.raises(DataError, match=rf"invalid UTF-8 at byte {2**20 - 1} \(line 2\)"):
        check_text(write(tmp_path / "bad.txt", good[:-1] + b"x"), key="data.path")
    with pytest.raises(DataError, match=rf"NUL byte at byte {len(good) + 1} \(line 3\)"):
        check_text(write(tmp_path / "nul.txt", good + b"\n\0"), key="data.path")


@pytest.mark.parametrize("path", ["nowhere.txt", "no*.txt", "empty_folder"])
def test_text_corpus_names_the_path_when_nothing_is_there(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty_folder").mkdir()
    with pytest.raises(DataError) as caught:
        TextCorpus(str(tmp_path / path)).fingerprint()
    assert (caught.value.key, caught.value.fix is not None) == ("data.path", True)
    with pytest.raises(DataError) as caught:
        TextCorpus(write(tmp_path / "c.txt", "text"), valid_path=str(tmp_path / path)).fingerprint()
    assert caught.value.key == "data.valid_path"


def test_find_files_gives_the_same_sorted_files_when_named_in_any_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path / "d" / name, "text") for name in ("a.txt", "b.txt", "sub/c.txt")]
    write(tmp_path / "d" / ".hidden" / "x.txt", "text")
    write(tmp_path / "d" / "readme.md", "text")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "d"
    everything = (
        folder,
        f"{folder}/**/*.txt",
        f"{files[2]}, {files[0]},{files[1]}",
        files[::-1],
        "~/d",
        [folder, files[0]],
    )
    for path in everything:
        assert find_files(path, suffixes=(".txt",), key="data.path") == files


def test_text_corpus_reads_the_named_file_when_its_name_looks_like_a_pattern(tmp_path: Path) -> None:
    for name in ("a[1].txt", "b*.txt", "c::d.txt", ".e.txt", "f,g.txt", "h i.txt"):
        path = write(tmp_path / ".cache" / "__x" / name, name)
        assert texts_of(TextCorpus(str(path)), tmp_path / f"work[{len(name)}{name[0]}]") == [name]


def test_text_corpus_understands_marks_and_line_ends_when_they_vary(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n  three \x0b\rfour")
    write(tmp_path / "b.txt", b"\xef\xbb\xbffive\xe2\x80\xa8still five\n")
    write(tmp_path / "c.txt", b"")
    assert texts_of(TextCorpus(tmp_path), tmp_path / "work") == ["five\u2028still five", "four", "one", "three", "two"]


def test_text_corpus_cuts_documents_when_sampled_by_paragraph_or_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "c" / "a.txt", "one\ntwo\n\n\nthree\n").parent
    write(folder / "b.txt", "four\n\nfive\n")
    assert texts_of(TextCorpus(folder, "paragraph"), tmp_path / "p") == ["five", "four", "one\ntwo", "three"]
    assert texts_of(TextCorpus(folder, "document"), tmp_path / "d") == ["four\n\nfive", "one\ntwo\n\n\nthree"]
    with pytest.raises(ConfigError, match=r"data\.sample_by=page"):
        TextCorpus(tmp_path, "page")


def test_text_corpus_counts_blank_documents_when_it_drops_them(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", "one\n\n \ntwo\n\n")
    assert TextCorpus(path).splits(tmp_path / "a").blank == 3
    assert TextCorpus(path, valid_path=path).splits(tmp_path / "b").blank == 6


def test_jsonl_corpus_reads_only_its_column_when_the_others_vary(tmp_path: Path) -> None:
    lines = [
        '\ufeff{"text": "one", "x": 1}',
        "",
        '{"text": null, "x": "s"}',
        '{"y": [1], "text": "two\\r\\nlines \\ud800"}',
    ]
    path = write(tmp_path / "c.jsonl", "\r\n".join(lines))
    assert texts_of(JsonlCorpus(path), tmp_path / "work") == ["one", "two\r\nlines ?"]


@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ("{'text': 1}", "data.path", "not JSON"),
        ("[1, 2]", "data.path", "not a JSON object"),
        ('{"text": 5}', "data.text_column", "holds int"),
        ('{"body": "b", "title": "t"}', "data.text_column", "allowed: body, title"),
    ],
)
def test_jsonl_corpus_names_file_and_line_when_a_line_is_bad(tmp_path: Path, line: str, key: str, said: str) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a"}\n\n')
    bad = write(tmp_path / "b.jsonl", '{"text": "b"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        JsonlCorpus(tmp_path).splits(tmp_path / "work")
    assert caught.value.key == key
    assert said in str(caught.value)
    assert f"{bad}, line 2" in str(caught.value)


def test_csv_corpus_keeps_texts_as_written_when_they_look_like_something_else(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", '\ufefftext,x\r\n"a\r\nb",1\r\n,2\r\nNA,3\r\n007,x\r\n' + "y" * 10**6 + ",4")
    assert texts_of(CsvCorpus(path), tmp_path / "work") == ["007", "NA", "a\r\nb", "y" * 10**6]
    tabs = write(tmp_path / "c.tsv", "label\ttext\n0\ta, b\n1\tc\n")
    assert texts_of(CsvCorpus(tabs, delimiter="\t"), tmp_path / "tabs") == ["a, b", "c"]


def test_csv_corpus_names_the_column_or_the_file_when_it_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.text_column=text: no such column.*allowed: body, x"):
        CsvCorpus(write(tmp_path / "a.csv", "body,x\nb,1\n")).splits(tmp_path / "a")
    with pytest.raises(DataError, match=r"data\.path=.*b\.csv, line 4: 3 fields, but 2 in the first line"):
        CsvCorpus(write(tmp_path / "b.csv", "text,x\n\nb,1\nc, d,2\n")).splits(tmp_path / "b")
    with pytest.raises(DataError, match=r"data\.path=.*c\.csv, line 3: unexpected end of data"):
        CsvCorpus(write(tmp_path / "c.csv", 'text,x\nb,1\n"c,2\n')).splits(tmp_path / "c")


def test_parquet_corpus_reads_its_column_or_names_it_when_it_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    datasets.Dataset.from_dict({"n": [1, 2], "text": ["one", None]}).to_parquet(path)
    assert texts_of(ParquetCorpus(path), tmp_path / "work") == ["one"]
    with pytest.raises(DataError, match=r"data\.text_column=body: no such column.*allowed: n, text"):
        ParquetCorpus(path, text_column="body").splits(tmp_path / "a")
    with pytest.raises(DataError, match=r"data\.text_column=n: holds int64"):
        ParquetCorpus(path, text_column="n").splits(tmp_path / "b")
    with pytest.raises(DataError, match=r"broken\.parquet: not a Parquet file"):
        ParquetCorpus(write(tmp_path / "broken.parquet", "text")).splits(tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text,x\n"), ("a.jsonl", "\n\n"), ("a.parquet", None)],
    ids=["csv", "jsonl", "parquet"],
)
def test_corpus_without_a_row_is_refused_in_one_line_when_it_is_read(
    name: str, content: str | None, tmp_path: Path
) -> None:
    path, kinds = tmp_path / name, {".csv": CsvCorpus, ".jsonl": JsonlCorpus, ".parquet": ParquetCorpus}
    if content is None:
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        write(path, content)
    with pytest.raises(DataError, match=r"^data\.path=.*: no"):
        kinds[path.suffix](path).splits(tmp_path / "work")


def test_parquet_corpus_reads_the_others_when_its_first_file_has_no_row(tmp_path: Path) -> None:
    for name, texts in (("a", []), ("b", ["one", "two"])):
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), tmp_path / f"{name}.parquet")
    assert texts_of(ParquetCorpus(str(tmp_path / "*.parquet")), tmp_path / "work") == ["one", "two"]


def test_hub_corpora_have_fingerprints_of_their_own_when_they_are_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 1e9)
    for name in ("one", "two"):
        write(tmp_path / name / "train.jsonl", json.dumps({"text": name}) + "\n")
    assert not HubCorpus(str(tmp_path / "one"))._train.cache_files, "not in memory"
    one, again, two = (HubCorpus(str(tmp_path / name)).fingerprint() for name in ("one", "one", "two"))
    assert one == again != two


def test_hub_corpus_reads_a_folder_in_the_hub_layout_when_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    write(tmp_path / "d" / "train.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    write(tmp_path / "d" / "test.jsonl", '{"text": "three"}\n{"text": " "}\n')
    corpus = HubCorpus(str(tmp_path / "d"), valid_split="test")
    splits = corpus.splits(tmp_path / "work")
    assert (splits.train["text"][:], splits.valid["text"][:], splits.blank) == (["one", "two"], ["three"], 1)
    parts = [{}, {"split": "train[:1]"}, {"valid_split": "test"}, {"valid_split": "test[:1]"}]
    prints = [HubCorpus(str(tmp_path / "d"), **part).fingerprint() for part in parts]
    assert all(one != two for number, one in enumerate(prints) for two in prints[:number])
    assert len(texts_of(HubCorpus(str(tmp_path / "d")), tmp_path / "split")) == 2
    with pytest.raises(DataError, match=r"data\.text_column=body: no such column"):
        HubCorpus(str(tmp_path / "d"), text_column="body").fingerprint()
    with pytest.raises(DataError, match=r"data\.name=.*nowhere: cannot be loaded"):
        HubCorpus(str(tmp_path / "nowhere")).fingerprint()


def test_fingerprint_follows_contents_and_options_when_files_move(tmp_path: Path) -> None:
    here, there = write(tmp_path / "a" / "c.txt", "one\ntwo\n"), write(tmp_path / "b" / "d.txt", "one\ntwo\n")
    assert TextCorpus(here).fingerprint() == TextCorpus(there).fingerprint()
    different = [
        TextCorpus(here).fingerprint(),
        TextCorpus(here, sample_by="paragraph").fingerprint(),
        TextCorpus(here, valid_fraction=0.5).fingerprint(),
        TextCorpus(here, valid_path=here).fingerprint(),
        TextCorpus([here, there]).fingerprint(),
        TextCorpus(write(tmp_path / "e.txt", "one\ntwo")).fingerprint(),
        JsonlCorpus(here).fingerprint(),
        JsonlCorpus(here, text_column="body").fingerprint(),
        CsvCorpus(here).fingerprint(),
        CsvCorpus(here, delimiter="\t").fingerprint(),
    ]
    assert all(one != two for number, one in enumerate(different) for two in different[:number])


def test_corpora_touch_no_network_when_files_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert texts_of(TextCorpus(write(tmp_path / "c.txt", "one\n")), tmp_path / "work") == ["one"]


def test_corpora_stay_silent_when_they_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.csv", "text\none\ntwo\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts_of(CsvCorpus(path), tmp_path / "work")
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
