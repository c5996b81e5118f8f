import csv
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rad_lightning.common.errors import UserError
from rad_lightning.data.verdicts import (
    COLUMNS,
    HEADER,
    Review,
    Verdict,
    read_verdicts,
    write_verdicts,
)

A, B = "a" * 64, "0123456789abcdef" * 4
TIME = "2026-11-30T14:00:00.000Z"
REVIEWS = (
    Review("good/7.png", A, Verdict.MISLABELLED, 1, 0.9583333333333334, TIME),
    Review('good/a, "b"; ü.png', B, Verdict.UNSURE, None, None, ""),
)
TEXT = (
    f"{COLUMNS}\ngood/7.png,{A},mislabelled,1,0.9583333333333334,{TIME}\n"
    f'"good/a, ""b""; ü.png",{B},unsure,,,\n'
)


def read(tmp_path: Path, content: str | bytes) -> tuple[Review, ...]:
    file = tmp_path / "verdicts.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_verdicts(file)


def test_the_file_is_what_was_reviewed_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "verdicts.csv"
    write_verdicts(file, REVIEWS)
    assert file.read_bytes() == TEXT.encode()
    assert read_verdicts(file) == REVIEWS
    assert [f.name for f in file.parent.iterdir()] == ["verdicts.csv"]


def test_a_writing_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    write_verdicts(file, REVIEWS)
    with pytest.raises(ZeroDivisionError):
        write_verdicts(file, (replace(r, rank=1 // (r.rank or 0)) for r in REVIEWS))
    assert read_verdicts(file) == REVIEWS
    assert [f.name for f in tmp_path.iterdir()] == ["verdicts.csv"]


NAMES = st.text(st.sampled_from("=+-@'\t\" ,;ü/a1\n\x0b\x85"), min_size=1, max_size=6)


@given(NAMES.filter(lambda name: name == name.strip()))
def test_any_path_comes_back_and_no_cell_begins_a_formula(name: str) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "verdicts.csv"
        write_verdicts(file, [Review(name, A, Verdict.GOOD, None, None, "")])
        assert [review.path for review in read_verdicts(file)] == [name]
        with file.open(newline="", encoding="utf-8") as lines:
            cell = list(csv.reader(lines))[1][0]
        assert not cell.startswith(tuple("=+-@\t\r"))


def test_what_spreadsheets_change_on_saving_is_accepted(tmp_path: Path) -> None:
    excel = (
        "\ufeff" + ";".join(HEADER) + ";note\r\n"
        f"good/7.png;{A.upper()};Mislabelled;1;0,9583333333333334;{TIME};a stain, I think\r\n"
        f'"good/a, ""b""; ü.png";{B};unsure;;;;\r\n;;;;;;\r\n'
    )
    assert read(tmp_path, excel) == REVIEWS
    assert read(tmp_path, TEXT.replace("\n", "\r")) == REVIEWS


def test_a_header_alone_is_no_verdict_and_two_columns_are_enough(tmp_path: Path) -> None:
    assert read(tmp_path, COLUMNS + "\n") == read(tmp_path, COLUMNS) == ()
    assert read(tmp_path, f"verdict,sha256\ngood,{A}\n") == (
        Review("", A, Verdict.GOOD, None, None, ""),
    )


def test_equal_verdicts_about_one_image_count_once(tmp_path: Path) -> None:
    again = f"copy/7.png,{A},mislabelled,2,0.5,2027-01-01T00:00:00Z\n"
    assert read(tmp_path, TEXT + again) == REVIEWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r":1: no column sha256; expected the columns path,sha256,verdict"),
        (b"path,sha256\n", r":1: no column verdict"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r": not a CSV file in UTF-8 \("),
        (b"PK\x03\x04\x14\x00\x06\x00xl/workbook", r": not a CSV file in UTF-8 \("),
        (TEXT.encode() + b'"open,', r": not a CSV file in UTF-8 \("),
        (f"{COLUMNS}\na,{A},bad,,,\n", r":2: verdict 'bad' is not known: choose one of mislabel"),
        (f"{COLUMNS}\na,{A},good\n", r":2: expected 6 values, as in the header, found 3"),
        (f"{COLUMNS}\na,{A[1:]},good,,,\n", r":2: sha256 'a{63}' is not 64 hexadecimal digits"),
        (f"{COLUMNS}\na,{'g' * 64},good,,,\n", r":2: sha256 'g{64}' is not 64 hexadecimal"),
        (f"{COLUMNS}\na,{A},good,first,,\n", r":2: rank 'first' or suspicion '' is not a number"),
        (f"{COLUMNS}\na,{A},good,1,nan,\n", r":2: rank '1' or suspicion 'nan' is not a number"),
        (
            f"{TEXT}x.png,{A},good,1,,2027\n",
            r":4: x.png is good here and mislabelled in line 2: keep one of the two lines",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=r"verdicts\.csv" + message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="is not a file; expected a CSV path,sha256,verdict"):
            read_verdicts(missing)
