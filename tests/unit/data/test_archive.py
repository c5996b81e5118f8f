import gzip
import io
import stat
import tarfile
import tracemalloc
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
    refused(archive, "cannot be unpacked|is not an archive|is damaged")


@pytest.mark.parametrize("name", MAKERS)
def test_truncated_archive(tmp_path: Path, name: str) -> None:
    noise = bytes((i * i * 7 + i // 3) % 256 for i in range(50_000))
    archive = MAKERS[name](tmp_path / name, {"noise": noise, **FILES})
    archive.write_bytes(archive.read_bytes()[:600])
    refused(archive, "cannot be unpacked|is not an archive")


@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz"])
@pytest.mark.parametrize("kept", [2, 3.5, 5, 6])  # blocks of 512: a header and content each
def test_a_tar_cut_anywhere_is_not_whole(tmp_path: Path, name: str, kept: float) -> None:
    archive = MAKERS["d.tar"](tmp_path / "d.tar", {"a": b"a" * 500, "b": b"b" * 1000, "c": b"c"})
    content = archive.read_bytes()[: int(512 * kept)]
    archive.unlink()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    refused(
        tmp_path / name,
        "is damaged or not whole: it has no end; copy|cannot be unpacked: unexpected end",
    )


def test_a_tar_with_a_damaged_header_is_not_whole(tmp_path: Path) -> None:
    archive = MAKERS["d.tar"](tmp_path / "d.tar", {"a": b"a" * 500, "b": b"b" * 1000})
    content = bytearray(archive.read_bytes())
    content[1024:1030] = b"XXXXXX"
    archive.write_bytes(content)
    refused(archive, "is damaged or not whole: it has no end")


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"x", b"g"])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_of_many_bytes_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes, first: bool
) -> None:
    size = 50 * 1024**2  # 250 kB as gz
    archive = tmp_path / "d.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(b"" if first else header("a", tarfile.REGTYPE, 0))
        file.write(header("long", kind, size))
        for _ in range(size // 1024**2):
            file.write(bytes(1024**2))
        file.write(header("b", tarfile.REGTYPE, 0) + bytes(1024))
    tracemalloc.start()
    refused(archive, "holds a header of more than 1048576 bytes; refused as an archive bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 1024**2


def test_many_headers_of_one_member_are_refused(tmp_path: Path) -> None:
    archive, name = tmp_path / "d.tar.gz", b"n" * 1024**2
    with gzip.open(archive, "wb", compresslevel=1) as file:
        for _ in range(5):
            file.write(header("long", tarfile.GNUTYPE_LONGNAME, len(name)) + name)
        file.write(header("b", tarfile.REGTYPE, 0) + bytes(1024))
    refused(archive, "holds a header of more than")


def test_a_message_is_of_a_length_that_can_be_read(tmp_path: Path) -> None:
    for name in ("n" * 5000, "../" + "n" * 5000):
        (tmp_path / "new").mkdir(exist_ok=True)
        archive = make_tar(tmp_path / "new" / "d.tar", "w", {name: b""})
        with pytest.raises(UserError) as caught:
            unpack(archive, tmp_path / "out")
        assert len(str(caught.value)) < 600


def test_empty_members_without_end_are_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rad_lightning.data.archive.RATIO_FLOOR", 1000)
    members = (header(f"{i}", tarfile.REGTYPE, 0) for i in range(1000))
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(b"".join(members) + bytes(1024)))
    refused(tmp_path / "d.tar.gz", "refused as an archive bomb", max_ratio=2)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(header("a", tarfile.REGTYPE, 0))
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:]) + 8 * 32)
    (tmp_path / "d.tar").write_bytes(content + bytes(2048))
    refused(tmp_path / "d.tar", "refused|cannot be unpacked|is not an archive|only files")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_unpacked(tmp_path: Path, form: int) -> None:
    name = "/".join(["d" * 100] * 5)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz", format=form) as tar:
        for path in (name, "größe"):
            tar.addfile(tarfile.TarInfo(path))
    out = unpack(tmp_path / "d.tar.gz", tmp_path / "out")
    assert (out / name).is_file() and (out / "größe").is_file()
