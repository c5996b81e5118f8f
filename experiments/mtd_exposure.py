"""How much of an image AUROC on magnetic tiles is brightness?

Exposures 4 to 6 were taken of defective tiles alone, so a detector may win by telling exposures
apart. This prints the mean image AUROC of finished runs over all test images and over those of
exposures 1 to 3 alone, and what the mean grey value of an image reaches by itself.

    python experiments/mtd_exposure.py DATA_ROOT outputs/mtd_clean
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from rad_lightning.data.images import load_image
from rad_lightning.evaluation.metrics import auroc

SHARED_EXPOSURES = ("1", "2", "3")  # both classes were photographed under these


def both(rows: list[tuple[str, int, float]]) -> tuple[float, float]:
    """Image AUROC in percent over all rows ``(path, label, score)``, and over exposures 1 to 3."""
    matched = [r for r in rows if re.search(r"exp(\d+)_", r[0]).group(1) in SHARED_EXPOSURES]  # type: ignore[union-attr]
    found = []
    for part in (rows, matched):
        scores = torch.tensor([r[2] for r in part], dtype=torch.double)
        found.append(100 * auroc(scores, torch.tensor([r[1] for r in part])))
    return found[0], found[1]


def main(root: Path, runs: Path) -> None:
    series: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for path in sorted(runs.glob("*/result.json")):
        result = json.loads(path.read_text())
        with path.with_name("scores.csv").open() as file:
            test = [r for r in csv.DictReader(file) if r["role"] == "test"]
        key = (
            result["config"]["data"]["split"],
            result["head"],
            result["method"],
            result["noise"]["requested"],
        )
        series[key].append(both([(r["path"], int(r["label"]), float(r["score"])) for r in test]))
    print("| split | head | method | noise ratio | runs | all exposures | exposures 1–3 |")
    print("|---|---|---|---:|---:|---:|---:|")
    for key, found in sorted(series.items(), key=str):
        split, head, method, ratio = key
        everything, matched = np.mean(found, axis=0)
        print(
            f"| {split} | {head} | {method} | {ratio:g} | {len(found)} | {everything:.1f} "
            f"| {matched:.1f} |"
        )
    images = sorted(root.glob("MT_*/Imgs/*.jpg"))
    grey = [(p.name, int(p.parts[-3] != "MT_Free"), float(load_image(p).mean())) for p in images]
    everything, matched = both(grey)
    print(f"| – | mean grey value of every image | – | – | – | {everything:.1f} | {matched:.1f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
