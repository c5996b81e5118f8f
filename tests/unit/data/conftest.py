"""Tiny trees of images, and the real data beside the checkout where it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Write a small image, grey by default; ``marked=True`` sets some pixels as in a mask."""
    counter = iter(range(256))

    def write(path: Path, *, mask: bool = False, marked: bool = False) -> Path:
        pixels = np.zeros((6, 8), np.uint8) if mask else np.full((6, 8), next(counter), np.uint8)
        if marked:
            pixels[2:4, 3:5] = 255
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"no real data: {folder} is absent")
        return folder

    return find
