"""One page per run that a person would rather look at than read the tables."""

from testbed.report.page import build_report

__all__ = ["build_report"]
