"""Unpacking a dataset archive that may come from anywhere."""

from __future__ import annotations

import stat
import tarfile
import tempfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath

from rad_lightning.common.errors import UserError
from rad_lightning.common.machine import FULL

GIB = 1024**3
# small archives of empty masks shrink a great deal: the ratio says nothing below this size
RATIO_FLOOR = 64 * 1024**2
COPIED_BYTES = 1024**2
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # a zip with a password
    NotImplementedError,  # a zip with an unknown compression
    ValueError,
)


def unpack(
    archive: Path, destination: Path, *, max_bytes: int = 50 * GIB, max_ratio: float = 200.0
) -> Path:
    """Unpack a zip, tar, tar.gz or tar.xz into the new folder ``destination``, all or nothing.

    Paths that leave the folder, links and devices are refused. So is an archive of more than
    ``max_bytes``, or of more than ``max_ratio`` times the size of its file.

    Raises:
        UserError: no archive, an unsafe or damaged one, or ``destination`` exists.
    """
    if not archive.is_file():
        raise UserError(f"archive {archive} is not a file; expected a zip, tar, tar.gz or tar.xz")
    if destination.exists():
        raise UserError(f"{destination} exists already; give a folder that does not exist yet")
    destination.parent.mkdir(parents=True, exist_ok=True)
    budget = _Budget(archive, max_bytes, max_ratio)
    with tempfile.TemporaryDirectory(
        dir=destination.parent, prefix=f".{destination.name}."
    ) as workspace:
        folder = Path(workspace) / "content"  # its own folder, for the usual permissions
        folder.mkdir()
        try:
            if tarfile.is_tarfile(archive):
                _unpack_tar(archive, folder, budget)
            elif zipfile.is_zipfile(archive):
                _unpack_zip(archive, folder, budget)
            else:
                raise UserError(f"{archive} is not an archive: use zip, tar, tar.gz or tar.xz")
        except UserError:
            raise
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise OSError(error.errno, error.strerror, str(destination)) from error
            raise UserError(f"{archive} cannot be unpacked: {error}") from None
        try:
            folder.rename(destination)
        except OSError as error:
            raise UserError(f"{destination} cannot be made: {error.strerror}") from None
    return destination


class _Budget:
    """Counts the bytes about to be written, before they are."""

    def __init__(self, archive: Path, max_bytes: int, max_ratio: float) -> None:
        self.archive = archive
        self.max_bytes = max_bytes
        self.max_by_ratio = max(RATIO_FLOOR, max_ratio * archive.stat().st_size)
        self.total = 0

    def spend(self, size: int) -> None:
        self.total += size
        if self.total > self.max_bytes:
            raise UserError(f"{self.archive} holds more than the limit of {self.max_bytes} bytes")
        if self.total > self.max_by_ratio:
            raise UserError(
                f"{self.archive} unpacks to far more than its own size; refused as an archive bomb"
            )


def _unpack_tar(archive: Path, folder: Path, budget: _Budget) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            _check_path(archive, member.name)
            if not (member.isreg() or member.isdir()):
                raise _refused(archive, member.name)
            budget.spend(member.size)
            tar.extract(member, folder, filter="data")
        # the checksum of a gz or xz lies behind the last member, where tarfile does not look
        while tar.fileobj is not None and (rest := tar.fileobj.read(COPIED_BYTES)):
            budget.spend(len(rest))


def _unpack_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _check_path(archive, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename)
            # zipfile never reads more than this declared size
            budget.spend(member.file_size)
            file.extract(member, folder)


def _check_path(archive: Path, name: str) -> None:
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts:
            raise UserError(f"{archive} holds the path {name!r} outside its folder; refused")


def _refused(archive: Path, name: str) -> UserError:
    return UserError(f"{archive} holds {name!r}, a link or device; only files are unpacked")
