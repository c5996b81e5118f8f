"""``index.html``: everything of a sweep on one page that loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rad_lightning.common.sealed import read_regular
from rad_lightning.pages import render
from rad_lightning.report import plots, tables, uncertainty
from rad_lightning.report.analysis import Analysis
from rad_lightning.report.collect import Failure, Sweep
from rad_lightning.report.noise import protocol
from rad_lightning.report.results import Picture, Run

SHOWN_WORST = 12
LARGEST_PICTURE = 250_000  # bytes; a page with a dozen of them stays small
IMAGE_TYPES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
FILES = {
    "index.html": "this page",
    "table.md, table.csv, table.tex": "the tables above; the CSV in full precision, as shares of 1",
    "cells.csv": "one row per run, with all its metrics and noise numbers",
    "comparisons.csv": "the paired comparisons in full precision",
    "uncertainty.csv": "how the uncertainty U and λ(U) ended in each run that has them",
    "curve.png": "the plots in one picture",
    "budgets.png": "the plots over judged images, where there are any",
}


@dataclass(frozen=True)
class Worst:
    """An image on the wrong side of the threshold, with the run that scored it worst."""

    picture: Picture
    source: str  # data: URI
    verdict: str
    truth: str
    cell: str
    times: int


def page(sweep: Sweep, analysis: Analysis) -> str:
    """The page as text; equal results give equal bytes. Long because it names all that is shown."""
    look = plots.styles(sweep.series)
    runs = sweep.runs
    name = analysis.metric_name
    (mean_plot,) = plots.svgs([analysis.mean], look, name, large=True)
    panels = plots.svgs(analysis.panels, look, name, large=False) if analysis.panels else []
    by_budget = analysis.budgets
    budgets = plots.svgs(by_budget, look, name, large=False) if by_budget else []
    found = uncertainty.uncertainty_of(sweep)
    alike: dict[tuple[str, str], list[Failure]] = {}
    for failure in sweep.failures:
        alike.setdefault((failure.kind, failure.reason), []).append(failure)
    packages: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run.packages.items():
            packages.setdefault(package, set()).add(version)
    return render(
        "report.html.j2",
        sweep=sweep,
        sweep_title=sweep.plan.title if sweep.plan else sweep.folder.resolve().name,
        analysis=analysis,
        datasets=sorted({dataset for dataset, _ in sweep.categories}),
        categories=[sweep.category_name(*c) for c in sweep.categories],
        backbones=sorted({run.backbone for run in runs}),
        untrained=any("untrained" in run.backbone.lower() for run in runs),
        seeds=sorted({run.seed for run in runs}),
        protocols=sorted({protocol(run) for run in runs}),
        mean_plot=Markup(mean_plot),
        panels=list(zip(analysis.panels, map(Markup, panels), strict=True)),
        budgets=list(zip(by_budget, map(Markup, budgets), strict=True)),
        swatches=[Markup(plots.swatch(style)) for style in look],
        claim_swatch=Markup(plots.swatch(None)),
        uncertainty=found,
        uncertainty_words=uncertainty,
        trajectories=[tuple(map(Markup, pair)) for pair in plots.trajectories(found)],
        shades=[Markup(plots.shade(found.ratios, ratio)) for ratio in found.ratios],
        worst=worst_images(sweep),
        failures=list(alike.items()),
        revisions=sorted({run.git_revision for run in runs}),
        packages=[(package, sorted(found)) for package, found in sorted(packages.items())],
        run_notes=sorted(Counter(note for run in runs for note in run.notes).items()),
        files=FILES.items(),
        **_formats(),
    )


def _formats() -> dict[str, Any]:
    names = ("number", "decimal", "interval", "level", "p_value")
    return {name: getattr(tables, name) for name in names}


def worst_images(sweep: Sweep) -> list[Worst]:
    """The worst of all runs, every distinct image once, where a thumbnail of it is there."""
    pictures: list[tuple[Picture, Run, str]] = [
        (picture, run, series.label)
        for series in sweep.series
        for run in series.runs
        for picture in run.worst
    ]
    times = Counter((run.dataset, run.category, picture.path) for picture, run, _ in pictures)
    found: dict[tuple[str, str, str], Worst] = {}
    for picture, run, label in sorted(pictures, key=lambda p: (p[0].margin, p[1].name, p[0].path)):
        key = (run.dataset, run.category, picture.path)
        if key in found or not (source := data_uri(picture)):
            continue
        cell = [sweep.category_name(run.dataset, run.category), label]
        cell += [tables.level(run.ratio), f"seed {run.seed}"]
        found[key] = Worst(
            picture, source, verdict(picture), truth(picture), " · ".join(cell), times[key]
        )
        if len(found) == SHOWN_WORST:
            break
    return list(found.values())


def verdict(picture: Picture) -> str:
    """What the threshold decided about the image."""
    if picture.flagged == bool(picture.label):
        return "right, but close"
    return "missed" if picture.label else "false alarm"


def truth(picture: Picture) -> str:
    return f"defect: {picture.defect_type or 'unnamed'}" if picture.label else "normal image"


def data_uri(picture: Picture) -> str:
    """The thumbnail inside the page; empty where it is missing, too large or no picture."""
    try:
        content = read_regular(picture.file, LARGEST_PICTURE)
    except (OSError, ValueError):
        return ""
    kind = next((k for magic, k in IMAGE_TYPES.items() if content.startswith(magic)), None)
    if kind is None:
        return ""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
