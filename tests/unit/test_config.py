"""Composition and validation: wrong values end in one line that names the key, and nothing else is called."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from distillkit import config, validation
from distillkit.errors import ConfigError
from distillkit.targets import check_targets

DEMO = ("teacher=demo", "data=demo")


@pytest.fixture(autouse=True)
def run_dir_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settling sets an environment variable for the other ranks; this takes it back."""
    monkeypatch.setenv("DISTILLKIT_RUN_DIR", "unused")


def settled(*overrides: str, name: str = "train") -> dict[str, Any]:
    return config.settle(*config.load(name, overrides))


def accepted(*overrides: str) -> bool:
    """Whether these overrides of a good configuration pass."""
    try:
        validation.validate(settled(*DEMO, *overrides))
    except ConfigError:
        return False
    return True


def refused(*overrides: str) -> str:
    """The message with which these overrides of a good configuration are refused."""
    with pytest.raises(ConfigError) as caught:
        validation.validate(settled(*DEMO, *overrides))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- composition ---------------------------------------------------------------------------------


def test_config_holds_plain_resolved_values_when_settled() -> None:
    cfg = settled(*DEMO, "loss.alpha=3", "seed=4")
    validation.validate(cfg)
    assert type(cfg["loss"]["terms"]["ce"]) is dict
    assert cfg["loss"]["terms"]["ce"]["weight"] == 3
    assert cfg["seed"] == 4
    assert "hydra" not in cfg


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("loss.gama=0", "loss.gamma"),
        ("trainer.max_step=5", "trainer.max_steps"),
        ("studnt=albert", "student"),
        ("student=albrt", "student=albert"),
        ("experiment=demo_distillbert", "experiment=demo_distilbert"),
    ],
)
def test_load_suggests_the_nearest_when_a_key_or_choice_is_mistyped(override: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"no such (key|choice).*did you mean {near}\?") as caught:
        config.load("train", [override])
    assert caught.value.key == override.partition("=")[0]


def test_load_says_where_a_folder_goes_when_it_is_given_to_a_group() -> None:
    with pytest.raises(ConfigError, match=r"a folder goes to teacher\.path; allowed: demo, none, pretrained"):
        config.load("train", ["teacher=/models/bert"])


@pytest.mark.parametrize("override", ["data.path=/a(1).txt", "data.path=a=b.txt"])
def test_load_shows_the_quotes_when_a_value_is_not_in_hydras_grammar(override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        config.load("train", [override])
    assert str(caught.value).endswith(f"fix: quote it: '{key}=\"{value}\"'")
    assert settled(f'{key}="{value}"')["data"]["path"] == os.path.abspath(value)


@pytest.mark.parametrize("key", ["data.path", "run.dir", "teacher.path"])
def test_path_is_refused_when_it_is_empty(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=: an empty path"):
        settled(f"{key}=")


@pytest.mark.parametrize("name", ["my, conf", "x (1)", "a=b", "it's", "[x]", "back\\slash", "end\\"])
def test_load_finds_the_users_own_files_when_their_folder_has_an_odd_name(name: str, tmp_path: Path) -> None:
    own = tmp_path / name / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ntrainer:\n  max_steps: 3\n")
    assert config.load("train", ["experiment=mine"], str(tmp_path / name))[0].trainer.max_steps == 3


def test_load_finds_the_users_own_files_when_given_a_config_dir(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "mine.yaml").write_text("defaults: [linear]\nwarmup_steps: 7\n")
    cfg, _ = config.load("train", ["scheduler=mine"], str(tmp_path))
    assert cfg.scheduler.warmup_steps == 7


def test_settle_makes_paths_absolute_but_leaves_hub_names_when_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "odd, name.txt").write_text("")
    cfg = settled("teacher.path=org/bert", "student.init_from=model", "data.path='a.txt, b.txt'", "run.dir=r")
    assert cfg["teacher"]["path"] == "org/bert"
    assert cfg["student"]["init_from"] == str(tmp_path / "model")
    assert cfg["data"]["path"] == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert cfg["run"]["dir"] == str(tmp_path / "r")
    assert settled("data=hub", "data.name=owner/wikitext")["data"]["name"] == "owner/wikitext"
    local = settled("data=hub", "data.name=model")["data"]
    assert local["name"] == local["corpus"]["name"] == str(tmp_path / "model")
    assert settled("data.path='odd, name.txt'")["data"]["path"] == str(tmp_path / "odd, name.txt")
    assert settled('data.path="~/a.txt"')["data"]["path"] == os.path.expanduser("~/a.txt")


def test_settle_chooses_one_folder_for_all_ranks_when_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    first = settled("experiment=demo_distilbert")["run"]["dir"]
    assert Path(first).parent == tmp_path / "runs" / "demo_distilbert"
    monkeypatch.setattr(config.time, "strftime", lambda form: "later")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert settled("experiment=demo_distilbert")["run"]["dir"] == first
    monkeypatch.delenv("LOCAL_RANK")
    assert settled("experiment=demo_distilbert")["run"]["dir"] == str(tmp_path / "runs/demo_distilbert/later")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_settle_asks_every_rank_for_a_folder_when_torchrun_has_started_them(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILLKIT_RUN_DIR")
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", rank)):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"run\.dir=.*fix: set run\.dir"):
        settled("experiment=demo_distilbert")


# --- validation ----------------------------------------------------------------------------------


NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return settled(*DEMO, "run.dir=unused")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", (-1, 1.5, "abc", True, None)),
        ("loss.alpha", (-1, NAN, INF, "much", True)),
        ("loss.beta", (-0.1,)),
        ("loss.gamma", (None,)),
        ("loss.temperature", (0, -2.0, 101, NAN)),
        ("loss.positions", ("some", None)),
        ("masking.probability", (0.0, 1.0, 1.5)),
        ("masking.mask_fraction", (-0.1, 1.1)),
        ("masking.random_fraction", (-0.1, 1.1, 0.21)),
        ("masking.smoothing", (-0.1, INF, NAN, "much")),
        ("masking.max_predictions", (0, 1.5, "all")),
        ("masking.max_ngram", (0, -1, 1.5, None)),
        ("data.valid_fraction", (0, 1)),
        ("data.max_length", (7, 128.5)),
        ("data.batch_size", (0, -4)),
        ("data.batch_tokens", (0,)),
        ("data.mask_epochs", (0, 1.5)),
        ("data.num_workers", (-1, None)),
        ("run.threads", (0, 1.5, "many")),
        ("run.keep_freed_memory", (None, 1, "yes")),
        ("optimizer.lr", (0, -1e-3, "fast", INF)),
        ("optimizer.weight_decay", (-1,)),
        ("optimizer.eps", (-1e-8,)),
        ("scheduler.warmup_steps", (-1,)),
        ("checkpoint.every_n_steps", (0, 2.5)),
        ("checkpoint.keep_last", (0, -1)),
        ("trainer.accumulate_grad_batches", (0, 1.5)),
        ("trainer.log_every_n_steps", (0,)),
        ("trainer.max_steps", (0, -2, "many", -1)),
        ("trainer.max_epochs", (0, -1, 1.5)),
        ("trainer.limit_train_batches", (3, 0.5)),
        ("trainer.limit_val_batches", (-1, 2.5, "all")),
        ("trainer.devices", (0, "two", [], -2)),
        ("run.evaluation_batches", (0, -1, 1.5, "all", True)),
        ("checkpoint.monitor", ("valid/mlm_los",)),
        ("data.num_proc", ("abc", 0)),
        ("student.num_layers", ("two", 1.5)),
        ("trainer.precision", ("16-mixed", "64-mixed")),
        ("trainer.val_check_interval", (None, 0, -1.0, "00:12:00:00")),
    ],
)
def test_validate_names_key_value_and_range_when_a_value_is_wrong(
    good: dict[str, Any], key: str, values: tuple[Any, ...]
) -> None:
    group, _, name = key.rpartition(".")
    for value in values:
        cfg = copy.deepcopy(good)
        (cfg[group] if group else cfg)[name] = value
        with pytest.raises(ConfigError) as caught:
            validation.validate(cfg)
        assert str(caught.value).startswith(f"{key}={value}: ")
        assert caught.value.allowed


@pytest.mark.parametrize(
    "override",
    [
        "loss.temperature=100", "loss.temperature=0.01", "loss.alpha=0", "masking.mask_fraction=0.9", "seed=0",
        "run.evaluation_batches=0.5", "trainer.limit_val_batches=0", "trainer.devices=-1", "trainer.devices=[0,1]",
        "checkpoint.monitor=train/mlm", "optimizer.lr=1", "scheduler.warmup_steps=0", "data.batch_size=null",
        "trainer.precision=32",
    ],
)  # fmt: skip
def test_validate_accepts_values_when_they_are_at_the_edge(override: str) -> None:
    assert accepted(override)


@pytest.mark.parametrize("size", ["base", "large", "xlarge", "xxlarge"])
@pytest.mark.parametrize("share", ["all", "attention", "ffn", "none"])
def test_validate_accepts_an_albert_when_it_starts_from_nothing(size: str, share: str) -> None:
    assert accepted("teacher=none", "tokenizer.path=demo", f"student=albert_{size}", f"student.share={share}")


def test_validate_accepts_epochs_when_steps_are_left_open() -> None:
    assert accepted("trainer.max_steps=-1", "trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("loss.alpha=0", "loss.beta=0", "loss.gamma=0"), "loss.alpha,loss.beta,loss.gamma"),
        (("teacher=pretrained",), "teacher.path"),
        (("teacher=none",), "student.init_from"),
        (("teacher=none", "tokenizer.path=demo"), "student.init_from"),
        (("teacher=none", "tokenizer.path=demo", "student=albert"), "student.init_from"),
        (("teacher=none", "tokenizer.path=demo", "student=albert", "student.hidden_size=64"), "student.num_layers"),
        (("teacher=none", "tokenizer.path=demo", "student=albert_base", "student.init=average"), "student.init"),
        (("teacher=none", "student=albert_base"), "tokenizer.path"),
        (("student=albert_base", "student.num_heads=7"), "student.num_heads"),
        (("student=albert", "student.share=some"), "student.share"),
        (("student=albert_base", "student.share=ffn", "student.num_groups=3"), "student.num_groups"),
        (("teacher=none", "teacher.path=demo", "student.init_from=demo"), "teacher.path"),
        (("teacher=none", "student.init_from=demo", "loss.beta=0"), "loss.beta"),
        (("data=text",), "data.path"),
        (("teacher=none", "student.init_from=demo", "teacher.cache=folder"), "teacher.cache"),
        (("teacher.cache=folder", "teacher.cache_dtype=float16"), "teacher.cache_dtype"),
        (("teacher.cache=folder", "teacher.cache_max_gb=0"), "teacher.cache_max_gb"),
    ],
)
def test_validate_refuses_values_when_they_do_not_fit_together(overrides: tuple[str, ...], key: str) -> None:
    assert refused(*overrides).startswith(f"{key}=")


# --- what may be called --------------------------------------------------------------------------

OUTSIDE = [
    "os.system",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torch.optimism.AdamW",
    "joblib.load",
    "distillkit_evil.Thing",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
]
REACHED_THROUGH = [
    "distillkit.config.os.system",
    "distillkit.teachers.AutoModelForMaskedLM.from_pretrained",
    "torch.optim.adam.torch.hub.load",
]
"""What modules of the allowed libraries have imported themselves."""


@pytest.mark.parametrize("target", OUTSIDE + REACHED_THROUGH)
def test_validate_refuses_a_target_when_it_is_not_of_the_allowed_libraries(good: dict[str, Any], target: str) -> None:
    cfg = copy.deepcopy(good)
    cfg["callbacks"]["progress"]["_target_"] = target
    with pytest.raises(ConfigError) as caught:
        validation.validate(cfg)
    assert str(caught.value).startswith(f"callbacks.progress={target}: ")


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("+trainer.plugins=[{_target_: os.system}]", "trainer.plugins[0]"),
        ("+trainer.plugins=[[{a: {_target_: os.system}}]]", "trainer.plugins[0][0].a"),
        ("+loss.terms.mine={weight: 1, inner: {_target_: os.system}}", "loss.terms.mine.inner"),
    ],
)
def test_validate_refuses_a_target_when_it_is_nested(override: str, place: str) -> None:
    assert refused(override).startswith(f"{place}=os.system: ")


def test_validate_lets_a_users_own_code_in_when_it_is_trusted() -> None:
    target = "callbacks.progress._target_=json.decoder.JSONDecoder"
    assert refused(target).endswith("fix: if it is your own code: run.trusted_modules=[json]")
    validation.validate(settled(*DEMO, target, "run.trusted_modules=[json]"))


def test_every_shipped_choice_composes_and_names_allowed_targets_only() -> None:
    files = sorted(config.conf_dir().glob("*/*.yaml"))
    assert len(files) > 20
    for file in files:
        group = file.parent.name
        if group == "task" and file.stem != "base":
            check_targets(settled(f"tasks={file.stem}", name="compare"))
        elif group in ("sweep", "launcher") and file.stem != "base":
            validation.validate_sweep(settled(f"{group}={file.stem}", name="sweep"))
        elif group not in ("experiment", "task") and file.stem != "base":
            check_targets(settled(f"{group}={file.stem}"))


def test_evaluate_composes_when_given_nothing() -> None:
    cfg = settled(name="evaluate")
    check_targets(cfg)
    assert cfg["teacher"]["_target_"] is None and cfg["data"]["corpus"]


# --- resuming ------------------------------------------------------------------------------------


def test_differences_are_dotted_keys_when_values_change_appear_or_vanish() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": 3, "same": {"x": None}}
    new = {"a": {"b": 1, "c": [2, 1]}, "came": 4, "same": {"x": None}}
    assert config.differences(old, new) == {"a.c": ([1, 2], [2, 1]), "gone": (3, None), "came": (None, 4)}
    assert config.differences(old, copy.deepcopy(old)) == {}


def test_with_changes_alters_a_copy_when_keys_are_known() -> None:
    cfg = settled(*DEMO)
    before = copy.deepcopy(cfg)
    changed = config.with_changes(cfg, ["trainer.max_steps=7", "optimizer.lr=5e-4", "data.cache_dir=null"])
    assert cfg == before
    assert config.differences(cfg, changed) == {"trainer.max_steps": (10000, 7)}


@pytest.mark.parametrize("override", ["trainer.max_step=7", "trainer=7", "trainer.max_steps"])
def test_with_changes_refuses_an_override_when_its_key_is_unknown(override: str) -> None:
    with pytest.raises(ConfigError, match="no such key"):
        config.with_changes(settled(*DEMO), [override])


def test_relocated_moves_paths_below_the_folder_when_it_was_moved() -> None:
    cfg = {"dir": "/old/run", "deep": [{"path": "/old/run/a"}], "other": "/old/runner", "n": 1, "text": "at /old/run"}
    moved = config.relocated(cfg, "/old/run", "/new")
    assert moved == {
        "dir": "/new",
        "deep": [{"path": "/new/a"}],
        "other": "/old/runner",
        "n": 1,
        "text": "at /old/run",
    }
