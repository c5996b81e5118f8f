"""``report``: a sweep's folder in, a folder of tables, plots and one page out."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from rad_lightning.config import ReportConfig
from rad_lightning.progress import Progress
from rad_lightning.report import plots, tables, uncertainty
from rad_lightning.report.collect import Sweep, read_sweep
from rad_lightning.report.grids import Analysis, analyse
from rad_lightning.report.page import page
from rad_lightning.runs import write_text


def report(cfg: ReportConfig) -> Path:
    """Write the report of ``cfg.sweep`` and show its main table; returns the page.

    Raises:
        UserError: no such folder, no result in it, or a metric that no run has.
    """
    progress = Progress(quiet=not cfg.progress)
    sweep, analysis = look(Path(cfg.sweep), cfg.metric)
    index = write(sweep, analysis, cfg.output)
    show(progress, sweep, analysis)
    progress.say(f"page:    {index}")
    return index


def write_report(folder: Path, metric: str = "image_auroc", output: str | None = None) -> Path:
    """The report of a sweep's folder, without a word on the terminal; returns the page."""
    return write(*look(folder, metric), output)


def look(folder: Path, metric: str) -> tuple[Sweep, Analysis]:
    sweep = read_sweep(folder)
    return sweep, analyse(sweep, metric)


def write(sweep: Sweep, analysis: Analysis, output: str | None = None) -> Path:
    """All files of a report, each whole or not at all, the page last."""
    folder = Path(output) if output else sweep.folder / "report"
    for name, text in texts(sweep, analysis).items():
        write_text(folder / name, text)
    style = plots.styles(sweep.series)
    picture = plots.png([analysis.mean, *analysis.panels], style, analysis.metric_name)
    plots.write_bytes(folder / "curve.png", picture)
    return write_text(folder / "index.html", page(sweep, analysis))


def texts(sweep: Sweep, analysis: Analysis) -> dict[str, str]:
    """The tables by file name; equal results give equal bytes."""
    sections = uncertainty.section(uncertainty.uncertainty_of(sweep))
    return {
        "table.md": tables.markdown(analysis, sweep.completeness, sections),
        "table.csv": tables.grids_csv(analysis),
        "table.tex": tables.latex(analysis),
        "comparisons.csv": tables.comparisons_csv(analysis),
        "cells.csv": tables.cells_csv(sweep.series),
        "uncertainty.csv": uncertainty.runs_csv(sweep),
    }


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
