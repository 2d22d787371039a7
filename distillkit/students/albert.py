"""ALBERT students: a factorized embedding, and parameters shared across layers."""

from __future__ import annotations

from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import AlbertConfig, PreTrainedConfig, PreTrainedModel

from distillkit.errors import ConfigError, TeacherError
from distillkit.students.layers import check_dropout, check_layers, unused_bert_weights
from distillkit.students.order_head import MIN_TYPES, albert_class, start_order_head
from distillkit.students.transfer import BuiltStudent, Transfer, start_randomly

MAX_EMBEDDING_SIZE = 128
"""The paper's E, the default where the source's sizes allow it."""

LAYER_NORM_EPS = 1e-12
"""ALBERT's own, for sources that state none."""

_FIT_ROWS = 2**15
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_BLOCK_MODULES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}


class _Factorization(NamedTuple):
    """What the truncated word embeddings leave: basis [H, E] float64, orthonormal; energy and residual in 0..1."""

    basis: Tensor
    energy: float
    residual: float


def build_albert(
    source: PreTrainedModel,
    *,
    embedding_size: int | None = None,
    num_layers: int | None = None,
    num_groups: int = 1,
    init: Literal["average", "first", "random"] = "average",
    layers: list[int] | None = None,
    dropout: float | None = None,
    sop: float = 0.0,
) -> BuiltStudent:
    """An AlbertForMaskedLM in the source's sizes, started from its weights.

    Args:
        source: a BertForMaskedLM; with init="random" any masked-LM model, which then gives the sizes only.
        embedding_size: E of the word, position and token-type tables; None: min(128, H, V).
        num_layers: layers of the student, each a use of a shared block; None: the source's number.
        num_groups: distinct blocks; student layer i uses block int(i / (L / G)).
        init: a block is the average of its range of source layers, the first of them, or (with all else) random.
        layers: the source layers that the blocks come from, split evenly into ranges; None: all.
        dropout: hidden and attention dropout; None: the source's.
        sop: weight of sentence-order prediction; above 0 an AlbertForPreTraining, which has a head for it.

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: an argument is out of range, or the source's class can only give a random start.
        TeacherError: a weight or a size is missing from the source, or a weight has no place in the student.

    Source: Lan et al. 2019, section 3.1. The paper trains from scratch; starting from a BERT's weights is ours.
    """
    config = _config(source, embedding_size, num_layers, num_groups, dropout)
    _check_start(source, init, layers)
    if sop > 0:
        config.type_vocab_size = max(config.type_vocab_size, MIN_TYPES)
    student = albert_class(sop)(config)
    if init == "random":
        return start_randomly(source, student)
    return _start_from_bert(source, student, _source_layers(source, layers, num_groups, init))


def _check_start(source: PreTrainedModel, init: str, layers: list[int] | None) -> None:
    """Refuses a start that is unknown, or that the source cannot give."""
    if init not in ("average", "first", "random"):
        raise ConfigError("no such start", key="student.init", value=init, allowed="average, first, random")
    if init == "random" and layers is not None:
        raise ConfigError(
            "a random start takes no layers", key="student.layers", value=layers, fix="set student.init=average"
        )
    if init != "random" and source.config.model_type != "bert":
        raise ConfigError(
            f"the weights of a {source.config.model_type} model do not fit ALBERT's blocks",
            key="student.init",
            value=init,
            allowed="random",
            fix="set student.init=random, or use student=shallow",
        )


def _start_from_bert(source: PreTrainedModel, student: PreTrainedModel, blocks: list[list[int]]) -> BuiltStudent:
    """The student, its shared block g averaging the source layers blocks[g]."""
    config: Any = student.config
    transfer = Transfer(source, student)
    factorization = _transfer_embeddings(transfer, source.config, config)
    for group, layers in enumerate(blocks):
        _transfer_block(transfer, group, layers)
    _transfer_head(transfer, factorization.basis)
    start_order_head(transfer)
    for prefix, reason in unused_bert_weights(source.config.num_hidden_layers, list(chain(*blocks))).items():
        transfer.leave(prefix, reason)
    depth = config.num_hidden_layers
    layer_map = {layer: blocks[_group(layer, depth, len(blocks))] for layer in range(depth)}
    return transfer.finish(layer_map, factorization.energy, factorization.residual)


def _group(layer: int, layers: int, groups: int) -> int:
    """The block of a layer, in the float arithmetic of transformers' AlbertTransformer so that both always agree."""
    return int(layer / (layers / groups))


def _source_layers(source: PreTrainedModel, layers: list[int] | None, groups: int, init: str) -> list[list[int]]:
    """The source layers that each block is made from."""
    total = source.config.num_hidden_layers
    chosen = list(range(total)) if layers is None else list(layers)
    check_layers(total, chosen)
    if groups > len(chosen):
        raise ConfigError(
            f"there are {len(chosen)} source layers to make blocks from",
            key="student.num_groups",
            value=groups,
            allowed=f"1..{len(chosen)}",
        )
    ranges: list[list[int]] = [[] for _ in range(groups)]
    for index, layer in enumerate(chosen):
        ranges[_group(index, len(chosen), groups)].append(layer)
    return ranges if init == "average" else [origins[:1] for origins in ranges]


def _transfer_embeddings(transfer: Transfer, source: PreTrainedConfig, student: AlbertConfig) -> _Factorization:
    """Writes the E-wide tables and the E -> H projection.

    The tables are the source's in the basis of the truncated SVD of its word embeddings. The projection is the least
    squares fit of the source's embedding output by that of the student, over word v at position v mod P, token type
    0: ALBERT's LayerNorm sits before the projection and BERT's after it, so that no projection is exact.
    """
    words, positions, types = (transfer.read(f"bert.embeddings.{table}.weight").double() for table in _TABLES)
    more = student.type_vocab_size - len(types)  # where two segments are to be told apart and the source knows one
    types = torch.cat([types, types[-1:].expand(more, -1)])
    # Eigenvectors of the Gram matrix are the right singular vectors, at a fraction of the cost of an SVD of [V, H].
    values, vectors = torch.linalg.eigh(words.T @ words)
    basis = vectors[:, -student.embedding_size :].flip(1)
    for table, weight in zip(_TABLES, (words, positions, types), strict=True):
        origin = f"bert.embeddings.{table}.weight"
        transfer.write(f"albert.embeddings.{table}.weight", weight @ basis, f"projected (SVD) {origin}", [origin])
    for kind in ("weight", "bias"):
        transfer.keep_initialised(f"albert.embeddings.LayerNorm.{kind}")
    rows = torch.linspace(0, len(words) - 1, min(len(words), _FIT_ROWS)).long()
    inputs = words[rows] + positions[rows % len(positions)] + types[0]
    norm = [f"bert.embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")]
    weight, bias = (transfer.read(name).double() for name in norm)
    outputs = layer_norm(inputs, weight.shape, weight, bias, source.layer_norm_eps)
    projected = layer_norm(inputs @ basis, (student.embedding_size,), eps=student.layer_norm_eps)
    solution, residual = _least_squares(projected, outputs)
    origins = [f"bert.embeddings.{table}.weight" for table in _TABLES] + norm
    how = "least squares on the embedding output of the source"
    for kind, value in (("weight", solution[:-1].T), ("bias", solution[-1])):
        transfer.write(f"albert.encoder.embedding_hidden_mapping_in.{kind}", value, how, origins)
    kept = values[-student.embedding_size :].sum() / values.sum()
    return _Factorization(basis, float(kept), residual)


def _least_squares(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
    """The affine map that fits outputs [N, H] from inputs [N, E]: [E + 1, H], the bias last; and its residual."""
    design = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    # Normalised inputs sum to zero, so the normal equations are singular: the pseudo-inverse takes the shortest map.
    solution = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ outputs)
    missed = (outputs - design @ solution).norm() / (outputs - outputs.mean(0)).norm()
    return solution, float(missed)


def _transfer_block(transfer: Transfer, group: int, layers: list[int]) -> None:
    """Writes one shared block as the average of the source layers given."""
    for target, origin in _BLOCK_MODULES.items():
        for kind in ("weight", "bias"):
            origins = [f"bert.encoder.layer.{layer}.{origin}.{kind}" for layer in layers]
            transfer.write(
                f"albert.encoder.albert_layer_groups.{group}.albert_layers.0.{target}.{kind}",
                torch.stack([transfer.read(name) for name in origins]).mean(0),
                f"copied from {origins[0]}" if len(origins) == 1 else f"averaged {', '.join(origins)}",
                origins,
            )


def _transfer_head(transfer: Transfer, basis: Tensor) -> None:
    """Writes the masked-LM head: the source's, seen in the basis of the word table.

    The decoder then scores as the source's does wherever the LayerNorm gives the projected output of the source's. Its
    bias is projected, and its gain is the root of the summed squares, as for independent inputs. On the six-layer
    MiniLM this gave the lowest held-out loss at step 0 (8.81, against 8.98 with a plain LayerNorm and 9.99 with a
    random head), and 6.12 against 6.80 and 10.27 on the teacher's own hidden states.
    """
    head = "cls.predictions"
    for kind in ("weight", "bias"):
        origin = f"{head}.transform.dense.{kind}"
        value = basis.T @ transfer.read(origin).double()
        transfer.write(f"predictions.dense.{kind}", value, f"projected (SVD) {origin}", [origin])
    gain, bias = (f"{head}.transform.LayerNorm.{kind}" for kind in ("weight", "bias"))
    spread = (basis.T.square() @ transfer.read(gain).double().square()).sqrt()
    transfer.write("predictions.LayerNorm.weight", spread, f"projected (SVD, root of squares) {gain}", [gain])
    shift = basis.T @ transfer.read(bias).double()
    transfer.write("predictions.LayerNorm.bias", shift, f"projected (SVD) {bias}", [bias])
    decoder = f"{head}.decoder.weight"
    scores = transfer.read(decoder).double() @ basis
    transfer.write("predictions.decoder.weight", scores, f"projected (SVD) {decoder}", [decoder])
    for target in ("predictions.bias", "predictions.decoder.bias"):
        transfer.copy(target, f"{head}.decoder.bias")


def _config(
    source: PreTrainedModel, embedding_size: int | None, num_layers: int | None, num_groups: int, dropout: float | None
) -> AlbertConfig:
    """ALBERT's config in the source's sizes; every value is given, since AlbertConfig's defaults are xxlarge."""
    config = source.config
    check_dropout(dropout)
    width = min(MAX_EMBEDDING_SIZE, config.hidden_size, config.vocab_size) if embedding_size is None else embedding_size
    depth = config.num_hidden_layers if num_layers is None else num_layers
    for key, value, most in (
        ("student.embedding_size", width, config.hidden_size),
        ("student.num_layers", depth, None),
        ("student.num_groups", num_groups, depth),
    ):
        if value < 1 or (most is not None and value > most):
            allowed = "1 or more" if most is None else f"1..{most}"
            raise ConfigError("out of range", key=key, value=value, allowed=allowed)
    hidden_dropout = _read(config, "hidden_dropout_prob", "dropout", "mlp_dropout")
    attention_dropout = _read(config, "attention_probs_dropout_prob", "attention_dropout")
    return AlbertConfig(
        vocab_size=config.vocab_size,
        embedding_size=width,
        hidden_size=config.hidden_size,
        num_hidden_layers=depth,
        num_hidden_groups=num_groups,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=_read(config, "intermediate_size", "hidden_dim"),
        hidden_act=_read(config, "hidden_act", "activation", "hidden_activation"),
        hidden_dropout_prob=hidden_dropout if dropout is None else dropout,
        attention_probs_dropout_prob=attention_dropout if dropout is None else dropout,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=max(_read(config, "type_vocab_size", default=1), 1),
        initializer_range=config.initializer_range,
        layer_norm_eps=_read(config, "layer_norm_eps", "norm_eps", default=LAYER_NORM_EPS),
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )


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
