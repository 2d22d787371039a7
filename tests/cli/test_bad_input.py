"""Every mistake of a user's gives one line on stderr that names it, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from tests.faults.fixtures import Call, Result, Start
from tests.faults.harness import WORDS, CliProcess, Inputs, Recipe, make_bert, make_tokenizer

SECONDS = 15
START_SECONDS = 15
"""That a process may take besides to start, beside another test's."""


@dataclass(frozen=True)
class Mistake:
    """Overrides, made from a folder of the test's own and the good inputs, and what the error line must hold."""

    name: str
    words: Callable[[Path, Inputs], list[str]]
    expected: tuple[str, ...]


def plain(name: str, words: str, *expected: str) -> Mistake:
    """A mistake that needs no files; the words are split at blanks."""
    return Mistake(name, lambda folder, inputs: words.split(), expected)


PLAIN = [
    plain("typo in a key", "loss.temprature=2", "loss.temprature", "did you mean loss.temperature?"),
    plain("typo in a trainer key", "trainer.max_step=2", "did you mean trainer.max_steps?"),
    plain("unknown group option", "student=albart", "student=albart", "did you mean student=albert?"),
    plain("unknown group", "studnet=albert", "studnet", "did you mean student?"),
    plain("not Hydra's grammar", "data.path=/a(1).txt", "data.path", "quote"),
    plain(
        "temperature 0",
        "loss.temperature=0",
        "loss.temperature=0",
        "allowed: (0, 100]",
        "fix: set loss.temperature=2.0",
    ),
    plain("weights all 0", "loss.alpha=0 loss.beta=0 loss.gamma=0", "loss.alpha", "0"),
    plain("negative weight", "loss.beta=-1", "loss.beta=-1", "allowed: [0, inf)"),
    plain("nan weight", "loss.gamma=nan", "loss.gamma=nan"),
    plain("infinite weight", "loss.alpha=inf", "loss.alpha=inf"),
    plain("layer out of range", "student.layers=[0,9]", "student.layers", "9", "0..3"),
    plain("layers twice", "student.num_layers=7", "student.num_layers"),
    plain("order of one segment", "student=albert loss.sop=1", "loss.sop=1", "fix: set data.packing=sentences"),
    plain("order without a head", "data.packing=sentences loss.sop=1", "loss.sop=1", "fix: set student=albert"),
    plain("negative order", "student=albert data.packing=sentences loss.sop=-1", "loss.sop=-1", "allowed: [0, inf)"),
    plain(
        "language that is none", "data.packing=sentences data.language=English", "data.language=English", "en, de, zh"
    ),
    plain("no two sentences", "data.packing=sentences", "data.packing=sentences", "data.sample_by=document"),
    plain("longer than the positions", "data.max_length=65", "data.max_length=65", "64"),
    plain("probability 0", "masking.probability=0", "masking.probability=0", "(0, 1)"),
    plain("probability 1", "masking.probability=1", "masking.probability=1", "(0, 1)"),
    plain("probability above 1", "masking.probability=1.5", "masking.probability=1.5", "(0, 1)"),
    plain("more shown than predicted", "masking.mask_fraction=1", "masking.random_fraction=0.1", "allowed: [0, 0]"),
    plain(
        "negative smoothing", "masking.smoothing=-0.7", "masking.smoothing=-0.7", "[0, inf)", "set masking.smoothing"
    ),
    plain("no prediction", "masking.max_predictions=0", "masking.max_predictions=0", "[1, inf)"),
    plain("spans of no word", "masking=ngram masking.max_ngram=0", "masking.max_ngram=0", "set masking.max_ngram=3"),
    plain("n of another masking", "masking.max_ngram=2", "masking.max_ngram=2: no such key", "did you mean masking."),
    plain("unknown masking", "masking=words", "masking=words", "ngram, token, whole_word"),
    plain("negative rate", "optimizer.lr=-1e-3", "optimizer.lr=-0.001"),
    plain("rate that is no number", "optimizer.lr=fast", "optimizer.lr=fast"),
    plain("negative steps", "trainer.max_steps=-5", "trainer.max_steps=-5"),
    plain("no steps", "trainer.max_steps=0", "trainer.max_steps=0"),
    plain("negative warm-up", "scheduler.warmup_steps=-1", "scheduler.warmup_steps=-1"),
    plain("negative seed", "seed=-1", "seed=-1"),
    plain("unknown packing", "data.packing=tight", "data.packing=tight", "full, none"),
    plain("batch size 0", "data.batch_size=0", "data.batch_size=0"),
    plain("unknown precision", "trainer.precision=8-bit", "trainer.precision=8-bit", "bf16-mixed"),
    plain("foreign target", "optimizer._target_=os.system", "os.system", "run.trusted_modules"),
    plain("no teacher", "teacher.path=null", "teacher.path=None", "teacher=none"),
    plain(
        "nothing to start from",
        "teacher=none teacher.path=null",
        "student.init_from=None",
        "student=albert_base tokenizer.path=FOLDER",
    ),
    plain("no vocabulary", "teacher=none teacher.path=null student=albert_base", "tokenizer.path=None"),
    plain(
        "key of another student", "student=pretrained +student.num_layers=2", "student.num_layers=2", "~student.num_"
    ),
    plain("groups that share a part", "student=albert student.share=ffn student.num_groups=2", "null or 4"),
    plain("source of another size", "student=albert student.hidden_size=64", "student.hidden_size=64", "init=random"),
    plain("teacher missing", "teacher.path=./nowhere", "teacher.path=", "nowhere", "no such folder"),
    plain("hub teacher out of reach", "teacher.path=nobody/nothing", "teacher.path=nobody/nothing", "hub"),
    plain("corpus missing", "data.path=nowhere.txt", "data.path=", "nowhere.txt", "no such file"),
    plain("no corpus", "data.path=null", "data.path=None"),
    plain("corpus glob matches nothing", "data.path='*.nothing'", "data.path=", "no file matches"),
    plain("switch that is none", "run.compile=maybe", "run.compile=maybe", "allowed: true, false"),
    plain("switch that is a number", "run.gradient_checkpointing=1", "run.gradient_checkpointing=1", "true, false"),
    plain("no node", "trainer.num_nodes=0", "trainer.num_nodes=0", "[1, inf)"),
    plain("nodes that nobody starts", "trainer.num_nodes=2", "trainer.num_nodes=2", "fix: start it on each node with"),
    plain("fewer rows than a step", "data.batch_size=5000", "data.batch_size=5000"),
]


def broken_teacher(name: str, spoil: Callable[[Path], None], *expected: str) -> Mistake:
    """A copy of the teacher that `spoil` changed."""

    def words(folder: Path, inputs: Inputs) -> list[str]:
        teacher = Path(shutil.copytree(inputs.teacher, folder / "teacher"))
        spoil(teacher)
        return [f"teacher.path={teacher}"]

    return Mistake(name, words, ("teacher.path=", *expected))


def without_head(teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()
    BertModel(make_bert().config).save_pretrained(teacher)


def pickled(teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()
    torch.save(make_bert().state_dict(), teacher / "pytorch_model.bin")


def with_nan(teacher: Path) -> None:
    model = make_bert()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    model.save_pretrained(teacher)


def truncated(teacher: Path) -> None:
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def fewer_embeddings(teacher: Path) -> None:
    make_bert(vocab_size=90).save_pretrained(teacher)


def other_shapes(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def no_tokenizer(teacher: Path) -> None:
    for path in teacher.glob("token*"):
        path.unlink()


def other_tokenizer(folder: Path, inputs: Inputs) -> list[str]:
    make_tokenizer([WORDS[1], WORDS[0], *WORDS[2:]]).save_pretrained(folder / "tokenizer")
    return [f"tokenizer.path={folder / 'tokenizer'}"]


def corpus(content: bytes) -> Callable[[Path, Inputs], list[str]]:
    """The overrides for a corpus with that content."""

    def words(folder: Path, inputs: Inputs) -> list[str]:
        (folder / "bad.txt").write_bytes(content)
        return [f"data.path={folder / 'bad.txt'}"]

    return words


def folder_in_use(folder: Path, inputs: Inputs) -> list[str]:
    (folder / "used").mkdir()
    (folder / "used" / "thesis.txt").write_text("mine")
    return [f"run.dir={folder / 'used'}"]


TEXT = b"w1 w2 w3 w4 w5\n" * 200
WITH_FILES = [
    broken_teacher("teacher without MLM head", without_head, "no MLM head", "cls.predictions", "fix: "),
    broken_teacher("pickled teacher", pickled, "pytorch_model.bin", "safetensors"),
    broken_teacher("teacher with NaN", with_nan, "bert.encoder.layer.1.output.dense.weight", "NaN"),
    broken_teacher("truncated teacher", truncated, "damaged"),
    broken_teacher("teacher of other shapes", other_shapes, "config.json"),
    broken_teacher("ids beyond the embeddings", fewer_embeddings, "ids up to 99", "90"),
    broken_teacher("teacher without tokenizer", no_tokenizer, "tokenizer"),
    broken_teacher("teacher without config", lambda t: (t / "config.json").unlink(), "config.json"),
    Mistake("tokenizer with permuted ids", other_tokenizer, ("tokenizer.path=", "'w0'", "token -> id")),
    Mistake("corpus empty", corpus(b""), ("data.path=", "bad.txt", "empty")),
    Mistake("corpus blank", corpus(b" \n\n\t\n"), ("data.path=", "bad.txt")),
    Mistake("corpus binary", corpus(TEXT + b"\0\x01"), ("data.path=", "bad.txt", "NUL byte at byte 3000 (line 201)")),
    Mistake(
        "corpus of another encoding",
        corpus(TEXT + b"caf\xe9 "),
        ("data.path=", "invalid UTF-8 at byte 3003 (line 201)"),
    ),
    Mistake("output folder in use", folder_in_use, ("run.dir=", "thesis.txt")),
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


def command(mistake: Mistake, folder: Path, inputs: Inputs) -> list[str]:
    """A train command that is right but for the mistake."""
    return [*Recipe().words(inputs, every=1), f"run.dir={folder / 'run'}", *mistake.words(folder, inputs)]


def assert_one_line(result: Result, mistake: Mistake) -> None:
    """Exit code 2, an empty stdout, and one line on stderr that names the mistake."""
    assert result.code == 2, result.err
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    missing = [part for part in mistake.expected if part not in line]
    assert not missing, f"{missing} not in: {line}"


def files(folder: Path) -> set[Path]:
    """Everything below, but for the error logs."""
    return {path for path in folder.rglob("*") if path.name != "error.log"}


@pytest.mark.parametrize("mistake", [*PLAIN, *WITH_FILES], ids=lambda mistake: mistake.name)
def test_mistake_is_one_line_and_leaves_nothing_when_made(
    mistake: Mistake, call: Call, inputs: Inputs, own_folder: Path, tmp_path: Path
) -> None:
    words = command(mistake, own_folder, inputs)
    before, began = files(tmp_path), time.monotonic()
    result = call(*words)
    assert time.monotonic() - began < SECONDS
    assert_one_line(result, mistake)
    assert files(tmp_path) - before - {own_folder / "run"} == set()


@pytest.mark.parametrize(
    "mistake", [PLAIN[0], PLAIN[10], WITH_FILES[0], WITH_FILES[-3]], ids=lambda mistake: mistake.name
)
def test_mistake_is_one_line_when_made_in_a_real_process(
    mistake: Mistake, start: Start, inputs: Inputs, own_folder: Path
) -> None:
    process: CliProcess = start(*command(mistake, own_folder, inputs))
    result = Result(process.wait(START_SECONDS + SECONDS), process.stdout, process.stderr)
    assert_one_line(result, mistake)


def test_mistake_is_one_line_when_nothing_can_compile(call: Call, inputs: Inputs, own_folder: Path) -> None:
    mistake = plain("no compiler", "run.compile=true", "run.compile=True", "C++ compiler", "or set run.compile=false")
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        result = call(*command(mistake, own_folder, inputs))
    assert_one_line(result, mistake)
    assert files(own_folder / "run") == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "did you mean train?"),
        (["resume"], "RUN_DIR="),
        (["resume", "nowhere"], "RUN_DIR=nowhere"),
        (["hash", "nowhere"], "nowhere"),
        (["evaluate"], "evaluate="),
        (["train", "--jsonn"], "--jsonn"),
        (["-sc", "install=cmd"], "install=cmd"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_is_refused_in_one_line_when_misspelt(
    words: list[str], expected: str, call: Call, tmp_path: Path
) -> None:
    before = files(tmp_path)
    result = call(*words)
    assert_one_line(result, Mistake("", lambda folder, inputs: [], (expected,)))
    assert files(tmp_path) == before


def test_traceback_is_shown_when_asked_for(call: Call, inputs: Inputs) -> None:
    result = call("train", *inputs.words(), "loss.temperature=0", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("error: loss.temperature=0: ")
