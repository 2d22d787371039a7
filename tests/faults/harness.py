"""The fault harness: tiny inputs on disk, real command-line processes, faults from outside, and what must be equal.

Tests of later features add their rows to the tables of cases and reuse what is here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import distillkit
from distillkit.rundir import read_metrics
from distillkit.training.checkpointing import STATE, checkpoint_name, checkpoint_step

CHECKOUT = Path(distillkit.__file__).resolve().parents[1]
WORDS = [f"w{number}" for number in range(95)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POLL_SECONDS = 0.001


# --- inputs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a run reads: a teacher with its tokenizer, a corpus of one document a line, and a cache of its own.

    sentences is a corpus that makes about as many rows; its documents have sentences.
    """

    teacher: Path
    corpus: Path
    sentences: Path
    cache: Path

    def words(self, packing: str = "full") -> list[str]:
        """The overrides that name them and the packing; no page at the end, which takes seconds."""
        corpus = self.sentences if packing == "sentences" else self.corpus
        names = [f"teacher.path={self.teacher}", "data=text", f"data.path={corpus}", f"data.packing={packing}"]
        return [*names, "logger=none", "run.report=false"]

    def environment(self) -> dict[str, str]:
        """Of a process that is to reach nothing else; one thread, so that sums round alike."""
        return os.environ | {
            "DISTILLKIT_CACHE": str(self.cache),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(CHECKOUT),
        }


def make_inputs(folder: Path, *, documents: int = 90) -> Inputs:
    """A random BERT (4 layers of 32, dropout 0.1, 100 ids, 64 positions) and `documents` lines of 20 to 50 words."""
    teacher, corpus, sentences = folder / "teacher", folder / "corpus.txt", folder / "sentences.txt"
    make_bert().save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    corpus.write_text(make_text(documents))
    sentences.write_text(make_text(documents * 2 // 3, sentence=7))
    return Inputs(teacher, corpus, sentences, folder / "cache")


def make_bert(**settings: Any) -> BertForMaskedLM:
    """A random BERT with large weights, so that its predictions are far from uniform."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    return BertForMaskedLM(BertConfig(**(sizes | settings)))


def make_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of 5 special tokens and the words, in that order."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def make_text(documents: int, *, seed: int = 0, sentence: int | None = None) -> str:
    """Lines of 20 to 50 known words, with a full stop after each `sentence` of them."""
    rng = np.random.default_rng(seed)
    lines = [rng.choice(WORDS, size=rng.integers(20, 51)).tolist() for _ in range(documents)]
    if sentence is not None:
        starts = range(0, 50, sentence)
        parts = [[line[at : at + sentence] for at in starts if at < len(line)] for line in lines]
        lines = [[" ".join(part).capitalize() + "." for part in line] for line in parts]
    return "".join(" ".join(line) + "\n" for line in lines)


MAX_STEPS = 14
ROWS_PER_STEP = 12


@dataclass(frozen=True)
class Recipe:
    """What decides a run's final weights: neither workers nor the distance of checkpoints do.

    An optimizer step has ROWS_PER_STEP rows however it is cut, an epoch five or six steps, a run MAX_STEPS.
    """

    student: str = "distilbert"
    accumulate: int = 1
    packing: str = "full"
    more: tuple[str, ...] = ()

    def words(self, inputs: Inputs, *, every: int, workers: int = 0) -> list[str]:
        """A train command without its folder; every step is logged, a checkpoint comes `every` steps."""
        return [
            "train", *inputs.words(self.packing), f"student={self.student}", "student.dropout=0.1",
            f"data.batch_size={ROWS_PER_STEP // self.accumulate}", "data.max_length=48",
            f"trainer.accumulate_grad_batches={self.accumulate}", f"trainer.max_steps={MAX_STEPS}", *self.more,
            f"data.num_workers={workers}", "trainer.log_every_n_steps=1", f"checkpoint.every_n_steps={every}",
            "+callbacks.progress.seconds_between_lines=0",
        ]  # fmt: skip


# --- processes ---------------------------------------------------------------------------------------------------


class CliProcess:
    """`python LAUNCHER -m distillkit WORDS` as the leader of a process group; its output goes to files."""

    def __init__(
        self,
        *words: str,
        inputs: Inputs,
        log: Path,
        environment: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
        **popen: Any,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("w") as out, self._err.open("w") as err:
            self.popen = subprocess.Popen(
                [sys.executable, *launcher, "-m", "distillkit", *words], stdout=out, stderr=err,
                env=inputs.environment() | (environment or {}), cwd=log.parent, start_new_session=True, **popen,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def step(self) -> int:
        """The newest optimizer step it has reported."""
        return max((int(step) for step in re.findall(r"^step (\d+)/", self.stderr, re.MULTILINE)), default=0)

    def wait_until(self, reached: Callable[[], bool], *, seconds: float = 120.0) -> None:
        """Polls until `reached`; fails when the process ends first."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.popen.poll() is None, f"ended with {self.popen.returncode} before the fault:\n{self.stderr}"
            assert time.monotonic() < deadline, f"not reached in {seconds} s:\n{self.stderr}"
            time.sleep(POLL_SECONDS)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to the process, or to its whole group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self, *, group: bool = False) -> None:
        """SIGKILL; fails unless that is what ended the process."""
        self.signal(signal.SIGKILL, group=group)
        code = self.wait()
        assert code == -signal.SIGKILL, f"nothing was killed: the process had ended with {code}"

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"still running after {seconds} s:\n{self.stderr}") from None

    def succeed(self) -> CliProcess:
        """Waits for exit code 0."""
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.stderr}"
        return self

    def children(self) -> list[int]:
        """Processes it forked or started, by the kernel's account."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def close(self) -> None:
        """Ends the whole group, whatever it is doing."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.popen.wait()


# --- runs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run's folder, read from outside."""

    path: Path

    def checkpoints(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(checkpoint_step(p) for p in (self.path / "checkpoints").glob("step_*"))

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / checkpoint_name(step)

    def leftovers(self) -> list[Path]:
        """What an interrupted write of a checkpoint leaves behind."""
        return sorted((self.path / "checkpoints").glob(".*"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of events.jsonl with that name."""
        path = self.path / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def starts(self) -> list[int]:
        """The optimizer steps it was started and resumed at."""
        path = self.path / "events.jsonl"
        events = map(json.loads, path.read_text().splitlines())
        return [event["step"] for event in events if event["event"] in ("start", "resume")]

    def rows(self) -> int:
        """Training rows of its corpus; 0 before they are known."""
        path = self.path / "run.json"
        return json.loads(path.read_text())["data"]["train"]["rows"] if path.exists() else 0

    def figures(self) -> list[dict[str, str]]:
        """metrics.csv without the clock's figures."""
        return [
            {k: v for k, v in row.items() if not k.startswith("speed/")}
            for row in read_metrics(self.path / "metrics.csv")
        ]

    def weights(self) -> dict[str, torch.Tensor]:
        """The exported student's tensors."""
        return load_file(self.path / "student" / "model.safetensors")

    def state(self, step: int) -> dict[str, Any]:
        """A checkpoint: weights, optimizer, schedule."""
        return torch.load(self.checkpoint(step) / STATE, weights_only=True)


def assert_identical(run: Run, reference: Run) -> None:
    """Both runs ended with the same weights, optimizer, schedule and logged figures, bit for bit."""
    ours, theirs = run.weights(), reference.weights()
    assert ours.keys() == theirs.keys()
    differing = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert not differing, f"{len(differing)} of {len(theirs)} tensors differ, e.g. {differing[0]}"
    last = reference.checkpoints()[-1]
    assert run.checkpoints()[-1] == last
    differing = list(differences(run.state(last), reference.state(last)))
    assert not differing, f"the last checkpoints differ in {differing[:5]}"
    assert run.figures() == reference.figures()


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Places in which two nests of plain containers and tensors differ."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [at]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [place for key in keys for place in differences(ours.get(key), theirs.get(key), f"{at}/{key}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [p for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) for p in differences(a, b, f"{at}/{n}")]
    return [] if ours == theirs else [at]
