"""A made-up sweep folder: result files with the numbers that a test wants to see again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class FakeSweep:
    """Writes what ``train`` and a sweep would leave in ``folder``."""

    folder: Path

    def run(self, auroc: float | None = 0.9, *, name: str | None = None, **changes: Any) -> Path:
        """One finished cell; ``changes`` are its coordinates, or whole entries of the result."""
        at: dict[str, Any] = {
            "dataset": "toy", "category": "gear", "head": "patch", "method": "plain",
            "seed": 0, "ratio": 0.0, "lr": 0.002, "mode": "replace", "budget": 0,
        }  # fmt: skip
        at |= {key: changes.pop(key) for key in tuple(changes) if key in at}
        ratio = at["ratio"]
        if name is None:
            words = (
                at[k]
                for k in ("category", "head", "method", "seed", "ratio", "lr", "mode", "budget")
            )
            name = "-".join(str(word).replace("/", "_") for word in words)
        injected = round(40 * ratio)
        content = {
            "schema_version": 2,
            "run": name,
            **{key: at[key] for key in ("dataset", "category", "head", "method", "seed")},
            "backbone": "resnet18 (local weights)",
            "metrics": {"image_ap": 0.5} | ({} if auroc is None else {"image_auroc": auroc}),
            "noise": {
                "mode": at["mode"], "source": "real", "requested": ratio, "injected": injected,
                "denominator": "training images", "of": 40, "achieved": injected / 40,
                "contamination": injected / 40, "normals": 40 - injected, "defect_types": {},
            },
            "worst": [],
            "notes": [],
            "manifest_sha256": "ab" * 32,
            "config": {
                "seed": at["seed"], "output": "/somewhere",
                "data": {"name": at["dataset"], "category": at["category"], "root": "/x"},
                "noise": {"mode": at["mode"], "ratio": ratio},
                "head": {"name": at["head"]},
                "method": {"name": at["method"], "lr": at["lr"]},
                "review": {"budget": at["budget"], "error": 0.0},
            },
            "python": "3.11.7",
            "packages": {"torch": "2.11"},
            "git_revision": "c0ffee",
        } | changes  # fmt: skip
        return self.write(f"{name}/result.json", content)

    def fail(self, name: str, **changes: Any) -> Path:
        cell = {"dataset": "toy", "category": "gear", "head": "patch", "method": "plain",
                "seed": 0, "ratio": 0.3}  # fmt: skip
        content = {"run": name, "reason": "it diverged", "kind": "NotFiniteError",
                   "traceback": "Traceback", "cell": cell}  # fmt: skip
        return self.write(f"{name}/failure.json", content | changes)

    def plan(self, cells: list[dict[str, Any]], **changes: Any) -> Path:
        base = {"dataset": "toy", "category": "gear", "head": "patch", "method": "plain",
                "seed": 0, "ratio": 0.0, "overrides": [], "problem": None}  # fmt: skip
        content = {"schema_version": 1, "command": "python -m rad_lightning", "title": "noise",
                   "claims": {}, "cells": [base | cell for cell in cells]}  # fmt: skip
        return self.write("sweep.json", content | changes)

    def write(self, name: str, content: Any) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def age(self, file: Path, seconds: float) -> None:
        """Make a file look that old."""
        os.utime(file, (1e9 - seconds, 1e9 - seconds))


@pytest.fixture
def fake(tmp_path: Path) -> FakeSweep:
    folder = tmp_path / "sweep"
    folder.mkdir()
    return FakeSweep(folder)


@pytest.fixture
def full(fake: FakeSweep) -> FakeSweep:
    """Three methods, two categories, three levels, six seeds: plain loses, rad loses less."""
    loss = {"plain": 0.3, "rad": 0.1, "oracle_clean": 0.0}
    for method, slope in loss.items():
        for category, best in (("gear", 0.95), ("mesh", 0.90)):
            for ratio in (0.0, 0.2, 0.4):
                for seed in range(6):
                    wobble = 0.002 * ((7 * seed + 3 * len(method) + round(10 * ratio)) % 5)
                    auroc = best - slope * ratio + wobble
                    fake.run(auroc, method=method, category=category, ratio=ratio, seed=seed)
    return fake
