"""The tasks that models are fine-tuned and judged on: where their rows come from, what a model reads, what counts."""

from distillkit.comparison.tasks.base import Task

__all__ = ["Task"]
