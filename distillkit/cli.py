"""The command line: verbs in front of Hydra's overrides. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from distillkit import __version__
from distillkit.errors import ConfigError, DistillkitError, Preempted

VERBS = {
    "train": "distil (or pretrain) a student: distillkit train experiment=demo_distilbert loss.gamma=0",
    "resume": "continue a run, bit for bit: distillkit resume RUN_DIR [trainer.max_steps=2000]",
    "evaluate": "held-out figures of runs or models: distillkit evaluate RUN_DIR|MODEL_DIR... [data=text data.path=F]",
    "export": "the student with a model card, and on the hub: distillkit export RUN_DIR [push_to_hub=owner/name]",
    "info": "check a configuration; sizes, layers, rows, steps, time and memory to expect; takes train's overrides",
    "status": "how a run is getting on, while it trains or after: distillkit status RUN_DIR...",
    "report": "a page of one or several runs, with figures: distillkit report RUN_DIR... [output=DIR]",
    "hash": "one line that identifies a model's weights: distillkit hash RUN_DIR|MODEL_DIR",
}

HELP = f"""distillkit {__version__}: distil masked-language-model encoders.

usage: distillkit VERB [key=value ...] [options]

verbs:
{{verbs}}

options:
  --cfg job [--resolve]   print the configuration instead of running (train, info, evaluate)
  -m, --multirun          train every combination of comma-separated values, one process each (train)
  --config-dir DIR        add your own conf files (train, info, evaluate)
  --json                  machine-readable output (info, evaluate, status, report)
  --no-probe              leave out what needs a few steps of training: time and memory (info)
  -v, --verbose           say what is being done from the first second, also where stderr is no terminal
  --debug                 show tracebacks
  -h, --help  --version
  -sc install=bash        shell completion: eval "$(distillkit -sc install=bash)" (also zsh, fish)

groups: {{groups}}
first steps: distillkit info experiment=demo_distilbert; distillkit train experiment=demo_distilbert
"""


def entry() -> NoReturn:
    """The console script: runs the command and exits with its code."""
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Runs one command.

    Args:
        argv: the words after `distillkit`; sys.argv itself is left alone, Lightning relaunches it for other ranks.

    Returns:
        The exit code: 0 done, 2 the user's configuration or data, 3 numerical stop, 4 I/O, 5 a failed arm of a
        multirun, 143 stopped and saved, 1 anything unforeseen.
    """
    debug = "--debug" in argv
    try:
        return _dispatch([word for word in argv if word != "--debug"])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except DistillkitError as error:
        if debug:
            traceback.print_exc()
        print(f"{'' if isinstance(error, Preempted) else 'error: '}{error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())[:500]
        print(f"error: {type(error).__name__}: {text}; --debug shows where", file=sys.stderr)
        return 1


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] in ("-sc", "--shell-completion"):
        return _complete(argv[1:])
    verb, words = argv[0], argv[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise ConfigError(
            "no such verb",
            key="verb",
            value=verb,
            allowed=", ".join(VERBS),
            fix=f"did you mean {near[0]}?" if near else None,
        )
    if "-h" in words or "--help" in words:
        print(_help(), end="")
        return 0
    return COMMANDS[verb](_parse(verb, words))


def _help() -> str:
    from pathlib import Path

    here = Path(__file__).resolve().parent
    conf = next((folder for folder in (here / "conf", here.parent / "conf") if folder.is_dir()), here)
    groups = (
        f"{p.name}={'|'.join(sorted(f.stem for f in p.glob('*.yaml') if f.stem != 'base'))}"
        for p in sorted(conf.iterdir())
        if p.is_dir()
    )
    verbs = "\n".join(f"  {name:<10}{text}" for name, text in VERBS.items())
    return HELP.format(verbs=verbs, groups="\n  " + "\n  ".join(groups))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, key="command", value=self.prog, fix="see distillkit --help")


def _parse(verb: str, words: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"distillkit {verb}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    if verb in ("train", "info", "evaluate"):
        parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
        parser.add_argument("--resolve", action="store_true")
        parser.add_argument("--config-dir", "-cd")
    if verb == "train":
        parser.add_argument("--multirun", "-m", action="store_true")
    if verb not in ("hash", "status"):
        parser.add_argument("--verbose", "-v", action="store_true")
    if verb == "info":
        parser.add_argument("--no-probe", dest="probe", action="store_false")
    if verb in ("info", "evaluate", "status", "report"):
        parser.add_argument("--json", action="store_true")
    return parser.parse_intermixed_args(words)


def _prepare(args: argparse.Namespace) -> None:
    """Readies the process for work: the libraries quiet, activities shown, memory kept."""
    from distillkit import config, machine, progress

    _quiet()
    machine.keep_freed_memory()
    if config.is_first_rank():
        progress.show(lines=args.verbose)


def _starting() -> contextlib.AbstractContextManager[Any]:
    """Shown while torch and Lightning are imported, which takes seconds."""
    from distillkit.progress import activity

    return activity("starting")


def _quiet() -> None:
    """Keeps the libraries' tips, bars and load reports off the screen: a user's mistake is to be the only line."""
    import logging

    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)  # setting levels does not do: Lightning raises its own when it is imported
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"distillkit\..*")
    warnings.showwarning = lambda message, *args, **kwargs: print(f"warning: {message}", file=sys.stderr)


def _compose(name: str, args: argparse.Namespace, overrides: list[str]) -> dict[str, Any] | None:
    """The settled and checked configuration; None when it was only to be printed."""
    from omegaconf import OmegaConf

    from distillkit import config, validation

    cfg, hydra = config.load(name, overrides, args.config_dir)
    if args.cfg:
        whole = OmegaConf.merge({"hydra": hydra}, cfg)
        shown = {"job": cfg, "hydra": OmegaConf.masked_copy(whole, "hydra"), "all": whole}[args.cfg]  # type: ignore[arg-type]
        print(OmegaConf.to_yaml(shown, resolve=args.resolve), end="")
        return None
    settled = config.settle(cfg, hydra)
    (validation.validate if name == "train" else validation.check_targets)(settled)
    return settled


def _train(args: argparse.Namespace) -> int:
    if args.multirun:
        from distillkit.sweeps.multirun import run_arms

        return run_arms(args.words, args.config_dir)
    cfg = _compose("train", args, args.words)
    if cfg is None:
        return 0
    _prepare(args)
    with _starting(), contextlib.redirect_stdout(sys.stderr):
        from distillkit import run

    figures = run.train(cfg, args.words)
    _report(figures, cfg["run"]["dir"])
    return 0


def _resume(args: argparse.Namespace) -> int:
    if not args.words or "=" in args.words[0]:
        raise ConfigError("name the run's folder", key="RUN_DIR", value="", fix="distillkit resume RUN_DIR")
    _prepare(args)
    with _starting():
        from distillkit import run

    figures = run.resume(args.words[0], args.words[1:])
    if figures is None:
        print(f"{args.words[0]} has finished already; trainer.max_steps=N beyond its last step continues it")
    else:
        _report(figures, args.words[0])
    return 0


def _report(figures: dict[str, Any], run_dir: str) -> None:
    if not figures:  # ranks beyond the first
        return
    from distillkit.evaluation.summary import print_table

    print_table(figures)
    print(f"student: {run_dir}/student")


def _info(args: argparse.Namespace) -> int:
    cfg = _compose("train", args, args.words)
    if cfg is None:
        return 0
    _prepare(args)
    with _starting():
        from distillkit import inspection

    facts = inspection.inspect(cfg, measure=args.probe)
    print(json.dumps(facts) if args.json else inspection.as_text(facts))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    folders = [word for word in args.words if "=" not in word]
    overrides = [word for word in args.words if "=" in word]
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


def _export(args: argparse.Namespace) -> int:
    folders = [word for word in args.words if "=" not in word]
    if len(folders) != 1:
        raise ConfigError(
            "name one run's folder", key="export", value=" ".join(folders), fix="distillkit export RUN_DIR"
        )
    _quiet()
    from distillkit import config

    options = config.options("export", [word for word in args.words if "=" in word])
    from distillkit.publishing import export_run

    folder, address = export_run(folders[0], **options)
    print(f"student: {folder}" + (f"\nhub: {address}" if address else ""))
    return 0


def _status(args: argparse.Namespace) -> int:
    from distillkit.status import as_text, read_status

    if not args.words:
        raise ConfigError("name a run's folder", key="RUN_DIR", value="", fix="distillkit status RUN_DIR")
    for folder in args.words:
        found = read_status(folder)
        print(json.dumps(found) if args.json else as_text(found))
    return 0


def _report_verb(args: argparse.Namespace) -> int:
    output = [word.removeprefix("output=") for word in args.words if word.startswith("output=")]
    folders = [word for word in args.words if not word.startswith("output=")]
    _prepare(args)
    with _starting():
        from distillkit.report import page, write_report

    facts = write_report(folders, output[-1] if output else None)
    files = facts.pop("files")
    if args.json:
        print(json.dumps(facts))
    else:
        page.print_models(facts)
        print("\n".join(files.values()))
    return 0


def _hash(args: argparse.Namespace) -> int:
    if len(args.words) != 1:
        raise ConfigError("name one folder", key="hash", value=" ".join(args.words), fix="distillkit hash RUN_DIR")
    from distillkit.hashing import weights_hash

    print(weights_hash(args.words[0]))
    return 0


def _complete(words: list[str]) -> int:
    """Hydra's shell completion (`-sc install=bash`), with the verb taken off the line before Hydra sees it."""
    import shlex

    from hydra import initialize_config_dir
    from hydra._internal.core_plugins import bash_completion, fish_completion, zsh_completion
    from hydra.core.global_hydra import GlobalHydra

    from distillkit import config

    action, _, shell = (words[0] if words else "").partition("=")
    plugins: dict[str, Any] = {
        "bash": bash_completion.BashCompletion,
        "zsh": zsh_completion.ZshCompletion,
        "fish": fish_completion.FishCompletion,
    }
    if action not in ("install", "uninstall", "query") or shell not in plugins:
        raise ConfigError("not a completion command", key="-sc", value=" ".join(words), allowed="install=bash|zsh|fish")
    typed = os.environ.get("COMP_LINE", "")
    program, _, rest = typed.partition(" ")
    verb, space, overrides = rest.partition(" ")
    if action == "query" and not space:
        print(" ".join(v for v in VERBS if v.startswith(shlex.quote(verb).strip("'"))))
        return 0
    os.environ["COMP_LINE"] = f"{program} {overrides}"
    with initialize_config_dir(str(config.conf_dir()), job_name="distillkit", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        plugin = plugins[shell](hydra.config_loader)
        getattr(plugin, action)(*(["evaluate" if verb == "evaluate" else "train"] if action == "query" else []))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "export": _export,
    "info": _info,
    "status": _status,
    "report": _report_verb,
    "hash": _hash,
}
