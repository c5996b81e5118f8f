"""Unpacking a dataset archive that may come from anywhere."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rad_lightning.common.errors import UserError
from rad_lightning.common.machine import FULL
from rad_lightning.common.names import printed, shortened

GIB = 1024**3
# small archives of empty masks shrink a great deal: the ratio says nothing below this size
RATIO_FLOOR = 64 * 1024**2
COPIED_BYTES = 1024**2
SHOWN = 200  # bytes of a name in a message
# Of the headers before one member of a tar, names and attributes included; tarfile would take any
# number of bytes into memory for them. Attributes of a file on macOS may have some 100 kB.
HEADER_BYTES = 4 * 1024**2
OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
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
            if zipfile.is_zipfile(archive) and not _is_tar(archive):
                _unpack_zip(archive, folder, budget)
            elif not _unpack_tar(archive, folder, budget):
                raise UserError(f"{archive} is not an archive: use zip, tar, tar.gz or tar.xz")
        except UserError:
            raise
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise OSError(error.errno, error.strerror, str(destination)) from error
            reason = shortened(printed(getattr(error, "strerror", None) or str(error)), SHOWN)
            raise UserError(f"{archive} cannot be unpacked: {reason}") from None
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


class _Bounded:
    """The content of a tar as ``tarfile`` reads it: in pieces of ``COPIED_BYTES`` at most, and of
    at most ``room`` bytes until ``begin_header`` or ``begin_content``."""

    def __init__(self, archive: Path, content: Any) -> None:
        self.archive, self.content = archive, content
        self.last = b""  # that was read
        self.begin_header()

    def begin_header(self) -> None:
        self.room: int | None = HEADER_BYTES

    def begin_content(self) -> int:
        """Returns how many bytes the header had."""
        used = HEADER_BYTES - (self.room or 0)
        self.room = None
        return used

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= COPIED_BYTES or (self.room is not None and size > self.room):
            raise UserError(
                f"{self.archive} holds a header of more than {COPIED_BYTES} bytes; refused as an "
                "archive bomb"
            )
        if self.room is not None:
            self.room -= size
        self.last = self.content.read(size)
        return self.last

    def seek(self, place: int) -> None:
        self.content.seek(place)

    def tell(self) -> int:
        return int(self.content.tell())


@contextmanager
def _content(archive: Path) -> Iterator[_Bounded]:
    """What a compressed file holds, or the file itself."""
    with archive.open("rb") as file:
        start = file.read(6)
    fitting = (opener for magic, opener in OPENERS.items() if start.startswith(magic))
    with next(fitting, lambda path: path.open("rb"))(archive) as content:
        yield _Bounded(archive, content)


def _opened(stream: _Bounded) -> tarfile.TarFile | None:
    """``None`` if it is no tar."""
    try:
        return tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload, no-any-return]
    except tarfile.ReadError:
        return None


def _is_tar(archive: Path) -> bool:
    with _content(archive) as stream:
        return _opened(stream) is not None


def _unpack_tar(archive: Path, folder: Path, budget: _Budget) -> bool:
    """Whether it was a tar."""
    with _content(archive) as stream:
        tar = _opened(stream)
        if tar is None:
            return False
        while member := tar.next():
            _check_path(archive, member.name)
            if not (member.isreg() or member.isdir()) or member.size < 0:
                raise _refused(archive, member.name)
            budget.spend(member.size + stream.begin_content())
            tar.extract(member, folder, filter="data")
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            stream.begin_header()
        # tarfile takes a damaged header, or none, for the end of the archive
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{archive} is damaged or not whole: it has no end; copy it again")
        stream.begin_content()
        # the checksum of a gz or xz lies behind the last member, where tarfile does not look
        while rest := stream.read(COPIED_BYTES):
            budget.spend(len(rest))
    return True


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
            raise UserError(f"{archive} holds the path {_shown(name)} outside its folder; refused")


def _refused(archive: Path, name: str) -> UserError:
    return UserError(f"{archive} holds {_shown(name)}, a link or device; only files are unpacked")


def _shown(name: str) -> str:
    return repr(shortened(name, SHOWN))
