from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rad_lightning.data.layouts import read_layout
from rad_lightning.data.leftovers import left_out, looks_like

Write = Callable[..., Path]


def test_what_is_not_read_is_counted(tmp_path: Path, write_image: Write) -> None:
    for name in ("good/a.png", "bad/b.png", "masks/bad/b_mask.png"):
        write_image(tmp_path / name)
    assert left_out(read_layout("folder", tmp_path)) == []
    write_image(tmp_path / "good/@eaDir/a.png")
    for name in ("good/c.pgm", "bad/d.PGM", "bad/e.jfif", "notes", ".hidden.txt"):
        (tmp_path / name).touch()
    for name in "123456":
        write_image(tmp_path / f"masks/bad/{name}.png")
    (tmp_path / ".cache").mkdir()
    write_image(tmp_path / ".cache/a.png")
    assert left_out(read_layout("folder", tmp_path)) == [
        "not read, for their suffix: 1 .jfif, 2 .pgm, 1 no suffix",
        "not read, as folders of storage systems: 1: good/@eaDir",
        "masks of no anomalous image, not read: 6: masks/bad/1.png, masks/bad/2.png, "
        "masks/bad/3.png, ...",
    ]


def test_of_many_categories_one_is_looked_at(tmp_path: Path, write_image: Write) -> None:
    for category in ("a", "b"):
        write_image(tmp_path / category / "train/good/1.png")
        write_image(tmp_path / category / "test/hole/1.png")
        write_image(tmp_path / category / "ground_truth/hole/2_mask.png")
        write_image(tmp_path / category / "extra/3.png")
    assert left_out(read_layout("mvtec", tmp_path, "a")) == [
        "masks of no anomalous image, not read: 1: ground_truth/hole/2_mask.png",
        "images in no folder of the layout, not read: 1: extra/3.png",
    ]


NOISE = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
GREY = NOISE[..., :1].repeat(3, axis=2)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("a.png", NOISE, None),
        ("a.png", GREY, None),
        ("a_mask.png", NOISE, "a mask, by its name"),
        ("a-GT.png", NOISE, "a mask, by its name"),
        ("a.png", GREY // 128 * 255, "a mask, of two grey values"),
        ("a.png", NOISE // 128 * 255, "of 8 grey levels or fewer"),
        ("a.png", GREY * 0 + 3, "one colour"),
        ("a.png", GREY // 32, "of 8 grey levels or fewer"),
        ("a.png", GREY // 28, None),
    ],
)
def test_what_an_image_looks_like(name: str, image: np.ndarray, expected: str | None) -> None:
    assert looks_like(Path(name), image) == expected
