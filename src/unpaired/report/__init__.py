"""Reports: a page builder (:class:`Report`), and the report of a run or of results (:func:`write_report`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unpaired.report.charts import Panel, interval_panel, line_panel, scatter_panel
from unpaired.report.page import Card, Pair, Report

__all__ = ["Card", "Pair", "Panel", "Report", "interval_panel", "line_panel", "scatter_panel", "write_report"]


def write_report(*paths: Path | str, **options: Any) -> Path:
    """As :func:`unpaired.report.sections.write_report`, imported on first use: the builder alone needs no torch."""
    from unpaired.report.sections import write_report as write

    return write(*paths, **options)
