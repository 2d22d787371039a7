"""metrics.csv: every logged figure of a run, appended to and readable at any time."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from distillkit.rundir import read_metrics
from distillkit.storage import append_text, write_text


class MetricsFile(Logger):
    """A CSV table, one row per logging call, that a resumed run continues.

    Lightning's CSVLogger deletes the file it finds, which would lose the figures before a resume.

    Args:
        path: of the table; columns are `step` and the metrics' names.
        resumed_step: rows beyond this optimizer step are dropped, since they will be made again.
    """

    def __init__(self, path: str | Path, resumed_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        rows = read_metrics(self.path) if resumed_step is not None else []
        self._rows = [row for row in rows if int(row["step"]) <= (resumed_step or 0)]
        self._fields = list(dict.fromkeys(["step", *(name for row in self._rows for name in row)]))
        self._written = False

    @property
    def name(self) -> str:
        """Of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """None to speak of."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends a row; the whole table is rewritten when a new name appears."""
        row = {"step": str(step), **{name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}}
        self._rows.append(row)
        new = [name for name in row if name not in self._fields]
        self._fields += new
        if new or not self._written:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, self._as_csv(self._rows, header=True))
            self._written = True
        else:
            append_text(self.path, self._as_csv([row], header=False))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    def _as_csv(self, rows: list[dict[str, str]], *, header: bool) -> str:
        text = io.StringIO()
        table = csv.DictWriter(text, self._fields, lineterminator="\n")
        if header:
            table.writeheader()
        table.writerows(rows)
        return text.getvalue()
