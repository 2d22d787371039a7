"""`python -m distillkit` is the command `distillkit`."""

from distillkit.cli import entry

entry()
