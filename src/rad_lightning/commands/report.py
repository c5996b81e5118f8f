"""``report``: a sweep's folder in, a folder of tables, plots and one page out."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.config import ReportConfig
from rad_lightning.report import tables
from rad_lightning.report.analysis import Analysis
from rad_lightning.report.collect import Sweep
from rad_lightning.report.files import load, write
from rad_lightning.report.verify import verify


def report(cfg: ReportConfig) -> Path:
    """Write the report of ``cfg.sweep`` and show its main table; returns the page. Or check the
    runs of ``cfg.verify``; returns their folder.

    Raises:
        UserError: no such folder, no result in it, a metric that no run has, or a run that is not
            what it says.
    """
    progress = Progress(quiet=not cfg.progress)
    if cfg.verify is not None:
        return show_verified(progress, Path(cfg.verify))
    sweep, analysis = load(Path(cfg.sweep or ""), cfg.metric)
    index = write(sweep, analysis, cfg.output)
    show(progress, sweep, analysis)
    progress.say(f"page:    {index}")
    return index


def show_verified(progress: Progress, folder: Path) -> Path:
    """A row for every run of ``folder``.

    Raises:
        UserError: no run there, or one that is not what it says.
    """
    checked = verify(folder)
    table = Table(title="finished runs, checked", title_justify="left")
    for name in ("run", "files", "metrics", "found"):
        table.add_column(name, overflow="fold", justify="left" if name in "run found" else "right")
    for run in checked:
        found = "; ".join(run.faults) or "all as recorded"
        table.add_row(escape(run.run), str(run.files), str(run.metrics), escape(found))
    progress.console.print(table)
    wrong = [run for run in checked if run.faults]
    if wrong:
        raise UserError(
            f"verify={folder}: {len(wrong)} of {len(checked)} runs are not as recorded, first "
            f"{wrong[0].run}: {wrong[0].faults[0]}; train them again with resume=false"
        )
    progress.say(f"verified: {len(checked)} runs, every file and metric as recorded")
    return folder


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
