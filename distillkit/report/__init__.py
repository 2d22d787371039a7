"""The report of runs: facts as plain values, figures drawn from them, and one page made of both."""

from distillkit.report.document import write_report

__all__ = ["write_report"]
