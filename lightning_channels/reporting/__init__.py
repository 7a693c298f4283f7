"""Reports to look at: one HTML page of a prepared model or of a search."""

from lightning_channels.reporting.report import render_report, save_report

__all__ = ["render_report", "save_report"]
