import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import (
    BadImage,
    image_size,
    load_image,
    load_mask,
    mask_has_defect,
    resize_image,
    resize_mask,
)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


COLOUR = np.zeros((4, 5, 3), np.uint8) + np.array([200, 100, 50], np.uint8)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("P", "png"), ("CMYK", "tiff")])
def test_colour_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = load_image(save(tmp_path / f"a.{suffix}", COLOUR, mode))
    assert image.dtype == np.uint8 and image.shape == (4, 5, 3)
    assert np.abs(image.astype(int) - COLOUR).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_grey_is_repeated_over_the_channels(tmp_path: Path, suffix: str) -> None:
    image = load_image(save(tmp_path / f"a.{suffix}", np.full((4, 5), 77, np.uint8)))
    assert image.shape == (4, 5, 3) and np.abs(image.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("value", [0, 257, 65535])
def test_16_bit_is_scaled_by_the_type_and_not_by_the_image(
    tmp_path: Path, suffix: str, value: int
) -> None:
    image = load_image(save(tmp_path / f"a.{suffix}", np.full((3, 4), value, np.uint16)))
    assert (image == round(value / 257)).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((3, 4), 0.5, np.float32), 128),
        (np.full((3, 4), 65535, np.int32), 255),
    ],
)
def test_32_bit_on_its_documented_scale(tmp_path: Path, array: np.ndarray, expected: int) -> None:
    assert (load_image(save(tmp_path / "a.tif", array)) == expected).all()


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_float_out_of_range_is_refused(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "a.tif", np.full((3, 4), value, np.float32))
    with pytest.raises(BadImage, match=r"a\.tif: float pixel values .* use 0 to 1"):
        load_image(path)


def test_transparency_shows_mid_grey(tmp_path: Path) -> None:
    rgba = np.dstack([COLOUR, np.array([[0, 255, 255, 255, 255]] * 4, np.uint8)])
    image = load_image(save(tmp_path / "a.png", rgba))
    assert (image[:, 0] == 128).all() and (image[:, 1:] == COLOUR[:, 1:]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    array = np.zeros((4, 8, 3), np.uint8)
    array[:, :4] = 255
    image = load_image(save(tmp_path / "a.png", array, exif=exif))
    assert image.shape == (8, 4, 3) and image[0].all() and not image[-1].any()


def truncated() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[:1500]


BOMB = b"P6 60000 60000 255\n"  # a header that promises 3.6 thousand million pixels


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, no image", "not an image that can be read"),
        (truncated(), "damaged .*truncated"),
        (BOMB, "(too many pixels|pixels are more than)"),
        (None, "no such file"),
    ],
)
def test_bad_files_are_named_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=rf"bad\.png: .*{reason}") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_resize_image_takes_height_and_width() -> None:
    assert resize_image(COLOUR, (7, 3)).shape == (7, 3, 3)
    checks = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8) * 255
    small = resize_image(np.dstack([checks] * 3), (8, 8)).astype(int)
    assert np.abs(small - 127).max() < 40, "fine detail must average out, not alias"


@pytest.mark.parametrize("size", [(0, 3), (3, -1)])
def test_resize_refuses_an_impossible_size(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        resize_image(COLOUR, size)
    with pytest.raises(UserError, match="at least 1"):
        resize_mask(np.ones((4, 4), bool), size)


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_mask_marks_what_is_not_black(tmp_path: Path, mode: str) -> None:
    array = np.zeros((4, 5), np.uint8)
    array[1, 2] = 255
    mask = load_mask(save(tmp_path / "m.png", array, mode), (4, 5))
    assert mask.dtype == bool and mask.sum() == 1 and mask[1, 2]
    assert mask_has_defect(tmp_path / "m.png")


def test_mask_value_one_counts_and_transparent_pixels_do_not(tmp_path: Path) -> None:
    faint = save(tmp_path / "faint.png", np.eye(4, dtype=np.uint8))
    assert load_mask(faint, (4, 4)).sum() == 4
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[:, 1:, 3] = 0
    assert load_mask(save(tmp_path / "rgba.png", rgba), (4, 4)).sum() == 4


def test_mask_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(UserError, match=r"m\.png: the mask is 4x5 but its image is 5x4"):
        load_mask(path, (5, 4))


@pytest.mark.parametrize("size", [(5, 7), (32, 48), (100, 33), (1, 1)])
def test_resize_mask_never_loses_a_pixel(size: tuple[int, int]) -> None:
    for index in np.ndindex(32, 48):
        mask = np.zeros((32, 48), bool)
        mask[index] = True
        small = resize_mask(mask, size)
        assert small.shape == size
        if size[0] <= 32 and size[1] <= 48:
            assert small.sum() == 1


def test_resize_mask_enlarges_by_repeating() -> None:
    mask = np.array([[True, False], [False, True]])
    assert (resize_mask(mask, (4, 6)) == np.kron(mask, np.ones((2, 3), bool))).all()


@pytest.mark.parametrize("how", ["exif", "xmp", "none"])
@pytest.mark.parametrize("behind", [True, False])
def test_the_size_of_a_png_knows_its_turn_without_decoding(
    tmp_path: Path, how: str, behind: bool
) -> None:
    marks: dict[str, object] = {}
    if how == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        marks = {"exif": exif}
    elif how == "xmp":
        info = PngInfo()
        turn = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
        info.add_itxt("XML:com.adobe.xmp", turn)
        marks = {"pnginfo": info}
    file = tmp_path / "a.png"
    Image.new("L", (30, 20)).save(file, **marks)
    if behind:  # the pixels
        content, parts = file.read_bytes(), []
        at = 8
        while at < len(content):
            length = 12 + int.from_bytes(content[at : at + 4])
            parts.append(content[at : at + length])
            at += length
        parts.sort(key=lambda c: [b"IHDR", b"IDAT", b"eXIf", b"iTXt", b"IEND"].index(c[4:8]))
        file.write_bytes(content[:8] + b"".join(parts))
    assert (
        image_size(file) == load_image(file).shape[:2] == ((20, 30) if how == "none" else (30, 20))
    )
    if how == "none":
        file.write_bytes(file.read_bytes()[:45])  # the header is whole
        assert image_size(file) == (20, 30)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_png_whose_last_pixels_are_damaged_is_refused(tmp_path: Path, depth: type) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(depth)
    content = bytearray(save(tmp_path / "a.png", noise).read_bytes())
    content[-20:-16] = bytes(4)  # before the checksum of the pixels, and the end of the file
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(BadImage, match="the image is damaged"):
        load_image(tmp_path / "b.png")
