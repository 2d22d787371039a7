"""Tagging: files of columns, labels at first sub-tokens, whole entities as the measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from distillkit.comparison.tasks.conll import is_iob1, read_conll, to_iob2
from distillkit.comparison.tasks.tagging import IGNORED, Tagging
from distillkit.errors import DataError
from tests.unit.comparison.token_parts import Rows, byte_level, wordpiece

NAMES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
HUB = datasets.Features(
    {
        "id": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
    }
)


def hub_rows(count: int = 20) -> datasets.Dataset:
    """Rows in the hub's columns: a person of two words, then a place."""
    row = {"tokens": ["w1", "w2", "in", "w3"], "ner_tags": [1, 2, 0, 5]}
    return datasets.Dataset.from_list([{"id": str(n), **row} for n in range(count)], features=HUB)


def tagging(sentences: list[list[str]], given: list[list[Any]], **options: Any) -> Tagging:
    """A task whose rows to train and to test are these."""
    rows = datasets.Dataset.from_dict({"tokens": sentences, "ner_tags": given})
    return Tagging(source=Rows(rows, rows), **options)


def read(tmp_path: Path, content: str | bytes) -> list[tuple[list[str], list[str]]]:
    """The sentences of a file."""
    path = tmp_path / "rows.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = read_conll(path)
    return list(zip(rows["tokens"], rows["ner_tags"], strict=True))


def say(task: Tagging, features: datasets.Dataset, labels: list[list[str]]) -> list[tuple[np.ndarray, ...]]:
    """Outputs that give each token the label by hand."""
    numbers = [[task.labels.index(name) for name in row] for row in labels]
    assert [len(row) for row in numbers] == [len(ids) for ids in features["input_ids"]]
    return [(np.eye(len(task.labels), dtype=np.float32)[row],) for row in numbers]


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\n",
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n\n",
        "EU  B-ORG\nrejects  O\n \t\nPeter  B-PER",
        "-DOCSTART- -X- -X- O\n\nEU NNP B-ORG\nrejects VB O\n\n-DOCSTART- -X- O\nPeter NNP B-PER\n",
        "\ufeffEU\tB-ORG\r\nrejects\tO\r\n\t\r\n\r\nPeter\tB-PER\r\n",
    ],
)
def test_read_conll_gives_the_sentences_when_separators_endings_and_columns_vary(content: str, tmp_path: Path) -> None:
    assert read(tmp_path, content) == [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]


def test_read_conll_keeps_odd_words_when_they_are_spaces_or_separators_elsewhere(tmp_path: Path) -> None:
    words = ["\ufe0f", "\u00a0", "a\u2028b", "x\ufeff", "1 1/2", "#", "\x85"]
    content = "".join(f"{word}\tO\n" for word in words)
    assert read(tmp_path, content) == [(words, ["O"] * len(words))]


@pytest.mark.parametrize("line", ["Peter", "Peter\t", "Peter \t "])
def test_read_conll_names_file_and_line_when_a_word_has_no_tag(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.conll: line 4 has a word without a tag: 'Peter'"):
        read(tmp_path, f"EU\tB-ORG\nrejects\tO\n\n{line}\n")


@pytest.mark.parametrize("suffix", [".conll", ".txt", ".bio", ".iob", ".iob2", ".tsv"])
def test_tagging_reads_columns_when_the_suffix_is_one_of_them(suffix: str) -> None:
    assert Tagging.readers[suffix] is read_conll


@pytest.mark.parametrize("suffix", ["conll", "jsonl", "parquet"])
def test_tagging_reads_the_same_rows_when_files_are_columns_or_the_hubs(suffix: str, tmp_path: Path) -> None:
    path, task = tmp_path / f"rows.{suffix}", Tagging(source=Rows(hub_rows(), hub_rows()))
    if suffix == "conll":
        lines = [
            "".join(f"{word} {tag}\n" for word, tag in zip(*row.values(), strict=True)) for row in task.parts["test"]
        ]
        path.write_text("\n".join(lines))
    else:
        (hub_rows().to_json if suffix == "jsonl" else hub_rows().to_parquet)(str(path))
    own = Tagging(files={"train": str(path), "test": str(path)}, labels=NAMES)
    assert own.parts["test"].to_list() == task.parts["test"].to_list()
    assert own.labels == NAMES


# --- rows --------------------------------------------------------------------------------------------------------


def test_tagging_names_tags_when_the_hub_gives_numbers() -> None:
    task = Tagging(source=Rows(hub_rows(), hub_rows(3)))
    assert task.parts["test"][0] == {"tokens": ["w1", "w2", "in", "w3"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}
    assert task.labels == ["O", "B-LOC", "B-PER", "I-PER"]
    head = task.head_config()
    assert head["num_labels"] == 4 and head["id2label"][0] == "O" and head["label2id"]["I-PER"] == 3


def test_tagging_uses_labels_when_numbers_have_no_names() -> None:
    task = tagging([["w1", "w2"]], [[1, 0]], labels=["O", "B-PER", "I-PER"])
    assert task.parts["train"]["tags"][0] == ["B-PER", "O"]
    assert task.labels == ["O", "B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("tags", "options", "message"),
    [
        ([1, 0], {}, "row 1 of the train rows has numbers for tags, and nothing names them"),
        ([3, 0], {"labels": ["O", "B-PER"]}, "row 1 of the train rows has the tag 3"),
        ([-1, 0], {"labels": ["O", "B-PER"]}, "row 1 of the train rows has the tag -1"),
        (["B-PER"], {}, "row 1 of the train rows has 2 words and 1 tags"),
        (["NOUN", "O"], {}, "row 1 of the train rows has the tag 'NOUN'"),
        (["B-LOC", "O"], {"labels": ["O", "B-PER"]}, "the training rows have the tag B-LOC"),
        (["O", "O"], {"tags": "pos"}, "pos: no such column in train"),
    ],
)
def test_tagging_refuses_rows_when_tags_do_not_fit(tags: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = tagging([["w1", "w2"]], [tags], **options).parts


def test_tagging_reads_iob1_as_iob2_and_says_so_when_entities_open_with_i() -> None:
    sentence = ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG", "I-ORG"]
    with pytest.warns(UserWarning, match="the tags of (train|test) are IOB1"):
        task = tagging([["w1"] * 7], [sentence])
        parts = task.parts
    assert parts["train"]["tags"][0] == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-ORG", "I-ORG"]
    assert task.agree(sentence, parts["train"]["tags"][0])


def test_iob1_is_not_seen_when_tags_are_iob2_with_slips() -> None:
    assert not is_iob1([["B-PER", "I-PER", "O"], ["O", "I-LOC"], ["B-ORG", "B-ORG"]])
    assert is_iob1([["I-PER", "B-PER"], ["O", "I-LOC"]])
    assert to_iob2(["B-PER", "I-PER", "O"]) == ["B-PER", "I-PER", "O"]


# --- what a model reads ------------------------------------------------------------------------------------------


def test_tagging_labels_first_sub_tokens_only_when_words_are_split() -> None:
    tokenizer = wordpiece(["w1", "##a", "##b", "w2"])
    task = tagging([["w1ab", "w2", "w1a"]], [["B-PER", "O", "B-LOC"]])
    feature = task.encode(task.parts["train"], tokenizer, training=True)[0]
    assert tokenizer.convert_ids_to_tokens(feature["input_ids"]) == [
        "[CLS]", "w1", "##a", "##b", "w2", "w1", "##a", "[SEP]",
    ]  # fmt: skip
    assert feature["_words"] == [-1, 0, -1, -1, 1, 2, -1, -1]
    person, place = task.labels.index("B-PER"), task.labels.index("B-LOC")
    assert feature["labels"] == [IGNORED, person, IGNORED, IGNORED, 0, place, IGNORED, IGNORED]


@pytest.mark.parametrize("prefix", [False, True])
def test_tagging_reads_words_as_in_running_text_when_the_tokenizer_is_byte_level(prefix: bool) -> None:
    tokenizer = byte_level(["Paris is in France , Peter said"] * 20, prefix=prefix)
    words = ["Peter", "is", "in", "Paris", ",", "France"]
    task = tagging([words], [["B-PER", "O", "O", "B-LOC", "O", "B-LOC"]])
    feature = task.encode(task.parts["train"], tokenizer, training=True)[0]
    assert feature["input_ids"] == tokenizer(" " + " ".join(words))["input_ids"]
    assert [word for word in feature["_words"] if word >= 0] == list(range(6))
    assert sum(label != IGNORED for label in feature["labels"]) == 6


def test_tagging_answers_outside_when_a_word_is_cut_or_has_no_sub_token() -> None:
    task = tagging([["w1", "\ufe0f", "w2", "w3", "w4"]], [["B-PER", "O", "O", "B-PER", "B-PER"]], max_length=4)
    rows = task.parts["test"]
    with pytest.warns(UserWarning, match=r"3 of 5 words are not read \(beyond 4 tokens"):
        features = task.encode(rows, wordpiece(), training=False)
    answers = task.answers(say(task, features, [["B-PER"] * 4]), features, rows)
    assert answers == [["B-PER", "O", "B-PER", "O", "O"]]


def test_tagging_counts_a_tag_as_missed_when_training_rows_lack_it() -> None:
    train = datasets.Dataset.from_dict({"tokens": [["w1", "w2"]], "ner_tags": [["B-PER", "O"]]})
    test = datasets.Dataset.from_dict({"tokens": [["w1", "w2"]], "ner_tags": [["B-PER", "B-NEW"]]})
    task = Tagging(source=Rows(train, test))
    rows = task.parts["test"]
    features = task.encode(rows, wordpiece(), training=False)
    answers = task.answers(say(task, features, [["O", "B-PER", "O", "O"]]), features, rows)
    assert task.metrics(answers, rows)["recall"] == 0.5


@pytest.mark.parametrize("side", ["left", "right"])
def test_tagging_collator_keeps_labels_at_their_tokens_when_the_tokenizer_pads_left(side: str) -> None:
    tokenizer = wordpiece()
    tokenizer.padding_side = side
    task = tagging([["w1"], ["w1", "w2", "w3"]], [["B-PER"], ["O", "O", "B-PER"]])
    features = task.encode(task.parts["train"], tokenizer, training=True).remove_columns(["_row", "_words"])
    batch = task.collator(tokenizer)(list(features))
    assert batch["input_ids"][0].tolist() == [2, 6, 3, 0, 0]
    assert batch["labels"][0].tolist() == [IGNORED, 1, IGNORED, IGNORED, IGNORED]
    assert tokenizer.padding_side == side


# --- judging -----------------------------------------------------------------------------------------------------


def test_tagging_metrics_are_seqevals_when_its_documented_example_is_judged() -> None:
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    task = tagging([["w1"] * 7, ["w1"] * 3], gold)
    values = task.metrics(found, task.parts["test"])
    assert values == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8}
    assert tuple(values)[:1] == task.scored
    assert not task.correct(found[0], task.parts["test"][0]) and task.correct(found[1], task.parts["test"][1])


def test_tagging_metrics_are_zero_without_a_warning_when_no_entity_is_found(recwarn: pytest.WarningsRecorder) -> None:
    task = tagging([["w1", "w2"]], [["B-PER", "O"]])
    values = task.metrics([["O", "O"]], task.parts["test"])
    assert (values["f1"], values["precision"], values["accuracy"]) == (0.0, 0.0, 0.5)
    assert not recwarn.list


def test_tagging_shows_entities_by_their_words_when_a_reader_looks() -> None:
    task = tagging([["w1", "w2", "in", "w3"]], [["B-PER", "I-PER", "O", "B-LOC"]])
    assert task.show(task.parts["test"][0]) == {"text": "w1 w2 in w3", "gold": "PER w1 w2, LOC w3"}
    assert task.show_answer(["O", "O"], {"tokens": ["a", "b"]}) == "(no entity)"


def _learn(task: Tagging, tokenizer: PreTrainedTokenizerFast, steps: int) -> list[Any]:
    """Answers to the training rows after a few steps of a tiny BERT on them."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, **task.head_config(),
    )  # fmt: skip
    model = BertForTokenClassification(config)
    rows = task.parts["train"]
    features = task.encode(rows, tokenizer, training=True)
    batch = task.collator(tokenizer)(list(features.remove_columns(["_row", "_words"])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = model.eval()(**batch).logits.detach().numpy()
    outputs = [(row[: len(ids)],) for row, ids in zip(logits, features["input_ids"], strict=True)]
    return task.answers(outputs, features, rows)


def test_tagging_is_learnt_when_a_tiny_model_trains_on_the_hubs_rows() -> None:
    task = Tagging(source=Rows(hub_rows(), hub_rows(3)))
    answers = _learn(task, wordpiece(["w1", "w2", "w3", "in"]), steps=15)
    assert task.metrics(answers, task.parts["train"])["f1"] == 1.0
