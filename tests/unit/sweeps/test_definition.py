"""What a sweep plans: its arms, their order and names, and what it refuses before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit import config
from distillkit.errors import ConfigError, RunStateError
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.definition import _kinds, continued, plan

DEMO = "experiment=demo_distilbert"


def test_arms_are_listed_ones_times_values_with_one_seed_first_when_planned() -> None:
    _, ledger = plan(["sweep=loss_weights", "loss.temperature=1,2", "seed=3,1", DEMO], None)
    names = [arm.name for arm in ledger.arms]
    assert names[:4] == ["full,temperature=1", "full,temperature=2", "no_ce,temperature=1", "no_ce,temperature=2"]
    assert [arm.seed for arm in ledger.arms] == [3] * 10 + [1] * 10
    assert [arm.number for arm in ledger.arms] == list(range(20))
    assert ledger.arms[3].words == ["loss.alpha=0", "loss.temperature=2"]
    assert ledger.arms[3].values == {"loss.temperature": 2}
    assert ledger.shared == [DEMO]


def test_names_have_whole_keys_when_their_last_parts_are_equal() -> None:
    words = ["teacher.path=demo,null", "tokenizer.path=demo,null", "student.dropout=0,0.1"]
    sweep = {"method": "grid", "arms": {}}
    kinds = _kinds(sweep, dict(word.split("=", 1) for word in words))
    assert kinds[0].name == "teacher.path=demo,tokenizer.path=demo,dropout=0"


def test_typed_value_takes_the_place_of_the_definition_when_it_varies_the_key() -> None:
    _, ledger = plan(["sweep=temperature", "loss.temperature=3", DEMO, "seed=0"], None)
    assert [(arm.name, arm.words) for arm in ledger.arms] == [("demo_distilbert", [])]
    _, ledger = plan(["sweep=temperature", "loss.temperature=3,4", DEMO, "seed=0"], None)
    assert [arm.values for arm in ledger.arms] == [{"loss.temperature": 3}, {"loss.temperature": 4}]


def test_folder_is_the_same_when_the_command_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = plan(["loss.alpha=0,1", DEMO], None)[0]
    assert folder.parent == tmp_path / "runs" / "demo_distilbert" / "sweeps"
    assert plan(["loss.alpha=0,1", "seed=1,2", DEMO], None)[0] == folder
    assert plan(["loss.alpha=0,2", DEMO], None)[0] != folder
    assert plan(["sweep=loss_weights", DEMO], None)[0].name == "loss_weights"
    assert plan(["sweep=loss_weights", DEMO, "run.dir=here"], None)[0] == tmp_path / "here"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["loss.alpha=0,-1"], ["loss.alpha=-1", "arm alpha=-1"]),
        (["loss.alpha=0,0"], ["two arms of that name"]),
        (["loss.alpa=0,1"], ["did you mean loss.alpha"]),
        (["sweep=loss_weight"], ["did you mean sweep=loss_weights"]),
        (["sweep.max_step=1"], ["did you mean sweep.max_steps"]),
        (["sweep.shared_pass=1"], ["sweep.shared_pass=1", ">= 2"]),
        (["sweep=tpe", "sweep.shared_pass=true"], ["sweep.shared_pass=True", "share_cache=true"]),
        (["loss.alpha=0,1", "sweep.shared_pass=true", "logger=wandb"], ["logger=wandb", "arm alpha=0"]),
        (["loss.alpha=0,1", "sweep.shared_pass=true", "run.compile=true"], ["run.compile=True"]),
        (["loss.alpha=0,1", "sweep.shared_pass=true", "trainer.devices=2"], ["trainer.devices=2"]),
        (["loss.alpha=0,1", "trainer.num_nodes=2"], ["trainer.num_nodes=2", "torchrun"]),
        (["sweep.baseline=ful", "sweep=loss_weights"], ["sweep.baseline=ful", "full"]),
        (["seed=1,1"], ["without repetitions"]),
        (["seed=-1"], ["whole numbers"]),
        (["sweep.method=bayes"], ["sweep.method=bayes", "tpe"]),
        (["sweep.max_hours=0"], ["sweep.max_hours"]),
        (["loss.alpha=interval(0,1)"], ["no list of values", "sweep.method=tpe"]),
        (["trainer.max_steps=-1", "trainer.max_epochs=1", "sweep.max_steps=10"], ["budget of steps"]),
        (["sweep=tpe", "sweep.metric=valid/mlm_los"], ["sweep.metric=valid/mlm_los", "valid/mlm_loss"]),
        (["sweep=tpe", "trainer.max_steps=-3"], ["trainer.max_steps=-3"]),
        (["sweep=tpe", "loss.alpha=interval(-4,-1)"], ["loss.alpha=-3.0"]),
        (["sweep=tpe", "student.num_layer=int(interval(1,3))"], ["did you mean student.num_layers"]),
    ],
)
def test_sweep_is_refused_when_a_word_is_wrong(words: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        plan([*words, DEMO], None)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_search_is_planned_when_only_some_of_what_it_draws_is_wrong() -> None:
    assert plan(["sweep=tpe", "loss.alpha=interval(-1,1)", DEMO], None)[1].arms == []
    assert plan(["sweep=tpe", "student.num_layers=9,3", DEMO], None)[1].arms == []


def test_sweep_is_refused_when_a_launcher_started_it_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="starts its own processes"):
        plan([DEMO], None)


def test_definition_is_refused_when_two_of_its_arms_are_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text("defaults: [base]\nname: mine\narms: {a: [], b: []}\n")
    with pytest.raises(ConfigError, match=r"sweep\.arms=b: the same run as a"):
        plan(["sweep=mine", DEMO], str(tmp_path))


SHIPPED = sorted(path.stem for path in (config.conf_dir() / "sweep").glob("*.yaml") if path.stem != "base")
ALBERT = {"loss_weights", "temperature", "sharing", "grid"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_definition_plans_valid_arms_when_joined_with_the_demos(name: str) -> None:
    for experiment in ("demo_distilbert", *(["demo_albert"] if name in ALBERT else [])):
        sweep = config.load("sweep", [f"sweep={name}"])[0].sweep
        folder, ledger = plan([f"sweep={name}", f"experiment={experiment}", "seed=0"], None)
        assert ledger.name == name and experiment in str(folder)
        assert len(ledger.arms) >= len(sweep.arms) and (ledger.arms or sweep.method != "grid")


def ledger_of(*arms: Arm, **more: object) -> Ledger:
    told = {"name": "x", "shared": [], "config_dir": None, "sweep": {"method": "grid", "vary": {}}, "launcher": {},
            "baseline": None, "command": []}  # fmt: skip
    return Ledger(**(told | more), arms=list(arms))  # type: ignore[arg-type]


def test_arms_are_appended_and_done_ones_kept_when_the_plan_grows(tmp_path: Path) -> None:
    ledger_of(Arm(0, "a", 0, ["k=1"], status="done"), Arm(1, "b", 0, ["k=2"])).write(tmp_path)
    grown = continued(tmp_path, ledger_of(*(Arm(n, name, seed, [word]) for n, (name, seed, word) in enumerate(
        [("a", 0, "k=1"), ("c", 0, "k=3"), ("b", 0, "k=2"), ("a", 1, "k=1")]))))  # fmt: skip
    assert [(arm.number, arm.name, arm.seed) for arm in grown.arms] == [(0, "a", 0), (1, "b", 0), (2, "c", 0),
                                                                       (3, "a", 1)]  # fmt: skip
    assert grown.arms[0].status == "done"


@pytest.mark.parametrize(
    ("planned", "part"),
    [
        (ledger_of(Arm(0, "a", 0, ["k=2"])), "arm a, seed 0: k=1"),
        (ledger_of(Arm(0, "b", 0, ["k=1"])), "arm a, seed 0"),
        (ledger_of(Arm(0, "a", 0, ["k=1"]), shared=["x=1"]), "what all arms have"),
    ],
)
def test_folder_is_refused_when_it_holds_another_sweep(planned: Ledger, part: str, tmp_path: Path) -> None:
    ledger_of(Arm(0, "a", 0, ["k=1"])).write(tmp_path)
    with pytest.raises(RunStateError, match=part):
        continued(tmp_path, planned)


def test_ledger_is_equal_when_read_back(tmp_path: Path) -> None:
    ledger = ledger_of(Arm(0, "a b", 0, ["k=1"], {"k": 1}, "failed", "why", -9, 2, 1.5, 1.0, 2.0))
    ledger.write(tmp_path)
    assert Ledger.read(tmp_path) == ledger
    assert ledger.arms[0].folder == "arms/000_a_b_seed_0"
    assert Arm(7, "full,k=0.5", 2, []).folder == "arms/007_full_k-0.5_seed_2"  # evaluate k=v would be an override
