"""An ALBERT pretrained from nothing: its held-out MLM loss, beside what word frequencies alone give on the same rows.

    python scripts/measure_albert_scratch.py [--run runs/albert_scratch] [--vocabulary runs/vocab8k]
        [--out docs/figures/albert_scratch.json]

Makes the vocabulary and the run where they are missing, or continues the run; half an hour on a core. Writes the curve
as JSON, and beside it as a picture for light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from distillkit import __version__, building, config
from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.token_counts import token_counts
from distillkit.report import facts
from distillkit.report.drawing import SIZE, Plan, Theme, draw_all
from distillkit.rundir import CONFIG, METRICS, read_metrics
from distillkit.storage import write_bytes

VOCABULARY = ("data=demo", "tokenizer.kind=unigram", "tokenizer.vocab_size=8000")
RECIPE = (
    "teacher=none", "student=albert", "student.init=random", "student.hidden_size=256", "student.num_layers=4",
    "student.num_heads=4", "student.intermediate_size=1024", "student.embedding_size=128", "data=demo", "loss.alpha=0",
    "loss.gamma=0", "loss.beta=1", "loss.sop=1", "data.packing=sentences", "optimizer=lamb", "optimizer.lr=5e-3",
    "scheduler=linear", "data.max_length=64", "data.batch_size=64", "trainer.precision=bf16-mixed",
    "trainer.gradient_clip_val=1.0", "trainer.max_steps=2000", "trainer.val_check_interval=100",
    "trainer.limit_val_batches=16",
)  # fmt: skip


def main(words: Sequence[str]) -> None:
    """Trains what is missing, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/albert_scratch"))
    parser.add_argument("--vocabulary", type=Path, default=Path("runs/vocab8k"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/albert_scratch.json"))
    args = parser.parse_args(words)
    if not args.vocabulary.is_dir():
        distillkit("tokenizer", *VOCABULARY, f"output={args.vocabulary}")
    recipe = [*RECIPE, f"tokenizer.path={args.vocabulary}", f"run.dir={args.run}"]
    if (args.run / CONFIG).is_file():
        distillkit("resume", str(args.run))
    else:
        distillkit("train", *recipe)
    rows = [row for row in read_metrics(args.run / METRICS) if row.get("valid/mlm_loss")]
    cfg = config.settle(*config.load("train", recipe))
    data = building.build_data(cfg, building.build_tokenizer(cfg, None))
    result = {
        "version": __version__, "machine": facts.machine(), "recipe": RECIPE,
        "of_word_frequencies": frequency_loss(data, cfg["trainer"]["limit_val_batches"]),
        "held_out_mlm_loss": {int(float(row["step"])): float(row["valid/mlm_loss"]) for row in rows},
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, args.out)


def distillkit(*words: str) -> None:
    """Runs the command line."""
    subprocess.run([sys.executable, "-m", "distillkit", *words], check=True)


def frequency_loss(data: MaskedLMDataModule, batches: int) -> float:
    """Cross-entropy, in nats, of the training rows' token frequencies on the predicted tokens of held-out batches.

    Args:
        data: prepared or not.
        batches: held-out batches, from the first.
    """
    counts = token_counts(data.prepare()).astype(np.float64)
    counts = np.pad(counts, (0, len(data.tokenizer) - len(counts))) + 1.0
    stream = data.valid_stream()
    assert stream is not None
    labels = np.concatenate([batch.labels.numpy().ravel() for _, batch in zip(range(batches), stream, strict=False)])
    predicted = labels[labels >= 0]
    return float(math.log(counts.sum()) - np.log(counts[predicted]).mean())


def draw(result: Mapping[str, Any], place: Path) -> None:
    """The curve as PNGs beside the JSON, one a theme."""
    plan = Plan("", place.stem, "Held-out MLM loss, from nothing", SIZE, partial(paint, result))
    for drawing in draw_all([plan]):
        for theme, image in drawing.images.items():
            write_bytes(place.with_name(f"{place.stem}_{theme}.png"), image)


def paint(result: Mapping[str, Any], axes: Axes, theme: Theme) -> None:
    """The curve, and a line where word frequencies are."""
    steps, losses = zip(*((int(step), loss) for step, loss in result["held_out_mlm_loss"].items()), strict=True)
    axes.plot(steps, losses, color=theme.students[0], marker="o", markersize=4, lw=1.8)
    axes.axhline(result["of_word_frequencies"], color=theme.text, linestyle="--", lw=1.2)
    axes.annotate("word frequencies alone", (steps[-1], result["of_word_frequencies"]), (0, 4), ha="right",
                  textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("nats")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))


if __name__ == "__main__":
    main(sys.argv[1:])
