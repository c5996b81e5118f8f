import csv
from io import StringIO

import pytest

from rad_lightning.common.tables import plain, read_rows, to_csv

ODD = ("=1+1", "+a", "-a", "-1+1", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", "'=x", "''=x", "'x", "'",
       "a\rb", "a\r\nb", 'a"b', "a,b", " a ", "", "größe")  # fmt: skip


def cells(text: str) -> list[str]:
    """What a spreadsheet gets."""
    _, *rows = csv.reader(StringIO(text, newline=""))
    return [row[0] for row in rows]


@pytest.mark.parametrize("text", ODD)
def test_text_comes_back_and_is_no_formula(text: str) -> None:
    table = to_csv(["x", "y"], [[text, 1]])
    (shown,) = cells(table)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert list(read_rows(StringIO(table, newline=""))) == [{"x": text, "y": "1"}]


def test_names_that_differ_by_the_mark_stay_apart() -> None:
    assert len(set(cells(to_csv(["x"], [[text] for text in ODD])))) == len(ODD)


@pytest.mark.parametrize("value", [-0.5, "-0.5", "-1e-05", "+3", "-inf", -1, 1e30])
def test_a_number_stays_one(value: object) -> None:
    assert to_csv(["x"], [[value]]) == f"x\n{value}\n"


@pytest.mark.parametrize("cell", ["-x.png", "'x.png", "=x"])
def test_a_table_of_an_older_version_is_read_as_it_is(cell: str) -> None:
    assert plain(cell) == cell


def test_a_header_is_no_formula_either() -> None:
    assert to_csv(["=x"], []) == "'=x\n"


def test_a_nul_byte_is_no_text() -> None:
    with pytest.raises(csv.Error, match="line 2 holds a NUL byte"):
        list(read_rows(["a,b\n", "1,\0\n"]))
