"""Finding a corpus's files and judging them before anything is built from them; nothing here loads a whole file."""

from __future__ import annotations

import codecs
import glob
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from distillkit.errors import DataError

_PIECE = 2**20


def find_files(path: str | Path | Sequence[str | Path], *, suffixes: tuple[str, ...], key: str) -> list[Path]:
    """The files a user means, sorted, each once.

    Args:
        path: a file, a folder (its files with the suffixes, hidden ones left out), a glob, a list of these, or one
            string with commas between them; `~` is expanded.
        suffixes: which files of a folder count, e.g. (".txt",).
        key: the configuration key to name in an error.

    Raises:
        DataError: something named does not exist or matches nothing.
    """
    if isinstance(path, str) and not Path(path).expanduser().exists():
        path = [part.strip() for part in path.split(",")]
    parts = [path] if isinstance(path, str | Path) else path
    return sorted({file for part in parts for file in _expand(Path(part).expanduser(), suffixes, key)})


def _expand(path: Path, suffixes: tuple[str, ...], key: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [file for file in path.rglob("*") if file.suffix in suffixes and file.is_file()]
        found = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        problem = f"the folder holds no {' or '.join(suffixes)} file"
        fix = "name the files with a glob, e.g. 'folder/*.raw'"
    elif glob.has_magic(str(path)):
        found = [Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file()]
        problem, fix = "no file matches", "check the pattern; relative paths start at the current folder"
    else:
        found, problem, fix = [], "no such file or folder", "check the path; relative ones start at the current folder"
    if not found:
        raise DataError(problem, key=key, value=path, fix=fix)
    return found


def digest(path: Path, *, key: str = "data.path") -> str:
    """SHA-256 of a file's contents, hex; DataError naming `key` when it cannot be read."""
    sha = hashlib.sha256()
    for piece in _pieces(path, key):
        sha.update(piece)
    return sha.hexdigest()


def check_text(path: Path, *, key: str) -> None:
    """Read a file once and accept it as UTF-8 text.

    Raises:
        DataError: it holds a NUL byte or invalid UTF-8, naming byte offset and line (both as editors and dd count:
            the offset from 0, the line from 1); or it cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines = 0, 1
    for piece in _pieces(path, key, end=True):
        pending = decoder.getstate()[0]  # the begun character at the end of the piece before
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            at = offset - len(pending) + error.start
            line = lines + (pending + piece).count(b"\n", 0, error.start)
            raise DataError(
                f"invalid UTF-8 at byte {at} (line {line})",
                key=key,
                value=path,
                allowed="UTF-8 text",
                fix="convert it, e.g. with iconv -t utf-8, or leave the file out",
            ) from None
        if (found := piece.find(b"\0")) >= 0:
            raise DataError(
                f"NUL byte at byte {offset + found} (line {lines + piece.count(bytes([10]), 0, found)}): binary, "
                "compressed or UTF-16",
                key=key,
                value=path,
                allowed="UTF-8 text",
                fix="decompress it, convert it to UTF-8, or leave the file out",
            )
        offset += len(piece)
        lines += piece.count(b"\n")


def check_not_empty(files: Sequence[Path], *, key: str) -> None:
    """Raise DataError when all the files together hold no byte."""
    if not any(file.stat().st_size for file in files):
        raise DataError("empty", key=key, value=", ".join(map(str, files[:3])), fix="give a file with text in it")


def _pieces(path: Path, key: str, *, end: bool = False) -> Iterator[bytes]:
    """Pieces of 1 MB; with `end`, an empty one after the last."""
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", key=key, value=path, fix="check its permissions"
        ) from error
    if end:
        yield b""
