from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from rad_lightning.data.layouts import read_layout
from rad_lightning.data.masks import mask_faults, with_masks, with_tested_masks
from rad_lightning.data.samples import SampleTable
from rad_lightning.data.splits import Roles

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path, write_image: Write) -> SampleTable:
    """A good image, and bad ones with masks: a, which fits, b, of another size, c, no image, d,
    whose image is none, e, turned by its EXIF tag as its image is not, f, without a mask."""
    write_image(tmp_path / "good/1.png")
    for name in "abcef":
        write_image(tmp_path / f"bad/{name}.png")
    (tmp_path / "bad/d.png").write_bytes(b"none")
    write_image(tmp_path / "masks/bad/a.png", mask=True)
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(tmp_path / "masks/bad/b.png")
    (tmp_path / "masks/bad/c.png").write_bytes(b"none")
    write_image(tmp_path / "masks/bad/d.png", mask=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "masks/bad/e.png", exif=exif)
    return read_layout("folder", tmp_path)


def test_masks_are_compared_with_their_images_by_the_headers(table: SampleTable) -> None:
    found = mask_faults(table)
    assert list(found) == ["bad/b.png", "bad/c.png"]
    said = "b.png: the mask is 5x8 but its image is 6x8 (height x width)"
    assert found["bad/b.png"].endswith(said)
    assert "c.png: not readable as an image" in found["bad/c.png"]


def test_only_masks_that_are_tested_with_count(table: SampleTable) -> None:
    table = replace(table, mask_faults=mask_faults(table))
    by_path = {"bad/b.png": Roles.TEST, "bad/c.png": Roles.SHARED, "good/1.png": Roles.TRAIN}
    both = with_tested_masks(table, [by_path.get(s.path, Roles.TEST) for s in table.samples])
    assert list(both.mask_faults) == ["bad/b.png", "bad/c.png"]
    (note,) = set(both.notes) - set(table.notes)
    assert note.startswith("no pixel metrics: ") and note.endswith("(height x width) (and 1 more)")
    by_path |= {"bad/b.png": Roles.INJECTED, "bad/c.png": Roles.POOL}
    none = with_tested_masks(table, [by_path.get(s.path, Roles.TEST) for s in table.samples])
    assert not none.mask_faults and none.notes == table.notes


def test_sound_masks_that_are_tested_with_are_hashed(table: SampleTable) -> None:
    def hashed(*, injected: str = "") -> dict[str, str]:
        roles = [Roles.INJECTED if s.path == injected else Roles.TEST for s in table.samples]
        return dict(with_tested_masks(with_masks(table), roles).mask_hashes)

    before = hashed()
    assert list(before) == ["bad/a.png", "bad/d.png", "bad/e.png"]
    assert list(hashed(injected="bad/a.png")) == ["bad/d.png", "bad/e.png"]
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(table.root / "masks/bad/a.png")
    changed = hashed()
    assert changed.pop("bad/a.png") != before.pop("bad/a.png") and changed == before
