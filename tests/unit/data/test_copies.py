"""Copies of an image: one part, one note, and no folder twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.data.copies import join_copies, leaked
from rad_lightning.data.images import load_mask, mask_has_defect
from rad_lightning.data.layouts.common import images_below, mask_index
from rad_lightning.data.layouts.table_csv import read_csv
from rad_lightning.data.samples import Sample, SampleTable


def table(groups: str) -> SampleTable:
    samples = tuple(Sample(f"{i}.png", 0, "good", g, "c") for i, g in enumerate(groups))
    return SampleTable("folder", "c", Path(), samples)


def test_copies_and_all_of_their_parts_are_one_part() -> None:
    joined = join_copies(table("abcbd"), ["1", "2", "1", "3", "4"])  # a = c, by the first image
    assert [s.group for s in joined.samples] == ["a", "b", "a", "b", "d"]
    chained = join_copies(table("abbc"), ["1", "1", "2", "2"])
    assert {s.group for s in chained.samples} == {"a"}
    assert len(joined.notes) == 1 and joined.notes[0].startswith("1 images are byte for byte")
    sides = zip(table("abc").samples, ("train", "test", "train"), strict=True)
    divided = [replace(sample, split=split) for sample, split in sides]
    kept = join_copies(replace(table("abc"), samples=tuple(divided)), ["1", "1", "1"])
    assert [s.group for s in kept.samples] == ["a", "b", "a"]  # as the data set divides them
    alone = table("ab")
    assert join_copies(alone, ["1", "2"]) is alone


def test_test_images_that_are_trained_on_are_counted() -> None:
    roles = ["train", "injected", "test", "test", "unused"]
    (note,) = leaked(["1", "2", "2", "3", "1"], roles)
    assert note.startswith("1 test images")
    assert leaked(["1", "2", "4", "3", "1"], roles) == ()


def white(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 255).save(path)


def test_each_real_folder_is_read_once_and_none_above(tmp_path: Path) -> None:
    good = tmp_path / "good"
    for name in ("good/0.png", "good/day1/1.png", "bad/2.png", "other/3.png"):
        white(tmp_path / name)
    (good / "again").symlink_to(".")
    (good / "all").symlink_to("..")
    (good / "latest").symlink_to("day1")
    (good / "away").symlink_to("../other")
    white(good / "@eaDir" / "4.png")
    found = [p.relative_to(good).as_posix() for p in images_below(good)]
    assert found == ["0.png", "day1/1.png", "away/3.png"]


def test_masks_are_found_by_the_path_of_their_image(tmp_path: Path) -> None:
    for name in ("cut/0_mask.png", "cut/1_GT.PNG", "cut/deep/0.png", "hole/0-seg.bmp"):
        white(tmp_path / name)
    assert sorted(mask_index(tmp_path)) == ["cut/0", "cut/1", "cut/deep/0", "hole/0"]
    white(tmp_path / "cut" / "0.bmp")
    with pytest.raises(UserError, match="are masks of one image"):
        mask_index(tmp_path)


def test_a_mask_is_turned_as_its_image_is(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[0, :2] = 255
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(pixels).save(tmp_path / "mask.png", exif=turned)
    mask = load_mask(tmp_path / "mask.png", (6, 4))
    assert np.argwhere(mask).tolist() == [[0, 3], [1, 3]]


def test_soft_masks_are_cut_at_half_of_their_maximum(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:40, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "soft.jpg", quality=40)
    assert (load_mask(tmp_path / "soft.jpg", (64, 64)) == (pixels > 0)).mean() > 0.99
    kinds = np.array([[0, 1], [2, 3]], np.uint8)  # numbers of kinds, each a defect
    Image.fromarray(kinds).save(tmp_path / "kinds.png")
    assert load_mask(tmp_path / "kinds.png", (2, 2)).tolist() == [[False, True], [True, True]]
    assert mask_has_defect(tmp_path / "kinds.png")


def test_a_table_may_list_links_into_a_store(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "photos"
    white(store / "a1.png")
    root.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        (root / name).symlink_to(store / "a1.png")
    rows = ("path,label", "0.png,0.0", "1.png,1.0", "2.png,true")  # as tools write them
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    table = read_csv(csv=root / "table.csv")
    assert [(s.path, s.label) for s in table.samples] == [("0.png", 0), ("1.png", 1), ("2.png", 1)]
