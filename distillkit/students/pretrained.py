"""The source itself as the model that is trained: continued pretraining, or a new head on an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AlbertConfig, PreTrainedModel

from distillkit.errors import ConfigError
from distillkit.sharing import SHARE, share_layers
from distillkit.students.layers import copy_config
from distillkit.students.order_head import CLASSIFIER, POOLER, albert_class
from distillkit.students.transfer import BuiltStudent, Transfer


def build_pretrained(
    source: PreTrainedModel,
    *,
    new_head: bool = False,
    dropout: float | None = None,
    frozen: Sequence[str] = (),
    sop: float = 0.0,
) -> BuiltStudent:
    """A copy of the source that shares no tensor with it.

    Args:
        source: any masked-LM model of transformers.
        new_head: start the masked-LM head anew, its decoder tied to the word embeddings.
        dropout: hidden and attention dropout; None: the source's.
        frozen: regular expressions; weights they are found in the names of are not trained.
        sop: weight of sentence-order prediction; above 0 an ALBERT has a head for it, the source's or a fresh one, with
            0 it has none.

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: the dropout is out of range, an expression fits no weight, or sentence order is to be trained and
            the source is no ALBERT.
    """
    config = copy_config(source, dropout)
    config.tie_word_embeddings = config.tie_word_embeddings or new_head
    student = _class(source, sop)(config)
    if part := getattr(config, SHARE, None):
        share_layers(student, part)
    transfer = Transfer(source, student)
    encoder = f"{source.base_model_prefix}."
    for name in transfer.student_names:
        if name in transfer.source_names and (not new_head or name.startswith((encoder, CLASSIFIER))):
            transfer.copy(name, name)
        else:
            transfer.keep_initialised(name)
            transfer.leave(name, "the head is new")
    for prefix in (POOLER, CLASSIFIER):
        transfer.leave(prefix, "sentence order is not trained (loss.sop=0)")
    transfer.freeze(frozen)
    return transfer.finish({layer: [layer] for layer in range(config.num_hidden_layers)})


def _class(source: PreTrainedModel, sop: float) -> type[PreTrainedModel]:
    """The student's class: the source's, but for the head for sentence order."""
    if isinstance(source.config, AlbertConfig):
        return albert_class(sop)
    if sop > 0:
        raise ConfigError(
            f"{source.config.model_type} models have no head for sentence order", key="loss.sop", value=sop,
            allowed="0 for this student", fix="set loss.sop=0, or student=albert",
        )  # fmt: skip
    return type(source)
