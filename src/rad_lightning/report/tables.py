"""Tables as Markdown, CSV and LaTeX. Equal results give equal bytes: sorted, no clock, no path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rad_lightning.common.tables import to_csv
from rad_lightning.report.analysis import Analysis
from rad_lightning.report.collect import Series
from rad_lightning.report.comparisons import Comparison
from rad_lightning.report.grids import Cell, Grid
from rad_lightning.report.statistics import Estimate

NONE = "–"
NOTES = (
    "Percent; in brackets the 95 % bootstrap interval over seeds within categories.",
    "* not all categories are in this mean.",
)


def number(value: float) -> str:
    """A share as percent with one decimal, a true minus, and no negative zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "−")


def decimal(value: float | None) -> str:
    """With two decimals, a true minus, and no negative zero."""
    return NONE if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def interval(estimate: Estimate, show: Callable[[float], str] = number) -> str:
    """``[91.0, 94.9]``, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{show(estimate.low)}, {show(estimate.high)}]"


def short(cell: Cell, show: Callable[[float], str] = number) -> str:
    """The mean of a cell, starred where it lacks categories."""
    star = "*" if cell.missing else ""
    return show(cell.estimate.mean) + star if cell.estimate else NONE


def text(cell: Cell, show: Callable[[float], str] = number) -> str:
    """A cell in one line."""
    if not cell.estimate:
        return NONE
    return f"{short(cell, show)} {interval(cell.estimate, show)}".rstrip()


def level(ratio: float | None) -> str:
    """A noise level as a heading: ``ρ = 0.3``."""
    return "all ρ > 0" if ratio is None else f"ρ = {ratio:g}"


def comparison_cells(c: Comparison) -> list[str]:
    """One row of the comparisons, as text."""
    difference = text(Cell(c.difference, c.missing))
    pair = f"{c.first} − {c.second}"
    return [pair, level(c.ratio), difference, str(c.difference.n), p_value(c.p), p_value(c.p_holm)]


COMPARISON_HEADER = ("difference", "level", "mean", "pairs", "p", "p (Holm)")


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown(analysis: Analysis, completeness: str, sections: Sequence[str] = ()) -> str:
    """``table.md``: every grid, further ``sections``, the comparisons, the notes."""
    parts = [f"# {escaped(analysis.metric_name)}", f"{completeness}.", " ".join(NOTES)]
    for grid in analysis.grids:
        header = ["", *(level(r) for r in grid.ratios)]
        rows = [[escaped(row.label), *map(text, row.cells)] for row in grid.rows]
        parts += [f"## {escaped(grid.title)}", pipes(header, rows)]
    parts += sections
    if analysis.comparisons:
        rows = [
            [escaped(pair), *more] for pair, *more in map(comparison_cells, analysis.comparisons)
        ]
        parts += ["## Paired comparisons", pipes(COMPARISON_HEADER, rows)]
    if analysis.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in analysis.notes))
    return "\n\n".join(parts) + "\n"


def pipes(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    rule = ["---", *("---:" for _ in header[1:])]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(value: str) -> str:
    """Escaped, so that no character of a name is read as markup; on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(value.split()))


def latex(analysis: Analysis) -> str:
    """``table.tex``: one ``tabular`` per grid, for ``\\input``; needs booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for grid in analysis.grids:
        header = ["", *(f"$\\rho = {ratio:g}$" for ratio in grid.ratios)]
        rows = [[tex(row.label), *map(_tex_cell, row.cells)] for row in grid.rows]
        lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
        parts += [
            f"\n% {tex(grid.title)}",
            f"\\begin{{tabular}}{{l{'c' * len(grid.ratios)}}}",
            "\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule",
            "\\end{tabular}",
        ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _tex_cell(cell: Cell) -> str:
    if cell.estimate is None:
        return "--"
    star = "$^*$" if cell.missing else ""
    mean = number(cell.estimate.mean).replace("−", "$-$")
    # Braces, or a bracket after a line break would be taken for its optional argument.
    around = interval(cell.estimate).replace("−", "$-$")
    return f"{mean}{star} {{\\scriptsize {around}}}" if around else mean + star


TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "·": r"$\cdot$", "−": "$-$", "–": "--", "ρ": r"$\rho$", "<": "$<$", ">": "$>$", "|": r"$|$",
}  # fmt: skip


def tex(value: str) -> str:
    """Plain text as LaTeX that prints it, on one line."""
    return "".join(TEX.get(char, char) for char in " ".join(value.split()))


def grids_csv(analysis: Analysis) -> str:
    """``table.csv``: every cell of every grid in full precision, as shares of 1."""
    header = (
        "table", "series", "source", "ratio", "mean", "low", "high", "n", "seeds_fewest",
        "missing", "note",
    )  # fmt: skip
    return to_csv(header, (row for grid in analysis.grids for row in _long(grid)))


def _long(grid: Grid) -> Iterable[Sequence[Any]]:
    for row in grid.rows:
        source = "claimed" if row.claimed else "measured"
        for ratio, cell in zip(grid.ratios, row.cells, strict=True):
            e = cell.estimate
            numbers = (e.mean, e.low, e.high, e.n, e.fewest) if e else (None,) * 5
            note = "" if e else cell.reason
            missing = "; ".join(cell.missing)
            yield (grid.name, row.label, source, ratio, *numbers, missing, note)


def comparisons_csv(analysis: Analysis) -> str:
    """``comparisons.csv``: the paired tests in full precision."""
    header = ("first", "second", "ratio", "difference", "low", "high", "pairs", "p", "p_holm")
    rows = (
        (c.first, c.second, "all > 0" if c.ratio is None else c.ratio, c.difference.mean,
         c.difference.low, c.difference.high, c.difference.n, c.p, c.p_holm)
        for c in analysis.comparisons
    )  # fmt: skip
    return to_csv(header, rows)


NOISE = ("mode", "source", "denominator", "of", "injected", "achieved", "contamination", "normals")


def cells_csv(series: Sequence[Series]) -> str:
    """``cells.csv``: one row per run that counts, with all its metrics and noise numbers."""
    metrics = sorted({key for s in series for run in s.runs for key in run.metrics})
    header = (
        "run", "dataset", "category", "series", "head", "method", "seed", "ratio",
        *(f"noise_{key}" for key in NOISE), "backbone", *metrics, "manifest_sha256", "git_revision",
    )  # fmt: skip
    rows = (
        (run.name, run.dataset, run.category, s.label, run.head, run.method, run.seed, run.ratio,
         *(run.noise.get(key) for key in NOISE), run.backbone,
         *(run.metrics.get(key) for key in metrics), run.manifest, run.git_revision)
        for s in series
        for run in s.runs
    )  # fmt: skip
    return to_csv(header, rows)
