"""What a sweep costs besides the training of its heads, from its result files.

    python benchmarks/sweep.py outputs/noise_sweep

Overhead of a cell: its wall time without the training steps (loading, reduction, scoring,
evaluation, writing, W&B). Features: images that went through the backbone, over all cells, against
the different images that the cells hold.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median


def main(folder: Path) -> None:
    by_head: dict[str, list[tuple[float, float]]] = defaultdict(list)
    computed, images = defaultdict(int), defaultdict(set)
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        training = result["seconds"]["training"]
        by_head[result["head"]].append((training, result["wall_seconds"] - training))
        computed[result["head"]] += result["features"]["computed"]
        with path.with_name("manifest.csv").open() as file:
            images[result["head"]] |= {row["sha256"] for row in csv.DictReader(file)}
    total = sum(t + o for cells in by_head.values() for t, o in cells)
    print(f"{sum(map(len, by_head.values()))} cells, {total / 60:.1f} minutes of cells in all")
    for head, cells in sorted(by_head.items()):
        training, overhead = (sorted(c[i] for c in cells) for i in (0, 1))
        print(
            f"{head:8} {len(cells):3} cells: training {median(training):.1f} s, overhead median "
            f"{median(overhead):.2f} s, most {overhead[-1]:.2f} s; features computed "
            f"{computed[head]} times for {len(images[head])} images"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
