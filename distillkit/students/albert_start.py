"""How an ALBERT student starts from a BERT: which of its layers each block is made from, the embeddings, the head."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import PreTrainedConfig, PreTrainedModel

from distillkit.albert_shape import group_of
from distillkit.errors import ConfigError
from distillkit.heads import has_order_head
from distillkit.sharing import PARTS
from distillkit.students.layers import check_layers, unused_bert_weights
from distillkit.students.order_head import start_order_head
from distillkit.students.transfer import BuiltStudent, Transfer

_FIT_ROWS = 2**15
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_BERT_MODULES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}
"""A module of an AlbertLayer -> the same of a BertLayer."""


class _Factorization(NamedTuple):
    """What the truncated word embeddings leave: basis [H, E] float64, orthonormal; energy and residual in 0..1."""

    basis: Tensor
    energy: float
    residual: float


def start_from_bert(
    source: PreTrainedModel, student: PreTrainedModel, layers: list[int] | None, *, share: str, first: bool
) -> BuiltStudent:
    """Fills a student from a BERT: what a group has of its own comes from its range of the source layers, what all
    layers share from all of them.

    Args:
        source: a BertForMaskedLM of the student's sizes, but for E and the number of layers.
        student: an ALBERT with a masked-LM head, freshly built.
        layers: the source layers to start from, split evenly into a range for each group; None: all.
        share: as in `build_albert`; the student shares it already.
        first: take the first layer of a range instead of their average.

    Raises:
        ConfigError: the layers are no choice of the source's, or fewer than the groups.
        TeacherError: a weight is missing from the source, or has no place in the student.
    """
    config, total = student.config, source.config.num_hidden_layers
    chosen = list(range(total)) if layers is None else list(layers)
    check_layers(total, chosen)
    ranges = _ranges(chosen, config.num_hidden_groups, share)
    transfer = Transfer(source, student)
    factorization = _transfer_embeddings(transfer, source.config, config, two_segments=has_order_head(student))
    common = {share: chosen[:1] if first else chosen} if share in PARTS else {}
    own = [part[:1] if first else part for part in ranges]
    for group, origins in enumerate(own):
        for part in PARTS:
            if part not in common or group == 0:
                _transfer_part(transfer, group, part, common.get(part, origins))
    _transfer_head(transfer, factorization.basis)
    start_order_head(transfer)
    _leave(transfer, total, {*chain(*own, *common.values())}, share)
    depth = config.num_hidden_layers
    layer_map = {layer: own[group_of(layer, depth, len(own))] for layer in range(depth)}
    return transfer.finish(layer_map, common, factorization.energy, factorization.residual)


def _ranges(chosen: list[int], groups: int, share: str) -> list[list[int]]:
    """The source layers of each group."""
    if groups > len(chosen):
        raise ConfigError(
            f"there are {len(chosen)} source layers to make {groups} groups from",
            key="student.num_groups" if share == "all" else "student.num_layers", value=groups,
            allowed=f"1..{len(chosen)}", fix="set student.init=random" if share != "all" else None,
        )  # fmt: skip
    ranges: list[list[int]] = [[] for _ in range(groups)]
    for index, layer in enumerate(chosen):
        ranges[group_of(index, len(chosen), groups)].append(layer)
    return ranges


def _leave(transfer: Transfer, total: int, used: set[int], share: str) -> None:
    """Accounts for the source weights that nothing was made from."""
    for prefix, reason in unused_bert_weights(total, sorted(used)).items():
        transfer.leave(prefix, reason)
    for layer in used:
        transfer.leave(f"bert.encoder.layer.{layer}.", f"all layers share the {share} of another")


def _transfer_embeddings(
    transfer: Transfer, source: PreTrainedConfig, student: PreTrainedConfig, *, two_segments: bool
) -> _Factorization:
    """Writes the E-wide tables and the E -> H projection; with two_segments the types are `_told_apart`.

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
    tables = {table: weight @ basis for table, weight in zip(_TABLES, (words, positions, types), strict=True)}
    for table, weight in tables.items():
        origin = f"bert.embeddings.{table}.weight"
        told = _told_apart(weight, tables[_TABLES[0]]) if two_segments and table == _TABLES[2] else weight
        moved = "" if told is weight else ", told apart"
        transfer.write(f"albert.embeddings.{table}.weight", told, f"projected (SVD) {origin}{moved}", [origin])
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


def _told_apart(types: Tensor, words: Tensor) -> Tensor:
    """The first two token types moved apart, each by half, until they differ by the mean norm of a word.

    To a source that was trained on rows of one segment its types are nearly one (the demo's teacher: 0.16, with words
    of 1.07), and a student that is given them as they are has not begun to tell the order of two segments after ten
    thousand rows, one with types told apart has after two. That costs a start further from the teacher's
    (docs/how-to/albert.md, with figures).

    Args:
        types: [T, E], T of 2 or more.
        words: [V, E], in the basis of their SVD, the direction in which they differ least last.

    Returns:
        [T, E]: `types` itself where they differ by as much already. Types that are equal part in that last direction.
    """
    apart, wanted = types[1] - types[0], words.norm(dim=1).mean()
    missing = wanted - apart.norm()
    if missing <= 0:
        return types
    way = apart / apart.norm() if apart.norm() > 0 else torch.eye(len(apart), dtype=apart.dtype)[-1]
    return torch.cat([types[:2] + torch.stack([-way, way]) * missing / 2, types[2:]])


def _least_squares(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
    """The affine map that fits outputs [N, H] from inputs [N, E]: [E + 1, H], the bias last; and its residual."""
    design = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    # Normalised inputs sum to zero, so the normal equations are singular: the pseudo-inverse takes the shortest map.
    solution = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ outputs)
    missed = (outputs - design @ solution).norm() / (outputs - outputs.mean(0)).norm()
    return solution, float(missed)


def _transfer_part(transfer: Transfer, group: int, part: str, layers: list[int]) -> None:
    """Writes a part of a group as the average of that of the source layers given."""
    for module in PARTS[part]:
        for kind in ("weight", "bias"):
            origins = [f"bert.encoder.layer.{layer}.{_BERT_MODULES[module]}.{kind}" for layer in layers]
            transfer.write(
                f"albert.encoder.albert_layer_groups.{group}.albert_layers.0.{module}.{kind}",
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
