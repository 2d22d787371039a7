"""Moves weights from a source model into a student and accounts for every one of them, on both sides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.errors import ConfigError, TeacherError

KINDS = ("copied", "folded", "averaged", "projected", "least squares", "tied", "initialised")
"""How a student weight can come about; each entry of a report begins with one of them."""

FROZEN = "; frozen"
"""How the entry of a weight ends that is not trained."""


@dataclass(frozen=True)
class TransferReport:
    """Where each weight of a student comes from, and where each weight of its source went.

    Attributes:
        student: student weight -> "copied from X", "folded X + Y", "tied to X", "initialised: zeros", ...
        source: source weight -> "used in X", "tied to X" or "unused: <reason>".
        layer_map: student layer -> the source layers it was made from; empty when none was.
        shared_map: "attention" or "ffn", where all student layers share it alone -> the source layers it was made from,
            in place of those of layer_map.
        embedding_energy: share of the squared word embeddings that a factorized table keeps, in 0..1.
        embedding_residual: norm of what the factorized embeddings miss of the source's embedding output,
            over the norm of that output around its mean; 0 is exact, 1 is no better than the mean.
    """

    student: dict[str, str]
    source: dict[str, str]
    layer_map: dict[int, list[int]]
    shared_map: dict[str, list[int]] = field(default_factory=dict)
    embedding_energy: float | None = None
    embedding_residual: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values; the keys of `layer_map` become strings, as JSON wants them."""
        return asdict(self) | {"layer_map": {str(layer): origins for layer, origins in self.layer_map.items()}}

    def summary(self) -> list[str]:
        """A few lines a person reads: how many weights came how, which layers, what was left behind."""
        kinds = Counter(_kind(how) for how in self.student.values())
        lines = [f"student: {len(self.student)} weights: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())]
        if frozen := sum(how.endswith(FROZEN) for how in self.student.values()):
            lines.append(f"frozen: {frozen} weights")
        if self.layer_map:
            lines.append("layers: " + ", ".join(f"{k} <- {layer_ranges(v)}" for k, v in self.layer_map.items()))
        lines += [f"{part} of all layers <- {layer_ranges(layers)}" for part, layers in self.shared_map.items()]
        if self.embedding_energy is not None:
            lines.append(f"embeddings: the factorized table keeps {self.embedding_energy:.1%} of the energy")
        if self.embedding_residual is not None:
            lines.append(f"embeddings: {self.embedding_residual:.1%} of the embedding output is missed")
        left: dict[str, list[str]] = {}
        for name, use in self.source.items():
            if "unused: " in use:
                left.setdefault(use.partition("unused: ")[2], []).append(name)
        lines += [f"unused: {len(names)} source weights: {reason}" for reason, names in left.items()]
        return lines


class BuiltStudent(NamedTuple):
    """A student ready to train.

    Attributes:
        model: a stock transformers model with a masked-LM head, float32, in train mode.
        report: the account of its weights.
    """

    model: PreTrainedModel
    report: TransferReport


class Transfer:
    """Fills a freshly built student with weights of a source, keeping the account as it goes.

    Names are those of `state_dict`. A weight that a model ties to an earlier one is never written: it follows its
    owner, and the account says so.

    Args:
        source: the model whose weights are read; left as it is. None: there is none.
        student: the model whose weights are written, in place.
    """

    def __init__(self, source: PreTrainedModel | None, student: PreTrainedModel) -> None:
        self._model = student
        student.tie_weights()
        self._source, self._source_ties = ({}, {}) if source is None else _weights_and_ties(source)
        self._student, self._student_ties = _weights_and_ties(student)
        self._how: dict[str, str] = {}
        self._used: dict[str, list[str]] = {}
        self._unused: dict[str, str] = {}

    @property
    def source_names(self) -> list[str]:
        """Names of every source weight, tied ones included."""
        return list(self._source)

    @property
    def student_names(self) -> list[str]:
        """Names of every student weight, tied ones included."""
        return list(self._student)

    def read(self, origin: str) -> Tensor:
        """A source weight in float32, without gradient.

        Raises:
            TeacherError: the source has no weight of that name.
        """
        if origin not in self._source:
            raise TeacherError(
                f"the source model has no weight {origin}", fix="name a stock checkpoint with a masked-LM head"
            )
        return self._source[origin].detach().float()

    def write(self, target: str, value: Tensor, how: str, origins: Sequence[str]) -> None:
        """Sets a student weight to a value made from `origins`; `how` is what the report says of it.

        Args:
            target: a student weight; nothing happens when the student ties it to another.
            value: the target's shape, any float dtype.
            how: e.g. "folded X + Y".
            origins: the source weights that `value` was made from.

        Raises:
            TeacherError: the shapes differ.
        """
        if target in self._student_ties:
            return
        weight = self._student[target]
        if weight.shape != value.shape:
            raise TeacherError(f"{how}: shape {tuple(value.shape)} does not fit {target} {tuple(weight.shape)}")
        with torch.no_grad():
            weight.copy_(value)
        self._how[target] = how
        for origin in origins:
            self._used.setdefault(self._source_ties.get(origin, origin), []).append(target)

    def copy(self, target: str, origin: str) -> None:
        """Copies one source weight of the same shape."""
        self.write(target, self.read(origin), f"copied from {origin}", [origin])

    def keep_initialised(self, target: str) -> None:
        """Leaves a student weight as its class initialised it, and says from which distribution."""
        if target not in self._student_ties:
            self._how[target] = f"initialised: {_distribution(self._student[target])}"

    def freeze(self, patterns: Sequence[str]) -> None:
        """Keeps weights as they are: no gradient, no place in the optimizer; the report says so.

        Args:
            patterns: regular expressions; a weight one of them is found in the name of is frozen, and whatever is tied
                to it with it. Empty: none.

        Raises:
            ConfigError: not a list, not an expression, found in no name, or nothing is left to train.
        """
        if isinstance(patterns, str):
            raise ConfigError("must be a list", key="student.frozen", value=patterns, fix=f"[{patterns}]")
        for pattern in patterns:
            try:
                chosen = [name for name in self._student if re.search(pattern, name)]
            except re.error as error:
                raise ConfigError(f"not an expression: {error}", key="student.frozen", value=pattern) from None
            if not chosen:
                raise ConfigError(
                    "found in the name of no weight", key="student.frozen", value=pattern, fix="see student in run.json"
                )
            for name in chosen:
                self._student[name].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self._model.parameters()):
            raise ConfigError("nothing is left to train", key="student.frozen", value=[*patterns])

    def leave(self, prefix: str, reason: str) -> None:
        """Notes why the source weights that begin with `prefix` and that no write has used stay unused."""
        for name in self._source:
            if name.startswith(prefix) and name not in self._source_ties and name not in self._used:
                self._unused[name] = f"unused: {reason}"

    def leave_part(self, origin: str, reason: str) -> None:
        """Notes why a part of a source weight stays unused, whether or not the rest is used."""
        self._unused[origin] = f"unused: {reason}"

    def finish(
        self,
        layer_map: dict[int, list[int]],
        shared_map: dict[str, list[int]] | None = None,
        embedding_energy: float | None = None,
        embedding_residual: float | None = None,
    ) -> BuiltStudent:
        """Closes the account.

        Returns:
            BuiltStudent: the student with its report.

        Raises:
            TeacherError: a source weight was neither used nor left for a reason.
            AssertionError: a student weight was never set, an error of the builder.
        """
        how = self._how | {name: f"tied to {owner}" for name, owner in self._student_ties.items()}
        uses = {name: f"tied to {owner}" for name, owner in self._source_ties.items()}
        for name in self._used.keys() | self._unused.keys():
            used = [f"used in {', '.join(self._used[name])}"] if name in self._used else []
            uses[name] = "; ".join(used + ([self._unused[name]] if name in self._unused else []))
        if unset := [name for name in self._student if name not in how]:
            raise AssertionError(f"student weights without an origin: {', '.join(unset)}")
        if unknown := [name for name in self._source if name not in uses]:
            raise TeacherError(
                f"source weights that this student has no place for: {', '.join(unknown)}",
                fix="name a checkpoint of a stock masked-LM class",
            )
        report = TransferReport(
            student={name: how[name] + ("" if w.requires_grad else FROZEN) for name, w in self._student.items()},
            source={name: uses[name] for name in self._source},
            layer_map=layer_map,
            shared_map=shared_map or {},
            embedding_energy=embedding_energy,
            embedding_residual=embedding_residual,
        )
        return BuiltStudent(self._model, report)


def start_randomly(source: PreTrainedModel | None, student: PreTrainedModel) -> BuiltStudent:
    """A student with the weights it was built with, which reads nothing from the source.

    Args:
        source: the model it could have been started from, if there is one; the report says that nothing was.
        student: freshly built.
    """
    transfer = Transfer(source, student)
    for name in transfer.student_names:
        transfer.keep_initialised(name)
    transfer.leave("", "student.init=random")
    return transfer.finish({})


def _weights_and_ties(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's weights by name, and for each name that repeats an earlier tensor that earlier name."""
    weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
    owners: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, tensor in weights.items():
        owner = owners.setdefault(id(tensor), name)
        if owner != name:
            ties[name] = owner
    return weights, ties


def _distribution(weight: Tensor) -> str:
    """What a weight was drawn from, measured: "zeros", "ones", or its standard deviation."""
    values = weight.detach()
    for constant, name in ((0, "zeros"), (1, "ones")):
        if bool((values == constant).all()):
            return name
    return f"random, standard deviation {float(values.std(correction=0)):.3g}"


def _kind(how: str) -> str:
    """The kind of an origin, in the words of the report: "copied from X" -> "copied"."""
    return next(kind for kind in KINDS if how.startswith(kind))


def layer_ranges(layers: list[int]) -> str:
    """Ascending layers in short: [0, 1, 2, 5] -> "0-2+5"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
