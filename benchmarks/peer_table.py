"""The printed table of a run over peers: a line for each data set, level and method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from rad_lightning.data.splits import Roles

SHOWN = (("image AUROC", "image_auroc"), ("pixel AUROC", "pixel_auroc"), ("AUPRO", "pixel_aupro"))
COSTS = ("fit, CPU s", "CPU ms/image", "peak MiB")
FITTING = ("samples", "trust", "training")  # stages of our methods, besides the features


def lines(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Means over seeds of the contents of ``result.json`` files; a dash where no run has it."""
    groups: dict[tuple[str, float, str], list[Mapping[str, Any]]] = defaultdict(list)
    for one in results:
        place = f"{one['dataset']}/{one['category']}"
        groups[place, float(one["noise"]["requested"]), one["method"]].append(one)
    return [
        (place, f"{ratio:g}", method, str(len(runs)), *numbers(runs))
        for (place, ratio, method), runs in sorted(groups.items())
    ]


def numbers(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics in percent, then the costs."""
    found = []
    for _, key in SHOWN:
        values = [run["metrics"][key] for run in runs if key in run["metrics"]]
        found.append(f"{100 * fmean(values):.1f}" if values else "-")
    costs = [cost for run in runs if (cost := cost_of(run))]
    found.append(f"{fmean(fit for fit, _ in costs):.1f}" if costs else "-")
    found.append(f"{1000 * fmean(each for _, each in costs):.0f}" if costs else "-")
    return [*found, f"{max(run['peak_memory_mib'] for run in runs):.0f}"]


def cost_of(run: Mapping[str, Any]) -> tuple[float, float] | None:
    """CPU seconds of the fitting, and of scoring an image. Those of our methods include the
    features of the images; ``None`` where these came from the cache, or an earlier version has not
    counted."""
    if cost := run.get("cost"):
        return cost["fit_cpu_seconds"], cost["score_cpu_seconds_per_image"]
    spent, features = run.get("cpu_seconds"), run["features"]
    if not spent or features["computed"] < features["images"]:
        return None
    image = spent["features"] / features["images"]
    fitting = sum(spent.get(stage, 0.0) for stage in FITTING)
    trained = features["images"] - run["images"].get(Roles.TEST, 0)
    return trained * image + fitting, image + spent["scoring"] / run["scored_images"]


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table = Table("data", "ρ", "method", "seeds", title="means over seeds; peak: the largest")
    for name in (*(name for name, _ in SHOWN), *COSTS):
        table.add_column(name, justify="right")
    for line in lines(results):
        table.add_row(*line)
    Console(width=None if Console().is_terminal else 120).print(table)
