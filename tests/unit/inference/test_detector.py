"""The Python API on images in every form, with an backend whose scores are known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import BadImage, as_image, load_image
from rad_lightning.inference.backends import named_device
from rad_lightning.inference.detector import PREVIEW, Detector, Source
from rad_lightning.inference.metadata import DetectorMetadata, metadata_from_dict

METADATA = DetectorMetadata(
    run="run", dataset="folder", category="k", backbone="none", head="patch", size=(16, 24),
    fit="stretch", threshold=100.0, median=80.0, spread=10.0, map_range=(0.0, 255.0),
)  # fmt: skip


class Brightness:
    """Scores an image by its mean brightness, and maps that of every pixel."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        self.sizes.append(len(images))
        maps = images.mean(1)
        places = zip(maps, boxes.tolist(), strict=True)
        scores = [m[t : t + h, le : le + w].mean() for m, (t, le, h, w) in places]
        return np.float32(scores), maps


def detector(**changes: Any) -> Detector:
    return Detector(replace(METADATA, **changes), Brightness())


GREY = np.full((20, 30), 128, np.uint8)
SIXTEEN = np.full((20, 30), 128 * 257, np.uint16)


def saved(folder: Path, mode: str) -> Path:
    """A mid-grey image of 20 x 30 in one of the forms that cameras and scanners write."""
    colour = Image.fromarray(np.dstack([GREY] * 3))
    path = folder / f"{mode.replace(' ', '_')}.png"
    if mode == "16-bit":
        Image.fromarray(SIXTEEN).save(path)
    elif mode == "RGBA":
        # Opaque left of the middle, transparent and white right of it.
        pixels = np.dstack([*[GREY] * 3, np.full_like(GREY, 255)])
        pixels[:, 15:] = (255, 255, 255, 0)
        Image.fromarray(pixels).save(path)
    elif mode == "CMYK":
        path = path.with_suffix(".jpg")
        colour.convert("CMYK").save(path, quality=95)
    elif mode == "float":
        path = path.with_suffix(".tif")
        Image.fromarray(np.full((20, 30), 0.5, np.float32)).save(path)
    elif mode == "EXIF-rotated":
        path = path.with_suffix(".jpg")
        exif = Image.Exif()
        exif[0x0112] = 6
        colour.rotate(90, expand=True).save(path, exif=exif, quality=95)
    else:
        colour.convert(mode).save(path)
    return path


MODES = ("L", "RGB", "P", "LA", "16-bit", "RGBA", "CMYK", "float", "EXIF-rotated")


@pytest.mark.parametrize("mode", MODES)
def test_a_file_of_any_mode_is_judged_by_its_true_brightness(tmp_path: Path, mode: str) -> None:
    (found,) = detector().predict(saved(tmp_path, mode))
    assert found.score == pytest.approx(128, abs=2.5)
    assert found.image.shape == (20, 30, 3)
    assert found.map is not None and found.map.shape == (16, 24)
    assert (found.flagged, found.verdict) == (True, "flagged")
    assert found.robust_z == pytest.approx((found.score - 80) / 10)


def test_a_transparent_half_does_not_shine_white(tmp_path: Path) -> None:
    (found,) = detector().predict(saved(tmp_path, "RGBA"))
    assert found.image.max() <= 130


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[:, :, None],
        np.dstack([GREY] * 3),
        np.dstack([*[GREY] * 3, np.full_like(GREY, 255)]),
        SIXTEEN,
        np.full((20, 30), 0.5),
        Image.fromarray(GREY),
        Image.fromarray(np.dstack([GREY] * 3)).convert("CMYK"),
    ],
    ids=lambda image: f"{getattr(image, 'dtype', 'PIL')} {getattr(image, 'shape', image)}"[:24],
)
def test_an_image_in_memory_is_judged_as_its_file(image: Source) -> None:
    (found,) = detector().predict(image)
    assert found.score == pytest.approx(128, abs=1.5)
    assert found.name == "image 0"


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_gives_the_pixels_of_its_file(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path, mode)
    with Image.open(path) as image:
        assert np.array_equal(as_image(image, "it"), load_image(path))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 7), np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 5), complex),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_an_array_that_is_no_image_is_refused_with_what_is_accepted(array: np.ndarray) -> None:
    with pytest.raises(BadImage, match=r"image 0: an array .* give uint8 \(H, W\)"):
        detector().predict([array])


def test_an_array_beyond_its_scale_is_refused() -> None:
    with pytest.raises(BadImage, match="float pixel values run from 0 to 255, use 0 to 1"):
        detector().predict(np.linspace(0, 255, 20).reshape(4, 5))


def test_several_images_keep_their_order_whatever_their_form(tmp_path: Path) -> None:
    levels = [10, 200, 60, 110, 30]
    arrays = [np.full((9, 7), level, np.uint8) for level in levels]
    Image.fromarray(arrays[1]).save(tmp_path / "b.png")
    mixed = [arrays[0], tmp_path / "b.png", Image.fromarray(arrays[2]), *arrays[3:]]
    found = detector().predict(mixed, batch_size=2)
    assert [round(f.score) for f in found] == levels
    assert [f.flagged for f in found] == [False, True, False, True, False]
    assert found[1].name == str(tmp_path / "b.png")
    stacked = detector().predict(np.stack(arrays)[..., None].repeat(3, -1))
    assert [round(f.score) for f in stacked] == levels


def test_a_score_at_the_threshold_is_passed() -> None:
    (found,) = detector().predict(np.full((8, 8), 100, np.uint8))
    assert found.score == 100.0 and not found.flagged and found.verdict == "passed"


def test_a_padded_image_has_a_map_of_its_own_box_alone() -> None:
    tall = np.full((40, 10), 128, np.uint8)
    (found,) = detector(fit="pad").predict(tall)
    assert found.map is not None and found.map.shape == (16, 4)
    assert found.score == pytest.approx(128)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (3000, 2), (1500, 2000)])
def test_an_image_of_any_size_is_judged(shape: tuple[int, int]) -> None:
    (found,) = detector().predict(np.full(shape, 50, np.uint8))
    assert found.score == pytest.approx(50)
    assert max(found.image.shape) <= PREVIEW


def test_a_stream_names_the_unreadable_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    sources = [GREY, tmp_path / "empty.png", tmp_path / "missing.png", GREY]
    found = list(detector().stream(sources, batch_size=2))
    assert [isinstance(f, BadImage) for f in found] == [False, True, True, False]
    with pytest.raises(BadImage, match=r"empty\.png: the file is empty"):
        detector().predict(sources)


def test_a_batch_of_unreadable_files_alone_does_not_reach_the_network(tmp_path: Path) -> None:
    judge = detector()
    list(judge.stream([tmp_path / "none.png"] * 3 + [GREY], batch_size=3))
    assert judge.backend.sizes == [1]  # type: ignore[attr-defined]


def test_a_stream_holds_two_batches_at_most() -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield GREY

    stream = detector().stream(endless(), batch_size=4)
    for _ in range(10):
        next(stream)
    assert taken == 16  # the third batch is handed out, the fourth decoded


class Answers:
    """A backend that says the same whatever it sees."""

    def __init__(self, *answer: np.ndarray) -> None:
        self.answer = answer

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.answer


MAP = np.zeros((1, 16, 24), np.float32)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_no_verdict(score: float) -> None:
    judge = Detector(METADATA, Answers(np.float32([score]), MAP))
    (found,) = judge.stream([GREY])
    assert isinstance(found, BadImage) and f"answers {score}, which is no verdict" in str(found)
    with pytest.raises(BadImage, match="no verdict"):
        judge.predict(GREY)


def test_a_map_that_is_no_number_is_no_verdict() -> None:
    with pytest.raises(BadImage, match="a map that is not finite"):
        Detector(METADATA, Answers(np.float32([1]), MAP * np.nan)).predict(GREY)


@pytest.mark.parametrize(
    "answer",
    [
        (),
        (np.float32(1),),
        (np.float32([1, 2]),),
        (np.array([1]),),
        (np.array(["x"]),),
        (np.float32([1]), MAP[:, :8]),
        (np.float32([1]), MAP, MAP),
    ],
    ids=lambda answer: str([part.shape for part in answer]),
)
def test_a_network_that_answers_otherwise_than_a_detector_is_refused(
    answer: tuple[np.ndarray, ...],
) -> None:
    with pytest.raises(UserError, match="not a detector's network: it answers"):
        Detector(METADATA, Answers(*answer)).predict(GREY)


@pytest.mark.parametrize(
    "images", [None, 3, [None], [GREY.tolist()], b"bytes"], ids=lambda x: repr(x)[:12]
)
def test_what_is_no_image_is_a_type_error_that_says_what_is_taken(images: Any) -> None:
    with pytest.raises(TypeError, match="predict takes paths, PIL images or numpy arrays"):
        detector().predict(images)


def test_a_tensor_is_a_type_error() -> None:
    torch = pytest.importorskip("torch")
    for images in (torch.zeros(3, 16, 24), torch.zeros(2, 3, 16, 24), [torch.zeros(3, 16, 24)]):
        with pytest.raises(TypeError, match="numpy arrays, not Tensor"):
            detector().predict(images)


def test_nothing_to_judge_is_no_error() -> None:
    assert detector().predict([]) == []


def test_the_package_names_the_detector_without_importing_torch() -> None:
    script = (
        "import sys, rad_lightning; assert 'torch' not in sys.modules; "
        "from rad_lightning import Detector; assert 'torch' in sys.modules; "
        "print(Detector.load.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "load", done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import rad_lightning

    with pytest.raises(AttributeError, match="Detectr"):
        rad_lightning.Detectr  # noqa: B018


@pytest.mark.parametrize("name", ["tpu", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="choose one of auto, cpu, cuda"):
        named_device(name)


def test_metadata_survive_their_json() -> None:
    assert metadata_from_dict(METADATA.as_dict()) == METADATA
    pooled = replace(METADATA, map_range=None)
    assert metadata_from_dict(pooled.as_dict()) == pooled


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": float("nan")},
        {"threshold": None},
        {"spread": 0},
        {"size": [4]},
        {"fit": "crop"},
        {"map_range": [1]},
        {"map_range": [0, float("inf")]},
        {"spread": 1e-320},
        {"size": [10**9, 10**9]},
        {"size": [float("inf"), 1]},
    ],
    ids=str,
)
def test_metadata_with_wrong_facts_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not the metadata of a detector"):
        metadata_from_dict(METADATA.as_dict() | change)
