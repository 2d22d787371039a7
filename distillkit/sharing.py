"""ALBERT models whose layers share their attention or their feed-forward part, each keeping a rest of its own.

Such a model is a stock AlbertModel with several layer groups, of which the later ones use modules of the first. Its
folder holds the weights of every group, so that plain transformers loads it; `student_share` in its config.json says
what distillkit shares again.
"""

from __future__ import annotations

from torch import Tensor
from transformers import AlbertModel, PreTrainedModel

from distillkit.errors import TeacherError

SHARE = "student_share"
"""The key of config.json that names the shared part."""

PARTS = {
    # its modules rather than the whole: transformers would put its hooks for output_attentions on that several times
    "attention": tuple(f"attention.{name}" for name in ("query", "key", "value", "dense", "LayerNorm")),
    "ffn": ("ffn", "ffn_output", "full_layer_layer_norm"),
}
"""The modules of an AlbertLayer that a shared part consists of."""

_GROUPS = ".albert_layer_groups."
"""In the name of every weight of a layer group, whatever the model's head."""


def share_layers(model: PreTrainedModel, part: str) -> None:
    """Makes all layer groups use one part of the first group, and notes the part in the model's config.

    Args:
        model: with an AlbertModel as its base; changed in place. Optimizers made before lose track of its weights.
        part: one of PARTS. What the later groups had of it is gone.

    Raises:
        TeacherError: no such part, or another kind of model.

    Source: Lan et al. 2019, the ablation of cross-layer sharing.
    """
    body = model.base_model
    for copy, original in _copies(model, part).items():
        body.set_submodule(copy, body.get_submodule(original))
    setattr(model.config, SHARE, part)


def restore_sharing(model: PreTrainedModel, *, key: str = "teacher.path") -> None:
    """Shares again what a stored model shared; nothing happens when its config names no part.

    Args:
        model: of any class, with all weights of its folder; changed in place.
        key: the configuration key to blame.

    Raises:
        TeacherError: its config names a part that it cannot share, or the groups differ in it.
    """
    part = getattr(model.config, SHARE, None)
    if part is None:
        return
    body = model.base_model
    for copy, original in _copies(model, part, key).items():
        first = body.get_submodule(original).state_dict()
        for name, weight in body.get_submodule(copy).state_dict().items():
            if not weight.equal(first[name]):
                raise TeacherError(
                    f"its config.json says that the layers share their {part}, but {copy}.{name} is not that of the"
                    " first: it was trained unshared", key=key, value=model.name_or_path,
                    fix=f"remove {SHARE} from its config.json",
                )  # fmt: skip
    share_layers(model, part)


def unshared_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict as `save_pretrained(state_dict=...)` takes it: that refuses tensors shared between layers.

    Args:
        model: any; tensors that its class ties stay as they are, since transformers stores those once.

    Returns:
        Its weights; those of layer groups are copies when the groups share a part.
    """
    weights = model.state_dict()
    if getattr(model.config, SHARE, None) is None:
        return weights
    return {name: value.clone() if _GROUPS in name else value for name, value in weights.items()}


def stored_parameters(model: PreTrainedModel) -> int:
    """Parameters that the model's folder holds: each distinct weight once, but a shared part once for each layer group.

    Args:
        model: any.
    """
    repeated = getattr(model.config, SHARE, None) is not None
    sizes = {
        name if repeated and _GROUPS in name else id(weight): weight.numel()
        for name, weight in model.named_parameters(remove_duplicate=False)
    }
    return sum(sizes.values())


def _copies(model: PreTrainedModel, part: str, key: str | None = None) -> dict[str, str]:
    """Paths within the base model: of each later group's module of a part -> of the first group's."""
    if not isinstance(model.base_model, AlbertModel) or part not in list(PARTS):  # a config.json may say []
        raise TeacherError(
            f"{model.config.model_type} models cannot share {part!r} across their layers", key=key,
            value=model.name_or_path if key else None, allowed=f"{', '.join(PARTS)} of an albert model",
        )  # fmt: skip
    path = "encoder.albert_layer_groups.{}.albert_layers.{}.{}"
    return {
        path.format(group, layer, module): path.format(0, layer, module)
        for group in range(1, model.config.num_hidden_groups)
        for layer in range(model.config.inner_group_num)
        for module in PARTS[part]
    }
