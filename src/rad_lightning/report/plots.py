"""The metric over the noise level: one panel per table, as PNG and as SVG to stand in a page."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from math import ceil, nan
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rad_lightning.report.collect import Series
from rad_lightning.report.grids import Grid
from rad_lightning.report.uncertainty import MeanCurves, Uncertainty

# Ink of the drawings; in a page it becomes the page's own, so that it shows on light and dark.
INK = "#1b1f27"
# After Okabe and Ito: distinct with every common colour blindness, and in print by marker too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5579b", "#b07d00", "#3a9bd0", "#6b6b6b")
# Of ordered levels, from low to high: the higher, the stronger the contrast to the page.
RAMP = ("#ed6925", "#dd513a", "#c73e4c", "#a92e5e", "#86216b", "#61136e", "#3b0f6f")
# A name for matplotlib, and the same shape in a swatch of 30 × 12.
MARKERS = (
    ("o", "M15 2.6a3.4 3.4 0 1 0 .01 0z"),
    ("s", "M12 3h6v6h-6z"),
    ("^", "M15 2l4 7.2h-8z"),
    ("D", "M15 1.6l4.4 4.4-4.4 4.4-4.4-4.4z"),
    ("v", "M15 10l4-7.2h-8z"),
    ("P", "M13.7 2h2.6v2.7H19v2.6h-2.7V10h-2.6V7.3H11V4.7h2.7z"),
    ("X", "M12 3l6 6M18 3l-6 6"),
)
CLAIM = ("x", "M12.4 3.4l5.2 5.2M17.6 3.4l-5.2 5.2")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.2, 1.4), (5, 1.4, 1.2, 1.4))
DOTS = (1.0, 2.0)
PER_ROW = 3
LETTERS = 12  # of a legend on an inch


@dataclass(frozen=True)
class Style:
    """Colour and marker say the method, the dash its head or setting."""

    colour: int
    dash: int


def styles(series: Sequence[Series]) -> list[Style]:
    """In the order of ``series``; equal methods share a colour."""
    methods = list(dict.fromkeys(s.method for s in series))
    found: list[Style] = []
    for s in series:
        colour = methods.index(s.method)
        found.append(Style(colour, sum(f.colour == colour for f in found)))
    return found


def _look(style: Style | None) -> tuple[str, tuple[str, str], tuple[float, ...]]:
    """Colour, marker and dash; ``None`` is a claim of others."""
    if style is None:
        return INK, CLAIM, DOTS
    colour, marker = COLOURS[style.colour % len(COLOURS)], MARKERS[style.colour % len(MARKERS)]
    again = style.colour // len(COLOURS)  # colours come round again, dashed
    return colour, marker, DASHES[(again + style.dash) % len(DASHES)]


def draw(axes: Any, grid: Grid, look: Sequence[Style], metric: str) -> list[Line2D]:
    """One panel: lines with bands; a hollow point is a mean that lacks categories.

    Returns:
        A handle per row for a legend.
    """
    handles = []
    for row in grid.rows:
        colour, (marker, _), dash = _look(None if row.series is None else look[row.series])
        line: dict[str, Any] = {"linestyle": (0, dash) if dash else "-", "linewidth": 1.5}
        point: dict[str, Any] = {"marker": marker, "markersize": 5}
        known = [
            (ratio, cell.estimate, bool(cell.missing))
            for ratio, cell in zip(grid.ratios, row.cells, strict=True)
            if cell.estimate
        ]
        # Broken where a point has no interval: a band across it would claim one.
        low, high = (
            [nan if bound is None else 100 * bound for bound in bounds]
            for bounds in ([e.low for _, e, _ in known], [e.high for _, e, _ in known])
        )
        x = [ratio for ratio, *_ in known]
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(x, [100 * e.mean for _, e, _ in known], color=colour, **line)
        for ratio, estimate, lacks in known:
            face = "none" if lacks else colour
            axes.plot([ratio], [100 * estimate.mean], color=colour, markerfacecolor=face, **point)
        handles.append(Line2D([], [], color=colour, label=row.label, **line, **point))
    axes.set_xlabel(grid.axis)
    axes.set_ylabel(f"{metric}, %", parse_math=False)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(grid.ratios, grid.ticks or [f"{r:g}" for r in grid.ratios])
    return handles


def png(grids: Sequence[Grid], look: Sequence[Style], metric: str) -> bytes:
    """All panels in one picture on white, with a legend."""
    columns = min(PER_ROW, len(grids))
    rows = ceil(len(grids) / columns)
    width = 1.2 + 4.0 * columns
    labels = [row.label for row in grids[0].rows]
    abreast = min(3, max(1, int(width * LETTERS / (max(map(len, labels)) + 8))))  # in the legend
    height = 0.9 + 3.0 * rows + 0.18 * ceil(len(labels) / abreast)
    with _drawing():
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes in panels[len(grids) :]:
            axes.set_axis_off()
        handles = [
            draw(axes, grid, look, metric) for axes, grid in zip(panels, grids, strict=False)
        ]
        for place, (axes, grid) in enumerate(zip(panels, grids, strict=False)):
            axes.set_title(grid.title, parse_math=False, fontsize=10, loc="left")
            if place % columns:  # its scale is that of the first in the row
                axes.set_ylabel("")
        legend = figure.legend(
            handles=handles[0], loc="outside lower center", ncols=min(abreast, len(labels)),
            frameon=False,
        )  # fmt: skip
        for entry in legend.get_texts():
            entry.set_parse_math(False)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def svgs(grids: Sequence[Grid], look: Sequence[Style], metric: str, large: bool) -> list[str]:
    """One picture per grid for a page: ink of the page, size as given, one scale for all."""
    found, limits = [], []
    with _drawing():
        for grid in grids:
            figure = Figure(figsize=(5.4, 3.5) if large else (3.5, 2.4), layout="constrained")
            draw(figure.subplots(), grid, look, metric)
            limits.append(figure.axes[0].get_ylim())
            found.append(figure)
        low, high = min(a for a, _ in limits), max(b for _, b in limits)
        for figure in found:
            figure.axes[0].set_ylim(low, high)
        return [_inline(f, g.name) for f, g in zip(found, grids, strict=True)]


def swatch(style: Style | None) -> str:
    """A short piece of a line with its marker, for legends and row heads; ``None`` is a claim."""
    colour, (_, shape), dash = _look(style)
    ink = "currentColor" if style is None else f"var(--c{COLOURS.index(colour)})"
    dashes = f' stroke-dasharray="{" ".join(f"{1.5 * d:g}" for d in dash)}"' if dash else ""
    return (
        f'<svg viewBox="0 0 30 12" aria-hidden="true" style="stroke: {ink}; fill: {ink}">'
        f'<path d="M0 6H30" stroke-width="1.5"{dashes}/><path d="{shape}"/></svg>'
    )


def shade(ratios: Sequence[float], ratio: float) -> str:
    """The swatch of one of the ordered levels."""
    ink = f"var(--r{RAMP.index(_shade(ratios, ratio))})"
    return (
        f'<svg viewBox="0 0 30 12" aria-hidden="true" style="stroke: {ink}">'
        '<path d="M0 6H30" stroke-width="3"/></svg>'
    )


def _shade(ratios: Sequence[float], ratio: float) -> str:
    """Levels share out the whole ramp; more of them than it has colours share some."""
    place = ratios.index(ratio) / max(1, len(ratios) - 1)
    return RAMP[round(place * (len(RAMP) - 1))]


def trajectories(found: Uncertainty) -> list[tuple[str, str]]:
    """U and λ(U) over the training, a pair per series with a line per level; one scale for all."""
    strengths = [value for r in found.readings for line in r.lines for value in line.strength]
    pairs = []
    with _drawing():
        for r in found.readings:
            left, right = (Figure(figsize=(3.5, 2.4), layout="constrained") for _ in range(2))
            _trajectory(left, "uncertainty U", found.ratios, r.lines, "uncertainty")
            _trajectory(right, "λ(U)", found.ratios, r.lines, "strength")
            left.axes[0].set_ylim(0, 1)
            _strength_scale(right.axes[0], strengths)
            pairs.append((_inline(left, f"U {r.series}"), _inline(right, f"strength {r.series}")))
    return pairs


def _trajectory(
    figure: Figure, label: str, ratios: Sequence[float], lines: Sequence[MeanCurves], name: str
) -> None:
    axes = figure.subplots()
    for line in lines:
        axes.plot(line.steps, getattr(line, name), color=_shade(ratios, line.ratio), linewidth=1.5)
    axes.set_xlabel("training step")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _strength_scale(axes: Any, values: Sequence[float]) -> None:
    """Logarithmic where a linear axis would hide the small ones."""
    if not values:
        return
    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
    else:
        axes.set_ylim(0, 1.05 * max(high, 1e-12))


def _inline(figure: Figure, salt: str) -> str:
    """SVG without prologue and size, with ids of its own and colours that a page can set."""
    buffer = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        blank = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1
    )
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same names in every figure
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S).replace(INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{place})")
    for place, colour in enumerate(RAMP):
        text = text.replace(colour, f"var(--r{place})")
    return text


@contextmanager
def _drawing() -> Iterator[None]:
    look = {
        "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.7,
    }  # fmt: skip
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in any script
        yield
