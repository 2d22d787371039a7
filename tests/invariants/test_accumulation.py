"""One optimizer step is the same step however it is cut: into micro-batches, and over ranks.

After the first step SGD's momentum is the gradient itself, and a checkpoint holds it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.fixtures import Call, Say, Start
from tests.faults.harness import CliProcess, Inputs, Run, assert_identical, make_tokenizer

ROWS = 8
STEPS = 6
TOLERANCE = 1e-10
"""Of the gradient's largest entry, in float64: in float32 the order of the sums alone makes 5e-7."""
EXACT = ["trainer.precision=64-true", "teacher.dtype=float64"]
NODES = ["trainer.num_nodes=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
RANKS = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]


def words(inputs: Inputs, run: Run, batch_size: int, accumulate: int, packing: str, *, steps: int = 1) -> list[str]:
    """A train command of SGD without dropout, decay or clipping; with rows of sentences their order is trained."""
    order = ["student=albert", "loss.sop=1"] if packing == "sentences" else []
    return [
        "train", *inputs.words(packing), *order, f"run.dir={run.path}", "student.dropout=0",
        f"data.batch_size={batch_size}", "data.max_length=48", f"trainer.accumulate_grad_batches={accumulate}",
        f"trainer.max_steps={steps}", "trainer.gradient_clip_val=null", "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=1", "checkpoint.keep_last=100", "scheduler=constant", "scheduler.warmup_steps=0",
        "optimizer._target_=torch.optim.SGD", "optimizer.lr=1e-3", "+optimizer.momentum=0.9",
        "optimizer.weight_decay=0", "~optimizer.betas", "~optimizer.eps", "~optimizer.fused",
    ]  # fmt: skip


def gradient(run: Run) -> torch.Tensor:
    """The first step's gradient of every weight, flat."""
    state = run.state(1)["optimizer_states"][0]["state"]
    return torch.cat([state[number]["momentum_buffer"].flatten() for number in sorted(state)])


OTHERS = [pytest.param(packing, marks=[pytest.mark.slow, pytest.mark.ci]) for packing in ("none", "sentences")]


@pytest.fixture(params=["full", *OTHERS])
def packing(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def whole(inputs: Inputs, call: Call, tmp_path: Path, packing: str) -> torch.Tensor:
    """The gradient of a step in one piece."""
    run = Run(tmp_path / "whole")
    result = call(*words(inputs, run, ROWS, 1, packing), *EXACT)
    assert result.code == 0, result.err
    return gradient(run)


def assert_same_gradient(ours: torch.Tensor, whole: torch.Tensor, say: Say, name: str) -> None:
    """Equal within TOLERANCE of the largest entry."""
    error = float((ours - whole).abs().max() / whole.abs().max())
    say(f"{name}: largest difference {error:.1e} of the largest entry {whole.abs().max():.2g}")
    assert error <= TOLERANCE


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (1, 8)])
def test_gradient_is_the_same_when_the_step_is_cut_into_micro_batches(
    batch_size: int, accumulate: int, inputs: Inputs, call: Call, say: Say, tmp_path: Path, packing: str,
    whole: torch.Tensor,
) -> None:  # fmt: skip
    run = Run(tmp_path / "cut")
    result = call(*words(inputs, run, batch_size, accumulate, packing), *EXACT)
    assert result.code == 0, result.err
    assert_same_gradient(gradient(run), whole, say, f"{batch_size} x {accumulate}")


def second_ranks(process: CliProcess) -> list[int]:
    """The processes that Lightning started as rank 1."""
    return [pid for pid in process.children() if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]


def test_gradient_is_the_same_when_the_step_is_cut_over_two_ranks(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path, packing: str, whole: torch.Tensor
) -> None:
    run = Run(tmp_path / "ranks")
    process = start(*words(inputs, run, ROWS // 2, 1, packing), *EXACT, *RANKS)
    process.wait_until(lambda: bool(second_ranks(process)))
    process.succeed()
    assert_same_gradient(gradient(run), whole, say, f"2 ranks x {ROWS // 2}")


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("share", ["all", "ffn"])
def test_gradient_is_the_same_when_layers_share_and_the_step_is_cut(
    share: str, inputs: Inputs, call: Call, start: Start, say: Say, tmp_path: Path
) -> None:
    whole, cut, ranks = (Run(tmp_path / name) for name in ("whole", "cut", "ranks"))
    more = ["student=albert", f"student.share={share}", "student.embedding_size=16", *EXACT]
    process = start(*words(inputs, ranks, ROWS // 2, 1, "none"), *more, *RANKS)
    for run, batch_size, accumulate in ((whole, ROWS, 1), (cut, 1, ROWS)):
        result = call(*words(inputs, run, batch_size, accumulate, "none"), *more)
        assert result.code == 0, result.err
    process.succeed()
    assert_same_gradient(gradient(cut), gradient(whole), say, f"share={share}, 1 x {ROWS}")
    assert_same_gradient(gradient(ranks), gradient(whole), say, f"share={share}, 2 ranks x {ROWS // 2}")


@pytest.mark.slow
@pytest.mark.ci
def test_gradient_is_the_same_over_ranks_when_no_term_reaches_the_head(
    inputs: Inputs, call: Call, start: Start, say: Say, tmp_path: Path
) -> None:
    whole, ranks = Run(tmp_path / "whole"), Run(tmp_path / "ranks")
    more = ["loss.alpha=0", "loss.beta=0", *EXACT]
    process = start(*words(inputs, ranks, ROWS // 2, 1, "none", steps=2), *more, *RANKS)
    result = call(*words(inputs, whole, ROWS, 1, "none", steps=2), *more)
    assert result.code == 0, result.err
    process.succeed()
    assert ranks.checkpoints()[-1] == 2
    assert_same_gradient(gradient(ranks), gradient(whole), say, f"cosine alone, 2 ranks x {ROWS // 2}")


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.ci
def test_two_ranks_resume_identical_when_the_process_group_is_killed(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    finished, run = Run(tmp_path / "finished"), Run(tmp_path / "run")
    start(*words(inputs, finished, 2, 2, "none", steps=STEPS), *RANKS).succeed()
    process = start(*words(inputs, run, 2, 2, "none", steps=STEPS), *RANKS)
    process.wait_until(lambda: bool(run.checkpoints()))
    assert len(second_ranks(process)) == 1
    process.kill(group=True)
    newest = run.checkpoints()[-1]
    say(f"both ranks killed with checkpoint {newest}")
    assert not run.events("finish")
    start("resume", str(run.path)).succeed()
    assert run.starts() == [0, newest]
    assert_identical(run, finished)


# --- other masks -------------------------------------------------------------------------------------------------

PIECES = [*(f"w{number}" for number in range(70)), *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxy")]


@pytest.fixture
def of_pieces(inputs: Inputs, tmp_path: Path) -> Inputs:
    """The inputs with a tokenizer and a text whose words have one to four tokens."""
    teacher = Path(shutil.copytree(inputs.teacher, tmp_path / "teacher"))
    make_tokenizer(PIECES).save_pretrained(teacher)
    rng = np.random.default_rng(0)
    words = [f"w{number}{'abcdefghijklmnopqrstuvwxy'[number % 20 :][: number % 4]}" for number in range(70)]
    lines = [". ".join(" ".join(rng.choice(words, size=7)) for _ in range(rng.integers(1, 5))) for _ in range(90)]
    text = tmp_path / "words.txt"
    text.write_text(".\n".join(lines))
    return replace(inputs, teacher=teacher, corpus=text, sentences=text)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("packing", "masking"),
    [
        ("none", ("masking=ngram", "masking.smoothing=0.7")),
        ("none", ("masking=whole_word", "masking.max_predictions=4")),
        ("sentences", ("masking=ngram", "masking.smoothing=0.7")),
    ],
    ids=["ngram", "whole_word", "ngram_of_sentences"],
)
def test_gradient_is_the_same_when_whole_words_are_masked_and_the_step_is_cut(
    packing: str, masking: tuple[str, ...], of_pieces: Inputs, call: Call, say: Say, tmp_path: Path
) -> None:
    found = []
    for batch_size in (ROWS, 1):
        run = Run(tmp_path / f"of_{batch_size}")
        result = call(*words(of_pieces, run, batch_size, ROWS // batch_size, packing), *EXACT, *masking)
        assert result.code == 0, result.err
        found.append(gradient(run))
    assert_same_gradient(found[1], found[0], say, f"1 x {ROWS}, {masking[0]}")


# --- two nodes, each a torchrun of its own -----------------------------------------------------------------------

Nodes = Callable[..., list[CliProcess]]


@pytest.fixture
def nodes(start: Start) -> Iterator[Nodes]:
    """nodes(*words): the command under two torchruns that meet on this machine, node 0 first."""
    begun: list[CliProcess] = []

    def begin(*words: str) -> list[CliProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = ("--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}")
        launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *place)
        environment = {"GLOO_SOCKET_IFNAME": "lo"}  # this machine's name need not lead to it
        started = [
            start(*words, launcher=(*launcher, f"--node-rank={number}"), environment=environment) for number in (0, 1)
        ]
        begun.extend(started)
        return started

    yield begin
    for node in begun:
        end(node)


def end(node: CliProcess) -> None:
    """SIGKILL to a torchrun and the process it started, which leads a session of its own."""
    if node.popen.poll() is None:
        started = node.children()
        os.kill(node.pid, signal.SIGKILL)
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        node.popen.wait()


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("packing", ["none"], indirect=True)
def test_gradient_is_the_same_when_the_step_is_cut_over_two_nodes(
    inputs: Inputs, nodes: Nodes, say: Say, tmp_path: Path, packing: str, whole: torch.Tensor
) -> None:
    run = Run(tmp_path / "nodes")
    for node in nodes(*words(inputs, run, ROWS // 2, 1, packing), *EXACT, *NODES):
        node.succeed()
    assert_same_gradient(gradient(run), whole, say, f"2 nodes x {ROWS // 2}")


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.ci
def test_two_nodes_stop_and_resume_identical_when_one_is_killed(
    inputs: Inputs, start: Start, nodes: Nodes, say: Say, tmp_path: Path
) -> None:
    finished, run = Run(tmp_path / "finished"), Run(tmp_path / "run")
    start(*words(inputs, finished, 2, 2, "none", steps=STEPS), *RANKS).succeed()
    first, second = nodes(*words(inputs, run, 2, 2, "none", steps=STEPS), *NODES)
    first.wait_until(lambda: bool(run.checkpoints()))
    end(second)
    assert first.wait(60) != 0
    (line,) = (line for line in first.stderr.splitlines() if line.startswith("error: "))
    assert "another process of the run has ended" in line and line.endswith("fix: distillkit resume RUN_DIR")
    newest = run.checkpoints()[-1]
    say(f"node 1 killed, node 0 ended, newest checkpoint {newest}")
    assert not run.events("finish") and not run.leftovers()
    for node in nodes("resume", str(run.path)):
        node.succeed()
    assert run.starts() == [0, newest]
    assert_identical(run, finished)


@pytest.mark.slow
def test_nodes_are_refused_in_one_line_each_when_no_folder_is_named(
    inputs: Inputs, nodes: Nodes, tmp_path: Path
) -> None:
    for node in nodes(*words(inputs, Run(tmp_path), ROWS, 1, "none"), *NODES, "run.dir=null"):
        assert node.wait() != 0
        assert node.stderr.count("error: run.dir=None: the ranks must know their folder; fix: set run.dir=FOLDER") == 1
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.rglob("runs"))
