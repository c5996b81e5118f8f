from io import StringIO

import pytest
from rich.table import Table

from rad_lightning.common.names import LONGEST, printed, shortened, writable
from rad_lightning.common.progress import Terminal


@pytest.mark.parametrize("name", ["a.png", "ü" * 125 + ".png", "x" * 255])
def test_a_name_that_fits_is_kept(name: str) -> None:
    assert shortened(name) == name


@pytest.mark.parametrize("name", ["l" * 255 + ".jpg", "ü" * 200 + ".jpg", "\udcff" * 300 + ".jpg"])
@pytest.mark.parametrize("most", [LONGEST, 40])
def test_a_long_name_keeps_its_suffix_and_is_like_no_other(name: str, most: int) -> None:
    found = shortened(name, most)
    assert most - 2 <= len(found.encode()) <= most or "\udcff" in name
    assert found.endswith(".jpg") and shortened(f"x{name[1:]}", most) != found


def test_a_long_suffix_is_none() -> None:
    assert len(shortened("a." + "b" * 300)) == LONGEST


def test_names_that_no_table_can_hold() -> None:
    assert writable("größe\n.png") and not writable("\udcff.png")


def test_a_terminal_shows_what_it_would_obey() -> None:
    assert printed("a\x1b[2Jb\r\udcff\u202e\x9b ü") == "a\\x1b[2Jb\\r\\udcff\\u202e\\x9b ü"
    console = Terminal(file=StringIO(), markup=False, width=60)
    table = Table(title="\x1b[31mtitle")
    table.add_column("name")
    table.add_row("\x1b]0;owned\x07.png")
    console.print("\udcff[red]\x1b[31m.png\nnext", table)
    assert isinstance(console.file, StringIO)
    found = console.file.getvalue()
    found.encode()
    assert "\x1b" not in found and "\\udcff[red]\\x1b[31m.png\nnext" in found
    assert "\\x1b]0;owned\\x07.png" in found
