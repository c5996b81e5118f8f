"""How much of an image AUROC on magnetic tiles is brightness?

Exposures 4 to 6 were taken of defective tiles alone, so a detector may win by telling exposures
apart. This prints the image AUROC of finished runs over all test images and over those of exposures
1 to 3 alone, and what the mean grey value of an image reaches by itself.

    python experiments/mtd_clean/exposure.py DATA_ROOT outputs/mtd_clean
"""

from __future__ import annotations

import csv
import re
import sys
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
    results = []
    for path in sorted(runs.glob("*/scores.csv")):
        with path.open() as file:
            test = [r for r in csv.DictReader(file) if r["role"] == "test"]
        results.append(both([(r["path"], int(r["label"]), float(r["score"])) for r in test]))
        print(
            f"{path.parent.name:55} all {results[-1][0]:5.1f}  exposures 1-3 {results[-1][1]:5.1f}"
        )
    if results:
        everything, matched = np.mean(results, axis=0)
        print(f"{'mean':55} all {everything:5.1f}  exposures 1-3 {matched:5.1f}")
    images = sorted(root.glob("MT_*/Imgs/*.jpg"))
    grey = [(p.name, int(p.parts[-3] != "MT_Free"), float(load_image(p).mean())) for p in images]
    everything, matched = both(grey)
    print(
        f"{'mean grey value of every image':55} all {everything:5.1f}  exposures 1-3 {matched:5.1f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
