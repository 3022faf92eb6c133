"""One HTML page that shows a result; it opens from disk and loads nothing."""

from stal_eval.report.page import REPORT_FILE, is_report, render, report_text, write_report

__all__ = ["REPORT_FILE", "is_report", "render", "report_text", "write_report"]
