"""W&B's transaction logs, read back: LevelDB's log format with W&B's protobuf records in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as proto

FILE_HEADER, BLOCK, HEADER = 7, 32768, struct.Struct("<IHB")  # crc, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_log(path: Path) -> Iterator[bytes]:
    """The whole records of a log, up to where a kill cut it off."""
    content, place, parts = path.read_bytes(), FILE_HEADER, b""
    while place + HEADER.size <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER.size:  # a block's end is padded
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        data = content[place + HEADER.size : place + HEADER.size + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(data) < length:
            return
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            yield parts
        place += HEADER.size + length


@dataclass(frozen=True)
class Session:
    """One process's part of a W&B run: a folder with its log."""

    folder: Path

    @cached_property
    def records(self) -> list[proto.Record]:
        """What was logged."""
        (path,) = self.folder.glob("*.wandb")
        return [proto.Record.FromString(data) for data in read_log(path)]

    def _kind(self, name: str) -> list[Any]:
        return [getattr(record, name) for record in self.records if record.WhichOneof("record_type") == name]

    @property
    def id(self) -> str:
        return self._kind("run")[0].run_id

    @property
    def name(self) -> str:
        return self._kind("run")[-1].display_name

    @property
    def group(self) -> str:
        return self._kind("run")[-1].run_group

    @property
    def project(self) -> str:
        return self._kind("run")[0].project

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as sent, last update last."""
        updates = [*(run.config for run in self._kind("run")), *self._kind("config")]
        return {item.key: json.loads(item.value_json) for update in updates for item in update.update if item.key}

    @property
    def summary(self) -> dict[str, Any]:
        """The summary's own updates, nested as W&B nests them."""
        found: dict[str, Any] = {}
        for update in self._kind("summary"):
            for item in update.update:
                *parents, last = item.nested_key or [item.key]
                node = found
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[last] = json.loads(item.value_json)
        return found

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The history's rows; nested values have keys a/b."""
        return [
            {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in row.item}
            for row in self._kind("history")
        ]

    def history(self, metric: str) -> dict[int, float]:
        """Optimizer step -> value."""
        return {row["trainer/global_step"]: row[metric] for row in self.rows if metric in row}

    def last(self, key: str) -> Any:
        """The last logged value."""
        return [row[key] for row in self.rows if key in row][-1]

    @property
    def exit_code(self) -> int | None:
        """0: finished; else failed; None: never closed, which W&B shows as crashed."""
        exits = self._kind("exit")
        return exits[-1].exit_code if exits else None

    @property
    def preempting(self) -> bool:
        return bool(self._kind("preempting"))


def sessions(run_dir: Path) -> list[Session]:
    """A run's sessions in the order they began."""
    folders = [path for path in (run_dir / "wandb").glob("*run-*") if path.is_dir()]
    return [Session(path) for path in sorted(folders, key=lambda path: path.name.removeprefix("offline-"))]
