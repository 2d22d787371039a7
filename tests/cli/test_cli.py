"""The verbs and the groups, from the command line: what people type first."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from distillkit.building import ranks
from distillkit.hashing import weights_hash
from distillkit.status import read_status
from tests.faults.fixtures import Call, Say, Start
from tests.faults.harness import CHECKOUT, CliProcess, Inputs, Run, make_bert, make_tokenizer

SHORT = ["data.max_length=48", "data.batch_size=8", "trainer.max_steps=2", "checkpoint.every_n_steps=1"]


@pytest.mark.slow
@pytest.mark.ci
def test_round_trip_of_the_verbs_works_with_a_teacher_of_ones_own(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    teacher, run, began = tmp_path / "teacher", Run(tmp_path / "run"), time.monotonic()
    make_bert(num_hidden_layers=2).save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    words = [f"teacher.path={teacher}", f"data.path={inputs.corpus}", *SHORT]

    def done(*words: str) -> CliProcess:
        return start(*words).succeed()

    trained = done("train", *words, f"run.dir={run.path}")
    assert f"student: {run.path}/student\nreport: {run.path}/report.html" in trained.stdout
    assert json.loads((run.path / "report.json").read_text())["runs"]["run"]["state"] == "finished"
    facts = json.loads(done("info", *words, "--json").stdout)
    assert facts["student"]["layers"] == 1 and facts["teacher"]["layers"] == 2 and facts["run"]["steps"] == 2
    figures = json.loads(done("evaluate", str(run.path), "--json").stdout)
    assert (
        figures[str(run.path)]["mlm_loss"]
        == json.loads((run.path / "evaluation.json").read_text())["student"]["mlm_loss"]
    )
    assert done("hash", str(run.path)).stdout.split()[0] == weights_hash(run.path / "student")
    assert "finished already" in done("resume", str(run.path)).stdout
    seconds = time.monotonic() - began
    say(f"train, info, evaluate, hash, resume: {seconds:.1f} s")
    assert seconds < 120


def test_run_is_finished_when_stopped_or_failing_while_its_page_is_written(
    call: Call, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(folders: list[Path]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    def failing(folders: list[Path]) -> None:
        raise MemoryError("no room for a figure")

    for page, reason in ((stopped, "stopped"), (failing, "no room for a figure")):
        run = tmp_path / page.__name__
        monkeypatch.setattr("distillkit.report.write_report", page)
        done = call("train", *inputs.words(), *SHORT, "run.report=true", f"run.dir={run}")
        assert done.code == 0 and f"warning: no report ({reason}); try: distillkit report {run}" in done.err
        assert read_status(str(run))["state"] == "finished" and not (run / "error.log").exists()


def test_run_of_an_older_version_goes_on_when_it_lacks_newer_keys(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("train", *inputs.words(), *SHORT, f"run.dir={run}").code == 0
    config, facts = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "run.json").read_text())
    for key in ("id", "license", "report"):
        del config["run"][key], facts["config"]["run"][key]
    del facts["tokens_per_step"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "run.json").write_text(json.dumps(facts))
    done = call("resume", str(run), "trainer.max_steps=3", "run.report=false")
    assert done.code == 0, done.err
    assert Run(run).starts() == [0, 2]


@pytest.mark.parametrize(
    ("devices", "expected"), [(2, 4), ("2", 4), ([0, 1, 3], 6), ("0,1,", 4), ("auto", 2), (-1, 2)], ids=str
)
def test_ranks_are_counted_as_lightning_does_when_devices_are_written_otherwise(devices: object, expected: int) -> None:
    trainer = {"devices": devices, "num_nodes": 2, "accelerator": "cpu"}
    assert ranks({"trainer": trainer}) == expected


def test_command_is_kept_whole_when_it_names_a_folder_of_configuration(
    call: Call, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []
    monkeypatch.setattr("distillkit.run.train", lambda cfg, words: kept.append(words) or {})
    words = [*inputs.words(), f"run.dir={tmp_path / 'run'}"]
    assert call("train", *words, "--config-dir", str(tmp_path)).code == 0
    assert call("train", *words).code == 0
    assert kept == [[f"--config-dir={tmp_path}", *words], words]


def test_student_folder_loads_when_distillkit_cannot_be_imported(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    student = tmp_path / "run" / "student"
    assert call("train", *inputs.words(), *SHORT, f"run.dir={tmp_path / 'run'}").code == 0
    program = f"""
import sys
sys.modules["distillkit"] = None
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
tokenizer = AutoTokenizer.from_pretrained({str(student)!r})
model, info = AutoModelForMaskedLM.from_pretrained({str(student)!r}, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
print(type(model).__name__, len(fill("w1 w2 [MASK] w4")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DistilBertForMaskedLM", "5"]


@pytest.mark.parametrize(
    ("words", "model_class"),
    [
        (["student=albert"], "AlbertForMaskedLM"),
        (
            ["student=albert", "student.num_groups=2", "student.embedding_size=16", "student.init=first"],
            "AlbertForMaskedLM",
        ),
        (["student=albert", "student.share=attention", "student.num_layers=3"], "AlbertForMaskedLM"),
        (["student=shallow", "student.layers=[0,3]"], "BertForMaskedLM"),
        (["student.layers=[1,2,3]", "data.packing=none", "loss.gamma=0"], "DistilBertForMaskedLM"),
        (["data.batch_size=null", "data.batch_tokens=400", "data.packing=none"], "DistilBertForMaskedLM"),
        (["loss.positions=predicted", "scheduler=cosine"], "DistilBertForMaskedLM"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_choices_train_a_student_of_their_class_when_typed(
    words: list[str], model_class: str, call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    result = call("train", *inputs.words(), *SHORT, *words, f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert config["architectures"] == [model_class]


@pytest.mark.slow
@pytest.mark.ci
def test_pretraining_starts_from_nothing_when_there_are_sizes_and_a_tokenizer(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    sizes = ["hidden_size=32", "num_layers=3", "num_heads=4", "intermediate_size=64", "embedding_size=16", "share=ffn"]
    words = ["teacher=none", f"tokenizer.path={inputs.teacher}", "data=text", f"data.path={inputs.corpus}", *SHORT]
    words += ["student=albert_base", "logger=none", *(f"student.{size}" for size in sizes)]
    told = call("info", *words, "--no-probe")
    assert "on disk: 0.1 MB in float32, a copy for each layer of the ffn that all share" in told.out, told.err
    assert "sharing saves parameters, not operations" in told.out and "teacher: none" in told.out
    trained = call("train", *words, "run.report=true", f"run.dir={run.path}")
    assert trained.code == 0, trained.err
    own = json.loads((run.path / "evaluation.json").read_text())["student"]
    assert json.loads(call("evaluate", str(run.path), "--json").out)[str(run.path)] == own
    assert own["shared_part"] == "ffn" and own["stored_parameters"] == own["nominal_parameters"]
    assert "run is stored unshared: its layers share their ffn" in (run.path / "report.md").read_text()
    card = (run.path / "student" / "README.md").read_text()
    assert "trained without a teacher, from scratch" in card and "base_model" not in card
    assert "Stored: unshared, " in card and "Started from" not in card


@pytest.mark.slow
@pytest.mark.ci
def test_control_has_the_same_weights_batches_and_masks_when_there_is_no_teacher(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    taught, control = Run(tmp_path / "taught"), Run(tmp_path / "control")
    common = [
        "data=text",
        f"data.path={inputs.corpus}",
        "logger=none",
        *SHORT,
        "optimizer.lr=1e-30",
        "trainer.log_every_n_steps=1",
    ]
    assert call("train", f"teacher.path={inputs.teacher}", *common, f"run.dir={taught.path}").code == 0
    words = ["teacher=none", f"student.init_from={inputs.teacher}", *common, f"run.dir={control.path}"]
    assert call("train", *words).code == 0
    ours, theirs = control.weights(), taught.weights()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-20) for name in theirs)
    losses = [[float(row["train/mlm"]) for row in run.figures() if "train/mlm" in row] for run in (taught, control)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2
    assert list(json.loads((control.path / "evaluation.json").read_text())) == ["student"]
    words = ["evaluate", str(control.path), "teacher=pretrained", f"teacher.path={inputs.teacher}", "--json"]
    compared = json.loads(call(*words).out)
    assert {"agreement", "kl"} <= compared[str(control.path)].keys(), "the teacher asked for was not compared with"


def test_evaluate_reads_the_text_that_is_named_when_the_run_has_another(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    run, other = Run(tmp_path / "run"), tmp_path / "other.txt"
    assert call("train", *inputs.words(), "logger=none", *SHORT, f"run.dir={run.path}").code == 0
    lines = inputs.corpus.read_text().splitlines()
    other.write_text("".join(" ".join(reversed(line.split())) + "\n" for line in lines))

    def loss(*words: str) -> float:
        result = call("evaluate", str(run.path), *words, "--json")
        assert result.code == 0, result.err
        return float(json.loads(result.out)[str(run.path)]["mlm_loss"])

    assert loss(f"data.path={other}") != loss() > 0
    refused = call("evaluate", str(run.path), "run.evaluation_batches=-1")
    assert refused.code == 2 and refused.err.startswith("error: run.evaluation_batches=-1: ")


def test_shallow_student_keeps_the_class_when_the_teacher_is_a_roberta(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    teacher = tmp_path / "roberta"
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=100, max_position_embeddings=66, pad_token_id=0, **sizes)
    RobertaForMaskedLM(config).save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    words = [*inputs.words(), f"teacher.path={teacher}", *SHORT, f"run.dir={tmp_path / 'run'}"]
    refused = call("train", *words)
    assert refused.code == 2 and "student=shallow" in refused.err
    assert call("train", *words, "student=shallow").code == 0
    student = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert student["architectures"] == ["RobertaForMaskedLM"] and student["num_hidden_layers"] == 2


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts)))


def write_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), path)


@pytest.mark.parametrize(("data", "write"), [("jsonl", write_jsonl), ("csv", write_csv), ("parquet", write_parquet)])
def test_same_text_gives_the_same_student_when_stored_otherwise(
    data: str, write: object, call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / f"corpus.{data}"
    write(path, inputs.corpus.read_text().splitlines())  # type: ignore[operator]
    result = call("train", *inputs.words(), *SHORT, f"data={data}", f"data.path={path}", f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    assert call("train", *inputs.words(), *SHORT, f"run.dir={tmp_path / 'plain'}").code == 0
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "plain")


def test_nothing_is_left_beside_the_run_when_trained(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    assert call("train", *inputs.words(), *SHORT, "logger=tensorboard", f"run.dir={tmp_path / 'run'}").code == 0
    assert list((tmp_path / "cwd").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "run"}
    assert {".hydra", "lightning_logs"}.isdisjoint(path.name for path in (tmp_path / "run").rglob("*"))


def test_run_dir_is_named_after_the_experiment_and_the_time_when_not_given(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    assert call("train", *inputs.words(), *SHORT).code == 0
    (run,) = (tmp_path / "cwd").glob("runs/train/*_*")
    assert (run / "student" / "config.json").is_file()


def test_configuration_is_printed_and_nothing_runs_when_asked_for(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    result = call("train", *inputs.words(), "loss.gamma=0.5", "student=albert", "--cfg", "job", "--resolve")
    assert result.code == 0 and result.err == ""
    cfg = yaml.safe_load(result.out)
    assert cfg["loss"]["terms"]["cos"]["weight"] == 0.5
    assert cfg["student"]["_target_"].endswith("build_albert")
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.slow
@pytest.mark.ci
def test_other_arms_finish_and_the_code_is_5_when_an_arm_fails(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    base = tmp_path / "arms"
    result = call(
        "train", "-m", *inputs.words(), *SHORT, "optimizer.lr=1e30,1e-3", "trainer.gradient_clip_val=null",
        "trainer.max_steps=4", "scheduler.warmup_steps=0", f"run.dir={base}",
    )  # fmt: skip
    assert result.code == 5, result.err
    assert not Run(base / "0").events("finish") and Run(base / "1").events("finish")
    assert "failed with exit code 3" in result.err and "1 of 2 runs done" in result.err


def test_no_arm_starts_when_one_of_them_is_misconfigured(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    result = call("train", "-m", *inputs.words(), *SHORT, "loss.temperature=2,0", f"run.dir={tmp_path / 'arms'}")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: loss.temperature=0: ")
    assert not (tmp_path / "arms").exists()


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help_comes_within_a_second_when_asked_for(words: list[str], inputs: Inputs) -> None:
    command, seconds = [sys.executable, "-m", "distillkit", *words], []
    for _ in range(3):  # the best of three: the machine may be busy
        began = time.monotonic()
        done = subprocess.run(command, env=inputs.environment(), capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1
    assert done.stderr == "" and done.stdout.startswith("distillkit " if "--version" not in words else "0.")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("distillkit tr", {"train"}),
        ("distillkit train student=d", {"student=distilbert"}),
        ("distillkit train loss.te", {"loss.temperature=", "loss.terms."}),
        ("distillkit evaluate data=j", {"data=jsonl"}),
        ("distillkit tokenizer tokenizer.v", {"tokenizer.vocab_size="}),
    ],
)
def test_completion_knows_verbs_groups_and_keys_when_queried(typed: str, expected: set[str], inputs: Inputs) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distillkit", "-sc", "query=bash"], capture_output=True, text=True, check=True,
        env=inputs.environment() | {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_CWORD": "2"},
    )  # fmt: skip
    assert set(done.stdout.split()) == expected


@pytest.mark.slow
@pytest.mark.ci
def test_info_counts_the_published_parameters_when_the_teacher_is_a_bert_base(
    call: Call, inputs: Inputs, tmp_path: Path
) -> None:
    teacher = tmp_path / "bert_base"
    BertForMaskedLM(BertConfig()).save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    result = call("info", *inputs.words(), f"teacher.path={teacher}", *SHORT, "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["student"]["unique_parameters"] == 66_985_530
    assert facts["teacher"]["unique_parameters"] == 109_514_298
    assert facts["student"]["transfer"]


def test_command_line_works_when_started_from_any_folder(inputs: Inputs, tmp_path: Path) -> None:
    """Relative paths mean the caller's folder."""
    os.link(inputs.corpus, tmp_path / "here.txt")
    words = ["info", f"teacher.path={inputs.teacher}", "data.path=here.txt", *SHORT, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "distillkit", *words], cwd=tmp_path, env=inputs.environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["train"]["documents"] > 50
    assert CHECKOUT not in tmp_path.parents
