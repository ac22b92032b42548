"""One page that shows a run: how it went, what it gets wrong, what happens inside of its layers, how to repeat it."""

from batchnorm.reporting.report import REPORT, Report, check_packages, write_report

__all__ = ["REPORT", "Report", "check_packages", "write_report"]
