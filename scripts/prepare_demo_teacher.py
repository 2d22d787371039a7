"""Makes the demo teacher's delta anew: trains, packs the difference to the encoder, shows what packing costs.

    python scripts/prepare_demo_teacher.py [--steps 4203] [--run-dir runs/demo_teacher] [--output FILE] [key=value ...]

Trains `experiment=demo_teacher` from the packaged all-MiniLM-L6-v2; further key=value (data=text data.path=FILE) are
as for train. Run again after an interruption it continues. The delta is written into the run's folder unless --output
names another place. The shipped delta was trained on BoolQ's Wikipedia passages as well, which distillkit does not
bring along: this makes one of the same kind, not the same one. The recipe's weight decay and clipping are not on
record; the experiment has distillkit's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

from distillkit import building, cli
from distillkit.demo_teacher import DELTA, assemble, encoder_file
from distillkit.errors import ConfigError, DistillkitError
from distillkit.evaluation.summary import evaluate_side_by_side, print_table
from distillkit.rundir import CONFIG, OVERRIDES, STUDENT
from distillkit.storage import write_bytes
from distillkit.teachers import load_model

LEVELS = 7
"""Largest magnitude of a packed difference: 15 values a weight, which compress to half a byte."""

CANDIDATES = 64
ROUNDS = 4


def pack_rows(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and one scale a row whose product is the closest to a matrix that the search finds, in squared error.

    Each row tries CANDIDATES clipping points from a quarter of its largest magnitude to all of it. From each, rounding
    to the scale and the least-squares scale of what was rounded take turns, neither of which can raise the error: no
    row ends worse than with the plain scale, largest magnitude / LEVELS.

    Args:
        difference: [rows, columns] float.

    Returns:
        [rows, columns] int8 in -LEVELS..LEVELS, and [rows] float32; a row of zeros has scale 0.
    """
    rows = difference.double()
    largest = rows.abs().amax(1)
    best = torch.full_like(largest, torch.inf)
    levels, scales = torch.zeros_like(rows), torch.zeros_like(largest)
    for share in torch.linspace(0.25, 1.0, CANDIDATES).tolist():
        scale = largest * (share / LEVELS)
        for _ in range(ROUNDS):
            rounded = (rows / scale[:, None]).nan_to_num(0.0).round().clamp(-LEVELS, LEVELS)
            scale = ((rows * rounded).sum(1) / rounded.square().sum(1)).nan_to_num(0.0).float().double()
        error = (rows - scale[:, None] * rounded).square().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        levels, scales = torch.where(better[:, None], rounded, levels), torch.where(better, scale, scales)
    return levels.to(torch.int8), scales.float()


def make_delta(encoder: dict[str, Tensor], trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `demo_teacher.add_delta`: what turns the encoder into the trained model.

    Args:
        encoder: BertModel's names -> float32.
        trained: a BertForMaskedLM's names -> float32; what the encoder holds as well and the tied decoder are left out.

    Returns:
        `<name>.delta` int8 and `<name>.scale` float32 for the encoder's matrices, other weights as they are.

    Raises:
        ConfigError: the embeddings are not the encoder's, which the format takes for granted.
    """
    delta: dict[str, Tensor] = {}
    for name, weight in trained.items():
        before = encoder.get(name.removeprefix("bert."))
        if name.startswith("cls.predictions.decoder."):
            continue  # tied
        if before is not None and torch.equal(weight, before):
            continue
        if name.startswith("bert.embeddings."):
            raise ConfigError(f"{name} was trained", key="student.frozen", fix="freeze the embeddings")
        if before is not None and weight.dim() == 2:
            delta[f"{name}.delta"], delta[f"{name}.scale"] = pack_rows(weight - before)
        else:
            delta[name] = weight.contiguous()
    return delta


def packing_loss(encoder: dict[str, Tensor], trained: dict[str, Tensor], delta: dict[str, Tensor]) -> dict[str, float]:
    """Norm of what packing lost over the norm of the difference, for each packed matrix; 0 is exact."""
    losses = {}
    for key, levels in delta.items():
        name, kind = key.rpartition(".")[::2]
        if kind == "delta":
            difference = trained[name] - encoder[name.removeprefix("bert.")]
            missed = difference - delta[f"{name}.scale"][:, None] * levels
            losses[name] = float(missed.norm() / difference.norm())
    return losses


def train(run_dir: Path, words: list[str]) -> int:
    """Starts or continues the run in a folder; returns the command's exit code.

    Raises:
        ConfigError: the run was started with other words.
    """
    if not (run_dir / CONFIG).is_file():
        return cli.main(["train", *words])
    if (began := yaml.safe_load((run_dir / OVERRIDES).read_text())) != words:
        raise ConfigError(f"was started with {' '.join(began)}", key="--run-dir", value=run_dir, fix="name another")
    return cli.main(["resume", str(run_dir)])


def pack(run_dir: Path, encoder: Path, output: Path) -> None:
    """Writes the delta of a finished run and prints the teacher's held-out figures before and after packing."""
    weights, trained = (load_file(folder / "model.safetensors") for folder in (encoder, run_dir / STUDENT))
    delta = make_delta(weights, trained)
    write_bytes(output, save(delta))
    losses = packing_loss(weights, trained, delta)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; packing loses {max(losses.values()):.1%} of the norm of a"
          f" matrix's difference at most, {sum(losses.values()) / len(losses):.1%} on average")  # fmt: skip
    cfg = yaml.safe_load((run_dir / CONFIG).read_text())
    models = {"before packing": load_model(str(run_dir / STUDENT)), "after packing": assemble(encoder, delta)}
    data = building.build_data(cfg, building.build_tokenizer(cfg, None))
    print_table(
        evaluate_side_by_side(
            models, data, teacher=None, limit=cfg["run"]["evaluation_batches"], precision=cfg["trainer"]["precision"]
        )
    )


def main(argv: list[str]) -> int:
    """Trains, packs, evaluates; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="optimizer steps (the experiment's 4203)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo_teacher"))
    parser.add_argument("--output", type=Path, help=f"of the delta (RUN_DIR/{DELTA})")
    parser.add_argument("--encoder", type=Path, help="folder of another BertModel (the package's)")
    parser.add_argument("overrides", nargs="*", help="key=value, as for train")
    args = parser.parse_intermixed_args(argv)
    try:
        encoder = args.encoder or encoder_file("model.safetensors").parent
        steps = [f"trainer.max_steps={args.steps}"] if args.steps is not None else []
        words = ["experiment=demo_teacher", f"student.init_from={encoder}", f"run.dir={args.run_dir}", *steps]
        if code := train(args.run_dir, [*words, *args.overrides]):
            return code
        pack(args.run_dir, encoder, args.output or args.run_dir / DELTA)
    except DistillkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
