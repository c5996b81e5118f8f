"""The printed table of a run over peers: a line for each data set, level and peer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = (("image AUROC", "image_auroc"), ("pixel AUROC", "pixel_auroc"), ("AUPRO", "pixel_aupro"))
COSTS = ("fit, CPU s", "CPU ms/image", "peak MiB")


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
        found.append(f"{100 * mean(values):.1f}" if values else "-")
    fit = mean(run["cost"]["fit_cpu_seconds"] for run in runs)
    each = mean(run["cost"]["score_cpu_seconds_per_image"] for run in runs)
    peak = max(run["peak_memory_mib"] for run in runs)
    return [*found, f"{fit:.1f}", f"{1000 * each:.0f}", f"{peak:.0f}"]


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table = Table("data", "ρ", "peer", "seeds", title="peers, means over seeds; peak: the largest")
    for name in (*(name for name, _ in SHOWN), *COSTS):
        table.add_column(name, justify="right")
    for line in lines(results):
        table.add_row(*line)
    Console(width=None if Console().is_terminal else 120).print(table)
