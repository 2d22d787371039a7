"""Batches as a run gets them: with and without a trainer, over workers, ranks and resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from distillkit.data import MaskedLMDataModule, TextCorpus
from distillkit.errors import ConfigError
from distillkit.types import IGNORE_INDEX, Batch

SHAPES = [{"packing": "full", "batch_size": 4}, {"packing": "none", "batch_tokens": 128}]


@pytest.fixture(scope="module")
def make_module(tokenizer, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("cache")

    def make(corpus: Path = corpus_file, **options) -> MaskedLMDataModule:
        options = {"max_length": 20, **options}
        return MaskedLMDataModule(TextCorpus(corpus), tokenizer, cache_dir=cache, **options)

    return make


def equal(one: Batch, two: Batch) -> bool:
    same = [a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True)]
    assert one.layout is not None and two.layout is not None
    pairs = zip(one.layout, two.layout, strict=True)
    places = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs]
    return all(same) and all(places) and one[3:6] == two[3:6] and one[7:] == two[7:]


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_carry_rows_masks_and_totals_when_read(make_module, shape) -> None:
    module = make_module(**shape)
    rows = module.prepare().train
    specs = module.plan(1, 2).micro_batches(0, 0, 12)
    batches = list(module.train_stream(accumulate=2, end_step=6))
    assert len(batches) == 12
    for batch, spec in zip(batches, specs, strict=True):
        originals = rows[spec.rows.tolist()]["input_ids"]
        lengths = torch.tensor([len(row) for row in originals])
        width = min(20, -(-int(lengths.max()) // 8) * 8)
        attended = torch.arange(width) < lengths[:, None]
        mask = attended.long() if batch.attention_mask is None else batch.attention_mask
        assert torch.equal(mask, attended.long())
        assert (batch.attention_mask is None) == bool(attended.all())
        assert (batch.input_ids[~attended] == 0).all() and (batch.labels[~attended] == IGNORE_INDEX).all()
        restored = torch.where(batch.labels == IGNORE_INDEX, batch.input_ids, batch.labels)
        assert [row[:n].tolist() for row, n in zip(restored, lengths, strict=True)] == originals
        assert (batch.step, batch.micro, batch.totals) == (spec.step, spec.micro, spec.totals)
    pairs = zip(batches[::2], batches[1::2], strict=True)
    for pair in pairs:
        assert pair[0].totals == pair[1].totals
        assert pair[0].totals.predicted == sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in pair)


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_are_the_same_when_workers_build_them(make_module, shape) -> None:
    alone, helped = (list(make_module(**shape, num_workers=n).train_stream(end_step=9)) for n in (0, 2))
    assert len(alone) == 9
    assert all(equal(one, two) for one, two in zip(alone, helped, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_stream_is_the_tail_when_it_starts_late(make_module, shape) -> None:
    steps = make_module(**shape).plan(1, 2).steps_per_epoch
    whole = list(make_module(**shape).train_stream(accumulate=2, end_step=steps + 3))
    for start in (1, steps - 1, steps, steps + 1):
        loader = make_module(**shape).train_stream(accumulate=2, start_step=start, end_step=steps + 3)
        tail = list(loader)
        assert len(loader) == len(tail) == 2 * (steps + 3 - start)
        assert all(equal(one, two) for one, two in zip(tail, whole[2 * start :], strict=True))
    first, second = (whole[: 2 * steps], whole[2 * steps :])
    assert not any(equal(one, two) for one in first for two in second)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_follow_from_seed_epoch_and_row_when_epochs_pass(make_module, shape) -> None:
    module = make_module(**shape, seed=5)
    assert module.prepare() is module.prepare()
    plan, rows = module.plan(), module.prepare().train["input_ids"]
    boundary = plan.steps_per_epoch
    batches = module.train_stream(start_step=boundary - 1, end_step=boundary + 1)
    for batch, spec in zip(batches, plan.micro_batches(0, boundary - 1, boundary + 1), strict=True):
        for line, index in enumerate(spec.rows.tolist()):
            expected, _ = module.masker.mask(np.asarray(rows[index]), seed=5, epoch=spec.epoch, index=index)
            assert batch.input_ids[line, : len(expected)].tolist() == expected.tolist()
    assert (spec.epoch, spec.step) == (1, boundary)


@pytest.mark.parametrize("shape", SHAPES)
def test_masked_rows_are_those_of_the_first_epoch_when_there_is_one_mask_epoch(make_module, shape) -> None:
    steps = make_module(**shape).plan().steps_per_epoch
    first, second = [], []
    for batch in make_module(**shape, mask_epochs=1).train_stream(end_step=2 * steps):
        rows = (first, second)[batch.step >= steps]
        rows += zip(batch.sequences, batch.input_ids.tolist(), batch.labels.tolist(), strict=True)
    unpadded = [{index: [i for i in ids if i] for index, ids, _ in rows} for rows in (first, second)]
    assert len(unpadded[0].keys() & unpadded[1].keys()) > 20
    assert all(unpadded[0][index] == unpadded[1][index] for index in unpadded[0].keys() & unpadded[1].keys())
    with pytest.raises(ConfigError, match=r"data\.mask_epochs=0: not a number of epochs; allowed: >= 1"):
        make_module(batch_size=4, mask_epochs=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("world_size", [1, 2])
def test_home_of_a_row_is_its_micro_batch_of_the_first_epoch_when_it_has_one(make_module, shape, world_size) -> None:
    module = make_module(**shape, seed=5, mask_epochs=1)
    train, held_out = (module.homes(world_size)[name] for name in ("train", "valid"))
    steps = module.plan(world_size).steps_per_epoch
    for homes, streams in (
        (train, [module.train_stream(rank, world_size, end_step=steps) for rank in range(world_size)]),
        (held_out, [module.valid_stream(rank, world_size) for rank in range(world_size)]),
    ):
        seen = set()
        for batch in (batch for stream in streams for batch in stream):
            (number,) = set(homes.epoch(0).batch_of(homes.epoch(0).places[list(batch.sequences)]).tolist())
            home = homes.batch(0, number)
            assert torch.equal(home.input_ids, batch.input_ids) and list(home.sequences) == list(batch.sequences)
            seen |= set(batch.sequences)
        dropped = sorted(set(range(len(homes.lengths))) - seen)
        alone = homes.epoch(0).batch_of(homes.epoch(0).places[dropped])
        assert [homes.epoch(0).members(number).tolist() for number in alone] == [[row] for row in dropped]
        assert homes.epoch(0).tokens[-1] == homes.lengths.sum() and (homes is train or not dropped)


def test_stream_has_no_length_when_it_has_no_end(make_module) -> None:
    loader = make_module(batch_size=4).train_stream()
    with pytest.raises(TypeError):
        len(loader)
    assert next(iter(loader)).step == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_held_out_rows_come_once_with_fixed_masks_when_ranks_share_them(make_module, shape, world_size) -> None:
    module = make_module(**shape, seed=7)
    rows = module.prepare().valid
    ranks = [list(module.valid_stream(rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    restored = []
    for batch in batches:
        assert batch.step == -1
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        assert batch.totals == (int(mask.sum()), int((batch.labels != IGNORE_INDEX).sum()), len(mask))
        ids = torch.where(batch.labels == IGNORE_INDEX, batch.input_ids, batch.labels)
        restored += [row[:n].tolist() for row, n in zip(ids, mask.sum(1), strict=True)]
    assert sorted(restored) == sorted(rows["input_ids"][:])
    again = list(make_module(**shape, seed=8).valid_stream())
    if world_size == 1:
        assert all(equal(one, two) for one, two in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"batch_size": 4, "max_length": 7}, "data.max_length"),
        ({"batch_size": 0}, "data.batch_size"),
        ({}, "data.batch_size"),
        ({"batch_size": 4, "packing": "tight"}, "data.packing"),
        ({"batch_size": 4, "num_workers": -1}, "data.num_workers"),
        ({"batch_size": 4, "num_proc": 0}, "data.num_proc"),
        ({"batch_tokens": 19}, "data.batch_tokens"),
    ],
)
def test_module_names_the_key_before_reading_when_a_value_is_wrong(make_module, tmp_path, options, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_module(tmp_path / "missing.txt", **options)
    assert caught.value.key == key


class Recorder(pl.LightningModule):
    """Records which micro-batches a trainer hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int]] = []
        self.held_out = 0

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.seen.append((batch.step, batch.micro))
        return self.weight.sum()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.held_out += len(batch.input_ids)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: MaskedLMDataModule, **options) -> Recorder:
    recorder = Recorder()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    pl.Trainer(accelerator="cpu", accumulate_grad_batches=2, num_sanity_val_steps=0, **quiet, **options).fit(
        recorder, module
    )
    return recorder


def every_batch(start: int, end: int) -> list[tuple[int, int]]:
    return [(step, micro) for step in range(start, end) for micro in range(2)]


@pytest.mark.filterwarnings("ignore")
def test_trainer_sees_each_step_once_when_it_counts_steps_or_epochs(make_module, tmp_path: Path) -> None:
    make = lambda: make_module(batch_size=32)  # noqa: E731
    steps = make().plan(1, 2).steps_per_epoch
    assert steps > 3
    assert fit(make(), max_steps=steps + 2).seen == every_batch(0, steps + 2)
    assert fit(make(), max_epochs=3).seen == every_batch(0, 3 * steps)
    assert fit(make(), max_epochs=3, max_steps=2).seen == every_batch(0, 2)
    assert fit(make(), max_epochs=1, max_steps=3 * steps).seen == every_batch(0, steps)
    resumed = make()
    resumed.start_step, resumed.end_step = steps - 1, steps + 2
    assert fit(resumed, max_epochs=1).seen == every_batch(steps - 1, steps + 2)


@pytest.mark.filterwarnings("ignore")
def test_trainer_validates_only_when_rows_are_held_out(make_module, tmp_path: Path, make_texts) -> None:
    module = make_module(batch_size=4)
    assert fit(module, max_steps=2).held_out == len(module.prepare().valid)
    (tmp_path / "one.txt").write_text(" ".join(make_texts(40)))
    assert fit(make_module(tmp_path / "one.txt", batch_size=4), max_steps=2).held_out == 0


def test_module_says_how_when_no_trainer_is_attached(make_module) -> None:
    with pytest.raises(RuntimeError, match="train_stream"):
        make_module(batch_size=4).train_dataloader()


def test_held_out_batches_go_by_length_when_rows_are_padded(make_module) -> None:
    module = make_module(packing="none", batch_size=4)
    widths = [batch.input_ids.shape[1] for batch in module.valid_stream()]
    assert widths == sorted(widths)
    assert np.ptp(widths) > 0
