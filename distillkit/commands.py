"""What each verb does: reads its words, calls the package, prints. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from distillkit.errors import FAILED_PARTS, ConfigError


def _prepare(args: argparse.Namespace, *, keep_memory: bool = True) -> None:
    """Readies the process for work: the libraries quiet, activities shown, freed memory kept where no key says so."""
    from distillkit import launching, machine, progress

    progress.quiet_libraries()
    if keep_memory:
        machine.keep_freed_memory()
    if launching.is_first_rank():
        progress.show(lines=args.verbose)


def _starting() -> contextlib.AbstractContextManager[Any]:
    """Shown while torch and Lightning are imported, which takes seconds."""
    from distillkit.progress import activity

    return activity("starting")


def _compose(name: str, args: argparse.Namespace, overrides: list[str]) -> dict[str, Any] | None:
    """The settled and checked configuration; None when it was only to be printed."""
    from omegaconf import OmegaConf

    from distillkit import config, validation
    from distillkit.targets import check_targets

    cfg, hydra = config.load(name, overrides, args.config_dir)
    if args.cfg:
        whole = OmegaConf.merge({"hydra": hydra}, cfg)
        shown = {"job": cfg, "hydra": OmegaConf.masked_copy(whole, "hydra"), "all": whole}[args.cfg]  # type: ignore[arg-type]
        print(OmegaConf.to_yaml(shown, resolve=args.resolve), end="")
        return None
    settled = config.settle(cfg, hydra)
    validation.CHECKS.get(name, check_targets)(settled)
    return settled


def _train(args: argparse.Namespace) -> int:
    if args.multirun:
        from distillkit.sweeps.multirun import run_arms

        return run_arms(args.words, args.config_dir)
    if args.together:  # what a sweep starts for arms that share a pass
        from distillkit.sweeps.together import run_together

        _prepare(args, keep_memory=False)
        return run_together(args.together)
    cfg = _compose("train", args, args.words)
    if cfg is None:
        return 0
    _prepare(args, keep_memory=False)
    with _starting(), contextlib.redirect_stdout(sys.stderr):
        from distillkit import run

    where = [f"--config-dir={args.config_dir}"] if args.config_dir else []
    figures = run.train(cfg, [*where, *args.words])
    _print_results(figures, cfg["run"]["dir"])
    return 0


def _resume(args: argparse.Namespace) -> int:
    if not args.words or _is_override(args.words[0]):
        raise ConfigError("name the run's folder", key="RUN_DIR", value="", fix="distillkit resume RUN_DIR")
    _prepare(args, keep_memory=False)
    with _starting():
        from distillkit import run

    figures = run.resume(args.words[0], args.words[1:])
    if figures is None:
        print(f"{args.words[0]} has finished already; trainer.max_steps=N beyond its last step continues it")
    else:
        _print_results(figures, args.words[0])
    return 0


def _is_override(word: str) -> bool:
    """Whether a word is key=value, and no folder with an = in its path."""
    return "=" in word and not os.path.isdir(word)


def _print_results(figures: dict[str, Any], run_dir: str) -> None:
    if not figures:  # ranks beyond the first
        return
    from distillkit.evaluation.summary import print_table

    print_table(figures)
    print(f"student: {run_dir}/student")
    page = os.path.join(run_dir, "report.html")
    if os.path.isfile(page):
        print(f"report: {page}")


def _info(args: argparse.Namespace) -> int:
    cfg = _compose("train", args, args.words)
    if cfg is None:
        return 0
    _prepare(args, keep_memory=False)
    with _starting():
        from distillkit import inspection

    facts = inspection.inspect(cfg, measure=args.probe)
    print(json.dumps(facts) if args.json else inspection.as_text(facts))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    folders = [word for word in args.words if not _is_override(word)]
    overrides = [word for word in args.words if _is_override(word)]
    if not folders and not args.cfg:
        raise ConfigError(
            "name a run's or a model's folder", key="evaluate", value="", fix="distillkit evaluate RUN_DIR"
        )
    _prepare(args)
    from distillkit import config

    cfg = None
    runs_alone = all(os.path.isfile(os.path.join(folder, "config.yaml")) for folder in folders)
    chooses = any(override.partition("=")[0] in config.EVALUATION_GROUPS for override in overrides)
    if args.cfg or chooses or not runs_alone:
        cfg = _compose("evaluate", args, overrides)
        if cfg is None:
            return 0
    with _starting():
        from distillkit import inspection
        from distillkit.evaluation.summary import print_table

    figures = inspection.evaluate(folders, cfg, overrides)
    if args.json:
        print(json.dumps(figures))
    else:
        print_table(figures)
    return 0


def _compare(args: argparse.Namespace) -> int:
    cfg = _compose("compare", args, args.words)
    if cfg is None:
        return 0
    _prepare(args)
    with _starting():
        from distillkit.comparison.compare import compare
        from distillkit.comparison.page import print_comparison

    where = [f"--config-dir={args.config_dir}"] if args.config_dir else []
    facts = compare(cfg, [*where, *args.words])
    files = facts.pop("files")
    if args.json:
        print(json.dumps(facts))
    else:
        print_comparison(facts)
        print("\n".join(files.values()))
    return FAILED_PARTS if facts["failed"] else 0


def _sweep(args: argparse.Namespace) -> int:
    from distillkit.sweeps import definition, estimate, live

    if args.cfg:
        _compose("sweep", args, definition.sort_words(args.words).own)
        return 0
    folder, planned = definition.plan(args.words, args.config_dir)
    _prepare(args)
    if args.dry_run:
        facts = estimate.estimate(folder, definition.continued(folder, planned), measure=args.probe)
        print(json.dumps(facts) if args.json else estimate.as_text(facts))
        return 0
    if args.wandb_yaml:
        from distillkit.sweeps.wandb_file import write_wandb_sweep

        print(write_wandb_sweep(planned, folder))
        return 0
    with _starting():
        from distillkit.building import make
        from distillkit.sweeps.report import print_sweep, write_sweep_report
        from distillkit.sweeps.search import searcher
        from distillkit.sweeps.sweep import run_sweep

    search = None if planned.sweep["method"] == "grid" else searcher
    ledger = run_sweep(folder, planned, make(planned.launcher), search=search, retry_failed=args.retry_failed)
    facts = write_sweep_report(folder)
    files = facts.pop("files")
    if args.json:
        print(json.dumps(live.facts(folder, ledger)))
    else:
        print_sweep(facts)
        print("\n".join(files.values()))
    return FAILED_PARTS if ledger.with_status("failed") else 0


def _export(args: argparse.Namespace) -> int:
    folders = [word for word in args.words if not _is_override(word)]
    if len(folders) != 1:
        raise ConfigError(
            "name one run's folder", key="export", value=" ".join(folders), fix="distillkit export RUN_DIR"
        )
    _prepare(args)
    from distillkit import config

    options = config.options("export", [word for word in args.words if _is_override(word)])
    from distillkit.publishing import export_run

    folder, address = export_run(folders[0], **options)
    print(f"student: {folder}" + (f"\nhub: {address}" if address else ""))
    return 0


def _tokenizer(args: argparse.Namespace) -> int:
    cfg = _compose("tokenizer", args, args.words)
    if cfg is None:
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # what comes out does not depend on it
    _prepare(args)
    with _starting():
        from distillkit.building import make
        from distillkit.vocabulary.training import as_text, train_tokenizer

    corpus, cache = make(cfg["data"]["corpus"]), cfg["data"]["cache_dir"]
    facts = train_tokenizer(corpus, cfg["output"], **cfg["tokenizer"], cache_dir=cache)
    print(json.dumps(facts) if args.json else as_text(facts))
    return 0


def _status(args: argparse.Namespace) -> int:
    from distillkit.status import as_text, read_status
    from distillkit.sweeps import arms, live

    if not args.words:
        raise ConfigError("name a run's folder", key="RUN_DIR", value="", fix="distillkit status RUN_DIR")
    for name in args.words:
        folder = pathlib.Path(name)
        if (folder / arms.LEDGER).is_file():
            ledger = arms.Ledger.read(folder)
            print(json.dumps(live.facts(folder, ledger)) if args.json else live.as_text(folder, ledger))
        else:
            found = read_status(name)
            print(json.dumps(found) if args.json else as_text(found))
    return 0


def _report(args: argparse.Namespace) -> int:
    output = [word.removeprefix("output=") for word in args.words if word.startswith("output=")]
    folders = [word for word in args.words if not word.startswith("output=")]
    place = output[-1] if output else None
    _prepare(args)
    with _starting():
        from distillkit.report import page, write_report
        from distillkit.sweeps.arms import LEDGER
        from distillkit.sweeps.report import print_sweep, write_sweep_report

    show: Callable[[dict[str, Any]], None] = page.print_models
    if any(os.path.isfile(os.path.join(folder, LEDGER)) for folder in folders):
        if len(folders) > 1:
            raise ConfigError("a sweep has a page of its own", key="report", value=" ".join(folders),
                              fix="name the sweep's folder alone")  # fmt: skip
        facts, show = write_sweep_report(folders[0], place), print_sweep
    else:
        facts = write_report(folders, place)
    files = facts.pop("files")
    if args.json:
        print(json.dumps(facts))
    else:
        show(facts)
        print("\n".join(files.values()))
    return 0


def _hash(args: argparse.Namespace) -> int:
    if len(args.words) != 1:
        raise ConfigError("name one folder", key="hash", value=" ".join(args.words), fix="distillkit hash RUN_DIR")
    from distillkit.hashing import weights_hash

    print(weights_hash(args.words[0]))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "compare": _compare,
    "sweep": _sweep,
    "export": _export,
    "info": _info,
    "status": _status,
    "report": _report,
    "hash": _hash,
    "tokenizer": _tokenizer,
}
