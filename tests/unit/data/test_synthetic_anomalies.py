from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import BadImage, load_image
from rad_lightning.data.synthetic_anomalies import (
    KINDS,
    draw_anomaly,
    parse_synthetic,
    synthetic_path,
    write_synthetic,
)

SIZES = [(16, 16), (17, 16), (37, 211), (211, 37), (64, 64), (128, 96)]
every_kind = pytest.mark.parametrize("kind", KINDS)


def formula(height: int, width: int) -> np.ndarray:
    """A smooth coloured surface from integers alone, the same everywhere."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((y * 90 // height + x * 60 // width + c * 40 + (x * y) % 17) % 256).astype(np.uint8)


def rough(height: int, width: int) -> np.ndarray:
    grey = np.random.default_rng(0).integers(60, 200, (height, width, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def check(image: np.ndarray, made: np.ndarray, mask: np.ndarray) -> None:
    assert made.dtype == np.uint8 and made.shape == image.shape
    assert mask.dtype == np.bool_ and mask.shape == image.shape[:2]
    assert (made[~mask] == image[~mask]).all()
    change = np.abs(made.astype(int) - image).max(axis=2)
    assert (change[mask] > 20).mean() >= 0.25
    assert 0.001 <= mask.mean() <= 0.2


@every_kind
@pytest.mark.parametrize("size", SIZES)
def test_a_defect_is_visible_and_only_under_its_mask(kind: str, size: tuple[int, int]) -> None:
    for image in (formula(*size), rough(*size)):
        before = image.copy()
        for seed in range(40):
            check(image, *draw_anomaly(image, kind, seed))
        assert (image == before).all()


@every_kind
@given(
    size=st.tuples(st.integers(16, 70), st.integers(16, 70)),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_constant_image_gets_a_visible_defect_too(
    kind: str, size: tuple[int, int], colour: tuple[int, int, int], seed: int
) -> None:
    image = np.full((*size, 3), colour, dtype=np.uint8)
    check(image, *draw_anomaly(image, kind, seed))


@every_kind
@given(
    low=st.integers(0, 255),
    span=st.integers(1, 256),
    size=st.tuples(st.integers(16, 60), st.integers(16, 60)),
    seed=st.integers(0, 2**32),
)
def test_noise_of_any_range_gets_a_visible_defect(
    kind: str, low: int, span: int, size: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).integers(low, low + span, (*size, 3))
    image = np.minimum(values, 255).astype(np.uint8)
    check(image, *draw_anomaly(image, kind, seed))


@every_kind
def test_a_rough_surface_is_not_just_stirred(kind: str) -> None:
    image = rough(128, 128)
    for seed in range(60):
        made, mask = draw_anomaly(image, kind, seed)
        change = (made.astype(int) - image)[mask]
        # pixels exchanged at random change by 57 levels, and on average by less than 5
        assert max(abs(part.mean()) for part in np.array_split(change, 4)) > 8


@every_kind
@pytest.mark.parametrize("seed", range(12))
def test_grey_images_stay_grey(kind: str, seed: int) -> None:
    made, _ = draw_anomaly(rough(50, 60), kind, seed)
    assert (made == made[..., :1]).all()


def test_perlin_masks_have_a_share_of_1_to_15_percent_in_one_region() -> None:
    shares, extents = [], []
    for seed in range(100):
        _, mask = draw_anomaly(formula(128, 160), "perlin", seed)
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        shares.append(mask.mean())
        extents.append((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / mask.size)
    assert min(shares) >= 0.01 and max(shares) <= 0.151
    assert min(shares) < 0.02 and max(shares) > 0.1
    assert np.median(extents) < 0.25


def test_cutpaste_draws_rectangles_of_the_published_size_and_thin_scars() -> None:
    scars = []
    for seed in range(200):
        _, mask = draw_anomaly(formula(200, 200), "cutpaste", seed)
        n, m = (int(mask.any(axis=axis).sum()) for axis in (1, 0))
        if n * m == mask.sum() and mask.mean() > 0.019:
            assert mask.mean() <= 0.152 and 0.29 <= n / m <= 3.4
        else:
            y, x = mask.nonzero()
            small, large = np.linalg.eigvalsh(np.cov(y, x)) ** 0.5 * 12**0.5  # sides of a box
            assert 23 < large < 91 and small < 11
            scars.append(mask.mean())
    assert 70 < len(scars) < 130 and max(scars) < 0.025


@every_kind
def test_the_seed_decides_and_every_seed_is_another_defect(kind: str) -> None:
    image = formula(40, 50)
    first, second = ([draw_anomaly(image, kind, seed) for seed in range(50)] for _ in range(2))
    for (made, mask), (again, mask_again) in zip(first, second, strict=True):
        assert (made == again).all() and (mask == mask_again).all()
    assert len({made.tobytes() for made, _ in first}) == 50


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cutpaste", "3fe996e9bcb917c00526f1c8d45d3cc6f075b4fffa92480ac23c584579e27b49"),
        ("perlin", "9d9a56dca5fd1bf2995895686ec4679a6b8f2b795d7b3d5427884789264f2438"),
    ],
)
def test_the_pictures_of_version_1(kind: str, expected: str) -> None:
    """Files of made images are kept and shared: a change of these bytes is a change of the data."""
    image, digest = formula(90, 121), sha256()
    for seed in range(24):  # enough for each texture, pattern and shape
        for array in draw_anomaly(image, kind, seed):
            digest.update(array.tobytes())
    for seed in range(4):  # the last resort
        digest.update(draw_anomaly(np.full((30, 41, 3), 10, np.uint8), kind, seed)[0].tobytes())
    assert digest.hexdigest() == expected


@every_kind
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((15, 40, 3), np.uint8),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(kind: str, image: np.ndarray) -> None:
    with pytest.raises(UserError, match="at least 16 x 16"):
        draw_anomaly(image, kind, 0)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="cutpaste, perlin"):
        draw_anomaly(formula(20, 20), "rust", 0)


ODD_NAMES = [
    "a.png",
    "train/good/000.png",
    "with space/ä ö/日本.jpg",
    "made/cutpaste-3/a.png.bmp",
    "made/made.bmp",
    "a.bmp.bmp",
    "line\nbreak.png",
    "..hidden/.a..png",
]


@every_kind
@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_made_paths_come_back(kind: str, name: str, seed: int) -> None:
    path = synthetic_path(kind, seed, name)
    assert path == f"made/{kind}-{seed}/{name}.bmp"
    assert parse_synthetic(path) == (kind, seed, name)


@given(st.text(min_size=1), st.integers(0, 2**63 - 1))
def test_any_name_comes_back_or_is_refused(name: str, seed: int) -> None:
    try:
        path = synthetic_path("perlin", seed, name)
    except UserError:
        assert name[0] in "/\\" or ":" in name or ".." in name
    else:
        assert parse_synthetic(path) == ("perlin", seed, name)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "train/good/000.png",
        "made/cutpaste-3/.bmp",
        "made/cutpaste-3/a.png",
        "made/cutpaste-03/a.png.bmp",
        "made/cutpaste--3/a.png.bmp",
        "made/cutpaste-٣/a.png.bmp",
        f"made/cutpaste-{2**63}/a.png.bmp",
        "made/rust-3/a.png.bmp",
        "x/made/cutpaste-3/a.png.bmp",
        "made/cutpaste-3/a.png.bmp\n",
        "made/cutpaste-3/../../../a.png.bmp",
        "made/cutpaste-3//etc/a.png.bmp",
        "made/cutpaste-3/..\\a.png.bmp",
        "made/cutpaste-3/C:\\a.png.bmp",
    ],
)
def test_other_paths_are_not_made_ones(path: str, tmp_path: Path) -> None:
    assert parse_synthetic(path) is None
    with pytest.raises(UserError, match="not the path of a made image"):
        write_synthetic(tmp_path, path, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("kind", "seed", "name"), [("rust", 0, "a"), ("perlin", -1, "a"), ("perlin", 0, "../a")]
)
def test_no_path_for_what_cannot_be_made(kind: str, seed: int, name: str) -> None:
    with pytest.raises(UserError, match=f"{kind}-{seed}: use cutpaste or perlin"):
        synthetic_path(kind, seed, name)


def saved(folder: Path, image: np.ndarray) -> Path:
    file = folder / "source.png"
    Image.fromarray(image).save(file)
    return file


@every_kind
@pytest.mark.parametrize("width", [16, 17, 18, 19])
def test_a_file_holds_the_made_image(kind: str, width: int, tmp_path: Path) -> None:
    image = formula(21, width)
    path = synthetic_path(kind, 5, "train/ä b/source.png")
    file = write_synthetic(tmp_path / "new", path, saved(tmp_path, image))
    assert file == tmp_path / "new" / path
    assert (load_image(file) == draw_anomaly(image, kind, 5)[0]).all()
    left = {p for p in (tmp_path / "new").rglob("*") if p.is_file()}
    assert left == {file, file.with_suffix(".sha")}


@every_kind
def test_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    source, path = saved(tmp_path, formula(30, 31)), synthetic_path(kind, 1, "source.png")
    first, second = (write_synthetic(tmp_path / name, path, source) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_a_whole_file_is_kept_and_a_cut_one_made_again(tmp_path: Path) -> None:
    source, path = saved(tmp_path, formula(30, 31)), synthetic_path("perlin", 1, "source.png")
    file = write_synthetic(tmp_path, path, source)
    whole, written = file.read_bytes(), file.stat().st_mtime_ns
    assert write_synthetic(tmp_path, path, tmp_path / "gone.png") == file
    assert file.stat().st_mtime_ns == written
    for damaged in (
        b"",
        whole[:30],
        whole[:-1],
        whole + b"x",
        b"X" + whole[1:],
        whole[:-9] + b"X" * 9,
    ):
        file.write_bytes(damaged)
        write_synthetic(tmp_path, path, source)
        assert file.read_bytes() == whole


def test_a_source_that_cannot_be_used_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    path = synthetic_path("cutpaste", 1, "source.png")
    with pytest.raises(UserError, match=r"source\.png: too small"):
        write_synthetic(tmp_path / "new", path, saved(tmp_path, formula(15, 40)))
    with pytest.raises(BadImage, match=r"gone\.png"):
        write_synthetic(tmp_path / "new", path, tmp_path / "gone.png")
    assert not (tmp_path / "new").exists()


@every_kind
def test_a_failed_write_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, _: bytes) -> int:
        self.touch()
        raise OSError("disk full")

    source = saved(tmp_path, formula(20, 20))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        write_synthetic(tmp_path / "new", synthetic_path(kind, 1, "source.png"), source)
    assert not [p for p in (tmp_path / "new").rglob("*") if p.is_file()]
