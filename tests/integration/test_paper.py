"""The paper's experiments, ready for a user who has the data: on tiny trees in those layouts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import SMALL, Cli

pytestmark = pytest.mark.slow
TINY = (*SMALL, "head.channels=4", "backbone.weights=untrained", "noise.ratio=0,0.5")
QUICK = (*TINY, "seed=0,1", "method=plain")


def draw(path: Path, seed: int, defect: bool = False, mask: Path | None = None) -> None:
    pixels = np.random.default_rng(seed).integers(100, 140, (64, 64, 3), dtype=np.uint8)
    marked = np.zeros((64, 64), np.uint8)
    if defect:
        pixels[20:40, 10:30], marked[20:40, 10:30] = 0, 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if mask:
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(marked).save(mask)


def mvtec(root: Path, *categories: str) -> Path:
    for c, category in enumerate(categories):
        for i in range(8):
            draw(root / category / "train/good" / f"{i:03}.png", 100 * c + i)
        for i in range(4):
            draw(root / category / "test/good" / f"{i:03}.png", 100 * c + 20 + i)
            mask = root / category / "ground_truth/hole" / f"{i:03}_mask.png"
            draw(root / category / "test/hole" / f"{i:03}.png", 100 * c + 40 + i, True, mask)
    return root


def ksdd2(root: Path) -> Path:
    for split, good, bad in (("train", 8, 4), ("test", 4, 3)):
        for i in range(good + bad):
            name = f"{10000 + 100 * (split == 'test') + i}"
            mask = root / split / f"{name}_GT.png"
            draw(root / split / f"{name}.png", int(name), i >= good, mask)
    return root


def results(folder: str) -> list[dict[str, object]]:
    return [json.loads(p.read_text()) for p in sorted(Path(folder).glob("*/result.json"))]


def test_every_category_of_mvtec_beside_the_claims(cli: Cli, tmp_path: Path) -> None:
    root = mvtec(tmp_path / "data of mine", "bolt, big", "nut")
    assert cli("+experiment=paper_mvtec", f"data.root='{root}'", *QUICK) == 0
    found = results("outputs/paper_mvtec")
    assert Counter(r["category"] for r in found) == {"bolt, big": 4, "nut": 4}
    assert {r["head"] for r in found} == {"pooled"}
    table = Path("outputs/paper_mvtec/report/table.md").read_text()
    claimed = next(line for line in table.splitlines() if "paper's claim" in line)
    assert "95.4" in claimed and "86.8" in claimed
    with Path("outputs/paper_mvtec/report/table.csv").open() as file:
        assert any("0.868" in " ".join(row) for row in csv.reader(file))


def test_ksdd2_injects_its_own_training_defects_beside_the_claims(cli: Cli, tmp_path: Path) -> None:
    root = ksdd2(tmp_path / "ksdd2")
    assert cli("+experiment=paper_ksdd2", f"data.root={root}", *QUICK) == 0
    noisy = [r for r in results("outputs/paper_ksdd2") if r["noise"]["requested"] == 0.5]  # type: ignore[index]
    assert [r["noise"]["injected"] for r in noisy] == [4, 4]  # type: ignore[index]
    assert all(r["images"]["test"] == 7 for r in noisy)  # type: ignore[index]
    page = Path("outputs/paper_ksdd2/report/index.html").read_text()
    assert "92.1" in page and "94.6" in page
