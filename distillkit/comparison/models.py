"""The models of a comparison: where they lie, what they are called, and what is known of how they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.card import corpus_name
from distillkit.errors import ConfigError
from distillkit.evaluation.summary import describe_model
from distillkit.export import export
from distillkit.hashing import weights_hash
from distillkit.progress import activity
from distillkit.redaction import last_name
from distillkit.report.facts import short_names
from distillkit.report.history import read_run
from distillkit.rundir import CONFIG, STUDENT, RunFolder
from distillkit.storage import file_sha256
from distillkit.teachers import DEMO, check_vocabulary, load_model, load_tokenizer, local_folder

KEY = "models"
SIZES = ("class", "layers", "hidden_size", "unique_parameters", "nominal_parameters")


@dataclass(frozen=True)
class Contender:
    """A model of a comparison.

    Attributes:
        name: on the page, unlike any other's.
        source: as the user named it, without folders.
        given: as the user named it.
        folder: with its weights, tokenizer and config.json.
        identity: sha256 of the weights, the tokenizer and the configuration.
        weights: sha256 of the weights alone (`weights_hash`).
        sizes: class, layers, hidden_size, unique_parameters, nominal_parameters, and shared_on_disk: False where a
            model shares weights that its folder holds several times.
        run: the run it is the student of, or None.
        teacher: what that run distilled from, as its teacher.path says; None without a teacher.
        role: "teacher", "student", "control" (a run in which no term compares with a teacher) or "model".
        training: what its own training took (`history.training_cost`), and steps, tokens and corpus; None where that
            is unknown.
    """

    name: str
    source: str
    given: str
    folder: Path
    identity: str
    weights: str
    sizes: dict[str, Any]
    run: Path | None = None
    teacher: str | None = None
    role: str = "model"
    training: dict[str, Any] | None = None

    @property
    def made(self) -> str | None:
        """How it was made, for the page."""
        if self.role == "control":
            return "trained without a teacher"
        return f"distilled from {last_name(self.teacher)}" if self.role == "student" and self.teacher else None


def find_models(given: Sequence[str], place: Path, reference: str | None = None) -> list[Contender]:
    """The models a user named, each loaded once to see that it can serve.

    Args:
        given: "demo", folders of runs (their students) or of models, hub names.
        place: folder for what has none of its own: the demo teacher.
        reference: one of them, by its name or as given, or None.

    Returns:
        One a name, in their order.

    Raises:
        ConfigError: a run has no student yet, two names mean the same folder, or the reference is not among them.
        TeacherError: a model cannot serve.
    """
    runs = {name: run for name in given if (run := _run_of(name)) is not None}
    teachers = {RunFolder(run, new=False, held=False).config["teacher"]["path"] for run in runs.values()}
    names = short_names([runs.get(name, Path(name)) for name in given])
    if reference is not None and reference not in (*names, *given):
        raise ConfigError("not among the models", key="reference", value=reference, allowed=", ".join(names))
    found = []
    for name, source in zip(names, given, strict=True):
        with activity(f"loading {name}"):
            found.append(_contender(name, source, runs.get(source), teachers, place))
    folders = [contender.folder.resolve() for contender in found]
    for contender, folder in zip(found, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError("named twice", key=KEY, value=contender.source, fix="name each model once")
    return found


def _run_of(name: str) -> Path | None:
    """The run that a name means: its folder, or that of its student."""
    path = Path(name)
    if (path / CONFIG).is_file():
        return path
    is_student = path.name == STUDENT and (path.parent / CONFIG).is_file()
    return path.parent if is_student else None


def _contender(name: str, source: str, run: Path | None, teachers: set[str | None], place: Path) -> Contender:
    folder = _folder_of(source, run, place)
    model, tokenizer = load_model(str(folder), key=KEY, new_head=True), load_tokenizer(str(folder), key=KEY)
    check_vocabulary(tokenizer, model, key=KEY)
    weights = weights_hash(folder)
    identity = hashlib.sha256(weights.encode())
    for file in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model")):
        identity.update(f" {file.name} {file_sha256(file)}".encode())
    described = describe_model(model)
    sizes = {name: described[name] for name in SIZES}
    sizes["shared_on_disk"] = getattr(model.config, "student_share", None) is None
    known: dict[str, Any] = {"role": "teacher" if source in teachers else "model"}
    if run is not None:
        known = {"run": run} | _known_of(RunFolder(run, new=False, held=False))
    shown = last_name(source)
    return Contender(name, shown, source, folder, identity.hexdigest(), weights, sizes, **known)


def _known_of(run: RunFolder) -> dict[str, Any]:
    """What a run's folder tells of its student: teacher, role, training."""
    facts, config = read_run(run), run.config
    teacher = config["teacher"]["path"]
    compares = any(weight for term, weight in facts["weights"].items() if term not in ("mlm", "sop"))
    return {
        "teacher": teacher,
        "role": "student" if teacher is not None and compares else "control",
        "training": facts["training"]
        | {"steps": facts["step"], "tokens": facts["tokens"], "corpus": corpus_name(config["data"])},
    }


def _folder_of(source: str, run: Path | None, place: Path) -> Path:
    """The folder of a model's files."""
    if run is not None:
        folder = run / STUDENT
        if not folder.is_dir():
            raise ConfigError(
                f"the run has no {STUDENT}/ yet", key=KEY, value=run, allowed="finished runs",
                fix=f"distillkit resume {run}",
            )  # fmt: skip
        return folder
    if source != DEMO:
        return local_folder(source, KEY)
    folder = place / DEMO
    export(load_model(DEMO), load_tokenizer(DEMO), folder)
    return folder
