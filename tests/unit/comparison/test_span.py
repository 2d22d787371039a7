"""Span: rows, windows, answers cut out of the context, and what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import BertConfig, BertForQuestionAnswering

from distillkit.comparison.tasks.span import Span
from distillkit.errors import ConfigError, DataError
from tests.faults.harness import WORDS
from tests.unit.comparison.span_rows import CONTEXT, hub_rows, nested, place, point, row, span
from tests.unit.comparison.token_parts import Rows, byte_level, wordpiece

# --- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["nested.json", "json", "jsonl", "parquet"])
def test_span_reads_the_same_rows_when_files_are_nested_or_in_the_hubs_columns(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"rows.{suffix.removeprefix('nested.')}", hub_rows()
    if suffix.endswith("json"):
        path.write_text(json.dumps(nested(rows) if suffix == "nested.json" else rows.to_list()))
    else:
        (rows.to_json if suffix == "jsonl" else rows.to_parquet)(str(path))
    task = Span(files={"train": str(path), "test": str(path)}, unanswerable=True)
    assert task.parts["test"].to_list() == Span(source=Rows(rows, rows)).parts["test"].to_list()


@pytest.mark.parametrize("start", [1, 999, -3])
def test_span_names_the_id_when_an_answer_is_not_at_its_start(start: int) -> None:
    wrong = row("w3", name="q7") | {"answers": {"text": ["w3"], "answer_start": [start]}}
    with pytest.raises(
        DataError, match=r"task\.\*\.files\.train=id q7: row 1 of the train rows: the answer 'w3' does not"
    ):
        _ = span(wrong).parts


def test_span_keeps_contexts_whole_when_no_test_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    rows = [row("w1", name=f"q{n}") | {"context": f"w1 w{n // 4}"} for n in range(40)]
    for each in rows:
        each["answers"] = {"text": ["w1"], "answer_start": [0]}
    path.write_text(json.dumps(rows))
    task = Span(files={"train": str(path)})
    held = task.parts["test"]["context"][:]
    assert len(held) % 4 == 0 < len(held) and not set(held) & set(task.parts["train"]["context"][:])
    path.write_text(json.dumps([each | {"context": "w1"} for each in rows]))
    with pytest.raises(DataError, match=r"files\.test=None: a single context: no row can be held out"):
        _ = Span(files={"train": str(path)}).parts


def test_span_asks_for_unanswerable_when_a_row_has_no_answer() -> None:
    with pytest.raises(
        DataError, match=r"train=id q: row 1 of the train rows: the question has no answer.*unanswerable=true"
    ):
        _ = span(row(None)).parts
    assert len(span(row(None), unanswerable=True).parts["test"]) == 1


@pytest.mark.parametrize("options", [{"stride": 200}, {"max_length": 12, "max_question_length": 64, "stride": 128}])
def test_span_windows_move_on_when_the_model_reads_fewer_tokens_than_configured(options: dict[str, Any]) -> None:
    task = span(row("w20 w21", question="w90 w91 w92 w93 w94 w90 w91 w92"), **options)
    windows = task.encode(task.parts["test"], wordpiece(), training=False)
    starts = [min(place for place in window["_starts"] if place >= 0) for window in windows]
    assert 3 < len(windows) < 40 and starts == sorted(set(starts))
    assert max(map(len, windows["input_ids"])) <= task.max_length
    assert "w20 w21" in texts_of_labels(task, wordpiece())


def test_span_names_max_length_when_no_context_fits() -> None:
    task = span(row("w3"), max_length=6)
    with pytest.raises(ConfigError, match=r"max_length=6: no room for a context"):
        task.encode(task.parts["train"], wordpiece(), training=True)


# --- windows -----------------------------------------------------------------------------------------------------


def texts_of_labels(task: Span, tokenizer: Any) -> list[str]:
    """What each training window is taught, as tokens."""
    features = task.encode(task.parts["train"], tokenizer, training=True)
    pairs = zip(features["start_positions"], features["end_positions"], features["input_ids"], strict=True)
    return [tokenizer.decode(ids[start : end + 1]).strip() for start, end, ids in pairs]


def test_span_teaches_the_answer_where_a_window_holds_it_when_the_context_is_long() -> None:
    assert texts_of_labels(span(row("w20 w21")), wordpiece()) == ["[CLS]", "w20 w21", "[CLS]", "[CLS]"]
    assert texts_of_labels(span(row("w12 w13")), wordpiece()) == ["w12 w13", "w12 w13", "[CLS]", "[CLS]"]
    assert texts_of_labels(span(row("w14 w15")), wordpiece()) == ["[CLS]", "w14 w15", "[CLS]", "[CLS]"]
    assert set(texts_of_labels(span(row(None), unanswerable=True), wordpiece())) == {"[CLS]"}


def test_span_teaches_whole_tokens_when_an_answer_has_outer_spaces_or_ends_within_a_word() -> None:
    assert texts_of_labels(span(row("w2 w3 ", context="w1 w2 w3 ")), wordpiece()) == ["w2 w3"]
    assert texts_of_labels(span(row("w2", context="w1 w2x w3")), wordpiece([*WORDS, "w2x"])) == ["w2x"]


@pytest.mark.parametrize("trim", [True, False])
def test_span_teaches_and_cuts_the_answer_when_the_tokenizer_is_byte_level(trim: bool) -> None:
    context = "The tower, à 330 m, stands in Paris, France."
    tokenizer = byte_level([context] * 5)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    task = span(row("Paris", context=context, question="in ?"), max_length=64)
    assert texts_of_labels(task, tokenizer) == ["Paris"]
    features = task.encode(task.parts["test"], tokenizer, training=False)
    assert "token_type_ids" not in features.column_names
    found = task.encode(task.parts["train"], tokenizer, training=True)[0]
    logits = [
        np.eye(len(found["input_ids"]), dtype=np.float32)[found[f"{side}_positions"]] for side in ("start", "end")
    ]
    assert task.answers([(logits[0], logits[1])], features, task.parts["test"]) == ["Paris"]


def test_span_finds_the_context_when_the_tokenizer_puts_it_first_and_ends_with_cls() -> None:
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$B [SEP] $A [SEP] [CLS]", special_tokens=[("[SEP]", 3), ("[CLS]", 2)]
    )
    task = span(row("w2 w3", context="w1 w2 w3 w4"))
    assert texts_of_labels(task, tokenizer) == ["w2 w3"]
    window = task.encode(task.parts["test"], tokenizer, training=False)[0]
    assert window["_null"] == len(window["input_ids"]) - 1
    assert window["_starts"][:5] == [0, 3, 6, 9, -1]


def test_span_cuts_a_question_when_it_is_too_long() -> None:
    task = span(row("w3", context="w1 w2 w3", question="  w80 w81 w82 w83 w84 w85"))
    ids = task.encode(task.parts["train"], wordpiece(), training=True)[0]["input_ids"]
    assert wordpiece().decode(ids) == "[CLS] w80 w81 w82 w83 [SEP] w1 w2 w3 [SEP]"


@pytest.mark.parametrize("side", ["left", "right"])
def test_span_collator_keeps_positions_when_the_tokenizer_pads_left(side: str) -> None:
    tokenizer = wordpiece()
    tokenizer.padding_side = side
    task = span(row("w1", context="w1 w2"), row("w3", context="w1 w2 w3 w4 w5"))
    features = task.encode(task.parts["train"], tokenizer, training=True).remove_columns("_row")
    batch = task.collator(tokenizer)(list(features))
    assert [batch["input_ids"][n, start].item() for n, start in enumerate(batch["start_positions"])] == [6, 8]
    assert batch["attention_mask"][0].tolist() == [1] * 7 + [0] * 3


# --- answers -----------------------------------------------------------------------------------------------------


def test_span_answers_the_best_text_when_it_stands_in_the_second_window() -> None:
    task = span(row("w20 w21"), row("w3", context="w1 w2 w3"))
    rows = task.parts["test"]
    features = task.encode(rows, wordpiece(), training=False)
    assert features["_row"] == [0, 0, 0, 0, 1]
    hits = {0: [(*place("w5"), 2.0)], 1: [(*place("w20 w21"), 3.0)], 4: [(*place("w3", "w1 w2 w3"), 1.0)]}
    answers = task.answers(point(features, hits), features, rows)
    assert answers == ["w20 w21", "w3"]
    assert task.metrics(answers, rows) == {"f1": 1.0, "exact_match": 1.0}


def test_span_cuts_answers_out_of_the_original_context_when_the_tokenizer_changes_case() -> None:
    context = "W1 É W2, W3"
    task = span(row("W2, W3", context=context))
    features = task.encode(task.parts["test"], wordpiece(), training=False)
    outputs = point(features, {0: [(*place("W2, W3", context), 1.0)]})
    assert task.answers(outputs, features, task.parts["test"]) == ["W2, W3"]


def test_span_never_answers_outside_the_context_or_too_long_or_backwards_when_logits_say_so() -> None:
    task = span(row("w3", context="w1 w2 w3 w4 w5"), max_answer_length=2)
    features = task.encode(task.parts["test"], wordpiece(), training=False)
    # [CLS] w90 w91 [SEP] w1 w2 w3 w4 w5 [SEP]
    start = np.array([[9, 9, 9, 9, 5, 0, 0, 4, 0, 9]], np.float32)
    end = np.array([[9, 9, 9, 9, 4, 0, 0, 0, 5, 9]], np.float32)
    assert task.answers(list(zip(start, end, strict=True)), features, task.parts["test"]) == ["w1"]
    end[0, 4] = 0  # w4 w5, 9, before w1, 5; w1 .. w5, 10, is too long
    assert task.answers(list(zip(start, end, strict=True)), features, task.parts["test"]) == ["w4 w5"]
    end[0, 4], start[0, 4] = 7, 0  # w4 w5, 9, before w1, 7; from w4 back to w1 it would be 11
    assert task.answers(list(zip(start, end, strict=True)), features, task.parts["test"]) == ["w4 w5"]


def test_span_null_odds_take_the_smallest_null_score_when_there_are_windows() -> None:
    task = span(row(None), unanswerable=True, threshold=0.0)
    features = task.encode(task.parts["test"], wordpiece(), training=False)
    outputs = point(features, {2: [(*place("w30"), 3.0)]}, null=4.0)
    assert task.answers(outputs, features, task.parts["test"]) == [{"text": "", "span": "w30", "null_odds": 2.0}]
    outputs[1][0][0] = 1.0  # of one window: 1 + 4
    assert task.answers(outputs, features, task.parts["test"]) == [{"text": "w30", "span": "w30", "null_odds": -1.0}]


@pytest.mark.parametrize(("threshold", "text"), [(1.9, ""), (2.0, "w30"), (None, "")])
def test_span_answer_is_empty_when_null_odds_exceed_the_threshold(threshold: float | None, text: str) -> None:
    task = span(row(None), unanswerable=True, threshold=threshold)
    features = task.encode(task.parts["test"], wordpiece(), training=False)
    answers = task.answers(point(features, {2: [(*place("w30"), 3.0)]}, null=4.0), features, task.parts["test"])
    assert answers[0]["text"] == text
    assert task.show_answer(answers[0], {}) == (text or "(no answer)")
    assert task.correct(answers[0], task.parts["test"][0]) is (text == "")


def test_span_reports_the_official_figures_when_questions_may_have_no_answer() -> None:
    rows = [row("w3", name="1"), row("w5 w6", name="2"), row(None, name="3"), row(None, name="4")]
    task = span(*rows, unanswerable=True, threshold=0.5)
    spans, odds = ["w3", "w5", "w7", "w8"], [-2.0, 1.0, 2.0, 0.0]
    answers = [
        {"text": "" if own > 0.5 else text, "span": text, "null_odds": own}
        for text, own in zip(spans, odds, strict=True)
    ]
    assert task.metrics(answers, task.parts["test"]) == {
        "f1": 0.5, "exact_match": 0.5,
        "HasAns_exact": 0.5, "HasAns_f1": 0.5, "NoAns_exact": 0.5, "NoAns_f1": 0.5,
        # w3 alone is answered: 1 + 0 + 1 + 1
        "best_f1": 0.75, "best_f1_thresh": -2.0, "best_exact": 0.75, "best_exact_thresh": -2.0,
    }  # fmt: skip


def test_span_scores_what_is_configured_when_metrics_are_named() -> None:
    task = span(row("w3 w4"), metrics=["exact_match"])
    assert list(task.metrics(["w3"], task.parts["test"])) == ["exact_match", "f1"]
    assert task.scored == ("exact_match",)
    with pytest.raises(ConfigError, match="unknown metric"):
        Span(metrics=["bleu"])


def test_span_answers_agree_when_they_differ_in_articles_and_punctuation_only() -> None:
    task = span(row("w3"))
    assert task.agree("The W3!", "w3") and not task.agree("w3", "w4")
    assert task.show(task.parts["test"][0]) == {"text": f"w90 w91 [{CONTEXT}]", "gold": "w3"}


# --- a model -----------------------------------------------------------------------------------------------------


def test_span_is_learnt_when_a_tiny_model_trains_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(nested(hub_rows())))
    read = Span.readers[".json"](path)
    task, tokenizer = Span(source=Rows(read, read), max_length=24, stride=4, max_question_length=4), wordpiece()
    rows = task.parts["train"]
    features = task.encode(rows, tokenizer, training=True)
    batch = task.collator(tokenizer)(list(features.remove_columns("_row")))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForQuestionAnswering(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    windows = task.encode(rows, tokenizer, training=False)
    with torch.no_grad():
        said = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    pairs = zip(said.start_logits.numpy(), said.end_logits.numpy(), windows["input_ids"], strict=True)
    answers = task.answers([(s[: len(ids)], e[: len(ids)]) for s, e, ids in pairs], windows, rows)
    assert losses[-1] < 0.2 * losses[0]
    assert task.metrics(answers, rows)["exact_match"] == 1.0
