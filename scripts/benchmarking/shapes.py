"""The shapes that are measured: a teacher, its student, and the arithmetic that no step of theirs can leave out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedConfig, PreTrainedModel

from distillkit.demo_teacher import demo_model
from distillkit.students.distilbert import build_distilbert


class Models(NamedTuple):
    """A teacher in eval mode without gradients and a student in train mode, both in float32."""

    teacher: PreTrainedModel
    student: PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """What is distilled into what, and in which batches.

    Attributes:
        name: on the command line.
        student_layers: of the teacher's.
        rows: of a batch.
        length: longest row in tokens.
        sizes: of the teacher's BertConfig where they are not BERT-base's.
        demo: whether the teacher is the demo's instead of a random one of the same sizes.
    """

    name: str
    student_layers: int
    rows: int
    length: int
    sizes: dict[str, Any] = field(default_factory=dict)
    demo: bool = False

    def models(self, dropout: float, vocabulary: int | None = None) -> Models:
        """The two models, the same on every call.

        Args:
            dropout: of the student.
            vocabulary: another size than the shape's own; the weights are random then.
        """
        torch.manual_seed(0)
        if self.demo and vocabulary is None:
            teacher: PreTrainedModel = demo_model()
        else:
            sizes = self.sizes if vocabulary is None else self.sizes | {"vocab_size": vocabulary}
            # the usual 0.02 gives logits near 0: all soft targets are alike, and a wrong term would go unseen
            teacher = BertForMaskedLM(BertConfig(**sizes, initializer_range=_SCALE))
        student = build_distilbert(teacher, num_layers=self.student_layers, dropout=dropout).model
        return Models(teacher.eval().requires_grad_(False), student.train())


_SCALE = 0.04
_SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 1, rows=8, length=64, sizes=_TINY),  # to try the script itself
        Shape("small", 3, rows=16, length=128, sizes=_SMALL, demo=True),
        Shape("base", 6, rows=16, length=128),
    )
}


def useful_flops(teacher: PreTrainedConfig, student: PreTrainedConfig, lengths: Iterable[int], positions: int) -> float:
    """Operations of a step that no implementation can leave out; a multiply-add counts as two.

    The teacher's forward pass and three times the student's (forward, gradients of inputs and of weights) over the
    tokens that are there, and both heads at the positions that carry a loss.

    Args:
        teacher, student: configurations of a BERT and a DistilBERT.
        lengths: tokens of each row, without padding.
        positions: those with a loss.
    """
    rows = list(lengths)
    return sum(
        passes * (sum(encoder_flops(config, tokens) for tokens in rows) + positions * _head_flops(config))
        for passes, config in ((1, teacher), (3, student))
    )


def encoder_flops(config: PreTrainedConfig, tokens: int) -> float:
    """Of one pass over a row: four projections, two of the feed-forward part, the attention's scores and values."""
    width = config.hidden_size
    inner = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return config.num_hidden_layers * tokens * (8 * width**2 + 4 * width * inner + 4 * tokens * width)


def _head_flops(config: PreTrainedConfig) -> float:
    """Of one position: the transform and the decoder."""
    return 2 * config.hidden_size**2 + 2 * config.hidden_size * config.vocab_size
