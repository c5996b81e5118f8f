import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.data.archive import unpack

FILES = {"set/a.txt": b"a", "set/deep/b.txt": b"b" * 1000}


def make_tar(path: Path, mode: str, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "d.zip": make_zip,
    "d.tar": lambda path, files: make_tar(path, "w", files),
    "d.tar.gz": lambda path, files: make_tar(path, "w:gz", files),
    "d.tar.xz": lambda path, files: make_tar(path, "w:xz", files),
}


def refused(archive: Path, message: str, **limits: float) -> None:
    destination = archive.parent / "out" / "data"
    with pytest.raises(UserError, match=message) as caught:
        unpack(archive, destination, **limits)
    assert "\n" not in str(caught.value)
    assert not destination.exists() and not list(destination.parent.iterdir()), "nothing may stay"


@pytest.mark.parametrize("name", MAKERS)
def test_unpack(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name, FILES)
    out = unpack(archive, tmp_path / "new" / "data")
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == FILES
    assert [p.name for p in out.parent.iterdir()] == ["data"]
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(out.parent.stat().st_mode)
    with pytest.raises(UserError, match="exists already"):
        unpack(archive, out)


@pytest.mark.parametrize("maker", ["d.zip", "d.tar.gz"])
@pytest.mark.parametrize("name", ["/abs.txt", "../up.txt", "a/../../up.txt", "C:/x", "..\\up.txt"])
def test_paths_that_leave_the_folder(tmp_path: Path, maker: str, name: str) -> None:
    archive = MAKERS[maker](tmp_path / maker, {"fine.txt": b"", name: b"x"})
    refused(archive, "outside its folder; refused")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("odd")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(make_tar(tmp_path / "d.tar", "w", FILES, info), "'odd', a link or device")


def test_symlink_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        info = zipfile.ZipInfo("odd")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "d.zip", "'odd', a link or device")


@pytest.mark.parametrize("name", MAKERS)
def test_limits(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = MAKERS[name](tmp_path / name, {"zeros": bytes(1_000_000)})
    refused(archive, "more than the limit of 1000 bytes", max_bytes=1000)
    if name != "d.tar":
        monkeypatch.setattr("rad_lightning.data.archive.RATIO_FLOOR", 1000)
        refused(archive, "refused as an archive bomb", max_ratio=100)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file; expected a zip"):
        unpack(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "x.zip").write_bytes(b"no archive at all")
    refused(tmp_path / "x.zip", "is not an archive: use zip, tar")


@pytest.mark.parametrize("name", ["d.tar.gz", "d.tar.xz", "d.zip"])
def test_damaged_archive(tmp_path: Path, name: str) -> None:
    noise = bytes((i * i * 7 + i // 3) % 256 for i in range(50_000))
    archive = MAKERS[name](tmp_path / name, {"noise": noise, **FILES})
    content = bytearray(archive.read_bytes())
    content[300:340] = bytes(40)
    archive.write_bytes(content)
    refused(archive, "cannot be unpacked|is not an archive")


@pytest.mark.parametrize("name", MAKERS)
def test_truncated_archive(tmp_path: Path, name: str) -> None:
    noise = bytes((i * i * 7 + i // 3) % 256 for i in range(50_000))
    archive = MAKERS[name](tmp_path / name, {"noise": noise, **FILES})
    archive.write_bytes(archive.read_bytes()[:600])
    refused(archive, "cannot be unpacked|is not an archive")
