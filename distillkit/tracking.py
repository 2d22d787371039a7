"""A run's life in Weights & Biases: opened with its configuration, closed with its figures and how it ended.

Lightning's WandbLogger sends the metrics in between. wandb is imported here only, and only when a run uses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from distillkit.errors import Preempted
from distillkit.redaction import without_secrets
from distillkit.rundir import EVALUATION, METRICS, read_metrics

_TEARDOWN_SECONDS = 5.0
_REPORT, _FIGURES = "report.html", "figures"


@contextlib.contextmanager
def tracked(loggers: Sequence[Logger], folder: Path, config: dict[str, Any], step: int) -> Iterator[None]:
    """Opens the W&B run of a WandbLogger and closes it, however the block ends; does nothing without such a logger.

    The run's id is `run.id`, so that a resumed run is the same W&B run; offline each session is a folder of its own,
    which `wandb sync` joins by the id. W&B writes its file now and then, and a kill loses the rest: a resumed run
    first logs what W&B lacks of metrics.csv up to its checkpoint, so that the last session offline is complete. Steps
    that were logged before do not contradict: resume is exact, so their values are the same (but for
    speed/*), and curves are drawn over `trainer/global_step`, the optimizer steps. W&B shows the run as
    finished, failed, preempted (after SIGTERM) or crashed (killed).

    With `offline=false`, but no answer, good key or run within 10 s and `settings.init_timeout`, one warning is
    printed and the run is logged offline. Once it is open, W&B never decides about the run: what fails is left out
    with one warning, since metrics.csv has every figure.

    Args:
        loggers: the Trainer's.
        folder: the run's; W&B writes below its wandb/ alone.
        config: settled; sent without values whose key looks like a secret.
        step: the optimizer step the run continues at; 0: a new run.
    """
    logger = next((found for found in loggers if isinstance(found, WandbLogger)), None)
    if logger is None:
        yield
        return
    with _environment(folder):
        # Lightning tells neither in public; a subclass has its own _target_, so that the configuration does not either
        _open(logger, online=not logger._offline, folder=folder)
        guard, run, code = _Guard(folder), logger.experiment, 0
        send = logger.log_metrics
        logger.log_metrics = partial(guard, send)  # type: ignore[method-assign]
        try:
            guard(run.config.update, without_secrets(config), allow_val_change=True)
            guard(setattr, run, "name", logger._name or "/".join(folder.resolve().parts[-2:]))
            guard(_catch_up, logger, folder / METRICS, step)
            yield
        except BaseException as error:
            code = getattr(error, "exit_code", 1)
            if isinstance(error, Preempted):
                guard(run.mark_preempting)
            raise
        finally:
            _close(logger, code, folder, guard)


def attach_report(logger: WandbLogger, folder: Path) -> None:
    """Adds what a run's folder holds of evaluation.json (to the summary), figures/*.png and report.html.

    Args:
        logger: its run is open.
        folder: the run's; what is missing is left out.
    """
    import wandb

    run = logger.experiment
    if (folder / EVALUATION).is_file():
        run.summary.update({"evaluation": json.loads((folder / EVALUATION).read_text())})
    media: dict[str, Any] = {
        f"{_FIGURES}/{path.stem}": wandb.Image(str(path)) for path in sorted((folder / _FIGURES).glob("*.png"))
    }
    if (folder / _REPORT).is_file():
        media["report"] = wandb.Html((folder / _REPORT).read_text(), data_is_not_path=True)
    if media:
        run.log(media)


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Keeps wandb's caches in the run's folder, and takes back what is set here and by Lightning (WANDB_MODE).

    WANDB_CONFIG_DIR stays: a login's server is read from there, and nothing is written to it.
    """
    before = dict(os.environ)
    os.environ["WANDB_SILENT"] = "true"
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # wandb appends its own name
        os.environ.setdefault(name, str(folder))
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if name.startswith("WANDB_")})


def _open(logger: WandbLogger, *, online: bool, folder: Path) -> None:
    """Opens the logger's run; offline, with one warning, when that is not possible online."""
    import wandb

    if not online and os.environ.get("WANDB_MODE") != "disabled":
        os.environ["WANDB_MODE"] = "offline"  # Lightning sets it when setup has looked already and asked for the server
    wandb.setup()  # reads WANDB_SILENT and WANDB_MODE
    if not online or os.environ.get("WANDB_MODE", "online") != "online":
        _ = logger.experiment
        return
    problem = "no API key in WANDB_API_KEY, nor one of wandb login"
    try:
        if wandb.login(prompt=False, verify=True):
            _ = logger.experiment
            return
    except Exception as error:  # besides wandb's own, whatever its transport raises
        problem = " ".join(str(error).split())
    _teardown()  # forgets the mode and the service that is waiting for the server
    os.environ["WANDB_MODE"] = "offline"
    _ = logger.experiment
    _warn(f"{problem}; logged offline", folder)


def _catch_up(logger: WandbLogger, metrics: Path, step: int) -> None:
    sent = logger.experiment.summary.get("trainer/global_step", 0)  # known online, none offline
    for row in read_metrics(metrics) if step > sent and metrics.exists() else []:
        at = int(row.pop("step"))
        if sent < at <= step:
            logger.log_metrics({name: float(value) for name, value in row.items()}, at)


def _close(logger: WandbLogger, code: int, folder: Path, guard: _Guard) -> None:
    """Closes the run, so that the next one in this process has an id of its own."""
    import wandb

    if code == 0:
        guard(attach_report, logger, folder)
    guard(logger.experiment.finish, exit_code=code)
    wandb.run = None  # a finish that fails leaves it, and the next WandbLogger would take it for its own
    guard(_teardown)


def _teardown() -> None:
    """Ends W&B's service, which without an answer from its server now and then never ends (wandb 0.31).

    Then it is left behind after a few seconds: wandb has forgotten it by then, and it ends with this process.
    """
    import wandb

    failed: list[BaseException] = []

    def end() -> None:
        try:
            wandb.teardown()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(_TEARDOWN_SECONDS)
    if failed:
        raise failed[0]


class _Guard:
    """Calls W&B; a failure is one warning, however often it is met.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._warned = folder, False

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Calls it and returns nothing."""
        try:
            call(*args, **kwargs)
        except (Exception, SystemExit) as error:  # teardown exits when its service ended badly
            if not self._warned:
                _warn(f"not everything was sent ({' '.join(str(error).split())})", self._folder)
            self._warned = True


def _warn(problem: str, folder: Path) -> None:
    print(
        f"warning: W&B: {problem}; upload it later with: wandb sync {folder}/wandb/*run-*", file=sys.stderr, flush=True
    )
