"""Finds, before anything is trained, what would make a data set fail or score 0 later."""

from stal_data.validation.checks import validate
from stal_data.validation.findings import Counts, Finding, Report

__all__ = ["Counts", "Finding", "Report", "validate"]
