"""Fixtures of all tests: the command line in this process, the shared images, a photo folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import SHARED, Cli

# Before torch is imported: workers of a parallel test run would otherwise fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``generate`` that draws equal images once in all tests, and copies them from then on."""
    from rad_lightning.data.synthetic import generate

    drawn = tmp_path_factory.mktemp("generated")

    def copied(root: Path, category: str, **options: int) -> Path:
        source = generate(drawn, category, **options)
        if not (root / source.name / category).exists():
            shutil.copytree(source / category, root / source.name / category)
        return generate(root, category, **options)  # which finds them

    return copied


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generated: Callable[..., Path]) -> Cli:
    """Run a command as a user would, in an empty folder; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rad_lightning.data.dataset.generate", generated)

    def run(*arguments: str) -> int:
        from rad_lightning.cli import main

        try:
            main(list(arguments))
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture
def shared() -> Path:
    """The development images, where a checkout has them beside it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the development images in {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A user's own folder: six good images and three bad ones with a dark square."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for kind, count in (("good", 6), ("bad", 3)):
        (root / kind).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(120, 136, (48, 64, 3), dtype=np.uint8)
            if kind == "bad":
                pixels[10:30, 10:30] = 0
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return root
