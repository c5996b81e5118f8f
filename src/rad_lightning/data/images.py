"""Reading images and masks, and bringing them to one size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rad_lightning.common.errors import UserError
from rad_lightning.data.pixels import limit, reduction, room

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# Transparent pixels carry no information. Mid-grey is close to zero after the usual
# normalisation, and makes no strong edge against a dark part or a bright one.
BACKDROP = (128, 128, 128)

# What Pillow may take a file for, whatever its name says: no format that starts another program.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
FULL = 65535  # of 16 bits
CLASSES = 15  # grey values up to this one number kinds of defects: each is a defect

ImageArray = npt.NDArray[np.uint8]
MaskArray = npt.NDArray[np.bool_]


class BadImage(UserError):  # noqa: N818 - says what the user has, as UserError does
    """A file that cannot be read as an image; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # survives the way back from a loader process


def load_image(
    path: Path,
    content: bytes | None = None,
    white: int = FULL,
    least: tuple[int, int] | None = None,
) -> ImageArray:
    """Read the first frame of an image file as uint8 ``(H, W, 3)``, upright by its EXIF tag.

    16-bit grey maps 0..``white`` to 0..255 whatever the image holds, so that brightness stays
    comparable between images; what is brighter is white. 32-bit integers are read on the same scale
    and floats on 0..1. Transparency is laid over mid-grey.

    Args:
        content: of the file, where it has been read already.
        white: of the data set, see ``data.depth``.
        least: (height, width) that is enough: a JPEG of more than ``pixels.LARGE`` pixels comes at
            a half, a quarter or an eighth of its size, at least twice as large as that.

    Raises:
        BadImage: missing, empty, truncated, oversized or not an image; values out of range.
    """
    return _to_rgb(path, _decode(path, content, least), white)


def brightest(path: Path) -> int | None:
    """The largest value of an image of more than 8 bits; ``None`` of others, and of files that
    cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if not _is_deep(image):
                return None
        with decoding(path):
            return int(np.asarray(_decode(path)).max())
    except (UserError, OSError, ValueError):
        return None


def as_image(content: Image.Image | npt.NDArray[Any], name: str, white: int = FULL) -> ImageArray:
    """A picture in memory as ``load_image`` gives one from a file.

    Args:
        content: a PIL image, or an array on the scales of ``load_image``: uint8 ``(H, W)``,
            ``(H, W, 3)`` or, with opacity, ``(H, W, 4)``; uint16, int32 or float ``(H, W)``.
        name: what an error calls it.
        white: as of ``load_image``.

    Raises:
        BadImage: an array of another form, values out of range, or a file that PIL cannot decode.
    """
    try:
        if isinstance(content, np.ndarray):
            if content.ndim == 3 and content.shape[2] == 1:
                content = content[:, :, 0]
            if content.ndim not in (2, 3) or not content.size:
                raise TypeError("no pixels")  # one row would be an image to PIL
            content = Image.fromarray(content)
        content = ImageOps.exif_transpose(content)
    except (TypeError, ValueError, OSError) as error:
        if not isinstance(content, np.ndarray):
            raise BadImage(Path(name), f"the image is damaged ({error})") from None
        form = f"{content.dtype} {content.shape}"
        raise BadImage(
            Path(name),
            f"an array {form} is not an image: give uint8 (H, W), (H, W, 3), (H, W, 4), or "
            "uint16, int32 or float (H, W)",
        ) from None
    return _to_rgb(Path(name), content, white)


@contextmanager
def decoding(
    path: Path, content: bytes | None = None, least: tuple[int, int] | None = None
) -> Iterator[None]:
    """Wait, before an image is decoded and until it has been reduced, for room beside those of the
    other threads; for the same arguments as ``load_image``."""
    try:
        with Image.open(_source(path, content), formats=FORMATS) as image:
            # A progressive one is held whole before it is reduced.
            whole = image.format != "JPEG" or "progressive" in image.info
            by = 1 if whole else reduction(*image.size, least)
            pixels = image.width * image.height // by**2
    except (OSError, ValueError, Image.DecompressionBombError):
        pixels = 0  # whoever decodes it says why it cannot be
    with room.of(pixels):
        yield


def image_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Height and width of an image, upright by its EXIF tag, from the file's header alone.

    Raises:
        BadImage: not readable as an image.
    """
    try:
        with Image.open(_source(path, content), formats=FORMATS) as image:
            turned = _has_exif(image, path, content) and (
                image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            )
            return image.size if turned else (image.height, image.width)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage(path, f"not readable as an image ({error})") from error


def _has_exif(image: Image.Image, path: Path, content: bytes | None) -> bool:
    """Whether there is an orientation to ask for: in a PNG it may stand behind the pixels, all of
    which PIL would decode to look for it."""
    if image.format != "PNG":
        return True
    content = path.read_bytes() if content is None else content
    return any(mark in content for mark in (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp"))


def resize_image(array: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Resize uint8 ``(H, W, 3)`` to ``size = (height, width)``, bicubic with antialiasing."""
    height, width = _checked(size)
    resized = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def load_mask(path: Path, image_hw: tuple[int, int]) -> MaskArray:
    """Read a mask as bool ``(H, W)``, upright by its EXIF tag as its image is.

    Every pixel that is not black is defect; of a mask with soft edges (JPEG, antialiasing), those
    of at least half of its own maximum.

    Raises:
        BadImage: the file cannot be read.
        UserError: the mask's size differs from ``image_hw``, the size of its image.
    """
    mask = _defect_pixels(path)
    if mask.shape != tuple(image_hw):
        found, wanted = (f"{h}x{w}" for h, w in (mask.shape, image_hw))
        raise UserError(
            f"{path}: the mask is {found} but its image is {wanted} (height x width); "
            "a mask must have the size of its image"
        )
    return mask


def mask_has_defect(path: Path) -> bool:
    """Whether any pixel of the mask file is marked."""
    with decoding(path):
        return bool(_defect_pixels(path).any())


def resize_mask(mask: MaskArray, size: tuple[int, int]) -> MaskArray:
    """Resize bool ``(H, W)`` to ``size = (height, width)``.

    Shrinking marks a pixel if any source pixel in its cell is marked: with nearest-neighbour a
    defect of a few pixels could vanish and its image would count as normal. Enlarging repeats.
    """
    for axis, wanted in enumerate(_checked(size)):
        starts = np.arange(wanted) * mask.shape[axis] // wanted
        # reduceat takes the single element at a repeated start, which is what enlarging needs
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"image size {size} is not valid: give (height, width), both at least 1")
    return size


def _source(path: Path, content: bytes | None) -> Path | BytesIO:
    return path if content is None else BytesIO(content)


def _opened(path: Path, content: bytes | None) -> Image.Image:
    image = Image.open(_source(path, content), formats=FORMATS)
    if (pixels := image.width * image.height) > limit.pixels:
        image.close()
        raise BadImage(path, f"{pixels} pixels are more than max_pixels = {limit.pixels} allows")
    return image


def _loaded(image: Image.Image, least: tuple[int, int] | None) -> Image.Image:
    if (by := reduction(*image.size, least)) > 1:  # of JPEG alone; others stay
        image.draft(None, (image.width // by, image.height // by))
    image.load()
    return ImageOps.exif_transpose(image)


def _decode(
    path: Path, content: bytes | None = None, least: tuple[int, int] | None = None
) -> Image.Image:
    """Upright by its EXIF tag."""
    try:
        if (path.stat().st_size if content is None else len(content)) == 0:
            raise BadImage(path, "the file is empty (0 bytes), expected an image")
        with _opened(path, content) as image:
            if image.format != "PNG":
                return _loaded(image, least)
            image.verify()  # its decoder stops at the last pixel, before the checksum
        with _opened(path, content) as image:
            return _loaded(image, least)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(path, "no such file, expected an image") from None
    except UnidentifiedImageError:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise BadImage(path, f"not an image that can be read; use one of {kinds}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(path, f"too many pixels to be safe to open ({error})") from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(path, f"the image is damaged ({reason})") from None


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or image.mode == "I"


def _to_rgb(path: Path, image: Image.Image, white: int) -> ImageArray:
    if _is_deep(image):
        return _rescaled(path, image, full=FULL, white=white)
    if image.mode == "F":
        return _rescaled(path, image, full=1, white=1)
    try:
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKDROP, 255)), layer)
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except ValueError:
        raise BadImage(path, f"colour mode {image.mode} cannot be read as RGB") from None


def _rescaled(path: Path, image: Image.Image, full: int, white: int) -> ImageArray:
    """Map 0..white to 0..255 by the data set, never by the image's own minimum and maximum."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= full):  # written so that NaN is refused as well
        kind = "float" if image.mode == "F" else "integer"
        raise BadImage(path, f"{kind} pixel values run from {low:g} to {high:g}, use 0 to {full}")
    grey = np.floor(values.clip(max=white) * (255 / white) + 0.5).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _defect_pixels(path: Path) -> MaskArray:
    image = _decode(path)
    transparent = image.has_transparency_data
    if image.mode not in {"1", "L", "I", "F", "RGB"} and not image.mode.startswith("I;16"):
        image = image.convert("RGBA" if transparent else "RGB")  # a palette index is no colour
    pixels = np.atleast_3d(np.asarray(image))
    values = pixels[..., :3].max(axis=2)
    peak = values.max(initial=0)
    soft = peak > CLASSES and ((values > 0) & (values < peak)).any()
    marked: MaskArray = values >= peak / 2 if soft else values > 0
    if image.mode == "RGBA":
        marked &= pixels[..., 3] > 0
    return marked
