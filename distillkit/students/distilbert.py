"""DistilBERT students: fewer layers of a BERT, no token types, no pooler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from distillkit.errors import ConfigError
from distillkit.students.layers import check_dropout, check_init, choose_layers, unused_bert_weights
from distillkit.students.transfer import BuiltStudent, Transfer, start_randomly

LAYER_NORM_EPS = 1e-12
"""DistilBERT's, fixed in its code."""

_EMBEDDINGS = "bert.embeddings"
_POSITIONS = f"{_EMBEDDINGS}.position_embeddings.weight"
_TOKEN_TYPES = f"{_EMBEDDINGS}.token_type_embeddings.weight"

_OUTER_MODULES = {
    "distilbert.embeddings.LayerNorm": f"{_EMBEDDINGS}.LayerNorm",
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector": "cls.predictions.decoder",
}
_LAYER_MODULES = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def build_distilbert(
    source: PreTrainedModel,
    *,
    num_layers: int | None = None,
    layers: list[int] | None = None,
    init: Literal["teacher", "random"] = "teacher",
    dropout: float | None = None,
) -> BuiltStudent:
    """A DistilBertForMaskedLM started from chosen layers of a BERT.

    Embeddings, their LayerNorm, the layers and the whole masked-LM head are copied. With all layers kept the student
    gives the source's logits (for token type 0). Dropout is the source's, but DistilBERT has none after the attention.

    Args:
        source: a BertForMaskedLM.
        num_layers: layers of the student; None: half of the source's, rounded up.
        layers: the source layers to take; None: spread evenly, first and last included.
        init: "teacher", or "random": fresh weights, and of the source the sizes alone; `layers` then only counts them.
        dropout: hidden and attention dropout; None: the source's.

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: the source is no plain BERT, or an argument is out of range.
        TeacherError: a weight is missing from the source or has no place in the student.

    Source: Sanh et al. 2019, section 3. The original drops the token-type embeddings; folding row 0 into the positions
    leaves the student's input identical to the teacher's.
    """
    check_init(init)
    _check_source(source)
    chosen = choose_layers(source.config.num_hidden_layers, num_layers, layers)
    student = DistilBertForMaskedLM(_config(source, len(chosen), dropout))
    if init == "random":
        return start_randomly(source, student)
    transfer = Transfer(source, student)
    _transfer_tables(transfer)
    for target, origin in _module_pairs(chosen):
        for kind in ("weight", "bias"):
            transfer.copy(f"{target}.{kind}", f"{origin}.{kind}")
    for prefix, reason in unused_bert_weights(source.config.num_hidden_layers, chosen).items():
        transfer.leave(prefix, reason)
    return transfer.finish({index: [layer] for index, layer in enumerate(chosen)})


def _transfer_tables(transfer: Transfer) -> None:
    """Writes the embedding tables, token type 0 folded into the positions."""
    transfer.copy("distilbert.embeddings.word_embeddings.weight", f"{_EMBEDDINGS}.word_embeddings.weight")
    transfer.write(
        "distilbert.embeddings.position_embeddings.weight",
        transfer.read(_POSITIONS) + transfer.read(_TOKEN_TYPES)[0],
        f"folded {_POSITIONS} + {_TOKEN_TYPES}[0]",
        [_POSITIONS, _TOKEN_TYPES],
    )
    transfer.leave_part(_TOKEN_TYPES, "rows from 1 on, DistilBERT has no token types")


def _module_pairs(chosen: list[int]) -> Iterator[tuple[str, str]]:
    """Every module with a weight and a bias, as (student's, source's) path."""
    yield from _OUTER_MODULES.items()
    for index, layer in enumerate(chosen):
        for target, origin in _LAYER_MODULES.items():
            yield f"distilbert.transformer.layer.{index}.{target}", f"bert.encoder.layer.{layer}.{origin}"


def _check_source(source: PreTrainedModel) -> None:
    """Refuses a source that DistilBERT's architecture cannot reproduce."""
    config = source.config
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    if config.model_type != "bert" or not absolute or config.layer_norm_eps != LAYER_NORM_EPS or config.is_decoder:
        raise ConfigError(
            f"the source is a {config.model_type} model that DistilBERT cannot reproduce",
            key="student",
            value="distilbert",
            allowed=f"bert encoders with absolute positions and layer_norm_eps {LAYER_NORM_EPS:g}",
            fix="use student=shallow, which keeps the source's class",
        )


def _config(source: PreTrainedModel, num_layers: int, dropout: float | None) -> DistilBertConfig:
    """DistilBERT's config in the source's sizes."""
    check_dropout(dropout)
    config = source.config
    return DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        n_layers=num_layers,
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        dropout=config.hidden_dropout_prob if dropout is None else dropout,
        attention_dropout=config.attention_probs_dropout_prob if dropout is None else dropout,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )
