"""The cache of prepared corpora: keys, hits, killed and concurrent builds, refusals, memory."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from distillkit.data import MicroBatch, TextCorpus, TokenMasker, prepare
from distillkit.data.cache import column
from distillkit.data.dataset import MaskedRows
from distillkit.data.packing import Packer, Ragged, write_rows
from distillkit.data.tokenization import frame_of
from distillkit.errors import DataError, StorageError
from distillkit.types import StepTotals

FORK = multiprocessing.get_context("fork")


class CountingCorpus(TextCorpus):
    """Counts how often it is read; `before_reading` runs then."""

    reads = 0

    def before_reading(self) -> None:
        """Nothing, unless a test says otherwise."""

    def splits(self, cache_dir: Path):
        self.reads += 1
        splits = super().splits(cache_dir)
        self.before_reading()
        return splits


def entries(cache: Path) -> set[str]:
    """Names in the cache without the locks."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_prepare_reads_the_corpus_once_when_it_is_asked_twice(tmp_path: Path, corpus_file: Path, tokenizer) -> None:
    corpus = CountingCorpus(corpus_file)
    first = prepare(corpus, tokenizer, max_length=16, packing="full", cache_dir=tmp_path)
    second = prepare(corpus, tokenizer, max_length=16, packing="full", cache_dir=tmp_path)
    assert corpus.reads == 1
    assert (first.key, first.stats) == (second.key, second.stats)
    assert first.train[:] == second.train[:]
    assert entries(tmp_path) == {first.key}
    assert {path.name for path in (tmp_path / first.key).iterdir()} == {"train.arrow", "valid.arrow", "stats.json"}


def test_prepare_makes_another_entry_when_anything_that_decides_rows_differs(
    tmp_path: Path, corpus_file: Path, tokenizer, make_tokenizer
) -> None:
    other = make_tokenizer()
    other.add_tokens(["w1000"])
    base = {"corpus": TextCorpus(corpus_file), "tokenizer": tokenizer, "max_length": 16, "packing": "full"}
    changes = [{}, {"packing": "none"}, {"max_length": 24}, {"tokenizer": other}]
    changes.append({"corpus": TextCorpus(corpus_file, valid_fraction=0.2)})
    keys = {prepare(**{**base, **change}, cache_dir=tmp_path).key for change in changes}
    assert entries(tmp_path) == keys
    assert len(keys) == len(changes)


def test_prepare_takes_the_same_entry_when_an_equal_corpus_lies_elsewhere(
    tmp_path: Path, corpus_file: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus_file.read_bytes())
    first, second = (prepare(TextCorpus(p), tokenizer, max_length=16, packing="full") for p in (corpus_file, copy))
    assert entries(tmp_path / "cache") == {first.key} == {second.key}


@pytest.mark.parametrize("packing", ["full", "none"])
def test_prepare_gives_the_same_rows_when_several_processes_tokenize(
    tmp_path: Path, corpus_file: Path, tokenizer, packing: str
) -> None:
    one, two = (
        prepare(
            TextCorpus(corpus_file), tokenizer, max_length=16, packing=packing, num_proc=n, cache_dir=tmp_path / str(n)
        )
        for n in (1, 2)
    )
    assert (one.key, one.stats) == (two.key, two.stats)
    assert one.train[:] == two.train[:]
    assert one.valid[:] == two.valid[:]


def test_prepare_loses_no_token_when_it_packs(tmp_path: Path, corpus_file: Path, tokenizer) -> None:
    for packing in ("full", "none"):
        data = prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing=packing, cache_dir=tmp_path)
        for split, counts in ((data.train, data.stats["train"]), (data.valid, data.stats["valid"])):
            assert len(split) == counts["rows"]
            kept = column(split, "length").sum() - 2 * len(split)
            separators = counts["documents"] if packing == "full" else 0
            assert kept == counts["tokens"] + separators - counts["dropped_tokens"]
    assert data.stats["train"]["documents"] + data.stats["valid"]["documents"] == 400


def test_prepare_names_the_fix_when_the_text_fills_no_row(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "c.txt").write_text("w1 w2 w3\n")
    with pytest.raises(DataError, match=r"data\.max_length=16: the 3 tokens of 1 documents.*packing=none"):
        prepare(TextCorpus(tmp_path / "c.txt"), tokenizer, max_length=16, packing="full", cache_dir=tmp_path / "cache")


def test_prepare_warns_each_time_when_nothing_is_held_out(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "c.txt").write_text("w1 " * 50)
    for _ in range(2):
        with pytest.warns(UserWarning, match="validation is skipped"):
            data = prepare(
                TextCorpus(tmp_path / "c.txt"), tokenizer, max_length=16, packing="full", cache_dir=tmp_path / "cache"
            )
        assert data.valid is None


def test_prepare_flushes_every_file_when_it_builds(
    tmp_path: Path, corpus_file: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr("os.fsync", lambda number: flushed.append(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing="full", cache_dir=tmp_path)
    assert flushed == ["train.arrow", "valid.arrow", "stats.json"]


def build_and_hang(corpus_file: Path, cache: Path, tokenizer) -> None:
    corpus = CountingCorpus(corpus_file)
    corpus.before_reading = lambda: time.sleep(60)
    prepare(corpus, tokenizer, max_length=16, packing="full", cache_dir=cache)


def test_prepare_builds_anew_and_tidies_up_when_builders_were_killed(
    tmp_path: Path, corpus_file: Path, tokenizer
) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(corpus_file.read_bytes() + b"w1\n")
    cache = tmp_path / "cache"
    builders = [FORK.Process(target=build_and_hang, args=(path, cache, tokenizer)) for path in (corpus_file, other)]
    for builder in builders:
        builder.start()
    until = time.monotonic() + 30
    while len(list(cache.glob("*.building/work/train/documents.arrow"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    for builder in builders:
        os.kill(builder.pid, signal.SIGKILL)
        builder.join()
    assert {Path(name).suffix for name in entries(cache)} == {".building"}
    data = prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing="full", cache_dir=cache)
    assert entries(cache) == {data.key}
    assert len(data.train) == data.stats["train"]["rows"] > 0


def build_slowly(corpus_file: Path, cache: Path, tokenizer, result) -> None:
    corpus = CountingCorpus(corpus_file)
    corpus.before_reading = lambda: time.sleep(0.5)
    data = prepare(corpus, tokenizer, max_length=16, packing="full", cache_dir=cache)
    result.put((corpus.reads, data.key, data.train["input_ids"][:]))


def test_prepare_serves_both_processes_when_they_build_at_once(tmp_path: Path, corpus_file: Path, tokenizer) -> None:
    key = prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing="full", cache_dir=tmp_path / "other").key
    cache = tmp_path / "cache"
    (cache / f"{key}.building" / "work").mkdir(parents=True)  # of a third, dead one
    results = FORK.Queue()
    builders = [FORK.Process(target=build_slowly, args=(corpus_file, cache, tokenizer, results)) for _ in range(2)]
    for builder in builders:
        builder.start()
    one, two = results.get(timeout=30), results.get(timeout=30)
    for builder in builders:
        builder.join()
        assert builder.exitcode == 0
    assert sorted([one[0], two[0]]) == [0, 1]  # the second waited, then found it done
    assert one[1:] == two[1:]


def test_prepare_leaves_a_living_builder_alone_when_it_tidies_up(tmp_path: Path, corpus_file: Path, tokenizer) -> None:
    builder = FORK.Process(target=build_and_hang, args=(corpus_file, tmp_path, tokenizer))
    builder.start()
    until = time.monotonic() + 30
    while not list(tmp_path.glob("*.building/work/train/documents.arrow")):
        assert time.monotonic() < until
        time.sleep(0.01)
    data = prepare(TextCorpus(corpus_file), tokenizer, max_length=24, packing="full", cache_dir=tmp_path)
    assert {Path(name).suffix for name in entries(tmp_path) - {data.key}} == {".building"}
    builder.kill()
    builder.join()


def test_prepare_names_the_folder_when_the_disk_is_full(
    tmp_path: Path, corpus_file: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=rf"DISTILLKIT_CACHE={re.escape(str(tmp_path))}: .*No space left"):
        prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing="full", cache_dir=tmp_path)
    assert entries(tmp_path) == set()


def test_prepare_names_the_folder_when_the_disk_fills_while_the_corpus_is_read(
    tmp_path: Path, corpus_file: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        prepare(TextCorpus(corpus_file), tokenizer, max_length=16, packing="full", cache_dir=tmp_path)


def anonymous_megabytes() -> float:
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def pack_and_read(path: Path, tokenizer, result) -> None:
    """Write 160 MB of rows from a stream, then read batches from all over them."""
    document = np.full(126 * 64 - 1, 10, dtype=np.int32)
    documents = (Ragged(document, np.asarray([len(document)])) for _ in range(5000))
    before = anonymous_megabytes()
    write_rows(Packer("full", frame_of(tokenizer), 128).pack(documents), path, special_ids=[0, 1, 2, 3, 4])
    import datasets

    rows = datasets.Dataset.from_file(str(path))
    masked = MaskedRows(rows, TokenMasker(tokenizer), seed=0, max_length=128, pad_token_id=0)
    for start in range(200):
        masked[MicroBatch(0, 0, 0, np.arange(start, len(rows), len(rows) // 8), StepTotals(1, 1))]
    result.put((anonymous_megabytes() - before, path.stat().st_size / 2**20))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_rows_cost_no_memory_when_they_are_many(tmp_path: Path, tokenizer) -> None:
    result = FORK.Queue()
    process = FORK.Process(target=pack_and_read, args=(tmp_path / "rows.arrow", tokenizer, result))
    process.start()
    grown, size = result.get(timeout=60)
    process.join()
    assert size > 150
    assert grown < 40
