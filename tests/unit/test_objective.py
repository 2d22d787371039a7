"""The objective: exact normalisation over an optimizer step, what it computes and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distillkit import chunks
from distillkit.chunks import GradientSum
from distillkit.errors import ConfigError
from distillkit.objective import HiddenCosineTerm, MaskedLMTerm, Objective, SoftTargetTerm, Term
from distillkit.types import IGNORE_INDEX, Batch, StepTotals
from tests.parity.models import FrozenTeacher, make_batch, nearby, tiny_model

LENGTHS = (12, 5, 9, 3, 7, 12, 4, 8)


def triple(positions: str = "all", alpha: float = 5.0, beta: float = 2.0, gamma: float = 1.0) -> dict[str, Term]:
    return {
        "ce": SoftTargetTerm(alpha, 2.0, positions),
        "mlm": MaskedLMTerm(beta),
        "cos": HiddenCosineTerm(gamma),
    }


def micro_batches(batch: Batch, rows: int) -> list[Batch]:
    """The batch cut into micro-batches of `rows` rows, each padded to its own longest row."""
    assert batch.attention_mask is not None
    cut = []
    for start in range(0, len(batch.labels), rows):
        part = slice(start, start + rows)
        width = int(batch.attention_mask[part].sum(1).max())
        tensors = [x[part, :width] for x in (batch.input_ids, batch.attention_mask, batch.labels)]
        cut.append(Batch(*tensors, 0, len(cut), batch.totals))
    return cut


@pytest.mark.parametrize("positions", ["all", "predicted"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_objective_adds_up_to_the_whole_batch_when_it_is_cut_into_micro_batches(rows: int, positions: str) -> None:
    teacher, student, batch = FrozenTeacher(tiny_model()), tiny_model("distilbert", seed=1), make_batch(LENGTHS)
    objective = Objective(triple(positions))
    results = []
    for cut in ([batch], micro_batches(batch, rows)):
        student.zero_grad()
        losses = [objective(student, teacher, part).loss for part in cut]
        torch.stack(losses).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        results.append((torch.stack(losses).sum().item(), gradient))
    (whole, whole_gradient), (pieces, gradient) = results
    assert pieces == pytest.approx(whole, rel=1e-6)
    assert (gradient - whole_gradient).abs().max() < 1e-6 * whole_gradient.abs().max()


def test_objective_gives_zero_loss_and_gradients_when_nothing_is_predicted() -> None:
    teacher, student, batch = FrozenTeacher(tiny_model()), tiny_model(seed=1), make_batch()
    batch = batch._replace(labels=torch.full_like(batch.labels, IGNORE_INDEX))
    output = Objective(triple("predicted", gamma=0.0))(student, teacher, batch)
    output.loss.backward()
    assert output.loss.item() == 0
    assert {name: (s.total.item(), s.count.item()) for name, s in output.sums.items()} == {"ce": (0, 0), "mlm": (0, 0)}
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert len(gradients) == len(list(student.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_objective_gives_zero_instead_of_nan_when_a_whole_step_predicts_nothing() -> None:
    batch = make_batch()
    labels = torch.full_like(batch.labels, IGNORE_INDEX)
    batch = batch._replace(labels=labels, totals=StepTotals(batch.totals.attended, 0))
    assert Objective({"mlm": MaskedLMTerm()})(tiny_model(), None, batch).loss.item() == 0


def test_objective_stays_finite_when_weightless_terms_would_be_nan() -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    objective = Objective(triple(alpha=0.0, gamma=0.0))
    output = objective(tiny_model(seed=1), FrozenTeacher(broken), make_batch())
    assert not objective.needs_teacher
    assert output.loss.isfinite()
    assert list(output.sums) == ["mlm"]


def test_objective_asks_no_teacher_for_states_when_no_term_compares() -> None:
    class Untouchable(FrozenTeacher):
        def hidden(self, batch: Batch) -> Tensor:
            raise AssertionError("the teacher was run")

    student = tiny_model(seed=1)
    output = Objective(triple(alpha=0.0, gamma=0.0))(student, Untouchable(tiny_model()), make_batch())
    assert output.loss > 0


def test_objective_computes_logits_of_predicted_rows_only_when_no_term_wants_all() -> None:
    seen: list[int] = []

    class Counting(MaskedLMTerm):
        def with_gradient(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> GradientSum:
            seen.append(len(student_logits))
            return super().with_gradient(student_logits, teacher_logits, labels)

    batch = make_batch()
    Objective({"mlm": Counting()})(tiny_model(), None, batch)
    assert seen == [batch.totals.predicted]
    seen.clear()
    Objective({"mlm": Counting()}, chunk_rows=4)(tiny_model(), None, batch)
    assert max(seen) == 4
    assert sum(seen) == batch.totals.predicted


def test_objective_projects_states_when_widths_differ() -> None:
    teacher, student = FrozenTeacher(tiny_model(hidden_size=48)), tiny_model(seed=1)
    objective = Objective(triple(), student_width=32, teacher_width=48)
    assert isinstance(objective.projection, nn.Linear)
    assert objective.state_dict().keys() == {"projection.weight", "projection.bias"}
    objective(student, teacher, make_batch()).loss.backward()
    for parameter in objective.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize(("teacher_width", "gamma"), [(32, 1.0), (48, 0.0), (None, 1.0)])
def test_objective_has_no_projection_when_none_is_needed(teacher_width: int | None, gamma: float) -> None:
    objective = Objective(triple(gamma=gamma), student_width=32, teacher_width=teacher_width)
    assert objective.projection is None
    assert not list(objective.parameters())


def test_soft_target_term_compares_the_common_tokens_when_vocabularies_are_padded_differently() -> None:
    student, teacher, labels = torch.randn(6, 11), torch.randn(6, 8), torch.zeros(6, dtype=torch.int64)
    term = SoftTargetTerm()
    assert term(student, teacher, labels) == term(student[:, :8], teacher, labels)
    assert term.with_gradient(student, teacher, labels).gradient.shape == (6, 8)


@pytest.mark.parametrize("positions", ["all", "predicted"])
def test_objective_sums_each_term_over_its_own_positions_when_they_differ(positions: str) -> None:
    batch = make_batch(LENGTHS)
    for training in (True, False):
        with torch.set_grad_enabled(training):
            sums = Objective(triple(positions), chunk_rows=7)(
                tiny_model(seed=1), FrozenTeacher(tiny_model()), batch
            ).sums
        counts = {name: int(s.count) for name, s in sums.items()}
        attended, predicted, _ = batch.totals
        assert counts == {"ce": attended if positions == "all" else predicted, "mlm": predicted, "cos": attended}


@pytest.mark.parametrize("term", [SoftTargetTerm(), MaskedLMTerm()], ids=["kl", "mlm"])
def test_terms_give_the_gradient_of_autograd_when_they_know_their_own(term: Term) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 11, dtype=torch.float64), torch.randn(6, 11, dtype=torch.float64)
    labels = torch.randint(11, (6,))
    own, found = (
        term.with_gradient(student.clone(), teacher.clone(), labels),
        Term.with_gradient(term, student, teacher, labels),
    )
    assert own.sums.count == found.sums.count == 6
    torch.testing.assert_close(own.sums.total, found.sums.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(own.gradient, found.gradient, rtol=0, atol=1e-12)


def test_objective_works_when_the_students_vocabulary_is_wider() -> None:
    student = tiny_model(seed=1, vocab_size=104)
    Objective(triple())(student, FrozenTeacher(tiny_model()), make_batch()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_objective_sends_the_teacher_no_gradient_when_its_weights_ask_for_one() -> None:
    teacher = FrozenTeacher(tiny_model())
    teacher.model.requires_grad_(True)
    Objective(triple())(tiny_model(seed=1), teacher, make_batch()).loss.backward()
    assert all(p.grad is None for p in teacher.model.parameters())


def test_objective_follows_the_student_when_it_is_another_one() -> None:
    objective, batch, teacher = Objective(triple()), make_batch(), FrozenTeacher(tiny_model())
    for student in (tiny_model(seed=1), tiny_model("distilbert", seed=2)):
        objective(student, teacher, batch).loss.backward()
        assert all(p.grad is not None for p in student.parameters())


def test_objective_evaluates_to_the_same_sums_when_gradients_are_off() -> None:
    objective, batch, teacher, student = Objective(triple()), make_batch(), FrozenTeacher(tiny_model()), tiny_model()
    trained = objective(student, teacher, batch)
    with torch.no_grad():
        plain = objective.evaluate(student, teacher, batch, objective.terms)
    assert plain.sums.keys() == trained.sums.keys()
    for name, found in plain.sums.items():
        assert found.count == trained.sums[name].count
        torch.testing.assert_close(found.total, trained.sums[name].total, rtol=1e-6, atol=0)
    assert not any(x.requires_grad for s in trained.sums.values() for x in s)


@pytest.mark.parametrize("near", [False, True], ids=["random", "near"])
def test_objective_loss_is_close_to_float32_when_under_bf16_autocast(near: bool) -> None:
    # measured: 5e-5 (random) and 3e-4 (near) relative, the terms alone up to 7e-3; one bf16 rounding is 4e-3
    teacher = tiny_model()
    student = nearby(teacher, 0.1) if near else tiny_model(seed=1)
    objective, batch = Objective(triple()), make_batch(LENGTHS)
    exact = objective(student, FrozenTeacher(teacher), batch).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(student, FrozenTeacher(teacher), batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact, rel=1e-3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_objective_is_refused_when_every_weight_is_zero() -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        Objective(triple(alpha=0.0, beta=0.0, gamma=0.0))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_term_is_refused_when_its_weight_is_negative_or_not_finite(weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        MaskedLMTerm(weight)


def test_soft_target_term_is_refused_when_temperature_or_positions_are_wrong() -> None:
    for temperature in (0.0, -1.0, 101.0, float("nan")):
        with pytest.raises(ConfigError, match=r"loss\.temperature"):
            SoftTargetTerm(temperature=temperature)
    with pytest.raises(ConfigError, match=r"loss\.positions=some"):
        SoftTargetTerm(positions="some")


def test_gradient_is_zero_where_no_term_looks_when_the_teacher_has_fewer_tokens() -> None:
    total = torch.full((2, 5), torch.nan)
    chunks._add_up([torch.ones(2, 3), torch.full((2, 4), 2.0)], total)
    assert torch.equal(total, torch.tensor([[3.0, 3.0, 3.0, 2.0, 0.0]] * 2))
