"""A Markdown table over finished runs: mean and 95 % interval over the seeds of a configuration.

python experiments/summary.py outputs/mtd_clean [more folders of runs]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

SHOWN = {"image_auroc": "image AUROC", "image_ap": "image AP", "pixel_aupro": "pixel AUPRO"}


def configuration(result: dict[str, Any]) -> str:
    """What a row is named after: everything but the seed that a reader would ask for."""
    config = result["config"]
    size = "x".join(map(str, config["data"]["size"]))
    layers = "+".join(map(str, config["backbone"]["out_indices"]))
    split = config["data"]["split"]
    return (
        f"{result['dataset']}/{result['category']} | {split} | {result['head']} | "
        f"{result['method']} | {result['backbone']} | {layers} | {size}"
    )


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % t interval, in percent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    half = 100 * quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


def same_but_seed(result: dict[str, Any]) -> str:
    """Equal for runs that may be averaged: settings that change numbers agree, but for the seed."""
    config = {k: v for k, v in result["config"].items() if k in ("data", "head", "method")}
    return json.dumps([config, result["backbone"], result["config"]["backbone"]], sort_keys=True)


def main(folders: list[str]) -> None:
    # By seed, so that a run counts once, also when its data changed and it was done again.
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for folder in folders:
        for path in sorted(Path(folder).glob("*/result.json"), key=lambda p: p.stat().st_mtime):
            result = json.loads(path.read_text())
            groups[same_but_seed(result)][result["seed"]] = result
    header = ["data", "split", "head", "method", "backbone", "layers", "size", *SHOWN.values()]
    print(f"| {' | '.join([*header, 'seeds'])} |")
    print("|---" * (len(header) + 1) + "|")
    tables = [list(by_seed.values()) for by_seed in groups.values()]
    for results in sorted(tables, key=lambda g: configuration(g[0])):
        cells = []
        for key in SHOWN:
            values = [r["metrics"][key] for r in results if key in r["metrics"]]
            cells.append(interval(values) if len(values) == len(results) else "–")
        seeds = ", ".join(str(r["seed"]) for r in sorted(results, key=lambda r: r["seed"]))
        print(f"| {configuration(results[0])} | {' | '.join(cells)} | {seeds} |")


if __name__ == "__main__":
    main(sys.argv[1:])
