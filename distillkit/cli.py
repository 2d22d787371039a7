"""The command line: verbs in front of Hydra's overrides. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from distillkit import __version__
from distillkit.errors import ConfigError, tell

VERBS = {
    "train": "distil (or pretrain) a student: distillkit train experiment=demo_distilbert loss.gamma=0",
    "resume": "continue a run, bit for bit: distillkit resume RUN_DIR [trainer.max_steps=2000]",
    "evaluate": "held-out figures of runs or models: distillkit evaluate RUN_DIR|MODEL_DIR... [data=text data.path=F]",
    "compare": "models fine-tuned on tasks, side by side: distillkit compare models=[demo,RUN_DIR] tasks=[sst2,ner]",
    "sweep": "many runs that differ in a few values: distillkit sweep sweep=loss_weights experiment=demo_distilbert",
    "export": "the student with a model card, and on the hub: distillkit export RUN_DIR [push_to_hub=owner/name]",
    "info": "check a configuration; sizes, layers, rows, steps, time and memory to expect; takes train's overrides",
    "status": "how a run or a sweep is getting on, while it trains or after: distillkit status RUN_DIR...",
    "report": "a page of one or several runs, or of a sweep: distillkit report RUN_DIR...|SWEEP_DIR [output=DIR]",
    "tokenizer": "train a vocabulary: distillkit tokenizer data=text data.path='corpus/*.txt' output=my_tokenizer",
    "hash": "one line that identifies a model's weights: distillkit hash RUN_DIR|MODEL_DIR",
}

HELP = f"""distillkit {__version__}: distil masked-language-model encoders.

usage: distillkit VERB [key=value ...] [options]

verbs:
{{verbs}}

options:
  --cfg job [--resolve]   print the configuration instead of running (train, info, evaluate, compare, sweep, tokenizer)
  -m, --multirun          train every combination of comma-separated values, one process each (train)
  --config-dir DIR        add your own conf files (train, info, evaluate, compare, sweep, tokenizer)
  --json                  machine-readable output (info, evaluate, compare, sweep, status, report, tokenizer)
  --no-probe              leave out what needs a few steps of training: time and memory (info, sweep --dry-run)
  --dry-run               print the arms, their commands and what they will take, and start nothing (sweep)
  --retry-failed          run arms that have failed again (sweep)
  --wandb-yaml            write the same as a sweep file for W&B's own server and agents, and start nothing (sweep)
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
        sweep or fine-tuning of a comparison, 143 stopped and saved, 1 anything unforeseen.
    """
    debug = "--debug" in argv
    try:
        return _dispatch([word for word in argv if word != "--debug"])
    except BrokenPipeError:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return tell(error)


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
    from distillkit.commands import COMMANDS

    return COMMANDS[verb](_parse(verb, words))


def _help() -> str:
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
    if verb in ("train", "info", "evaluate", "compare", "sweep", "tokenizer"):
        parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
        parser.add_argument("--resolve", action="store_true")
        parser.add_argument("--config-dir", "-cd")
    if verb == "train":
        parser.add_argument("--multirun", "-m", action="store_true")
        parser.add_argument("--together", type=Path)
    if verb not in ("hash", "status"):
        parser.add_argument("--verbose", "-v", action="store_true")
    if verb == "sweep":
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("--retry-failed", action="store_true")
        parser.add_argument("--wandb-yaml", action="store_true")
    if verb in ("info", "sweep"):
        parser.add_argument("--no-probe", dest="probe", action="store_false")
    if verb in ("info", "evaluate", "compare", "sweep", "status", "report", "tokenizer"):
        parser.add_argument("--json", action="store_true")
    return parser.parse_intermixed_args(words)


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
        composed = verb if verb in ("evaluate", "compare", "tokenizer") else "train"
        getattr(plugin, action)(*([composed] if action == "query" else []))
    return 0
