"""The account of weights, and what a saved student gives back."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM

from distillkit.errors import TeacherError
from distillkit.students import build_albert, build_distilbert, build_pretrained, build_shallow
from distillkit.students.transfer import KINDS, Transfer

BUILDS = {
    "distilbert": ("bert", build_distilbert, {}),
    "shallow": ("bert", build_shallow, {}),
    "shallow_roberta": ("roberta", build_shallow, {}),
    "shallow_electra": ("electra", build_shallow, {}),
    "shallow_modernbert": ("modernbert", build_shallow, {}),
    "albert": ("bert", build_albert, {"embedding_size": 8}),
    "albert_first": ("bert", build_albert, {"num_groups": 2, "init": "first"}),
    "albert_random": ("roberta", build_albert, {"init": "random"}),
    "pretrained": ("bert", build_pretrained, {}),
    "pretrained_new_head": ("electra", build_pretrained, {"new_head": True}),
}


@pytest.fixture(params=BUILDS)
def built(request, make_source):
    model_type, build, settings = BUILDS[request.param]
    source = make_source(model_type)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    student, report = build(source, **settings)
    return source, before, student, report


def test_report_accounts_for_every_weight_when_built(built):
    source, _, student, report = built
    assert list(report.student) == list(student.state_dict())
    assert list(report.source) == list(source.state_dict())
    assert all(how.startswith(KINDS) for how in report.student.values())
    assert all(use.startswith(("used in ", "unused: ", "tied to ")) for use in report.source.values())


def test_report_is_plain_json_when_built(built):
    report = built[3]
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.summary()[0].startswith(f"student: {len(report.student)} weights: ")


def test_build_leaves_the_source_as_it_was_when_built(built):
    source, before, student, _ = built
    assert all(torch.equal(before[name], tensor) for name, tensor in source.state_dict().items())
    assert not {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in student.parameters()}
    assert not source.training
    assert student.training


def test_student_gives_the_same_logits_when_saved_and_loaded(built, batch, tmp_path):
    student = built[2].eval()
    student.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=False, weights_only=True)
    assert type(loaded) is type(student)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, student(**batch).logits)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == (
        student.get_output_embeddings().weight is student.get_input_embeddings().weight
    )


def test_report_says_which_rows_are_left_when_token_types_are_folded(bert):
    _, report = build_distilbert(bert)
    target, types = "distilbert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"
    assert report.student[target] == f"folded bert.embeddings.position_embeddings.weight + {types}[0]"
    assert report.source[types] == f"used in {target}; unused: rows from 1 on, DistilBERT has no token types"


def test_report_names_the_owner_only_when_a_weight_is_tied(bert):
    _, report = build_distilbert(bert)
    words = "distilbert.embeddings.word_embeddings.weight"
    assert report.source["bert.embeddings.word_embeddings.weight"] == f"used in {words}"
    assert report.student["vocab_projector.weight"] == f"tied to {words}"


def test_summary_shortens_ranges_and_reasons_when_layers_are_averaged(bert):
    lines = build_albert(bert, num_layers=2, layers=[0, 1, 3], embedding_size=8)[1].summary()
    assert lines[1] == "layers: 0 <- 0-1+3, 1 <- 0-1+3"
    assert lines[-1] == "unused: 16 source weights: layer 2 not taken"
    assert sum(line.startswith("embeddings: ") for line in lines) == 2


def test_transfer_fails_when_a_student_weight_has_no_origin(bert, make_source):
    transfer = Transfer(bert, make_source("bert"))
    for name in transfer.student_names[1:]:
        transfer.copy(name, name)
    with pytest.raises(AssertionError, match="word_embeddings"):
        transfer.finish({})


def test_transfer_fails_when_a_source_weight_is_not_explained(bert):
    bert.bert.extra = torch.nn.Linear(2, 2)
    for build in (build_distilbert, build_shallow, build_albert, build_pretrained):
        with pytest.raises(TeacherError, match=r"bert\.extra\.weight"):
            build(bert)


def test_transfer_fails_when_shapes_differ(bert, make_source):
    transfer = Transfer(bert, make_source("bert", intermediate_size=16))
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    with pytest.raises(TeacherError, match=r"\(48,\) does not fit .* \(16,\)"):
        transfer.copy(name, name)


def test_report_says_pooler_is_unused_when_the_source_has_one(bert):
    bert.bert.pooler = torch.nn.Linear(32, 32)
    assert build_distilbert(bert).report.source["bert.pooler.weight"] == "unused: the student has no pooler"
