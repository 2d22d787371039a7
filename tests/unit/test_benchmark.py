"""scripts/benchmark.py: its arithmetic, and whose loss is whose. No time is judged."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, DistilBertConfig

from distillkit.attention import NAME
from distillkit.evaluation.efficiency import flops_per_token
from distillkit.types import Batch
from scripts.benchmarking import agreement, batches, costs, peers, recipes, rounds, shapes
from scripts.benchmarking.contenders import Contender, Original, Recipe, ours
from tests.parity.models import make_batch, tiny_model

MASKED = make_batch()


def models() -> shapes.Models:
    student = tiny_model("distilbert", seed=1, attention="sdpa", dropout=0.0, attention_dropout=0.0)
    return shapes.Models(tiny_model().requires_grad_(False), student.train())


# --- rounds ------------------------------------------------------------------------------------------------------


def test_rounds_give_every_contender_the_same_batch_in_rotating_order_when_interleaved() -> None:
    short, long = make_batch((4, 4)), make_batch((9, 3))
    seen: list[tuple[str, int]] = []
    ticks = iter(range(1000))
    times = rounds.interleave(
        {name: lambda batch, name=name: seen.append((name, batch.input_ids.shape[1])) for name in "abc"},
        [short, long],
        seconds=0,
        between=lambda: seen.append(("-", 0)),
        clock=lambda: float(next(ticks)),
    )
    order = "".join(name for name, _ in seen)
    assert order == "abc-abc-bca-cab"  # the first is not counted
    assert [width for name, width in seen if name == "a"] == [9, 4, 9, 4]
    assert times == {name: [1.0] * rounds.FEWEST for name in "abc"}


def test_rounds_go_on_when_there_is_time() -> None:
    ticks = iter(range(1000))
    times = rounds.interleave({"a": lambda batch: None}, [MASKED], seconds=20, clock=lambda: float(next(ticks)))
    assert len(times["a"]) > rounds.FEWEST


def test_ratio_is_the_median_over_rounds_when_rounds_differ() -> None:
    times = {"original": [4.0, 8.0, 100.0], "quick": [1.0, 4.0, 10.0]}
    totals = [MASKED, make_batch((5, 5))]
    flops = {name: [62.0, 20.0] for name in times}
    found = rounds.summaries(times, totals, flops, "original")
    assert found["quick"]["ratio"] == {"low": 3.0, "median": 4.0, "high": 7.0}
    tokens = [31, 10, 31]  # 12 + 7 + 9 + 3, then 5 + 5
    assert found["quick"]["tokens_per_second"]["median"] == pytest.approx(sorted([31, 10 / 4, 3.1])[1])
    assert found["quick"]["seconds"]["median"] == 4.0
    assert found["quick"]["flops_per_token"] == 82 / sum(tokens[:2])
    assert found["quick"]["flops_per_second"] == pytest.approx(sorted([62, 5, 6.2])[1])


# --- operations --------------------------------------------------------------------------------------------------


def test_useful_operations_are_those_counted_by_hand_when_the_shape_is_base() -> None:
    teacher, student = BertConfig(), DistilBertConfig()  # 12 x 768 and 6 x 768
    layer = 2 * (4 * 768 * 768 + 2 * 768 * 3072) + 2 * 2 * 88 * 768
    head = 2 * 768 * 768 + 2 * 768 * 30_522
    everywhere = shapes.useful_flops(teacher, student, [88], 88) / 88
    assert everywhere == 12 * layer + 3 * 6 * layer + 4 * head
    assert everywhere / 1e6 == pytest.approx(625, abs=1)
    predicted = shapes.useful_flops(teacher, student, [88] * 20, 264) / (20 * 88)
    assert predicted / 1e6 == pytest.approx(462, abs=1)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_useful_operations_are_those_torch_counts_when_there_is_no_head(model_type: str) -> None:
    model = tiny_model(model_type, attention="sdpa")
    counted = flops_per_token(model, length=12)
    none = tiny_model(model_type, num_hidden_layers=0).config
    passes = 1 if model_type == "bert" else 3
    configs = (model.config, none) if model_type == "bert" else (none, model.config)
    assert shapes.useful_flops(*configs, [12, 12], 0) == passes * 24 * counted


# --- text --------------------------------------------------------------------------------------------------------


def test_passages_hold_every_sentence_in_order_when_reviews_are_cut() -> None:
    review = " ".join(f"Sentence number {i}{'.!?'[i % 3]}" for i in range(40))
    passages = batches.cut([review, "One more"])
    assert " ".join(passages) == f"{review} One more"
    counts = {len(re.findall("number", passage)) for passage in passages[:-2]}
    assert counts <= set(range(1, 8)) and len(counts) > 2


def test_totals_are_of_the_batch_when_it_is_random() -> None:
    batch = batches.random_batch(4, 16, 50)
    assert batch.input_ids.shape == (4, 16) and int(batch.input_ids.max()) < 50
    assert batch.totals == (64, int((batch.labels >= 0).sum()), 4) and 0 < batch.totals.predicted < 32
    assert batches.lengths(batch) == [16] * 4
    assert batches.lengths(MASKED) == [12, 7, 9, 3] and batches.fill([MASKED, batch]) == (31 + 64) / (48 + 64)


# --- contenders --------------------------------------------------------------------------------------------------


def trainer_loss(pair: shapes.Models, batch: Batch, *, bf16: bool = False) -> Tensor:
    """The Trainer subclass's loss, without the Trainer, which needs accelerate."""
    bare: Any = SimpleNamespace(teacher=pair.teacher, args=SimpleNamespace(bf16=bf16))
    return peers.DistillationTrainer.compute_loss(bare, pair.student, peers.as_inputs(batch))


@pytest.mark.parametrize("batch", [MASKED, make_batch(packed=True)], ids=["padded", "packed"])
def test_losses_are_the_originals_when_models_and_batch_are_the_same(batch: Batch) -> None:
    for positions in ("all", "predicted"):
        expected = Original(models(), positions=positions).loss(batch).item()
        found = ours(models(), precision="fp32", positions=positions).loss(batch).item()
        assert found == pytest.approx(expected, rel=1e-5)
    expected = Original(models(), positions="all").loss(batch).item()
    assert trainer_loss(models(), batch).item() == pytest.approx(expected, rel=1e-5)


def test_trainer_runs_the_teacher_in_bf16_when_it_trains_in_bf16() -> None:
    whole, half = (trainer_loss(models(), MASKED, bf16=bf16).item() for bf16 in (False, True))
    assert 1e-5 < abs(half - whole) / whole < 0.05


def test_textbrewer_loss_exceeds_the_originals_by_the_entropy_when_models_are_the_same() -> None:
    pytest.importorskip("textbrewer")
    pair = models()
    original = Original(models(), positions="all").loss(MASKED).item()
    expected = original + peers.KD_WEIGHT * peers.entropy(pair.teacher, MASKED)
    assert peers.TextBrewer(pair).loss(MASKED).item() == pytest.approx(expected, rel=1e-5)


class Doubled(Original):
    """A contender with another loss."""

    def loss(self, batch: Batch) -> Tensor:
        return 2 * super().loss(batch)


def test_agreement_names_who_differs_when_a_loss_is_another() -> None:
    made = {
        "same": Recipe("same", "fp32", "predicted", lambda m: ours(m, precision="fp32", positions="predicted")),
        "other": Recipe("other", "fp32", "all", lambda m: Doubled(m, positions="all")),
        "half": Recipe("half", "bf16", "all", lambda m: ours(m, precision="bf16", positions="all")),
        "surplus": Recipe("surplus", "fp32", "all", lambda m: Original(m, positions="all"), definition="KL + entropy"),
    }
    found = agreement.losses(made, models(), MASKED)
    assert {name: row["agrees"] for name, row in found.items()} == {
        "same": True, "other": False, "half": None, "surplus": False
    }  # fmt: skip
    assert found["other"]["difference"] == pytest.approx(1.0) and 1e-5 < found["half"]["difference"] < 0.05
    assert found["surplus"]["expected"] > found["other"]["expected"]


@pytest.mark.parametrize(
    "make",
    [lambda m: ours(m, precision="bf16", positions="all"), lambda m: Original(m, positions="predicted")],
    ids=["ours", "original"],
)
def test_step_moves_the_student_and_leaves_no_gradient_when_taken(make: Any) -> None:
    pair = models()
    before = [p.detach().clone() for p in pair.student.parameters()]
    contender: Contender = make(pair)
    for _ in range(2):
        contender.step(MASKED)
    moved = [not torch.equal(p, old) for p, old in zip(pair.student.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert all(p.grad is None for p in pair.student.parameters())


def test_our_step_is_the_trained_one_when_ready() -> None:
    pair = models()
    contender = ours(pair, precision="bf16", positions="all")
    assert pair.student.training and contender.optimizer.defaults["fused"]
    with contender.trainer.precision_plugin.train_step_context():
        assert torch.is_autocast_enabled("cpu")
    contender.step(make_batch(packed=True))
    assert pair.student.config._attn_implementation == NAME


def test_peer_is_left_out_with_a_line_when_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = recipes.RECIPES["textbrewer"]._replace(missing=peers.missing("json", "no_such_package_anywhere"))
    monkeypatch.setitem(recipes.RECIPES, "textbrewer", absent)
    assert "textbrewer" not in recipes.present(None) and recipes.REFERENCE in recipes.present(["textbrewer"])
    (line,) = recipes.left_out(["textbrewer"])
    assert "no_such_package_anywhere" in line and "json" not in line and "make benchmark" in line


# --- costs -------------------------------------------------------------------------------------------------------


def test_growth_is_one_when_the_cost_is_linear() -> None:
    points = [{"rows": rows, "seconds": 0.5 * rows} for rows in (8, 64, 16)]
    assert costs.growth(points, "rows") == 1.0
    assert costs.growth([*points[:1], {"rows": 64, "seconds": 64.0}], "rows") == 2.0
    assert costs.growth([*points[:1], {"rows": 64, "seconds": None}], "rows") is None


def test_points_cover_the_ends_when_scaling_is_quick() -> None:
    whole, quick = (costs.scaling_points("tiny", ["a", "b"], quick=quick) for quick in (False, True))
    for what, points in whole.items():
        sizes = [point for point in points if point.contender == "a"]
        assert [point for point in quick[what] if point.contender == "a"] == [sizes[0], sizes[-1]]
    assert {point.length for point in whole["length"]} == {64, 128, 256, 512}


@pytest.mark.slow
def test_costs_are_of_a_process_of_its_own_when_measured() -> None:
    point = costs.Point("original_all", "tiny", 4, 16, 2000)
    small, large = costs.measure([point, point._replace(rows=64, length=64, vocabulary=30_000)], steps=1)
    assert 50 < small["peak_memory_mb"] < large["peak_memory_mb"] - 1000  # the logits alone: 4 x 64 x 64 x 30,000 x 4 B
    assert small["seconds"] < large["seconds"]
