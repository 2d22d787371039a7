"""How an encoder's layers run: compiled and recomputed layers compute what plain ones do, and leave no trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillkit import encoding
from distillkit.encoding import takes_rows
from distillkit.errors import ConfigError
from distillkit.export import export
from distillkit.heads import apply_head
from distillkit.sharing import share_layers
from distillkit.training.layers import check_compiler, compile_layers, recompute_layers
from tests.faults.harness import CHECKOUT, make_tokenizer
from tests.parity.models import make_batch, tiny_model

KINDS = ("bert", "distilbert", "albert", "modernbert")
DROPOUT = {
    "distilbert": ("dropout", "attention_dropout"),
    "modernbert": ("attention_dropout", "mlp_dropout", "embedding_dropout"),
}


def student(kind: str, dropout: float = 0.0) -> PreTrainedModel:
    """In training mode."""
    names = DROPOUT.get(kind, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    return tiny_model(kind, attention="sdpa", **dict.fromkeys(names, dropout)).train()


def step(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """A loss [] over hidden states, and the gradient of every weight, flat."""
    batch = make_batch()
    torch.manual_seed(7)
    hidden = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    loss = (hidden * torch.linspace(-1, 2, hidden.numel()).view_as(hidden)).sum()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def equal(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- recomputed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same_bits_when_training(kind: str, dropout: float) -> None:
    plain, recomputed = student(kind, dropout), student(kind, dropout)
    recompute_layers(recomputed)
    assert equal(step(recomputed), step(plain))


def test_recomputed_layers_give_the_same_bits_when_layers_share_a_part() -> None:
    models = [tiny_model("albert", num_hidden_layers=3, num_hidden_groups=3).train() for _ in range(2)]
    for model in models:
        share_layers(model, "attention")
    recompute_layers(models[1])
    assert equal(step(models[1]), step(models[0]))


def test_recomputed_layers_run_twice_in_training_and_once_without_a_gradient() -> None:
    model, calls = student("distilbert"), []
    recompute_layers(model)
    model.base_model.transformer.layer[0].ffn.register_forward_hook(lambda *_: calls.append(1))
    step(model)
    assert len(calls) == 2
    with torch.no_grad():
        model(input_ids=make_batch().input_ids)
    assert len(calls) == 3


@pytest.mark.slow
def test_step_takes_less_memory_when_layers_are_recomputed() -> None:
    code = """if True:
        import sys, torch
        from transformers import DistilBertConfig, DistilBertForMaskedLM
        from distillkit.machine import peak_memory
        from distillkit.training.layers import recompute_layers
        model = DistilBertForMaskedLM(DistilBertConfig(vocab_size=500, dim=128, n_layers=6, n_heads=4, hidden_dim=512))
        if sys.argv[1] == "recomputed":
            recompute_layers(model.train())
        model.train().base_model(input_ids=torch.randint(500, (16, 256)))[0].sum().backward()
        print(peak_memory())
    """
    peaks = {}
    for kind in ("plain", "recomputed"):
        done = subprocess.run([sys.executable, "-c", code, kind], cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[kind] = int(done.stdout.split()[-1])
    assert peaks["recomputed"] < peaks["plain"] - 60e6, peaks


def test_compiled_models_keep_their_padding_without_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student("bert")
    compile_layers(model, changing_shapes=True)
    monkeypatch.setattr(encoding, "_same_states", lambda model: True)
    assert not takes_rows(model) and takes_rows(student("bert"))


def test_layers_are_refused_in_one_line_when_the_model_has_none() -> None:
    class Bag(nn.Module):
        base_model = nn.Linear(1, 1)

    with pytest.raises(ConfigError, match=r"^run\.gradient_checkpointing=True: Bag keeps its layers in no list"):
        recompute_layers(Bag())  # type: ignore[arg-type]


# --- compiled ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("kind", ["distilbert", "albert"])
def test_compiled_layers_agree_within_rounding_when_training(kind: str) -> None:
    plain, compiled = student(kind), student(kind)
    compile_layers(compiled, changing_shapes=False)
    (loss, gradient), (expected, reference) = step(compiled), step(plain)
    assert abs(loss - expected) < 1e-5 * abs(expected)
    assert (gradient - reference).abs().max() < 1e-5 * reference.abs().max()


@pytest.mark.slow
@pytest.mark.ci
def test_compiled_layers_repeat_their_dropout_when_seeded_alike_and_recomputed() -> None:
    compiled, recomputed = student("distilbert", 0.1), student("distilbert", 0.1)
    for model in (compiled, recomputed):
        compile_layers(model, changing_shapes=False)
    recompute_layers(recomputed)
    first = step(compiled)
    compiled.zero_grad()
    assert equal(step(compiled), first) and equal(step(recomputed), first)
    assert not torch.allclose(first[0], step(student("distilbert"))[0])  # it does drop


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_layers_of_all_lengths_and_models_share_few_graphs_when_shapes_change() -> None:
    teacher, model = tiny_model("bert", attention="sdpa").requires_grad_(False), student("bert")
    for each in (teacher, model):
        compile_layers(each, changing_shapes=True)
    torch._dynamo.reset()
    before = graphs()
    for rows in ((12, 7, 9, 3), (10, 4), (17, 5, 2), (6, 8, 9, 9, 20)):
        batch = make_batch(rows)
        for each in (teacher, model):
            each.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0].sum()
    assert graphs() - before == 2


def test_layers_leave_weights_head_and_export_alone_when_compiled_and_recomputed(tmp_path: Path) -> None:
    model, names = student("bert").eval(), list(student("bert").state_dict())
    rows = torch.randn(5, 32)
    expected = apply_head(model, rows)
    compile_layers(model, changing_shapes=False)
    recompute_layers(model)
    before = graphs()
    assert torch.equal(apply_head(model, rows), expected) and graphs() == before
    assert list(model.state_dict()) == names
    export(model, make_tokenizer(), tmp_path / "student")
    loaded = type(model).from_pretrained(tmp_path / "student", trust_remote_code=False)
    ids = make_batch().input_ids
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert graphs() == before


def test_compiler_is_asked_for_in_one_line_when_there_is_none(tmp_path: Path) -> None:
    missing = torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "nowhere"))})
    with missing, pytest.raises(ConfigError) as caught:
        check_compiler(torch.device("cpu"))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("run.compile=True: torch cannot compile on this machine (") and "C++ compiler found" in line
