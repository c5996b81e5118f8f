"""``report``: a sweep's folder in, a folder of tables, plots and one page out."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from rad_lightning.common.progress import Progress
from rad_lightning.config import ReportConfig
from rad_lightning.report import tables
from rad_lightning.report.analysis import Analysis
from rad_lightning.report.collect import Sweep
from rad_lightning.report.files import load, write


def report(cfg: ReportConfig) -> Path:
    """Write the report of ``cfg.sweep`` and show its main table; returns the page.

    Raises:
        UserError: no such folder, no result in it, or a metric that no run has.
    """
    progress = Progress(quiet=not cfg.progress)
    sweep, analysis = load(Path(cfg.sweep), cfg.metric)
    index = write(sweep, analysis, cfg.output)
    show(progress, sweep, analysis)
    progress.say(f"page:    {index}")
    return index


def show(progress: Progress, sweep: Sweep, analysis: Analysis) -> None:
    """The main table on the terminal, and how much of the sweep it covers."""
    table = Table(title=f"{analysis.mean.title}, %", title_justify="left")
    table.add_column("series", overflow="fold")
    for ratio in analysis.mean.ratios:
        table.add_column(tables.level(ratio), justify="right")
    for row in analysis.mean.rows:
        table.add_row(row.label, *map(tables.short, row.cells))
    progress.console.print(table, markup=False)
    for note in (f"{sweep.completeness}", *analysis.notes, *sweep.notes):
        progress.say(f"note: {note}")
