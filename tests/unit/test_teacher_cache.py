"""The cached teacher says the same whatever is on the disk, and computes what is missing alone."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from distillkit import building, config
from distillkit.cached_rows import Room
from distillkit.data import MaskedLMDataModule, TextCorpus
from distillkit.data.homes import Homes
from distillkit.errors import StorageError
from distillkit.layout import with_layout
from distillkit.rowstore import RowStore
from distillkit.teacher_cache import CachedTeacher, identity
from distillkit.teachers import Teacher
from distillkit.types import Batch
from tests.faults.harness import make_bert, make_text, make_tokenizer

WIDTH = 16
SHAPES = {"full": {"packing": "full", "batch_size": 4}, "none": {"packing": "none", "batch_tokens": 160}}


class Fickle:
    """A teacher whose states of a row depend on the whole micro-batch: what rounding does in the last bits."""

    def __init__(self) -> None:
        self.model, self.hidden_size = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu")), WIDTH
        self.rows = self.calls = 0

    def to(self, device: torch.device) -> Fickle:
        return self

    def hidden(self, batch: Batch) -> Tensor:
        layout = with_layout(batch).layout
        assert layout is not None
        self.rows, self.calls = self.rows + len(layout.lengths), self.calls + 1
        ids = batch.input_ids.flatten()[layout.attended].float()
        company = torch.sin(batch.input_ids.sum().float() + len(layout.lengths))
        return torch.sin(ids[:, None] * torch.arange(1, WIDTH + 1) + company)


class Setup:
    """A corpus, and cached teachers over one folder."""

    def __init__(self, folder: Path, shape: str) -> None:
        (folder / "corpus.txt").write_text(make_text(60))
        self.data = MaskedLMDataModule(
            TextCorpus(folder / "corpus.txt", valid_fraction=0.2), make_tokenizer(), max_length=40, seed=3,
            mask_epochs=1, num_proc=1, cache_dir=folder / "prepared", **SHAPES[shape],
        )  # fmt: skip
        self.store, self.steps = folder / "states", self.data.plan().steps_per_epoch

    def teacher(self, max_gb: float = 1.0, **options: Any) -> CachedTeacher:
        """A fresh one, as a run has it."""
        homes = self.data.homes(**options)
        stores = {name: RowStore(self.store, {"split": name}) for name in homes}
        cached = CachedTeacher(Fickle(), homes, stores, dtype="bfloat16", max_gb=max_gb)  # type: ignore[arg-type]
        cached.make(1)
        return cached

    def epoch(self, number: int, **share: int) -> Iterator[Batch]:
        """The micro-batches of an epoch, as a training gets them."""
        steps = self.data.plan(share.get("world_size", 1)).steps_per_epoch
        return iter(self.data.train_stream(start_step=number * steps, end_step=(number + 1) * steps, **share))

    def states(self, cached: CachedTeacher, *epochs: int) -> list[Tensor]:
        return [cached.hidden(batch) for number in epochs for batch in self.epoch(number)]


def computed(cached: CachedTeacher) -> int:
    """Rows the teacher behind it has computed, in homes and alone."""
    return cached._teacher.rows  # type: ignore[attr-defined]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def by_row(batch: Batch, states: Tensor) -> dict[int, Tensor]:
    """States of each row of a micro-batch by its index, by the batch's own layout."""
    assert batch.layout is not None and batch.sequences is not None
    rows = [batch.sequences[line] for line in batch.layout.rows.tolist()]
    return dict(zip(rows, states.split(list(batch.layout.lengths)), strict=True))


@pytest.fixture(params=SHAPES)
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Setup:
    return Setup(tmp_path, request.param)


def test_states_are_rounded_alike_when_computed_and_read(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, again, plain = setup.teacher(), setup.teacher(), Fickle()
    monkeypatch.setattr(Homes, "batch", lambda *args: pytest.fail("a batch at home was made once more"))
    first = setup.states(cached, 0)
    assert same(first, [plain.hidden(batch).bfloat16().float() for batch in setup.epoch(0)])
    assert same(first, setup.states(again, 0))
    assert computed(again) == 0 and again.rows_read == computed(cached) == cached.rows_computed > 30
    assert first[0].dtype == torch.float32 and again.facts()["read_share"] == 1.0
    assert (again.rows_computed, cached.rows_read, again.facts()["rows_damaged"]) == (0, 0, 0)


def test_states_are_those_of_the_first_epoch_when_rows_meet_again_in_other_company(setup: Setup) -> None:
    cached, plain = setup.teacher(), Fickle()
    first = [by_row(batch, plain.hidden(batch).bfloat16().float()) for batch in setup.epoch(0)]
    setup.states(cached, 0)
    home = {row: states for rows in first for row, states in rows.items()}
    later = [by_row(batch, cached.hidden(batch)) for batch in setup.epoch(1)]
    compared = [(states, home[row]) for rows in later for row, states in rows.items() if row in home]
    assert len(compared) > 20 and all(torch.equal(states, expected) for states, expected in compared)


def delete(store: Path) -> None:
    shutil.rmtree(store)


def delete_the_end(store: Path) -> None:
    """What a kill while the first epoch fills the cache leaves."""
    for file in store.glob("*/0/*.rows"):
        os.truncate(file, file.stat().st_size // 3)


def damage(store: Path) -> None:
    for file in store.glob("*/0/*.rows"):
        content = bytearray(file.read_bytes())
        content[:: len(content) // 7] = bytes(255 - byte for byte in content[:: len(content) // 7])
        file.write_bytes(content)


@pytest.mark.parametrize("fault", [delete, delete_the_end, damage])
def test_states_of_a_later_epoch_are_the_same_when_rows_are_missing(
    fault: Callable[[Path], None], setup: Setup
) -> None:
    cached = setup.teacher()
    setup.states(cached, 0)
    whole = setup.states(cached, 1, 2)
    assert cached.rows_read > cached.rows_computed
    fault(setup.store)
    resumed = setup.teacher()
    assert same(setup.states(resumed, 1, 2), whole)
    assert computed(resumed) > 0 and resumed.rows_read > 0
    assert resumed.facts()["rows_damaged"] > 0 or fault is not damage
    assert same(setup.states(setup.teacher(), 1, 2), whole)


def test_cache_stays_in_its_bound_and_states_do_not_depend_on_it_when_some_rows_do_not_fit(setup: Setup) -> None:
    room = setup.teacher().room
    bound = (room.valid + 0.4 * room.epoch) / 1e9
    cached, resumed = setup.teacher(bound), setup.teacher(bound)
    setup.states(cached, 0)
    whole = setup.states(cached, 1)
    files = sum(file.stat().st_size for file in setup.store.glob("*/0/*.rows"))
    assert 0.3 * room.epoch < files <= 0.4 * room.epoch
    assert 0 < cached.rows_read < cached.rows_computed
    delete(setup.store)
    resumed.make(1)
    assert same(setup.states(resumed, 1), whole)
    assert same(setup.states(setup.teacher(0.0), 0), setup.states(setup.teacher(), 0))


def test_held_out_states_are_kept_apart_when_validated(setup: Setup) -> None:
    cached, again = setup.teacher(), setup.teacher()
    setup.states(cached, 0)
    valid = setup.data.valid_stream()
    assert valid is not None
    first = [cached.hidden(batch) for batch in valid]
    assert same(first, [again.hidden(batch) for batch in valid]) and computed(again) == 0
    assert same(first, [Fickle().hidden(batch).bfloat16().float() for batch in valid])


def test_training_goes_on_with_one_warning_when_the_disk_is_full(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = setup.states(setup.teacher(), 0)
    delete(setup.store)
    cached, batches = setup.teacher(), setup.epoch(0)
    states = [cached.hidden(next(batches)), cached.hidden(next(batches))]

    def refuse(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        states += [cached.hidden(batch) for batch in batches]
        calls = cached._teacher.calls  # type: ignore[attr-defined]
        later = setup.states(cached, 1)
    assert same(states, reference)
    assert len(caught) == 1 and "cannot be written" in str(caught[0].message)
    assert all(state.isfinite().all() for state in later) and cached.rows_read > 0
    assert cached._teacher.calls - calls <= len(later)  # type: ignore[attr-defined]  # no homes are computed in vain


def test_all_rows_are_read_when_two_ranks_have_filled_the_cache(setup: Setup) -> None:
    ranks = [setup.teacher(world_size=2) for _ in range(2)]
    for number in (0, 1):
        for rank, cached in enumerate(ranks):
            for batch in setup.epoch(number, rank=rank, world_size=2):
                cached.hidden(batch)
    again = setup.teacher(world_size=2)
    states = [again.hidden(batch) for batch in setup.epoch(0, rank=1, world_size=2)]
    assert computed(again) == 0 and again.rows_read > 10
    plain = [Fickle().hidden(batch).bfloat16().float() for batch in setup.epoch(0, rank=1, world_size=2)]
    assert same(states, plain)


def test_batches_of_unknown_rows_are_rounded_alike_when_computed(setup: Setup) -> None:
    batch = next(setup.epoch(0))._replace(sequences=None)
    cached = setup.teacher()
    assert torch.equal(cached.hidden(batch), Fickle().hidden(batch).bfloat16().float())
    assert not list(setup.store.glob("*/0"))


def test_cache_is_refused_with_needed_and_free_megabytes_when_the_disk_is_too_small(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowStore, "free", lambda store: 1000)
    with pytest.raises(
        StorageError, match=r"teacher\.cache=.*: needs 0 MB more, 0 MB are free; fix: make room"
    ) as error:
        setup.teacher()
    assert error.value.exit_code == 4
    setup.teacher(max_gb=0.9e-6)


def test_room_goes_to_held_out_rows_then_to_epoch_after_epoch_when_bounded() -> None:
    room = Room(most=1000, valid=100, epoch=600)
    assert [room.left("train", epoch) for epoch in (0, 1, 2)] == [900, 300, -300] and room.left("valid", 0) == 1000
    assert [room.needed(epochs) for epochs in (0, 1, 2)] == [100, 700, 1000]
    assert room.read_share(4, 1) == 0.75 and room.read_share(4, 2) == pytest.approx(0.5 * 0.75)
    assert room.read_share(4, None) == room.read_share(0.5, 1) == room.read_share(3, 4) == 0.0


def test_identity_changes_with_the_weights_the_configuration_and_the_dtype_and_not_with_the_name() -> None:
    cpu = torch.device("cpu")
    teacher = Teacher(make_bert())
    named = Teacher(make_bert())
    named.model.config._name_or_path = "elsewhere"
    assert identity(teacher, cpu, "int8") == identity(named, cpu, "int8")
    other, config = Teacher(make_bert()), Teacher(make_bert())
    next(other.model.parameters())[0, 0] += 1
    config.model.config.layer_norm_eps = 1e-5
    different = [identity(other, cpu, "int8"), identity(config, cpu, "int8"), identity(teacher, cpu, "bfloat16")]
    different.append(identity(Teacher(make_bert(), torch.bfloat16), cpu, "int8"))
    assert identity(teacher, cpu, "int8") not in different and identity(teacher, cpu, "int8")["threads"]


def test_states_are_shared_with_runs_from_before_a_masking_key_when_it_is_null(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(building, "RowStore", lambda folder, identity: found.append(identity))
    monkeypatch.setattr(building, "CachedTeacher", lambda *args, **kwargs: None)
    parts = cast(building.Parts, SimpleNamespace(teacher=Teacher(make_bert()), data=setup.data))
    words = ["run.dir=unused", "teacher.path=demo", "teacher.cache=states", "data=demo"]
    new, smoothed = (config.settle(*config.load("train", [*words, *more])) for more in ([], ["masking.smoothing=0.7"]))
    old = new | {"masking": {name: value for name, value in new["masking"].items() if value is not None}}
    assert set(old["masking"]) == {"_target_", "_partial_", "probability", "mask_fraction", "random_fraction"}
    for cfg in (old, new, smoothed):
        building.build_cache(cfg, parts, torch.device("cpu"))
    assert found[:2] == found[2:4]
    assert found[0] != found[4] and found[1] != found[5]
