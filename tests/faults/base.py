"""What the kinds share: small data, a small undisturbed training, and whether another equals it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from faults.outcomes import Ended
from faults.processes import rad
from support import SMALL

HEIGHT, WIDTH = 48, 64


def photo(seed: int, bad: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A striped surface with noise ``(H, W, 3)`` uint8, and its defect ``(H, W)`` bool."""
    rng = np.random.default_rng(seed)
    grey = 110 + 12 * np.sin(np.arange(WIDTH) / 3) + rng.normal(0, 6, (HEIGHT, WIDTH))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if bad:
        top, left = rng.integers(4, HEIGHT - 16), rng.integers(4, WIDTH - 16)
        mask[top : top + 10, left : left + 10] = True
        grey[mask] = 230
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2), mask


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def photos(root: Path, good: int = 12, bad: int = 4) -> Path:
    """A user's own folder, ``good/`` and ``bad/``."""
    for i in range(good):
        save(root / "good" / f"{i:03}.png", photo(i)[0])
    for i in range(bad):
        save(root / "bad" / f"{i:03}.png", photo(1000 + i, True)[0])
    return root


def mvtec(root: Path) -> Path:
    """A folder in MVTec AD's layout, with masks."""
    for i in range(8):
        save(root / "part" / "train" / "good" / f"{i:03}.png", photo(i)[0])
    for i in range(3):
        save(root / "part" / "test" / "good" / f"{i:03}.png", photo(500 + i)[0])
        pixels, mask = photo(1000 + i, True)
        save(root / "part" / "test" / "spot" / f"{i:03}.png", pixels)
        ground = root / "part" / "ground_truth" / "spot" / f"{i:03}_mask.png"
        save(ground, (mask * 255).astype(np.uint8))
    return root


def settings(data: Path, *more: str) -> tuple[str, ...]:
    """A training of a second on ``data``, quiet."""
    chosen = ("data=folder", f"data.root={data}", "backbone.weights=untrained")
    return (*chosen, *SMALL, "evaluation.pixel=false", "progress=false", *more)


@dataclass(frozen=True)
class Reference:
    """An undisturbed training: what it was asked, the folder it ran in, its run directory."""

    arguments: tuple[str, ...]
    folder: Path
    run: Path

    def wrong(self, folder: Path, output: str = "outputs/runs") -> str | None:
        """How the only run below ``folder`` differs; ``None`` where it has the same numbers."""
        runs = list((folder / output).glob("*/result.json"))
        if len(runs) != 1:
            return f"exit code 0 with {len(runs)} results"
        return differs(runs[0].parent, self.run)

    def copied(self, folder: Path) -> Path:
        return shutil.copytree(self.folder, folder)


def differs(run: Path, other: Path) -> str | None:
    """Why two runs are not the same, ``None`` where they are."""
    try:
        metrics = [json.loads((r / "result.json").read_text())["metrics"] for r in (run, other)]
    except (ValueError, KeyError, TypeError) as error:
        return f"result.json is no result: {error}"
    if metrics[0] != metrics[1]:
        pairs = (f"{k} {metrics[0].get(k)} not {v}" for k, v in metrics[1].items())
        unlike = [
            p for p, k in zip(pairs, metrics[1], strict=True) if metrics[0].get(k) != metrics[1][k]
        ]
        return unlike[0] if unlike else "other metrics"
    for name in ("scores.csv", "manifest.csv"):
        if (run / name).read_bytes() != (other / name).read_bytes():
            return f"other {name}"
    return None


def reference(folder: Path, *more: str, data: Path | None = None) -> Reference:
    """Train undisturbed in ``folder``.

    Raises:
        RuntimeError: it does not end well; then there is nothing to compare with.
    """
    data = data or photos(folder.with_name(f"{folder.name}_photos"))
    arguments = settings(data, *more)
    well(rad(folder, *arguments))
    (result,) = (folder / "outputs" / "runs").glob("*/result.json")
    return Reference(arguments, folder, result.parent)


def well(ended: Ended) -> Ended:
    if ended.code:
        raise RuntimeError(f"an undisturbed command ended with {ended.code}: {ended.err}")
    return ended


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def predicted(folder: Path) -> dict[str, str]:
    """Name -> score and verdict of ``predict``; empty where it wrote nothing."""
    file = folder / "scores.csv"
    if not file.is_file():
        return {}
    return {Path(r["path"]).name: f"{r['score']} {r['verdict']}" for r in rows(file)}


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of one try; gone afterwards with what lies beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("out", "err"):
            folder.with_name(f".{folder.name}.{name}").unlink(missing_ok=True)


def drawn(seed: int, *which: Any) -> np.random.Generator:
    """The generator of one try: the same whatever else is tried."""
    return np.random.default_rng([seed, *(crc32(str(w).encode()) for w in which)])
