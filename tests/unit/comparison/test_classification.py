"""Labels and numbers for one text or two: GLUE's and IMDb's files as the hub has them, and a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, GPTBigCodeConfig, T5Config

from distillkit.comparison.tasks.classification import Classification
from distillkit.errors import ConfigError, DataError, TeacherError
from tests.faults.harness import make_bert
from tests.unit.comparison.made_tasks import make_task, pair_tokenizer, write_lines, write_text

HUB = {
    # task -> the hub's columns of text, and its labels in the hub's order
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"]),
    "imdb": (["text"], ["neg", "pos"]),
}
SCORED = {"cola": ("matthews",), "mrpc": ("accuracy", "f1"), "qqp": ("accuracy", "f1")}


def hub_rows(columns: list[str], count: int, *, labels: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows as the hub's files have them: texts, a label's index, a running number."""
    numbers = range(start, start + count)
    return [{**{c: f"w{n} w{len(c)} w{n + 1}" for c in columns}, "label": n % labels, "idx": n} for n in numbers]


def outputs_of(labels: list[int], width: int) -> list[tuple[np.ndarray, ...]]:
    """Logits that choose these labels."""
    return [(np.eye(width, dtype=np.float32)[label],) for label in labels]


@pytest.mark.parametrize("name", HUB)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_hub_task_is_encoded_and_judged_when_its_file_has_the_hubs_columns(
    name: str, suffix: str, tmp_path: Path
) -> None:
    columns, labels = HUB[name]
    files = {}
    for part, start in (("train", 0), ("test", 20)):
        rows = hub_rows(columns, 20, labels=len(labels), start=start)
        files[part] = write_lines(tmp_path / f"{part}.jsonl", rows)
        if suffix == "parquet":
            files[part] = str(tmp_path / f"{part}.parquet")
            whole = datasets.Dataset.from_list(rows).cast_column("label", datasets.ClassLabel(names=labels))
            whole.to_parquet(files[part])
    task = make_task(name, files=files)
    rows = task.parts["test"]
    assert [row["label"] for row in rows] == [n % len(labels) for n in range(20, 40)]
    assert rows.column_names == ["text", "pair", "label"][:: 1 if len(columns) == 2 else 2]
    assert task.head_config()["id2label"] == dict(enumerate(labels))
    assert task.show(rows[1])["gold"] == labels[21 % len(labels)]
    check_encoding(task, rows, columns)
    check_judging(task, rows, labels, SCORED.get(name, ("accuracy",)))


def check_encoding(task: Any, rows: datasets.Dataset, columns: list[str]) -> None:
    tokenizer = pair_tokenizer()
    features = task.encode(rows, tokenizer, training=True)
    words = " [SEP] ".join(f"w20 w{len(column)} w21" for column in columns)
    assert tokenizer.decode(features[0]["input_ids"]) == f"[CLS] {words} [SEP]"
    assert features["_row"][:] == list(range(20)) and features["labels"][:] == rows["label"][:]
    batch = task.collator(tokenizer)([{k: v for k, v in f.items() if not k.startswith("_")} for f in features])
    assert batch["labels"].dtype == torch.int64 and batch["input_ids"].shape == (20, 5 if len(columns) == 1 else 9)


def check_judging(task: Any, rows: datasets.Dataset, labels: list[str], scored: tuple[str, ...]) -> None:
    features = task.encode(rows, pair_tokenizer(), training=False)
    right = task.answers(outputs_of(rows["label"][:], len(labels)), features, rows)
    assert right == [labels[row["label"]] for row in rows] and all(map(task.correct, right, rows))
    assert task.scored == scored and task.metrics(right, rows) == dict.fromkeys(scored, 1.0)
    last = task.answers(outputs_of([len(labels) - 1] * 20, len(labels)), features, rows)
    share = sum(row["label"] == len(labels) - 1 for row in rows) / 20
    expected = {"accuracy": share, "f1": 2 * share / (1 + share), "matthews": 0.0}
    assert task.metrics(last, rows) == pytest.approx({metric: expected[metric] for metric in scored})
    assert not task.correct(last[0], {**rows[0], "label": 0})


def test_mnli_has_two_test_sets_when_both_files_are_named(tmp_path: Path) -> None:
    files = {
        part: write_lines(tmp_path / f"{part}.jsonl", hub_rows(["premise", "hypothesis"], 20 + extra, labels=3))
        for extra, part in enumerate(("test_mismatched", "test", "train"))
    }
    parts = make_task("mnli", files=files, test_rows=20, train_rows=10).parts
    assert next(iter(parts)) == "train" and {part: len(rows) for part, rows in parts.items()} == {
        "train": 10, "test": 20, "test_mismatched": 20,
    }  # fmt: skip
    source = make_task("mnli").source
    assert source.splits["test"] == "validation_matched"
    assert source.splits["test_mismatched"] == "validation_mismatched"


def test_stsb_is_encoded_and_judged_when_its_file_has_the_hubs_columns(tmp_path: Path) -> None:
    rows = [{"sentence1": f"w{n}", "sentence2": "w1", "label": round(n * 0.25, 2), "idx": n} for n in range(20)]
    columns = ["sentence1", "sentence2", "label"]
    table = "\n".join("\t".join(str(row[column]) for column in columns) for row in rows)
    for path in (
        write_lines(tmp_path / "a.jsonl", rows),
        write_text(tmp_path / "a.tsv", f"{chr(9).join(columns)}\n{table}"),
    ):
        task = make_task("stsb", files={"train": path, "test": path})
        part = task.parts["test"]
        assert part["label"][:] == [row["label"] for row in rows]
        features = task.encode(part, pair_tokenizer(), training=True)
        batch = task.collator(pair_tokenizer())([{k: features[3][k] for k in ("input_ids", "labels")}])
        assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [0.75]
        answers = task.answers([(np.array([row["label"] * 2 + 1], np.float32),) for row in rows], features, part)
        assert task.metrics(answers, part) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
        assert task.metrics([1.0] * 20, part) == {"pearson": 0.0, "spearman": 0.0}
    assert task.scored == ("pearson", "spearman") and task.head_config()["num_labels"] == 1
    assert task.correct(1.2, part[3]) and not task.correct(1.3, part[3]) and task.agree(1.0, 1.5)
    assert task.show(part[3]) == {"text": "w3 / w1", "gold": "0.75"} and task.show_answer(1.2345, part[3]) == "1.23"


def test_user_file_is_a_task_by_configuration_alone_when_it_is_a_csv(tmp_path: Path) -> None:
    text = "topic,body\nsports,w1 w2\nscience,w3\n" + "".join(f"arts,w{n}\n" for n in range(30))
    path = write_text(tmp_path / "own.csv", text)
    task = make_task("classification", text="body", label="topic", metrics=["macro_f1"], files={"train": path})
    assert {part: len(rows) for part, rows in task.parts.items()} == {"train": 30, "test": 2}
    assert task.head_config()["id2label"] == {0: "arts", 1: "science", 2: "sports"}
    assert task.scored == ("macro_f1",) and not task.glue


def test_columns_are_found_by_place_when_the_files_name_them_differently(tmp_path: Path) -> None:
    files = {
        "train": write_text(tmp_path / "train.tsv", "label\tsentence\r\n0\tw1\r\n1\tw2\r\n"),
        "test": write_text(tmp_path / "dev.tsv", "label\tcontent\n1\tw3 ``\n"),
    }
    task = make_task("sst2", files=files, text=1)
    assert task.parts["test"].to_list() == [{"text": "w3 ``", "label": 1}]
    with pytest.raises(
        DataError, match=r"task\.\*\.text=sentence: the test rows have no such column; allowed: label, "
    ):
        make_task("sst2", files=files).parts  # noqa: B018
    with pytest.raises(DataError, match=r"task\.\*\.label=7: the train rows have no such column"):
        make_task("sst2", files=files, label=7).parts  # noqa: B018


def test_cola_is_read_when_its_file_is_the_original_without_a_header(tmp_path: Path) -> None:
    path = write_text(tmp_path / "in_domain_train.tsv", "gj04\t1\t\tw1\ngj04\t0\t*\tw2\n")
    task = make_task("cola", files={"train": path, "test": path}, header=False, text=3, label=1)
    assert task.parts["train"]["label"][:] == [1, 0] and task.parts["train"]["text"][:] == ["w1", "w2"]


@pytest.mark.parametrize(
    ("labels", "values", "expected"),
    [
        (["no", "yes"], ["yes", "1", 0], [1, 1, 0]),
        (["1", "2", "3"], [1, "3", "2"], [0, 2, 1]),  # their names are numbers, so a number is no index
        (None, ["10", "9", "9"], [1, 0, 0]),
        (None, [True, False, True], [1, 0, 1]),
    ],
)
def test_label_is_a_name_or_an_index_when_it_is_read(labels, values, expected) -> None:
    columns = [{"text": ["a"], "label": [value]} for value in values]
    task = make_task("classification", labels=labels)
    if labels is None:
        raw = datasets.Dataset.from_dict({"text": ["a"] * len(values), "label": values})
        found = task.normalise("train", raw)["label"][:]
    else:
        found = [task.normalise("train", datasets.Dataset.from_dict(c))["label"][0] for c in columns]
    assert found == expected


def test_label_follows_its_name_when_the_data_set_orders_its_names_differently() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    raw = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [0, 1]}, features=features)
    assert make_task("imdb").normalise("train", raw)["label"][:] == [1, 0]
    task = make_task("classification")
    task.normalise("train", raw)
    assert task.names == ["pos", "neg"]


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ("sst2", -1, r"task\.\*\.label=-1: row 2 of the test rows: its label is hidden; allowed: negative, positive;"),
        ("sst2", None, r"row 2 of the test rows: its label is hidden"),
        ("sst2", 2, r"row 2 of the test rows: 2 is no label; allowed: negative, positive"),
        ("classification", 7, r"row 2 of the test rows: 7 is no label; allowed: 0, 1; fix: repair it, or list"),
        ("stsb", -1.0, r"task\.\*\.label=-1\.0: row 2 of the test rows: -1\.0 is no number in 0.*\.\.5"),
        ("regression", "much", r"row 2 of the test rows: 'much' is no number; fix"),
        ("regression", "nan", r"row 2 of the test rows: 'nan' is no number; fix"),
    ],
)  # fmt: skip
def test_label_is_refused_with_part_and_row_when_it_does_not_fit(task: str, value: object, message: str) -> None:
    made = make_task(task, text="text")
    made.normalise("train", datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}))
    columns = {"text": ["a", "b"], "label": ["1", value] if isinstance(value, str) else [1, value]}
    with pytest.raises(DataError, match=message):
        made.normalise("test", datasets.Dataset.from_dict(columns))


def test_text_is_refused_with_part_and_row_when_it_is_missing() -> None:
    raw = datasets.Dataset.from_dict({"text": ["a", None], "label": [0, 1]})
    with pytest.raises(DataError, match=r"task\.\*\.text=text: row 2 of the train rows: None is no text"):
        make_task("classification").normalise("train", raw)


def test_labels_are_those_of_all_training_rows_when_few_are_drawn(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "common"}] * 50 + [{"text": "b", "label": "rare"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    task = make_task("classification", files={"train": path, "test": path}, train_rows=2)
    assert len(task.parts["train"]) == 2 and task.names == ["common", "rare"]


def test_labels_are_the_training_rows_when_another_part_is_named_first(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in ("common", "rare", "common")]
    files = {"test": write_lines(tmp_path / "b.jsonl", rows[:1]), "train": write_lines(tmp_path / "a.jsonl", rows)}
    task = Classification(text="text", files=files)
    assert list(task.parts) == ["train", "test"] and task.names == ["common", "rare"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"metrics": ["f1"], "labels": ["a", "b", "c"]},
            r"task\.\*\.metrics=\['f1'\]: f1 is of two labels; fix: use mac",
        ),
        ({"metrics": ["pearson"]}, r"task\.\*\.metrics=\['pearson'\]: no such metric"),
        ({"labels": ["a"]}, r"task\.\*\.labels=\['a'\]: not two labels"),
        ({"labels": ["a", "a"]}, r"task\.\*\.labels=.*name each label once"),
        ({"text": ["a", "b", "c"]}, r"task\.\*\.text=.*not one text or two"),
        ({"files": {"test": "a.csv"}}, r"task\.\*\.files\.train=None: a file to test on, none to train on"),
    ],
)
def test_task_is_refused_when_its_keys_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_task("classification", **keys)


def test_pair_loses_of_the_longer_text_first_when_both_do_not_fit() -> None:
    rows = datasets.Dataset.from_dict({"text": ["w1 " * 30], "pair": ["w2 w3"], "label": [0]})
    ids = make_task("mrpc", max_length=10).encode(rows, pair_tokenizer(), training=True)[0]["input_ids"]
    assert pair_tokenizer().decode(ids) == "[CLS] w1 w1 w1 w1 w1 [SEP] w2 w3 [SEP]"


def test_token_types_are_given_when_the_tokenizer_has_them() -> None:
    rows = datasets.Dataset.from_dict({"text": ["w1"], "pair": ["w2"], "label": [0]})
    encoded = [
        make_task("rte").encode(rows, pair_tokenizer(types=t), training=True).column_names for t in (True, False)
    ]
    assert ["token_type_ids" in columns for columns in encoded] == [True, False]


@pytest.mark.parametrize("name", ["sst2", "stsb"])
def test_head_trains_when_it_is_made_from_a_masked_lm(name: str, tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path)
    task = make_task(name)
    rows = datasets.Dataset.from_dict({"text": ["w1", "w2 w3"], "pair": ["w4", "w5"], "label": [0, 1]})
    rows = rows.cast_column("label", datasets.Value("float64")) if name == "stsb" else rows.remove_columns("pair")
    features = task.encode(rows, pair_tokenizer(), training=True).remove_columns("_row")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, **task.head_config(), trust_remote_code=False)
    loss = model(**task.collator(pair_tokenizer())(list(features))).loss
    loss.backward()
    assert torch.isfinite(loss) and model.config.problem_type == task.head_config()["problem_type"]


def test_model_is_refused_when_transformers_has_no_head_for_it() -> None:
    task = make_task("sst2")
    task.check_model(BertConfig(), name="one")
    task.check_model(T5Config(), name="two")
    task = make_task("race")
    with pytest.raises(
        TeacherError, match=r"models=three: transformers has no AutoModelForMultipleChoice for gpt_bigc"
    ):
        task.check_model(GPTBigCodeConfig(), name="three")
