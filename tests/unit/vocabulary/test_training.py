"""Training a tokenizer: what repeats, what is held out and measured, what is refused, what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from distillkit.data import TextCorpus
from distillkit.errors import ConfigError, DataError, RunStateError, StorageError
from distillkit.vocabulary import train_tokenizer
from distillkit.vocabulary.training import as_text
from tests.unit.vocabulary.made_texts import KINDS, PUBLISHED, SIZE, MadeCorpus, make_documents, trained

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_equal_byte_for_byte_when_trained_again(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(tmp_path / name, kind=kind)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    differing = [f for f in files if (tmp_path / "a" / f).read_bytes() != (tmp_path / "b" / f).read_bytes()]
    assert not differing


PROGRAM = """
import sys
from distillkit.vocabulary import train_tokenizer
from tests.unit.vocabulary.made_texts import MadeCorpus, make_documents
for kind in sys.argv[2:]:
    train_tokenizer(MadeCorpus(make_documents()), f"{sys.argv[1]}/{kind}", kind=kind, vocab_size=300)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_files_are_equal_byte_for_byte_when_processes_and_threads_differ(tmp_path: Path) -> None:
    for threads in ("1", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / threads), *KINDS]
        subprocess.run(command, env=environment, cwd=ROOT, check=True)
    for kind in KINDS:
        one, three = (tmp_path / threads / kind / "tokenizer.json" for threads in ("1", "3"))
        assert one.read_bytes() == three.read_bytes(), kind


LOADS = """
import sys
sys.modules["distillkit"] = None
from transformers import AutoTokenizer
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(type(tokenizer).__name__, *tokenizer("Kalo minu!", "stator")["input_ids"])
"""


@pytest.mark.slow
@pytest.mark.ci
def test_tokenizer_loads_alike_when_the_process_has_neither_distillkit_nor_a_network(tmp_path: Path) -> None:
    here = []
    for kind in KINDS:
        tokenizer = trained(tmp_path / kind, kind=kind)
        here.append([PUBLISHED[kind][0], *map(str, tokenizer("Kalo minu!", "stator")["input_ids"])])
    command = [sys.executable, "-c", LOADS, *(str(tmp_path / kind) for kind in KINDS)]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == here


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_nothing_is_learnt_from_held_out_documents_when_they_differ(kind: str, tmp_path: Path) -> None:
    corpus = MadeCorpus(make_documents(), ["жук жук жук kalo"] * 100)
    facts = train_tokenizer(corpus, tmp_path / "out", kind=kind, vocab_size=SIZE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert not any("ж" in token for token in tokenizer.get_vocab())
    assert facts["documents"] == 300 and facts["held_out"]["documents"] == 100
    assert facts["held_out"]["unknown_share"] > 0.3


def test_summary_counts_what_is_held_out_when_it_is_known_text(tmp_path: Path) -> None:
    texts = make_documents()
    facts = train_tokenizer(MadeCorpus(texts, ["kalo kalo zu", "zu"]), tmp_path / "out", vocab_size=SIZE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    tokens = 2 * len(tokenizer.tokenize("kalo")) + 2 * len(tokenizer.tokenize("zu"))
    assert facts["held_out"] == {
        "documents": 2, "tokens_per_word": tokens / 4, "characters_per_token": 14 / tokens, "unknown_share": 0.0,
    }  # fmt: skip
    assert facts | {"held_out": None} == {
        "folder": str(tmp_path / "out"), "class": "BertTokenizer", "kind": "wordpiece", "tokens": SIZE,
        "asked": SIZE, "documents": 300, "held_out": None,
    }  # fmt: skip


def test_text_says_so_when_the_vocabulary_is_smaller_than_asked_for(tmp_path: Path) -> None:
    for size, said in ((5000, True), (SIZE, False)):
        facts = train_tokenizer(MadeCorpus(make_documents()), tmp_path / str(size), vocab_size=size)
        assert (f"fewer than the {size:,} asked for" in as_text(facts)) is said


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kind": "words"}, r"tokenizer\.kind=words: .* allowed: wordpiece, unigram, bpe"),
        ({"vocab_size": 0}, r"tokenizer\.vocab_size=0: .* allowed: 1\.\.1000000; fix: set tokenizer\.vocab_size=30000"),
        ({"vocab_size": 10**12}, r"tokenizer\.vocab_size=1000000000000: .* allowed: 1\.\.1000000"),
        ({"vocab_size": True}, r"tokenizer\.vocab_size=True"),
        ({"vocab_size": "many"}, r"tokenizer\.vocab_size=many"),
        ({"max_length": 2}, r"tokenizer\.max_length=2: .* allowed: 8\.\."),
        ({"lower_case": "maybe"}, r"tokenizer\.lower_case=maybe: .* allowed: true, false"),
        ({"coverage": 0}, r"tokenizer\.coverage=0: .* allowed: \(0, 1\]"),
        ({"coverage": 1.1}, r"tokenizer\.coverage=1\.1"),
        ({"coverage": float("nan")}, r"tokenizer\.coverage=nan"),
    ],
    ids=str,
)
def test_option_is_refused_before_anything_is_read_when_out_of_range(
    options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=line):
        train_tokenizer(None, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_folder_is_refused_and_kept_when_it_holds_something(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    trained(tmp_path / "out")
    before = (tmp_path / "out" / "tokenizer.json").read_bytes()
    with pytest.raises(ConfigError, match=r"output=.*: holds something already"):
        trained(tmp_path / "out", kind="bpe")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("output", [None, "", "/"], ids=repr)
def test_folder_is_refused_when_it_cannot_be_meant(output: Any) -> None:
    with pytest.raises(ConfigError, match=r"output=.*; fix: "):
        train_tokenizer(MadeCorpus(["a"]), output)


def test_folder_is_refused_when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StorageError, match=r"output=.*file/out: cannot be written: .*; fix: name another folder"):
        train_tokenizer(MadeCorpus(["a"]), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "kept"


HOLDS = """
import pathlib, sys, time
from distillkit.locking import FolderLock
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
lock = FolderLock(folder)
print("held", flush=True)
time.sleep(100)
"""


def test_folder_is_refused_when_another_process_trains_into_it_and_free_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path / ".training-out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        try:
            assert other.stdout and other.stdout.readline() == "held\n"
            with pytest.raises(RunStateError, match=rf"output=.*out: in use by process {other.pid}; fix: .* output"):
                trained(tmp_path / "out")
            assert not (tmp_path / "out").exists() and (tmp_path / ".training-out" / ".lock").exists()
        finally:
            other.kill()
    assert len(trained(tmp_path / "out")) == SIZE
    assert not list(tmp_path.glob(".*"))


DIES = """
import os, signal, sys
from distillkit import storage
from distillkit.vocabulary import train_tokenizer
from tests.unit.vocabulary.made_texts import MadeCorpus, make_documents
storage.sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
train_tokenizer(MadeCorpus(make_documents()), sys.argv[1], kind="unigram", vocab_size=300)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_no_folder_is_there_when_killed_as_it_is_written_and_the_next_one_clears_up(
    tmp_path: Path, cache: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "out")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".training-out", ".writing-out", "cache"]
    assert len(trained(tmp_path / "out", kind="unigram")) == SIZE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
    assert not list(cache.glob("*.building"))


def test_nothing_is_left_when_the_corpus_is_of_no_use(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n\n")
    with pytest.raises(DataError, match="blank"):
        train_tokenizer(TextCorpus(tmp_path / "blank.txt"), tmp_path / "out")
    with pytest.raises(DataError, match=r"tokenizer\.kind=unigram: sentencepiece finds nothing to train from"):
        train_tokenizer(MadeCorpus(["x" * 5000]), tmp_path / "new" / "er" / "out", kind="unigram")
    for kind in ("wordpiece", "unigram"):
        with pytest.raises(DataError, match="nothing is left"):
            train_tokenizer(MadeCorpus(["\u0301"]), tmp_path / "out", kind=kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.txt", "cache"]
    assert not list(cache.iterdir())


def test_documents_are_gone_from_the_cache_when_the_tokenizer_is_there(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(make_documents()))
    facts = train_tokenizer(TextCorpus(tmp_path / "text.txt"), tmp_path / "out", vocab_size=SIZE)
    assert facts["documents"] + facts["held_out"]["documents"] == 300 and facts["held_out"]["documents"] > 3
    assert not list(cache.iterdir())
