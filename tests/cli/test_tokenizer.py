"""distillkit tokenizer: what is printed and written, what is refused, and runs that take what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from distillkit import progress
from tests.faults.fixtures import Call, Start
from tests.faults.harness import Inputs

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "wordpiece": (BertConfig, BertForMaskedLM),
    "unigram": (AlbertConfig, AlbertForMaskedLM),
    "bpe": (RobertaConfig, RobertaForMaskedLM),
}


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    progress._shown.update(spinner=False, lines=False)


def words(inputs: Inputs, **changes: Any) -> list[str]:
    options = {"data": "text", "data.path": inputs.corpus, "output": "out", "tokenizer.vocab_size": 120}
    return ["tokenizer", *(f"{key}={value}" for key, value in (options | changes).items())]


def test_tokenizer_says_what_it_made_when_done(call: Call, inputs: Inputs) -> None:
    result = call(*words(inputs), "--verbose")
    assert result.code == 0, result.err
    first, *rest = result.out.splitlines()
    assert first.startswith("tokenizer: out: ") and "(BertTokenizer), from " in first
    assert rest[-1] == "use it: tokenizer.path=out"
    assert any(line.startswith("on ") and "0.000% unknown" in line for line in rest)
    assert result.err.splitlines()[0] == "starting" and "reading the text" in result.err
    assert AutoTokenizer.from_pretrained("out", trust_remote_code=False).model_max_length == 512
    assert sorted(path.name for path in Path().iterdir()) == ["out"]


def test_facts_are_one_object_when_json_is_asked_for(call: Call, inputs: Inputs) -> None:
    result = call(*words(inputs), "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert result.err == "" and facts["asked"] == 120 and facts["kind"] == "wordpiece"
    assert facts["documents"] + facts["held_out"]["documents"] == 90


def test_any_corpus_of_a_run_is_read_when_data_names_it(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    lines = inputs.corpus.read_text().splitlines()
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "deep" / "a.txt").write_text("\n".join(lines[:50]))
    (tmp_path / "texts" / "b.txt").write_text("\n".join(lines[50:]))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in lines))
    sources: dict[str, dict[str, Any]] = {
        "file": {},
        "folder": {"data.path": tmp_path / "texts"},
        "jsonl": {"data": "jsonl", "data.path": tmp_path / "a.jsonl", "data.text_column": "body"},
    }
    made = set()
    for name, changes in sources.items():
        result = call(*words(inputs, output=name, **changes))
        assert result.code == 0, result.err
        made.add((Path(name) / "tokenizer.json").read_bytes())
    assert len(made) == 1, "the same documents in the order of their files"


MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "corpus missing": ({"data.path": "nowhere"}, ("data.path=", "/nowhere: no such file or folder; fix: ")),
    "no corpus": ({"data.path": "null"}, ("data.path=None: no corpus is given",)),
    "corpus empty": ({"data.path": "empty.txt"}, ("data.path=", "/empty.txt: empty")),
    "corpus blank": ({"data.path": "blank.txt"}, ("data.path=", "/blank.txt: nothing but blank documents")),
    "no output": ({"output": "null"}, ("output=None: no folder is given; fix: set output=FOLDER",)),
    "output in use": ({"output": "full"}, ("output=full: holds something already; fix: ",)),
    "output below a file": ({"output": "blank.txt/out"}, ("output=blank.txt/out: cannot be written: ",)),
    "size too small": (
        {"tokenizer.vocab_size": 12},
        ("tokenizer.vocab_size=12: too small for the special tokens and the alphabet; allowed: >= ",),
    ),
    "size too large": ({"tokenizer.vocab_size": 10**9}, ("tokenizer.vocab_size=1000000000: ", "1..1000000")),
    "unknown kind": ({"tokenizer.kind": "words"}, ("tokenizer.kind=words: ", "wordpiece, unigram, bpe")),
    "typo in a key": ({"tokenizer.vocabsize": 9}, ("did you mean tokenizer.vocab_size?",)),
    "foreign target": ({"data.corpus._target_": "os.system"}, ("os.system", "run.trusted_modules")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_leaves_nothing_when_made(name: str, call: Call, inputs: Inputs) -> None:
    Path("empty.txt").touch()
    Path("blank.txt").write_text(" \n\n")
    Path("full").mkdir()
    Path("full", "thesis.txt").write_text("mine")
    before = sorted(Path().rglob("*"))
    changes, expected = MISTAKES[name]
    result = call(*words(inputs, **changes))
    assert result.code == (4 if name == "output below a file" else 2), result.err
    (line,) = result.err.splitlines()
    missing = [part for part in expected if part not in line]
    assert result.out == "" and line.startswith("error: ") and not missing, line
    assert sorted(Path().rglob("*")) == before
    assert not list(inputs.cache.glob("documents-*"))


def test_mistake_is_one_line_when_made_in_a_real_process(start: Start, inputs: Inputs, tmp_path: Path) -> None:
    process = start(*words(inputs, output=tmp_path / "new" / "out", **{"data.path": "nowhere"}))
    assert process.wait(60) == 2
    (line,) = process.stderr.splitlines()
    assert (
        line.startswith("error: data.path=")
        and "/nowhere: no such file or folder" in line
        and not (tmp_path / "new").exists()
    )


def start_model(kind: str, tokenizer: Any, folder: Path) -> PreTrainedModel:
    """An untrained model of the tokenizer's vocabulary, as docs/how-to/tokenizer.md makes it."""
    settings, model = MODELS[kind]
    torch.manual_seed(0)
    ids = {"pad_token_id": tokenizer.pad_token_id}
    made = model(settings(vocab_size=len(tokenizer), max_position_embeddings=66, **SMALL, **ids))
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return made


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("kind", MODELS)
def test_model_trains_from_scratch_with_the_tokenizer_when_its_folder_is_named(
    kind: str, call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    size = 300 if kind == "bpe" else 120
    assert call(*words(inputs, **{"tokenizer.kind": kind, "tokenizer.vocab_size": size})).code == 0
    tokenizer = AutoTokenizer.from_pretrained("out", trust_remote_code=False)
    start_model(kind, tokenizer, tmp_path / "start")
    given = [f"student.init_from={tmp_path / 'start'}", "tokenizer.path=out", f"data.path={inputs.corpus}"]
    sizes = ["data.max_length=48", "data.batch_size=8", "trainer.max_steps=2", "logger=none", "run.report=false"]
    result = call("train", "teacher=none", "student=pretrained", *given, *sizes, f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "student", trust_remote_code=False)
    assert saved.get_vocab() == tokenizer.get_vocab() and saved("w3 w4") == tokenizer("w3 w4")
    trained = MODELS[kind][1].from_pretrained(tmp_path / "run" / "student")
    assert trained(**saved("w3 w4", return_tensors="pt")).logits.shape[-1] == len(tokenizer)
