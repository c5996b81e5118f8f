"""Cameras of 12 bits in files of 16: read on their own scale, and said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rad_lightning.config import DataConfig, NoiseConfig
from rad_lightning.data.dataset import open_dataset
from rad_lightning.data.depth import white_of
from rad_lightning.data.images import BadImage, as_image, brightest, load_image

FULL = 65535


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("highest", "white"),
    [(200, 255), (255, 255), (256, 1023), (4095, 4095), (4096, 16383), (40000, FULL)],
)
def test_white_is_that_of_the_brightest_training_image(
    tmp_path: Path, highest: int, white: int
) -> None:
    files = [
        save(tmp_path / f"{i}.tif", np.full((4, 4), value, np.uint16))
        for i, value in enumerate((7, highest, 30))
    ]
    assert white_of(files) == white


def test_files_of_eight_bits_say_nothing(tmp_path: Path) -> None:
    grey = save(tmp_path / "8.png", np.full((4, 4), 9, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"x")
    assert white_of([grey, tmp_path / "broken.png"]) == FULL
    assert brightest(grey) is None


def test_values_are_scaled_by_white_and_cut_at_it(tmp_path: Path) -> None:
    values = np.array([[0, 2048, 4095, 5000]], np.uint16).repeat(4, 0)
    file = save(tmp_path / "a.tif", values)
    expected = [0, 128, 255, 255]
    assert load_image(file, white=4095)[0, :, 0].tolist() == expected
    assert as_image(values, "it", 4095)[0, :, 0].tolist() == expected
    assert load_image(file)[0, :, 0].max() == 19  # of 16 bits: nearly black


def folder(root: Path, bits: int) -> None:
    generator = np.random.default_rng(0)
    for i in range(12):
        values = (generator.uniform(0.3, 0.9, (16, 16)) * (2**bits - 1)).astype(np.uint16)
        save(root / ("good" if i < 8 else "bad") / f"{i}.png", values)


def test_the_dataset_records_white_and_says_so(tmp_path: Path) -> None:
    folder(tmp_path / "twelve", 12)
    cfg = DataConfig(name="folder", root=str(tmp_path / "twelve"))
    data = open_dataset(cfg, NoiseConfig(), 0, tmp_path / "cache")
    assert data.table.white == 4095
    assert any("read as 12-bit" in note for note in data.table.notes)
    given = open_dataset(
        DataConfig(name="folder", root=str(tmp_path / "twelve"), white=FULL),
        NoiseConfig(), 0, tmp_path / "cache",
    )  # fmt: skip
    assert given.table.white == FULL and not given.table.notes


def test_a_file_that_another_program_would_have_to_read_is_no_image(tmp_path: Path) -> None:
    script = tmp_path / "0.png"
    script.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
    with pytest.raises(BadImage, match="not an image that can be read"):
        load_image(script)
