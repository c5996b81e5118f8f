import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from rad_lightning.data import pixels
from rad_lightning.data.images import BadImage, decoding, image_size, load_image
from rad_lightning.data.pixels import Room, limit, reduction
from rad_lightning.features.extract import load_placed


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    yield
    limit.pixels = pixels.MOST


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((11000, 8000), (256, 256), 8),
        ((11000, 8000), (512, 512), 4),
        ((11000, 8000), (256, 4000), 1),
        ((11000, 8000), None, 1),
        ((6000, 4000), (32, 32), 1),  # no more than LARGE: the numbers of usual images stay
        ((100_000, 300), (64, 64), 2),
    ],
)
def test_a_reduced_image_is_twice_as_large_as_is_needed(
    size: tuple[int, int], least: tuple[int, int] | None, expected: int
) -> None:
    assert reduction(*size, least) == expected


def picture(path: Path, quality: int = 90) -> Path:
    """A turned JPEG of 640 x 480 with a smooth pattern, a strong left edge, and fine grain."""
    y, x = np.mgrid[:480, :640]
    grain = np.random.default_rng(0).normal(0, 8, x.shape)
    plain = 120 + 60 * np.sin(x / 40) * np.cos(y / 30) + grain
    plain[:, :60] = 0
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(plain.clip(0, 255).astype(np.uint8)).save(path, quality=quality, exif=exif)
    return path


def test_a_large_jpeg_is_reduced_while_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = picture(tmp_path / "a.jpg")
    whole = load_image(file, least=(60, 60))
    assert whole.shape == (640, 480, 3)
    usual = [load_placed(file, (60, 50), fit, 255) for fit in ("stretch", "pad")]
    monkeypatch.setattr(pixels, "LARGE", 1000)
    reduced = load_image(file, least=(60, 60))
    assert reduced.shape == (160, 120, 3) and image_size(file) == (640, 480)
    assert load_image(file).shape == whole.shape  # where all is needed
    monkeypatch.setattr("rad_lightning.features.extract.PREVIEW", 60)
    for fit, expected in zip(("stretch", "pad"), usual, strict=True):
        canvas, box, preview = load_placed(file, (60, 50), fit, 255, preview=60)
        assert box == expected[1] and preview.shape == (60, 45, 3)
        assert np.abs(canvas.astype(int) - expected[0]).mean() < 1.5


def test_other_formats_are_not_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "LARGE", 1000)
    Image.new("L", (320, 240)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", least=(30, 30)).shape == (240, 320, 3)


def test_the_limit_is_lowered_and_lifted(tmp_path: Path, limited: None) -> None:
    file = tmp_path / "a.png"
    Image.new("L", (30, 20)).save(file)
    limit.set(599)
    with pytest.raises(BadImage, match=r"a.png: 600 pixels are more than max_pixels = 599 allows"):
        load_image(file)
    limit.set(600)
    assert load_image(file).shape == (20, 30, 3)
    huge = tmp_path / "huge.ppm"
    huge.write_bytes(b"P5 20000 20000 255\n")  # its header alone
    limit.set(None)
    with pytest.raises(BadImage, match="400000000 pixels are more than max_pixels = 178956970"):
        load_image(huge)
    limit.set(400_000_000)
    assert image_size(huge) == (20000, 20000)


def test_threads_wait_for_room() -> None:
    room, lock = Room(100), threading.Lock()
    inside, most, alone = 0, 0, True

    def use(size: int) -> None:
        nonlocal inside, most, alone
        with room.of(size):
            with lock:
                inside += size
                most = max(most, inside)
                alone &= size < 100 or inside == size
            threading.Event().wait(0.002)
            with lock:
                inside -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [30, 60, 30, 500, 20, 90] * 8))
    assert alone and 90 <= most <= 500 and inside == room.used == 0


def test_room_is_given_back_after_an_error(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.jpg")
    with pytest.raises(KeyError), decoding(file):
        assert pixels.room.used == 640 * 480
        raise KeyError
    assert not pixels.room.used
    with decoding(tmp_path / "none.png"):  # whoever decodes it says what is wrong
        assert not pixels.room.used


def test_many_large_jpegs_take_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.new("RGB", (8000, 6000), (90, 120, 60)).save(file, quality=30)
    tracemalloc.start()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_placed(file, (64, 64), "stretch", 255), range(4)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Whole, each would be an array of 144 MB; PIL's own memory is not counted.
    assert len(found) == 4 and peak < 100 * 1024**2
