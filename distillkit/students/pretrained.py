"""The source itself as the model that is trained: continued pretraining, or a new head on an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from distillkit.sharing import SHARE, share_layers
from distillkit.students.layers import copy_config
from distillkit.students.transfer import BuiltStudent, Transfer


def build_pretrained(
    source: PreTrainedModel,
    *,
    new_head: bool = False,
    dropout: float | None = None,
    frozen: Sequence[str] = (),
) -> BuiltStudent:
    """A copy of the source that shares no tensor with it.

    Args:
        source: any masked-LM model of transformers.
        new_head: start the masked-LM head anew, its decoder tied to the word embeddings.
        dropout: hidden and attention dropout; None: the source's.
        frozen: regular expressions; weights they are found in the names of are not trained.

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: the dropout is out of range, or an expression fits no weight.
    """
    config = copy_config(source, dropout)
    config.tie_word_embeddings = config.tie_word_embeddings or new_head
    student = type(source)(config)
    if part := getattr(config, SHARE, None):
        share_layers(student, part)
    transfer = Transfer(source, student)
    encoder = f"{source.base_model_prefix}."
    for name in transfer.student_names:
        if new_head and not name.startswith(encoder):
            transfer.keep_initialised(name)
            transfer.leave(name, "the head is new")
        else:
            transfer.copy(name, name)
    transfer.freeze(frozen)
    return transfer.finish({layer: [layer] for layer in range(config.num_hidden_layers)})
