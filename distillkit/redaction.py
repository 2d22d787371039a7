"""What must not leave the machine: values whose key looks like a secret's, and the folders of this machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from distillkit.errors import ConfigError
from distillkit.rundir import STUDENT

_SECRET = re.compile(
    r"passw(or)?d|passphrase|pwd|secret|credential|bearer|(^|[_-])o?auth(oriz|entic|$|[_-])|tokens?$"
    r"|(api|access|private|wandb)[_-]?key",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"(^|_)(mask|pad|cls|sep|unk|bos|eos|special|added|num|n|min|max|total|new|batch)_tokens?$", re.IGNORECASE
)
"""Tokens of a text, and numbers of them."""
_NAMED = re.compile(r"""([\w-]+)['"]?\s*[:=]""")
"""A name before its value inside a value: {name: value} in YAML, Hydra's grammar or JSON, NAME=value, a header."""
_SIGNED_IN = re.compile(r"\bbearer\s+\S|://[^/@\s]+:[^/@\s]+@", re.IGNORECASE)
"""A secret without a name: an HTTP header's value, or a password in an address."""
_ENTRY = re.compile(r"""((?:^|(?<=[,{]))\s*[\w.-]+:(?!//)\s*)?([^,[\]{}'"]+)""")
"""A value's parts, each with its name in a mapping: a path may hold spaces, but no brackets, commas and quotes."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""What the hub calls a model or a data set, and Hydra a choice: name or owner/name."""
_HUB_KEYS = ("teacher.path", "tokenizer.path", "student.init_from", "data.name")
_PLACE = re.compile(r"(path|dir|file|folder)s?$")


def is_secret(key: str) -> bool:
    """Whether a key (of one name, no dots) looks like that of a token, password, API key or the like."""
    return _SECRET.search(key) is not None and _HARMLESS.search(key) is None


def check_no_secret(node: Any, key: str = "") -> None:
    """Raises ConfigError where nested plain values hold a secret by its key: they become files of a run.

    Args:
        node: the values.
        key: dotted, of the node.
    """
    for name, value in node.items() if isinstance(node, dict) else ():
        place = f"{key}.{name}" if key else str(name)
        if is_secret(str(name)) and isinstance(value, str) and value:
            raise ConfigError("a secret would be written into the run's files", key=place, value="...",
                              fix="set it in the environment, as WANDB_API_KEY or HF_TOKEN")  # fmt: skip
        check_no_secret(value, place)


def without_secrets(node: Any) -> Any:
    """A copy of nested plain values without the keys that look like a secret's."""
    if isinstance(node, dict):
        return {key: without_secrets(value) for key, value in node.items() if not is_secret(str(key))}
    return [without_secrets(value) for value in node] if isinstance(node, list) else node


def last_name(path: str) -> str:
    """The last name of a path; a run's folder instead of "student" below it."""
    names = PurePath(path).parts
    return names[-2] if names[-1:] == (STUDENT,) and names[-2:-1] not in ((), ("/",), ("..",)) else PurePath(path).name


def without_folders(path: str) -> str:
    """A hub's name as it is, anything else by its last name."""
    return path if _NAME.fullmatch(path) else last_name(path)


def shown_commands(commands: Sequence[Sequence[str]], *, paths: bool) -> list[str]:
    """The shell commands that make a run again, in a folder of its own, without words that hold a secret.

    Args:
        commands: the overrides of train, then those of each resume, as typed.
        paths: whether files and folders are shown whole; else by their last names.
    """
    verbs = [["resume", "RUN_DIR"] if number else ["train"] for number in range(len(commands))]
    return [
        shlex.join(["distillkit", *verb, *shown_words(words, paths=paths)])
        for verb, words in zip(verbs, commands, strict=True)
    ]


def shown_words(words: Sequence[str], *, paths: bool, folder: bool = False) -> list[str]:
    """A command's words without those that hold a secret, and without run.dir.

    Args:
        words: as typed.
        paths: as in `shown_commands`.
        folder: keep run.dir: the command is to go on where it was.
    """
    kept = [
        word
        for word in words
        if not _holds_secret(word) and (folder or word.lstrip("+").partition("=")[0] != "run.dir")
    ]
    return kept if paths else list(map(_shown_word, kept))


def _holds_secret(word: str) -> bool:
    key, _, value = word.partition("=")
    names = [*key.lstrip("+~").split("."), *_NAMED.findall(value)]
    return any(map(is_secret, names)) or _SIGNED_IN.search(value) is not None


def _shown_word(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    may_be_a_name = name in _HUB_KEYS or not _PLACE.search(name)

    def shown(entry: re.Match[str]) -> str:
        path = entry[2].strip()
        if "/" not in path or (may_be_a_name and _NAME.fullmatch(path)):
            return entry[0]
        return f"{entry[1] or ''}{last_name(path)}"

    return f"{key}{equals}{_ENTRY.sub(shown, value)}"
