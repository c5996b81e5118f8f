"""The files of a report: tables, plots and the page, out of a sweep's folder."""

from __future__ import annotations

from pathlib import Path

from rad_lightning.common.files import write_bytes, write_text
from rad_lightning.report import plots, tables, uncertainty
from rad_lightning.report.analysis import Analysis, analyse
from rad_lightning.report.collect import Sweep, read_sweep
from rad_lightning.report.page import page


def write_report(folder: Path, metric: str = "image_auroc", output: str | None = None) -> Path:
    """The report of a sweep's folder, without a word on the terminal; returns the page."""
    return write(*load(folder, metric), output)


def load(folder: Path, metric: str) -> tuple[Sweep, Analysis]:
    sweep = read_sweep(folder)
    return sweep, analyse(sweep, metric)


def write(sweep: Sweep, analysis: Analysis, output: str | None = None) -> Path:
    """All files of a report, each whole or not at all, the page last."""
    folder = Path(output) if output else sweep.folder / "report"
    for name, text in texts(sweep, analysis).items():
        write_text(folder / name, text)
    style = plots.styles(sweep.series)
    picture = plots.png([analysis.mean, *analysis.panels], style, analysis.metric_name)
    write_bytes(folder / "curve.png", picture)
    if analysis.budgets:
        write_bytes(
            folder / "budgets.png", plots.png(analysis.budgets, style, analysis.metric_name)
        )
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
