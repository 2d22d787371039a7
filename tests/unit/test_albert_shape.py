"""Which sizes and shared parts of an ALBERT fit together; what a start from nothing needs."""

from __future__ import annotations

from typing import Any

import pytest

from distillkit.albert_shape import SIZES, check_complete, check_scratch, check_shape, group_count, group_of
from distillkit.errors import ConfigError

SHAPE: dict[str, Any] = {
    "share": "all", "num_groups": None, "embedding_size": 8, "hidden_size": 32, "num_layers": 4, "num_heads": 4,
    "intermediate_size": 64, "max_positions": 40,
}  # fmt: skip
STUDENT = SHAPE | {"init": "random"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_groups": 4},
        {"num_groups": 1},
        {"embedding_size": 32},
        *({"share": share} for share in ("attention", "ffn", "none")),
        {"share": "ffn", "num_groups": 4},
        {"share": "ffn", "num_groups": 2, "num_layers": None},
        dict.fromkeys(SIZES),
        {"hidden_size": None, "embedding_size": 999},
    ],
)
def test_shape_is_accepted_when_it_fits_or_is_not_known_yet(changes: dict[str, Any]) -> None:
    check_shape(SHAPE | changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": -1}, "num_layers"),
        ({"num_heads": True}, "num_heads"),
        ({"intermediate_size": 64.0}, "intermediate_size"),
        ({"max_positions": "40"}, "max_positions"),
        ({"embedding_size": 33}, "embedding_size"),
        ({"num_groups": 5}, "num_groups"),
        ({"num_heads": 5}, "num_heads"),
        ({"share": "both"}, "share"),
        ({"share": None}, "share"),
        ({"share": "attention", "num_groups": 1}, "num_groups"),
        ({"share": "none", "num_groups": 2}, "num_groups"),
    ],
)
def test_shape_is_refused_with_its_key_when_it_does_not_fit(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shape(SHAPE | changes)
    assert caught.value.key == f"student.{key}" and caught.value.allowed


@pytest.mark.parametrize("missing", SIZES)
def test_complete_names_the_size_when_it_is_missing(missing: str) -> None:
    check_complete(SHAPE)
    with pytest.raises(ConfigError, match=rf"student\.{missing}=None.*student=albert_base"):
        check_complete(SHAPE | {missing: None})


@pytest.mark.parametrize(
    ("student", "tokenizer", "key"),
    [
        ({"num_layers": 3}, "folder", "student.init_from"),
        (STUDENT | {"hidden_size": None}, "folder", "student.init_from"),
        (STUDENT | {"num_heads": None}, "folder", "student.num_heads"),
        (STUDENT | {"init": "average"}, "folder", "student.init"),
        (STUDENT, None, "tokenizer.path"),
    ],
)
def test_scratch_is_refused_with_what_is_missing_when_nothing_gives_it(
    student: dict[str, Any], tokenizer: str | None, key: str
) -> None:
    check_scratch(STUDENT, "folder")
    with pytest.raises(ConfigError) as caught:
        check_scratch(student, tokenizer)
    assert caught.value.key == key and caught.value.fix


@pytest.mark.parametrize(
    ("share", "num_groups", "expected"),
    [("all", None, 1), ("all", 3, 3), ("attention", None, 12), ("ffn", 12, 12), ("none", None, 12)],
)
def test_every_layer_is_a_group_when_layers_keep_a_rest_of_their_own(
    share: str, num_groups: int | None, expected: int
) -> None:
    assert group_count(share, 12, num_groups) == expected


def test_groups_are_the_papers_ranges_when_they_divide_the_layers() -> None:
    assert [group_of(layer, 12, 3) for layer in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
