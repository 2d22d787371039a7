"""Multiple choice: RACE as the hub has it and as its authors do, and a user's own file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForMultipleChoice,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    RobertaConfig,
)

from distillkit.errors import DataError, TeacherError
from tests.unit.comparison.made_tasks import make_task, pair_tokenizer, write_lines, write_text


def hub_rows(count: int) -> list[dict[str, Any]]:
    """Rows in the hub's columns and order; every second question has a blank."""
    return [
        {
            "example_id": f"high{n}.txt",
            "article": f"w{n} w1 w2",
            "answer": "ABCD"[n % 4],
            "question": "w5 _ w6 ." if n % 2 else "w5 w6 ?",
            "options": [f"w1{letter}" for letter in range(4)],
        }
        for n in range(count)
    ]


def as_exams(folder: Path, rows: list[dict[str, Any]], *, each: int) -> str:
    """The same rows in the original's files, `each` questions an article."""
    for start in range(0, len(rows), each):
        group = rows[start : start + each]
        exam = {
            "answers": [row["answer"] for row in group],
            "options": [row["options"] for row in group],
            "questions": [row["question"] for row in group],
            "article": group[0]["article"],
            "id": group[0]["example_id"],
        }
        write_text(folder / "high" / f"{start:03d}.txt", json.dumps(exam))
    return str(folder)


def test_race_is_encoded_and_judged_when_its_file_has_the_hubs_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "race.jsonl", hub_rows(20))
    task = make_task("race", files={"train": path, "test": path})
    rows = task.parts["test"]
    assert rows.column_names == ["context", "question", "options", "label"] and rows["label"][:5] == [0, 1, 2, 3, 0]
    tokenizer = pair_tokenizer()
    features = task.encode(rows, tokenizer, training=True)
    assert tokenizer.decode(features[0]["input_ids"][2]) == "[CLS] w0 w1 w2 [SEP] w5 w6 [UNK] w12 [SEP]"
    assert tokenizer.decode(features[1]["input_ids"][3]) == "[CLS] w1 w1 w2 [SEP] w5 w13 w6 [UNK] [SEP]"
    plain = [{k: v for k, v in feature.items() if k != "_row"} for feature in features]
    batch = task.collator(tokenizer)(plain)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (20, 4, 10)
    assert batch["labels"].tolist() == rows["label"][:]
    bare = task.collator(tokenizer)([{k: v for k, v in feature.items() if k != "labels"} for feature in plain])
    assert bare.keys() == batch.keys() - {"labels"} and all(torch.equal(bare[name], batch[name]) for name in bare)
    outputs = [(np.eye(4, dtype=np.float32)[row["label"]],) for row in rows]
    right = task.answers(outputs, features, rows)
    assert right == [row["answer"] for row in hub_rows(20)] and all(map(task.correct, right, rows))
    assert task.metrics(right, rows) == {"accuracy": 1.0} and task.metrics(["A"] * 20, rows) == {"accuracy": 0.25}
    assert task.scored == ("accuracy",) and task.max_length == 512
    assert task.show(rows[1]) == {"text": "w5 _ w6 . (A: w10; B: w11; C: w12; D: w13)", "gold": "B"}


def test_race_rows_are_the_same_when_they_come_from_the_authors_files(tmp_path: Path) -> None:
    rows = [{**row, "article": "w9"} for row in hub_rows(12)]
    lines = write_lines(tmp_path / "race.jsonl", rows)
    folder = as_exams(tmp_path / "RACE", rows, each=3)
    task = make_task("race", files={"train": folder, "test": lines})
    assert task.parts["train"].to_list() == task.parts["test"].to_list()


@pytest.mark.parametrize(
    "text",
    ["[]", '{"article": "a"}', '{"article": "a", "questions": ["q"], "options": [], "answers": ["A"]}'],
)
def test_race_file_is_refused_when_it_is_no_exam(tmp_path: Path, text: str) -> None:
    path = write_text(tmp_path / "1.txt", text)
    with pytest.raises(DataError, match=r"1\.txt: not an exam of RACE"):
        make_task("race", files={"train": path, "test": path}).parts  # noqa: B018


def test_user_file_is_a_task_by_configuration_alone_when_options_have_columns(tmp_path: Path) -> None:
    text = "story,ask,first,second,right\nw1,w2,w3,w4,1\nw5,w6,w7,w8,A\n"
    path = write_text(tmp_path / "own.csv", text)
    keys = {"context": "story", "question": "ask", "options": ["first", "second"], "answer": "right"}
    task = make_task("choice", files={"train": path, "test": path}, **keys)
    assert task.parts["train"].to_list() == [
        {"context": "w1", "question": "w2", "options": ["w3", "w4"], "label": 1},
        {"context": "w5", "question": "w6", "options": ["w7", "w8"], "label": 0},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, r"task\.\*\.answer=E: row 2 of the train rows: 'E' is no letter from A to D"),
        ({"options": ["a", "b"]}, r"row 2 of the train rows: 2 options, the first row has 4"),
        ({"options": None}, r"row 2 of the train rows: its options are no list of texts"),
        ({"question": None}, r"task\.\*\.question=question: row 2 of the train rows: None is no text"),
    ],
)
def test_row_is_refused_with_its_number_when_it_does_not_fit(change: dict[str, Any], message: str) -> None:
    rows = hub_rows(3)
    rows[1] = {**rows[1], **change}
    with pytest.raises(DataError, match=message):
        make_task("race").normalise("train", datasets.Dataset.from_list(rows))


def test_articles_stay_whole_when_no_test_file_is_named(tmp_path: Path) -> None:
    rows = [{**row, "article": f"w{n // 4}"} for n, row in enumerate(hub_rows(40))]
    for context in ("article", 1):
        task = make_task("race", files={"train": write_lines(tmp_path / "a.jsonl", rows)}, context=context)
        held = task.parts["test"]["context"][:]
        assert len(held) % 4 == 0 < len(held) and not set(held) & set(task.parts["train"]["context"][:])


def test_context_alone_is_cut_when_a_row_is_too_long() -> None:
    rows = datasets.Dataset.from_dict(
        {"context": ["w1 " * 50], "question": ["w2 w3"], "options": [["w4", "w5 w6"]], "label": [0]}
    )
    tokenizer = pair_tokenizer()
    features = make_task("race", max_length=12).encode(rows, tokenizer, training=True)
    assert [tokenizer.decode(ids) for ids in features[0]["input_ids"]] == [
        "[CLS] w1 w1 w1 w1 w1 w1 [SEP] w2 w3 w4 [SEP]",
        "[CLS] w1 w1 w1 w1 w1 [SEP] w2 w3 w5 w6 [SEP]",
    ]


def test_question_loses_its_beginning_when_it_fills_more_than_half() -> None:
    rows = datasets.Dataset.from_dict(
        {"context": ["w1 " * 50], "question": ["w2 " * 50 + "w3"], "options": [["w4", "w5"]], "label": [0]}
    )
    tokenizer = pair_tokenizer()
    features = make_task("race", max_length=11).encode(rows, tokenizer, training=True)
    assert tokenizer.decode(features[0]["input_ids"][1]) == "[CLS] w1 w1 w1 w1 [SEP] w2 w2 w3 w5 [SEP]"


def test_every_blank_takes_the_option_when_a_question_has_several() -> None:
    rows = datasets.Dataset.from_dict(
        {"context": ["w1"], "question": ["___ w2 _"], "options": [["w3", "w4"]], "label": [0]}
    )
    tokenizer = pair_tokenizer()
    features = make_task("race").encode(rows, tokenizer, training=True)
    assert tokenizer.decode(features[0]["input_ids"][0]) == "[CLS] w1 [SEP] w3 w2 w3 [SEP]"


SIZES = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES),
        RobertaConfig(**SIZES, pad_token_id=0),
        AlbertConfig(**SIZES, embedding_size=8),
        DistilBertConfig(vocab_size=100, dim=16, n_layers=1, n_heads=2, hidden_dim=16),
    ],
    ids=lambda config: config.model_type,
)
def test_head_scores_every_option_when_the_model_is_of_a_supported_class(config) -> None:
    task = make_task("race")
    task.check_model(config, name="tiny")
    model = AutoModelForMultipleChoice.from_config(config, trust_remote_code=False)
    rows = task.normalise("train", datasets.Dataset.from_list(hub_rows(3)))
    tokenizer = pair_tokenizer(types=config.model_type in ("bert", "albert"))
    features = task.encode(rows, tokenizer, training=True).remove_columns("_row")
    output = model(**task.collator(tokenizer)(list(features)))
    assert output.logits.shape == (3, 4) and torch.isfinite(output.loss)


def test_models_are_told_apart_by_their_heads_when_transformers_is_asked() -> None:
    task = make_task("race")
    task.check_model(ModernBertConfig(), name="modern")
    with pytest.raises(TeacherError, match="models=decoder: transformers has no AutoModelForMultipleChoice for gpt2"):
        task.check_model(GPT2Config(), name="decoder")
