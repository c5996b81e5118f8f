import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import load_image, load_mask
from rad_lightning.data.layouts.mvtec import read_mvtec
from rad_lightning.data.synthetic import SYNTHETIC_CATEGORIES, SYNTHETIC_DEFECTS, generate
from rad_lightning.data.synthetic.defects import DEFECTS
from rad_lightning.data.synthetic.surfaces import SURFACES

SMALL = {"size": 48, "train": 3, "test_normal": 2, "test_per_defect": 2}


def digest(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.png"))
    }


@pytest.mark.parametrize("category", SYNTHETIC_CATEGORIES)
def test_reads_as_mvtec_with_a_mask_for_every_defect(tmp_path: Path, category: str) -> None:
    table = read_mvtec(generate(tmp_path, category, **SMALL), category)
    assert len(table) == 5 + 2 * len(SYNTHETIC_DEFECTS) and table.notes == ()
    assert {s.defect_type for s in table.samples} == {"good", *SYNTHETIC_DEFECTS}
    images = [load_image(table.absolute(sample)) for sample in table.samples]
    assert len({image.tobytes() for image in images}) == len(images), "no two images are alike"
    for sample, image in zip(table.samples, images, strict=True):
        assert image.shape == (48, 48, 3) and 20 < image.mean() < 235 and image.std() > 10
        if (mask := table.absolute_mask(sample)) is not None:
            share = load_mask(mask, (48, 48)).mean()
            assert 0.0005 < share < 0.08, sample.path


def test_the_same_everywhere_and_for_other_counts(tmp_path: Path) -> None:
    first = digest(generate(tmp_path / "a", "gear", **SMALL))
    assert digest(generate(tmp_path / "b", "gear", **SMALL)) == first
    more = digest(generate(tmp_path / "a", "gear", **{**SMALL, "train": 5, "test_per_defect": 3}))
    assert first.items() < more.items()
    other = digest(generate(tmp_path / "a", "gear", **SMALL, seed=1))
    assert other.keys() == first.keys() and not set(other.values()) & {
        value for key, value in first.items() if "ground_truth" not in key
    }


@pytest.mark.parametrize("category", SYNTHETIC_CATEGORIES)
@pytest.mark.parametrize("defect", SYNTHETIC_DEFECTS)
def test_the_mask_covers_what_the_defect_changes(category: str, defect: str) -> None:
    size = 96
    ticks = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(ticks, ticks)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        surface = SURFACES[category](rng)
        clean = surface.colour(x, y)
        place = surface.spot(rng, defect)
        drawn, coverage = DEFECTS[defect](surface, clean, x, y, place, rng)
        changed = np.abs(drawn - clean).max(axis=2)
        assert changed[coverage > 0.3].mean() > 0.04
        assert (changed > 0.04)[coverage == 0].mean() < 1e-3


def test_complete_data_is_used_again_and_incomplete_data_named(tmp_path: Path) -> None:
    root = generate(tmp_path, "weave", **SMALL)
    image = root / "weave/train/good/000.png"
    before = image.stat().st_mtime_ns
    assert generate(tmp_path, "weave", **SMALL) == root
    assert image.stat().st_mtime_ns == before
    assert [path.name for path in root.iterdir()] == ["weave"]
    image.unlink()
    with pytest.raises(UserError, match=r"000\.png is missing; delete .*weave to redraw it"):
        generate(tmp_path, "weave", **SMALL)


def _generate(directory: Path) -> Path:
    return generate(directory, "weave", **SMALL)


def test_two_processes_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(_generate, [tmp_path] * 2)
    assert first == second and [p.name for p in first.iterdir()] == ["weave"]
    assert len(read_mvtec(first, "weave")) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category": "lace"}, "'lace' does not exist: choose one of weave, stone, gear"),
        ({"size": 8}, "size=8 is not valid: use a value from 32 to 2048"),
        ({"train": 0}, "train=0 is not valid"),
        ({"test_normal": -1}, "test_normal=-1 is not valid"),
        ({"seed": -1}, "seed=-1 is not valid"),
    ],
)
def test_impossible_options_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(tmp_path, **{"category": "weave", **options})
