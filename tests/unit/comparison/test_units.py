"""Units: what makes a fine-tuning another one, what it leaves, and that it repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AlbertConfig, AlbertForMaskedLM, BertForSequenceClassification

from distillkit import config
from distillkit.building import make
from distillkit.comparison import finetuning
from distillkit.comparison.finetuning import load_with_head
from distillkit.comparison.models import Contender, find_models
from distillkit.comparison.units import ANSWERS, Unit, plan_units, recipe_of, run_unit
from distillkit.errors import ConfigError, NumericalError, RunStateError, TeacherError
from distillkit.export import export
from distillkit.hashing import weights_hash
from distillkit.sharing import share_layers
from tests.faults.harness import Inputs, make_bert, make_tokenizer


def write_rows(path: Path, rows: int) -> Path:
    """A task that can be learnt: the label says whether "w1" or "w2" stands in the text."""
    lines = [f"{'w1' if i % 2 else 'w2'} {' '.join(['w5'] * (i % 7))}\t{i % 2}" for i in range(rows)]
    path.write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    return path


def settled(folder: Path, *words: str) -> dict[str, Any]:
    """compare.yaml for one classification task on files in a folder."""
    train, test = write_rows(folder / "train.tsv", 48), write_rows(folder / "test.tsv", 20)
    given = [
        "tasks=classification", "models=m", "seeds=0", "batch_size=8", "trainer.max_epochs=15", "optimizer.lr=1e-3",
        f"task.classification.files.train={train}", f"task.classification.files.test={test}",
        "task.classification.text=text", "task.classification.label=label",
    ]  # fmt: skip
    return config.settle(*config.load("compare", [*given, *words]))


def planned(folder: Path, source: Path, *words: str) -> Unit:
    """The unit of that task and one model."""
    cfg = settled(folder, *words)
    tasks = {name: make(node) for name, node in cfg["task"].items()}
    return plan_units(cfg, [contender(source)], tasks)[0]


def contender(source: Path, identity: str = "0") -> Contender:
    return Contender("m", "m", "m", source, identity, weights_hash(source), {})


def run(unit: Unit, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    run_unit(unit, folder)
    return {"result": json.loads((folder / "result.json").read_text()), "answers": (folder / ANSWERS).read_text()}


def test_unit_learns_and_repeats_when_run_twice(inputs: Inputs, tmp_path: Path) -> None:
    unit = planned(tmp_path, inputs.teacher)
    steps: list[tuple[int, int]] = []
    (tmp_path / "a").mkdir()
    run_unit(unit, tmp_path / "a", lambda done, total: steps.append((done, total)))
    first = json.loads((tmp_path / "a" / "result.json").read_text())
    again = run(unit, tmp_path / "b")
    assert first["metrics"] == {"test": {"accuracy": 1.0}} and first["score"] == 1.0
    assert steps == [(step, 90) for step in range(1, 91)] and first["steps"] == 90
    assert (tmp_path / "a" / ANSWERS).read_text() == again["answers"]
    assert {k: v for k, v in first.items() if k not in ("seconds", "peak_memory_mb")} == {
        k: v for k, v in again["result"].items() if k not in ("seconds", "peak_memory_mb")
    }


@pytest.mark.parametrize("word", [
    "seeds=1", "optimizer.lr=2e-3", "trainer.max_epochs=5", "trainer.precision=bf16-mixed", "batch_size=4",
    "task.classification.max_length=16", "task.classification.epochs=2", "task.classification.train_rows=40",
    "scheduler.warmup_steps=0", "trainer.gradient_clip_val=null", "trainer.limit_train_batches=1",
    "trainer.max_time=00:00:01:00", "trainer.max_steps=3",
])  # fmt: skip
def test_unit_is_another_when_its_recipe_or_seed_changes(word: str, inputs: Inputs, tmp_path: Path) -> None:
    assert planned(tmp_path, inputs.teacher, word).key != planned(tmp_path, inputs.teacher).key


def test_unit_is_the_same_when_only_places_and_reports_change(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    here = planned(tmp_path, inputs.teacher)
    there = planned(tmp_path / "moved", inputs.teacher, "trainer.log_every_n_steps=3", "run.jobs=2", "price_per_hour=3")
    assert here.key == there.key
    (tmp_path / "units" / f"under_another_name_{here.key}").mkdir(parents=True)
    assert here.folder(tmp_path).name == f"under_another_name_{here.key}"


def test_unit_is_another_when_weights_or_rows_change(inputs: Inputs, tmp_path: Path) -> None:
    cfg = settled(tmp_path)
    before = {name: make(node) for name, node in cfg["task"].items()}
    keys = {plan_units(cfg, [contender(inputs.teacher, who)], before)[0].key for who in ("0", "1")}
    write_rows(tmp_path / "test.tsv", 21)
    after = {name: make(node) for name, node in cfg["task"].items()}
    keys.add(plan_units(cfg, [contender(inputs.teacher)], after)[0].key)
    assert len(keys) == 3


def test_recipe_takes_a_tasks_own_values_when_it_has_them(tmp_path: Path) -> None:
    cfg = settled(tmp_path, *(f"task.classification.{word}" for word in ("epochs=2", "lr=0.5", "batch_size=3")))
    recipe = recipe_of(cfg, make(cfg["task"]["classification"]))
    assert (recipe["trainer"]["max_epochs"], recipe["optimizer"]["lr"], recipe["batch_size"]) == (2, 0.5, 3)
    assert recipe_of(settled(tmp_path), make(settled(tmp_path)["task"]["classification"]))["batch_size"] == 8


def test_units_come_seed_by_seed_when_planned(inputs: Inputs, tmp_path: Path) -> None:
    cfg = settled(tmp_path, "seeds=[0,1]")
    tasks = {name: make(cfg["task"]["classification"]) for name in ("a", "b")}
    cfg["task"] = dict.fromkeys(tasks, cfg["task"]["classification"])
    units = plan_units(cfg, [contender(inputs.teacher)], tasks)
    assert [(unit.seed, unit.task) for unit in units] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_head_follows_the_seed_and_the_encoder_the_folder_when_loaded(inputs: Inputs, tmp_path: Path) -> None:
    task = make(settled(tmp_path)["task"]["classification"])
    one, same, other = (load_with_head(task, inputs.teacher, seed).state_dict() for seed in (0, 0, 1))
    stored = make_bert().state_dict()
    assert torch.equal(one["classifier.weight"], same["classifier.weight"])
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert all(torch.equal(one[name], stored[name]) for name in one if name in stored)


def test_head_is_refused_when_encoder_weights_are_missing(inputs: Inputs, tmp_path: Path) -> None:
    model = make_bert()
    state = {name: value for name, value in model.state_dict().items() if "layer.2.output.dense" not in name}
    model.save_pretrained(tmp_path / "cut", state_dict=state)
    with pytest.raises(TeacherError, match=r"2 encoder weights are missing, e\.g\. bert\.encoder\.layer\.2"):
        load_with_head(make(settled(tmp_path)["task"]["classification"]), tmp_path / "cut", 0)


@pytest.mark.parametrize("labels", [2, 3])
def test_head_is_drawn_anew_when_the_model_was_fine_tuned_before(labels: int, tmp_path: Path) -> None:
    torch.manual_seed(9)
    before = BertForSequenceClassification(make_bert(num_labels=labels).config)
    before.save_pretrained(tmp_path / "tuned")
    task = make(settled(tmp_path)["task"]["classification"])
    one, same, other = (load_with_head(task, tmp_path / "tuned", seed) for seed in (0, 0, 1))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight), "the seed has no effect"
    assert labels == 3 or not torch.equal(one.classifier.weight, before.classifier.weight), "its old head is kept"
    assert one.config.num_labels == 2
    assert torch.equal(one.bert.pooler.dense.weight, before.bert.pooler.dense.weight), "the pooler is part of the body"


def test_unit_is_refused_when_its_weights_have_changed_since(inputs: Inputs, tmp_path: Path) -> None:
    unit = replace(planned(tmp_path, inputs.teacher), weights="others")
    with pytest.raises(RunStateError, match="its weights have changed since the comparison began"):
        run(unit, tmp_path / "u")


def test_albert_stays_shared_when_its_attention_is_shared_and_it_is_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=100, num_hidden_layers=3, num_hidden_groups=3, **sizes))
    share_layers(model, "attention")
    export(model, make_tokenizer(), tmp_path / "albert")
    trained: list[Any] = []
    monkeypatch.setattr(finetuning.FineTuning, "on_fit_end", lambda self: trained.append(self.model), raising=False)
    run(planned(tmp_path, tmp_path / "albert", "trainer.max_epochs=1"), tmp_path / "unit")
    groups = [group.albert_layers[0] for group in trained[0].albert.encoder.albert_layer_groups]
    assert len({id(group.attention.query.weight) for group in groups}) == 1, "attention came apart"
    assert len({id(group.ffn.weight) for group in groups}) == 3, "what was not shared is shared now"
    before = model.albert.encoder.albert_layer_groups[0].albert_layers[0].attention.query.weight
    assert not torch.equal(groups[0].attention.query.weight, before), "it was not trained"


def test_fine_tuning_stops_when_the_loss_is_not_finite(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"optimizer\.lr.*not finite"):
        run(planned(tmp_path, inputs.teacher, "optimizer.lr=1e30", "trainer.gradient_clip_val=null"), tmp_path / "u")
    assert not (tmp_path / "u" / "result.json").exists()


def test_models_are_refused_when_two_names_mean_one_folder(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(inputs.teacher)
    with pytest.raises(ConfigError, match="named twice"):
        find_models([str(inputs.teacher), str(tmp_path / "link")], tmp_path)


def test_models_are_told_apart_by_name_when_folders_are_called_alike(tmp_path: Path) -> None:
    for number, parent in enumerate(("a", "b"), 1):
        make_bert(num_hidden_layers=number).save_pretrained(tmp_path / parent / "bert")
        make_tokenizer().save_pretrained(tmp_path / parent / "bert")
    found = find_models([str(tmp_path / parent / "bert") for parent in ("a", "b")], tmp_path)
    assert [model.name for model in found] == ["a/bert", "b/bert"] and found[0].identity != found[1].identity
    assert {model.role for model in found} == {"model"} and found[0].training is None


def test_reference_is_refused_when_it_is_not_among_the_models(inputs: Inputs, tmp_path: Path) -> None:
    given = str(inputs.teacher)
    assert find_models([given], tmp_path, given) and find_models([given], tmp_path, "teacher")
    with pytest.raises(ConfigError, match="reference=me: not among the models; allowed: teacher"):
        find_models([given], tmp_path, "me")
