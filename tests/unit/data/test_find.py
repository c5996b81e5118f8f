from pathlib import Path

import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.data.find import find_images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/c.tif", "notes.txt", ".hidden.png", "out/overlays/b.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(found: tuple[list[Path], Path]) -> list[str]:
    files, base = found
    return [f.relative_to(base).as_posix() for f in files]


def test_a_folder_stands_for_the_images_below_it_but_those_we_wrote(tree: Path) -> None:
    wanted = ["a.JPG", "b.png", "deep/c.tif"]
    assert names(find_images(str(tree), skip=tree / "out" / "overlays")) == wanted
    assert names(find_images(str(tree))) == [*wanted, "out/overlays/b.jpg"]


def test_a_file_is_taken_whatever_its_suffix(tree: Path) -> None:
    assert names(find_images(str(tree / "notes.txt"))) == ["notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.png", ["b.png"]),
        ("deep/*", ["c.tif"]),
        ("**/*.[tj][ip][fg]", ["deep/c.tif", "out/overlays/b.jpg"]),
        ("[ab].*", ["a.JPG", "b.png"]),
    ],
)
def test_a_pattern_finds_what_a_shell_would(tree: Path, pattern: str, wanted: list[str]) -> None:
    assert names(find_images(str(tree / pattern))) == wanted


def test_a_pattern_relative_to_the_working_folder(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    assert find_images("deep/*.tif") == ([Path("deep/c.tif")], Path("deep"))


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "part[1].png").touch()
    assert names(find_images(str(tmp_path / "part[1].png"))) == ["part[1].png"]


@pytest.mark.parametrize("given", ["none.png", "*.gif", "empty"])
def test_nothing_found_says_what_is_accepted(tree: Path, given: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image there; give a folder"):
        find_images(str(tree / given))
