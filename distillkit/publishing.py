"""A run's student as a folder others can use, and on the Hugging Face hub: the verb export."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from distillkit import __version__, building
from distillkit.card import model_card
from distillkit.errors import ConfigError, RunStateError, StorageError
from distillkit.export import CARD, export
from distillkit.hashing import weights_hash
from distillkit.licenses import UNKNOWN, check_license
from distillkit.rundir import CHECKPOINTS, STUDENT, RunFolder
from distillkit.storage import new_folder, write_text
from distillkit.training.callbacks import Checkpointer
from distillkit.training.checkpointing import DirectoryCheckpointIO, checkpoint_name, checkpoint_step, checkpoints

EXPORTS = "export"
_SECONDS = 10.0


def export_run(
    run_dir: str,
    *,
    checkpoint: str | int | None = None,
    output: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    license: str | None = None,
) -> tuple[Path, str | None]:
    """Writes a run's student with its model card, and uploads it. Reads only, so the run may be going on.

    Args:
        run_dir: the run's folder.
        checkpoint: "last", "best" (lowest held-out loss) or a step; None: the finished student/, else "last".
        output: folder, new or of an earlier export, which is replaced; None: student/, of a checkpoint
            export/step_<step>, in the run's folder.
        push_to_hub: "owner/name", created if need be.
        private: of a repository created here.
        license: for the card; None: the run's.

    Returns:
        The folder, and the address on the hub if it was uploaded.

    Raises:
        RunStateError: not a run, or no such or a damaged checkpoint.
        ConfigError, StorageError: the licence, name, token or output is wrong; the folder or the hub cannot be
            written to.
    """
    check_license(license, key="license")
    folder = RunFolder(run_dir, new=False, held=False)
    place = None if output is None else _check_output(output, folder.path)
    if push_to_hub is not None:
        _check_hub(push_to_hub, private)
    config = folder.config
    config["run"]["license"] = license or config["run"].get("license")
    if checkpoint is None and folder.finished_step is not None:
        target = place or folder.path / STUDENT
        _export_finished(folder, config, folder.finished_step, target, push_to_hub)
    else:
        source = _find_checkpoint(folder.path / CHECKPOINTS, str(checkpoint or "last"))
        target = place or folder.path / EXPORTS / source.name
        _export_checkpoint(folder, config, source, target, push_to_hub)
    return target, _push(target, push_to_hub, private=private) if push_to_hub else None


def _check_output(output: str, run: Path) -> Path:
    """The folder to write: what stands there will be removed, so it has to be an earlier export or empty."""
    place = Path(os.path.expanduser(str(output)))
    target, run = place.resolve(), run.resolve()
    if run.is_relative_to(target):
        problem = "holds the run itself"
    elif target.is_relative_to(run / CHECKPOINTS):
        problem = "is among the run's checkpoints"
    elif target.exists() and not _replaceable(target):
        problem = "holds something else than an exported model, which would be removed"
    else:
        return place
    raise ConfigError(problem, key="output", value=output, fix="name a new folder")


def _replaceable(target: Path) -> bool:
    """Whether a folder is empty or holds what an export writes: a model with distillkit's card, no folders."""
    content = {path.name: path for path in target.iterdir()} if target.is_dir() else {"": target}
    exported = {"config.json", "model.safetensors", CARD} <= content.keys() and not any(
        path.is_dir() for path in content.values()
    )
    return not content or (exported and "distillkit" in content[CARD].read_text(errors="replace"))


def _export_finished(folder: RunFolder, config: dict[str, Any], step: int, target: Path, name: str | None) -> None:
    with new_folder(target.absolute()) as staging:
        shutil.copytree(folder.path / STUDENT, staging, dirs_exist_ok=True)
        write_text(staging / CARD, _finished_card(folder, config, step, name))


def rewrite_card(run_dir: str | Path) -> None:
    """Writes the card of a run's student anew, with what comparison.json says of it; keeps the licence it states.

    Nothing is done for a run that has not finished: its end writes a card.

    Args:
        run_dir: the run's folder.

    Raises:
        RunStateError: not a run.
        StorageError: the card cannot be written.
    """
    folder = RunFolder(run_dir, new=False, held=False)
    card, step = folder.path / STUDENT / CARD, folder.finished_step
    if step is None or not card.is_file():
        return
    config, stated = folder.config, ModelCard.load(card).data.license
    if stated not in (None, UNKNOWN):
        config["run"]["license"] = stated
    write_text(card, _finished_card(folder, config, step, None))


def _finished_card(folder: RunFolder, config: dict[str, Any], step: int, name: str | None) -> str:
    """With the figures on tasks, when there are any and they are of these weights."""
    tasks = folder.comparison
    if not tasks.get("scores") or tasks["weights"] != weights_hash(folder.path / STUDENT):
        tasks = {}
    return _card(folder, config, folder.evaluation, step, name, tasks)


def _export_checkpoint(
    folder: RunFolder, config: dict[str, Any], checkpoint: Path, target: Path, name: str | None
) -> None:
    """The student is built as the run built it, so that its class and configuration are the same."""
    state = DirectoryCheckpointIO().load_checkpoint(checkpoint)["state_dict"]
    prefix = "student."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    teacher = building.build_teacher(config)
    tokenizer = building.build_tokenizer(config, teacher)
    model = building.build_student(config, teacher, tokenizer).model
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=True)
    export(model, tokenizer, target.absolute(), _card(folder, config, {}, checkpoint_step(checkpoint), name))


def _card(
    folder: RunFolder,
    config: dict[str, Any],
    figures: dict[str, Any],
    step: int,
    name: str | None,
    tasks: dict[str, Any] | None = None,
) -> str:
    return model_card(
        config, folder.facts, figures, folder.commands, step=step, ranks=building.ranks(config), name=name, tasks=tasks
    )


def _find_checkpoint(folder: Path, which: str) -> Path:
    """The checkpoint's folder; whether it is whole is seen when it is loaded."""
    saved = checkpoints(folder)
    names = ", ".join(str(checkpoint_step(path)) for path in saved)
    if not saved:
        raise RunStateError("the run has no checkpoint yet", key="checkpoint", value=which, fix="wait for the first")
    if which == "last":
        return saved[-1]
    if which == "best":
        best = DirectoryCheckpointIO().load_checkpoint(saved[-1])["callbacks"][Checkpointer.__qualname__]["best"]
        which = str(best["step"]) if best else "best"
    path = folder / checkpoint_name(int(which)) if which.isdigit() else folder / which
    if path not in saved:
        raise RunStateError("no such checkpoint", key="checkpoint", value=which, allowed=f"last, best, {names}")
    return path


# --- the hub -----------------------------------------------------------------------------------------------------


def _check_hub(name: str, private: Any) -> None:
    """Whether an upload can be tried at all: the name, a token, a hub that answers within 10 s. Nothing is sent."""
    if not isinstance(private, bool):
        raise ConfigError("not a switch", key="private", value=private, allowed="true, false")
    try:
        validate_repo_id(name)
        whole = name.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise ConfigError("not a repository's name", key="push_to_hub", value=name, allowed="owner/name")
    if get_token() is None:
        raise ConfigError("no token for the hub", key="push_to_hub", value=name,
                          fix="set HF_TOKEN in the environment, or run hf auth login")  # fmt: skip
    try:
        HfApi().model_info(name, timeout=_SECONDS)
    except RepositoryNotFoundError:
        return  # it is created
    except Exception as error:  # whatever the hub's client and its transport raise
        raise _hub_error(error, name) from error


def _push(folder: Path, name: str, *, private: bool) -> str:
    api = HfApi(library_name="distillkit", library_version=__version__)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"distillkit {__version__}")
    except Exception as error:
        raise _hub_error(error, name) from error
    return f"{api.endpoint}/{name}"


def _hub_error(error: Exception, name: str) -> ConfigError | StorageError:
    """The user's token or right (401, 403), or else the connection."""
    reason = " ".join(str(error).split())[:200]
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return ConfigError(f"the hub refuses it ({reason})", key="push_to_hub", value=name,
                           fix="check the owner and the token: hf auth login")  # fmt: skip
    return StorageError(f"the hub is out of reach ({reason})", key="push_to_hub", value=name, fix="try again later")
