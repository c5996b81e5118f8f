"""Images with synthetic anomalies as files: what they are called, and how they are written."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import write_bytes, write_text
from rad_lightning.common.names import shortened
from rad_lightning.data.images import FULL, ImageArray, load_image
from rad_lightning.data.synthetic_anomalies.kinds import KINDS, draw_anomaly
from rad_lightning.data.synthetic_anomalies.pieces import SMALLEST


def synthetic_path(kind: str, seed: int, source_path: str) -> str:
    """The path under which a made image is known: ``made/{kind}-{seed}/{source_path}.bmp``.

    Raises:
        UserError: unknown kind, a seed beyond 0 .. 2^63-1, or a source outside its folder.
    """
    path = f"made/{kind}-{seed}/{source_path}.bmp"
    if parse_synthetic(path) != (kind, seed, source_path):
        raise UserError(
            f"no image can be made of {source_path!r} with {kind}-{seed}: use "
            f"{' or '.join(KINDS)}, a seed from 0 to 2^63-1, and a path within the dataset"
        )
    return path


def parse_synthetic(path: str) -> tuple[str, int, str] | None:
    """Kind, seed and source path of a made image's path; ``None`` if it is any other path."""
    match = re.fullmatch(r"made/([a-z]+)-(0|[1-9][0-9]{0,18})/(.+)\.bmp", path, re.DOTALL)
    if match is None or match[1] not in KINDS or int(match[2]) >= 2**63:
        return None
    inside = not any(
        p.anchor or ".." in p.parts for p in (PurePosixPath(match[3]), PureWindowsPath(match[3]))
    )
    return (match[1], int(match[2]), match[3]) if inside else None


def write_synthetic(folder: Path, path: str, source_file: Path, white: int = FULL) -> Path:
    """Make the image of ``path`` from its source and write it to ``folder / path``.

    A file that is there already is kept, without a look at the source, if it is what was written:
    its sha256 is beside it. The file appears whole or not at all. It is an uncompressed BMP, the
    same on every machine that decodes the source to the same pixels.

    Raises:
        BadImage: the source cannot be read.
        UserError: ``path`` is no path of a made image, or the source is too small.
    """
    parsed = parse_synthetic(path)
    if parsed is None:
        raise UserError(f"{path!r} is not the path of a made image (made/KIND-SEED/SOURCE.bmp)")
    # Under a shorter name where the source's own is as long as it can be.
    file = (folder / path).with_name(shortened(PurePosixPath(path).name))
    if _is_whole(file):
        return file
    kind, seed, _ = parsed
    source = load_image(source_file, white=white)
    if min(source.shape[:2]) < SMALLEST:
        raise UserError(
            f"{source_file}: too small for a synthetic defect: use at least 16 x 16 pixels"
        )
    image, _ = draw_anomaly(source, kind, seed)
    content = _bmp(image)
    write_bytes(file, content)
    write_text(_seal_of(file), _seal(file, content))
    return file


def _header(height: int, width: int) -> bytes:
    """BITMAPFILEHEADER and BITMAPINFOHEADER of an uncompressed image, 24 bits a pixel."""
    size = height * _row_bytes(width)
    file = struct.pack("<2sIHHI", b"BM", 54 + size, 0, 0, 54)
    return file + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)


def _row_bytes(width: int) -> int:
    return (3 * width + 3) // 4 * 4


def _bmp(image: ImageArray) -> bytes:
    height, width, _ = image.shape
    rows = np.zeros((height, _row_bytes(width)), dtype=np.uint8)
    rows[:, : 3 * width] = image[::-1, :, ::-1].reshape(height, -1)  # from below, as BGR
    return _header(height, width) + rows.tobytes()


def _is_whole(file: Path) -> bool:
    """Whether a file is there as it was written; a broken disk or copy may have changed it."""
    try:
        return _seal_of(file).read_text() == _seal(file, file.read_bytes())
    except (OSError, ValueError):
        return False


def _seal_of(file: Path) -> Path:
    return file.with_suffix(".sha")  # as long as .bmp: the name may be as long as it can be


def _seal(file: Path, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {file.name}\n"
