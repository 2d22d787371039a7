"""The batch plan: the rows of a step, its cuts, its totals, its epochs, its resumption."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from distillkit.data.plan import BatchPlan, MicroBatch, padded_length
from distillkit.errors import ConfigError, DataError
from distillkit.types import StepTotals

T = 60
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(3, T + 1, size=203).astype(np.int32)
PREDICTIONS = np.maximum(1, LENGTHS // 7)
SHAPES = [
    {"packing": "full", "batch_size": 4},
    {"packing": "full", "batch_tokens": 4 * T + 7},
    {"packing": "none", "batch_size": 4},
    {"packing": "none", "batch_tokens": 200},
    {"packing": "sentences", "batch_size": 4},
]


def make_plan(*, seed: int = 0, rows: int = 203, **options) -> BatchPlan:
    lengths = np.full(rows, T, dtype=np.int32) if options["packing"] == "full" else LENGTHS[:rows]
    options = {"batch_size": None, "batch_tokens": None, "max_length": T, **options}
    return BatchPlan(lengths, PREDICTIONS[:rows], seed=seed, **options)


def plain(batch: MicroBatch) -> tuple:
    return (*batch[:3], batch.rows.tolist(), batch.totals)


def epoch_of(plan: BatchPlan, epoch: int = 0) -> list[list[MicroBatch]]:
    """The micro-batches of each rank in one epoch."""
    size = plan.batches_per_epoch
    return [list(plan.micro_batches(rank, epoch * size, (epoch + 1) * size)) for rank in range(plan.world_size)]


def steps_of(plan: BatchPlan, epoch: int = 0) -> list[list[int]]:
    """The rows of each optimizer step, sorted."""
    ranks = epoch_of(plan, epoch)
    steps = sorted({batch.step for batch in ranks[0]})
    return [
        sorted(row for rank in ranks for batch in rank if batch.step == step for row in batch.rows) for step in steps
    ]


@pytest.mark.parametrize("packing", ["full", "none"])
def test_steps_hold_the_same_rows_when_cut_in_any_way(packing: str) -> None:
    cuts = [(8, 1, 1), (4, 1, 2), (1, 1, 8), (4, 2, 1), (2, 2, 2), (1, 8, 1)]
    plans = [make_plan(packing=packing, batch_size=b, world_size=r, accumulate=a) for b, r, a in cuts]
    for epoch in (0, 3):
        assert all(steps_of(plan, epoch) == steps_of(plans[0], epoch) for plan in plans[1:])
    totals = [{batch.step: batch.totals for batch in epoch_of(plan)[0]} for plan in plans]
    assert all(one == totals[0] for one in totals[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_step_is_said_to_have_the_tokens_it_has_on_average_when_asked(shape) -> None:
    plan = make_plan(**shape, world_size=2, accumulate=2)
    totals = {batch.step: batch.totals.attended for rank in epoch_of(plan) for batch in rank}
    assert plan.tokens_per_step == pytest.approx(sum(totals.values()) / plan.steps_per_epoch)


def test_steps_hold_the_same_rows_when_tokens_are_cut_over_ranks_or_over_time() -> None:
    cuts = [(1, 4), (2, 2), (4, 1)]
    plans = [make_plan(packing="none", batch_tokens=200, world_size=r, accumulate=a) for r, a in cuts]
    assert steps_of(plans[0]) == steps_of(plans[1]) == steps_of(plans[2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 3), (2, 2)])
def test_epoch_uses_each_row_once_and_counts_the_rest_when_it_is_whole(shape, world_size, accumulate) -> None:
    plan = make_plan(**shape, world_size=world_size, accumulate=accumulate)
    assert plan.batches_per_epoch == plan.steps_per_epoch * accumulate
    for epoch in range(3):
        ranks = epoch_of(plan, epoch)
        rows = [row for rank in ranks for batch in rank for row in batch.rows]
        assert len(set(rows)) == len(rows)
        if epoch == 0:
            assert len(rows) + plan.dropped_rows == 203
        for rank in ranks:
            number = epoch * plan.batches_per_epoch + np.arange(plan.batches_per_epoch)
            assert [batch.step for batch in rank] == (number // accumulate).tolist()
            assert [batch.micro for batch in rank] == (number % accumulate).tolist()
            assert {batch.epoch for batch in rank} == {epoch}


@pytest.mark.parametrize("shape", SHAPES)
def test_totals_are_those_of_the_whole_step_when_it_is_cut(shape) -> None:
    plan = make_plan(**shape, world_size=2, accumulate=2)
    ranks = epoch_of(plan)
    for step in range(plan.steps_per_epoch):
        batches = [batch for rank in ranks for batch in rank if batch.step == step]
        rows = np.concatenate([batch.rows for batch in batches])
        tokens = T * len(rows) if shape["packing"] == "full" else LENGTHS[rows].sum()
        expected = StepTotals(tokens, PREDICTIONS[rows].sum(), len(rows))
        assert [batch.totals for batch in batches] == [expected] * 4


@pytest.mark.parametrize("shape", SHAPES)
def test_stream_continues_exactly_when_resumed_after_any_batch(shape) -> None:
    plan = make_plan(**shape, rows=61, world_size=2, accumulate=2)
    length = 2 * plan.batches_per_epoch + 3
    assert plan.batches_per_epoch > 2
    for rank in (0, 1):
        whole = [plain(batch) for batch in plan.micro_batches(rank, 0, length)]
        assert len(whole) == length
        for done in range(length + 1):
            assert [plain(batch) for batch in plan.micro_batches(rank, done, length)] == whole[done:]
        assert [plain(batch) for batch in islice(plan.micro_batches(rank), length)] == whole


@pytest.mark.parametrize("shape", SHAPES)
def test_order_changes_with_seed_and_epoch_when_nothing_else_does(shape) -> None:
    first = steps_of(make_plan(**shape))
    assert first == steps_of(make_plan(**shape))
    assert first != steps_of(make_plan(**shape), epoch=1)
    assert first != steps_of(make_plan(**shape, seed=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_repeat_and_order_does_not_when_there_are_few_mask_epochs(shape) -> None:
    plan, free = make_plan(**shape, mask_epochs=2), make_plan(**shape)
    for epoch in range(5):
        ours, theirs = (epoch_of(p, epoch)[0] for p in (plan, free))
        assert {batch.epoch for batch in ours} == {epoch % 2} and {batch.epoch for batch in theirs} == {epoch}
        assert [plain(batch)[1:] for batch in ours] == [plain(batch)[1:] for batch in theirs]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_is_seen_when_epochs_pass(shape) -> None:
    plan = make_plan(**shape, accumulate=30)
    assert plan.dropped_rows > 60
    seen = {row for epoch in range(40) for step in steps_of(plan, epoch) for row in step}
    assert seen == set(range(203))


def test_tokens_bound_every_batch_when_batch_tokens_is_given() -> None:
    for max_length in (T, 64):  # T is no multiple of 8: lengths 49 to 56 pad to 56, 57 to 60 to 60
        plan = make_plan(packing="none", batch_tokens=230, max_length=max_length)
        batches = [batch.rows for batch in epoch_of(plan)[0]]
        cost = [len(rows) * padded_length(LENGTHS[rows], max_length).max() for rows in batches]
        assert max(cost) <= 230
        assert np.mean(cost) > 170
    assert {len(batch.rows) for batch in epoch_of(make_plan(packing="full", batch_tokens=4 * T + 7))[0]} == {4}


def test_padded_length_goes_up_by_eights_when_below_the_longest() -> None:
    assert padded_length(np.asarray([1, 8, 9, 56, 57, 60]), 60).tolist() == [8, 8, 16, 56, 60, 60]


def test_padding_is_small_and_steps_are_shuffled_when_rows_go_by_length() -> None:
    plan = make_plan(packing="none", batch_size=4, world_size=2)
    ranks = epoch_of(plan)
    widths = [padded_length(LENGTHS[batch.rows], T).max() for batch in ranks[0]]
    used = sum(int(LENGTHS[batch.rows].sum()) for rank in ranks for batch in rank)
    padded = sum(4 * int(padded_length(LENGTHS[batch.rows], T).max()) for rank in ranks for batch in rank)
    assert padded < 1.25 * used
    assert widths != sorted(widths)
    apart = [abs(int(LENGTHS[a.rows].max()) - int(LENGTHS[b.rows].max())) for a, b in zip(*ranks, strict=True)]
    assert np.mean(apart) < 8  # ranks wait for each other


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"data\.batch_size=None: exactly one of data\.batch_size and data\.batch_tokens"),
        ({"batch_size": 4, "batch_tokens": 100}, r"data\.batch_size=4: exactly one"),
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"batch_tokens": T - 1}, rf"data\.batch_tokens=59.*allowed: >= data\.max_length \({T}\)"),
        ({"batch_size": 4, "packing": "document"}, r"data\.packing=document: .*allowed: full, none"),
        ({"batch_size": 4, "max_length": 7}, r"data\.max_length=7: too short; allowed: >= 8"),
    ],
)
def test_plan_refuses_values_when_they_make_no_batches(options, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan(**{"packing": "none", **options})


@pytest.mark.parametrize("shape", SHAPES)
def test_plan_gives_the_numbers_when_rows_are_too_few(shape) -> None:
    with pytest.raises(DataError, match=r"10 rows make \d+ micro-batches, fewer than the 24 .*2 ranks x 12"):
        make_plan(**shape, rows=10, world_size=2, accumulate=12)
