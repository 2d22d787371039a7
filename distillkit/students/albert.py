"""ALBERT students: a factorized embedding, and parameters shared across layers."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from transformers import AlbertConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from distillkit.albert_shape import check_complete, check_shape, group_count
from distillkit.errors import ConfigError, TeacherError
from distillkit.sharing import PARTS, share_layers
from distillkit.students.albert_start import start_from_bert
from distillkit.students.layers import check_dropout
from distillkit.students.order_head import MIN_TYPES, albert_class
from distillkit.students.transfer import BuiltStudent, start_randomly

MAX_EMBEDDING_SIZE = 128
"""The paper's E, the default where the other sizes allow it."""

LAYER_NORM_EPS = 1e-12
"""ALBERT's own, for sources that state none."""

POSITIONS = 512
"""Of the published ALBERTs; what a student without a source gets."""

_KEYS = {
    "embedding_size": "embedding_size",
    "num_layers": "num_hidden_layers",
    "num_groups": "num_hidden_groups",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
"""A key under student -> its name in AlbertConfig."""


def build_albert(
    source: PreTrainedModel | None,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    share: Literal["all", "attention", "ffn", "none"] = "all",
    num_groups: int | None = None,
    embedding_size: int | None = None,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
    activation: str | None = None,
    max_positions: int | None = None,
    init: Literal["average", "first", "random"] = "average",
    layers: list[int] | None = None,
    dropout: float | None = None,
    sop: float = 0.0,
) -> BuiltStudent:
    """An AlbertForMaskedLM, started from a source's weights or at random. A size that is None is the source's.

    Args:
        source: a BertForMaskedLM; with init="random" any masked-LM model, which then gives sizes only, or None.
        tokenizer: gives the vocabulary and the special tokens where there is no source.
        share: what all layers share: "all" of their weights, their "attention" or their "ffn" (each with its
            LayerNorm), or "none". A part alone is shared on a stock model (`sharing.share_layers`).
        num_groups: with share="all" distinct blocks, None: one; student layer i uses block int(i / (L / G)). Otherwise
            every layer is a group of its own, and it must be None or the number of layers.
        embedding_size: E of the word, position and token-type tables; None: min(128, H, V).
        hidden_size, num_layers, num_heads, intermediate_size: H, L, attention heads, width of the feed-forward part.
        activation: of the feed-forward part and the head, as transformers calls it; without a source gelu_new.
        max_positions: longest row; without a source 512.
        init: what a weight starts from, see `albert_start`; "random" is ALBERT's own draw.
        layers: the source layers to start from; None: all.
        dropout: hidden and attention dropout; without a source 0.
        sop: weight of sentence-order prediction; above 0 an AlbertForPreTraining, which has a head for it, with token
            types that differ at least as much as a word's norm (`albert_start`).

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: an argument is out of range, or the source's class or size can only give a random start.
        TeacherError: a weight or a size is missing from the source, or a weight has no place in the student.

    Source: Lan et al. 2019, sections 3.1 and 4.5; the random start as in its code (truncated normal). The paper trains
    from scratch; starting from a BERT's weights is ours.
    """
    asked = {
        "embedding_size": embedding_size, "num_layers": num_layers, "num_groups": num_groups, "share": share,
        "hidden_size": hidden_size, "num_heads": num_heads, "intermediate_size": intermediate_size,
        "max_positions": max_positions,
    }  # fmt: skip
    check_dropout(dropout)
    if activation is not None and activation not in ACT2FN:
        raise ConfigError("no such activation", key="student.activation", value=activation, allowed=", ".join(ACT2FN))
    config = _config(source, tokenizer, asked, activation, dropout)
    _check_start(source, config, init, layers)
    if sop > 0:
        config.type_vocab_size = max(config.type_vocab_size, MIN_TYPES)
    student = _new_model(albert_class(sop), config, share)
    if init == "random" or source is None:
        _draw(student)
        return start_randomly(source, student)
    return start_from_bert(source, student, layers, share=share, first=init == "first")


def _new_model(kind: type[PreTrainedModel], config: AlbertConfig, share: str) -> PreTrainedModel:
    """A model of a class, its layers sharing what they are to share."""
    model = kind(config)
    if share in PARTS:
        share_layers(model, share)
    return model


def _draw(model: PreTrainedModel) -> None:
    """Draws every matrix from a normal distribution cut off at two deviations, as ALBERT's code does; transformers does
    not cut. Biases stay 0 and gains 1."""
    deviation = model.config.initializer_range
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def _check_start(source: PreTrainedModel | None, config: AlbertConfig, init: str, layers: list[int] | None) -> None:
    """Refuses a start that is unknown, or that the source cannot give."""
    if init not in ("average", "first", "random"):
        raise ConfigError("no such start", key="student.init", value=init, allowed="average, first, random")
    if init == "random":
        if layers is not None:
            fix = "set student.init=average"
            raise ConfigError("a random start takes no layers", key="student.layers", value=layers, fix=fix)
        return
    if source is None or source.config.model_type != "bert":
        reason = f"the weights of a {source.config.model_type} model do not fit ALBERT's blocks" if source else None
        raise ConfigError(
            reason or "there are no weights to start from", key="student.init", value=init, allowed="random",
            fix="set student.init=random" + (", or use student=shallow" if source else ""),
        )  # fmt: skip
    for key in ("hidden_size", "num_heads", "intermediate_size", "max_positions"):
        own, theirs = getattr(config, _KEYS[key]), getattr(source.config, _KEYS[key])
        if own != theirs:
            raise ConfigError(
                f"the source's weights have another size, so that student.init={init} cannot start from them",
                key=f"student.{key}", value=own, allowed=str(theirs), fix="set student.init=random",
            )  # fmt: skip


# --- the configuration -------------------------------------------------------------------------------------------


def _config(
    source: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerFast | None,
    asked: dict[str, Any],
    activation: str | None,
    dropout: float | None,
) -> AlbertConfig:
    """ALBERT's configuration: what was asked for, the rest from the source, or from the tokenizer and the paper."""
    given = {_KEYS[key]: value for key, value in asked.items() if value is not None and key in _KEYS}
    given |= {} if activation is None else {"hidden_act": activation}
    if dropout is not None:
        given |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if source is None:
        check_complete(asked)
    values = (_without_source(tokenizer) if source is None else _of_source(source.config)) | given
    values.setdefault("embedding_size", min(MAX_EMBEDDING_SIZE, values["hidden_size"], values["vocab_size"]))
    check_shape(asked | {key: values[name] for key, name in _KEYS.items() if name in values})
    groups = group_count(asked["share"], values["num_hidden_layers"], asked["num_groups"])
    return AlbertConfig(**values | {"num_hidden_groups": groups})


def _of_source(config: PreTrainedConfig) -> dict[str, Any]:
    """Every value of AlbertConfig that a source gives; AlbertConfig's own defaults are xxlarge."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": _read(config, "intermediate_size", "hidden_dim"),
        "hidden_act": _read(config, "hidden_act", "activation", "hidden_activation"),
        "hidden_dropout_prob": _read(config, "hidden_dropout_prob", "dropout", "mlp_dropout"),
        "attention_probs_dropout_prob": _read(config, "attention_probs_dropout_prob", "attention_dropout"),
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": max(_read(config, "type_vocab_size", default=1), 1),
        "initializer_range": config.initializer_range,
        "layer_norm_eps": _read(config, "layer_norm_eps", "norm_eps", default=LAYER_NORM_EPS),
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _without_source(tokenizer: PreTrainedTokenizerFast | None) -> dict[str, Any]:
    """The paper's values and the tokenizer's vocabulary."""
    if tokenizer is None:
        raise ConfigError("without a teacher a tokenizer gives the vocabulary", key="tokenizer.path", value=None)
    return {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": LAYER_NORM_EPS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _read(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of several spellings that a config has, else the default.

    Raises:
        TeacherError: it has none of them, and there is no default.
    """
    for name in names:
        if hasattr(config, name):
            return getattr(config, name)
    if default is not None:
        return default
    raise TeacherError(f"the config of the {config.model_type} source has none of {', '.join(names)}")
