"""``verdicts.csv``: what a person said about training images, matched by the images' sha256.

The page of an audit saves it, ``audit`` shows it again, a training follows it. People open it in
spreadsheets, so what those change on saving is accepted: a byte-order mark, other line ends, ``;``
between the values, a decimal comma, empty rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from io import StringIO
from math import isfinite
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import atomic
from rad_lightning.common.sealed import read_regular
from rad_lightning.common.tables import text_lines


class Verdict(StrEnum):
    """About one image that is trained on as normal."""

    MISLABELLED = "mislabelled"
    GOOD = "good"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Review:
    """One judged image. ``path`` is for people; ``rank`` (from 1) and ``suspicion`` (0 to 1) are
    the audit's; ``time`` is the browser's, in ISO 8601, and is not read as one."""

    path: str
    sha256: str
    verdict: Verdict
    rank: int | None
    suspicion: float | None
    time: str


HEADER = tuple(field.name for field in fields(Review))
COLUMNS = ",".join(HEADER)
REQUIRED = ("sha256", "verdict")
SHA256 = re.compile(r"[0-9a-f]{64}")
# A spreadsheet takes a cell with such a beginning for a formula: an apostrophe goes before it, and
# also before an apostrophe, so that reading gives the path that was written.
FORMULA = ("=", "+", "-", "@", "\t", "'")


def read_verdicts(file: Path) -> tuple[Review, ...]:
    """The reviews in ``file``, in their order, one for each image.

    Raises:
        UserError: no such file, no CSV in UTF-8, a missing column, a wrong value, or two verdicts
            about one image that differ (equal ones count once); with the line.
    """
    if not file.is_file():
        raise UserError(f"verdicts {file} is not a file; expected a CSV {COLUMNS}")
    found: dict[str, tuple[int, Review]] = {}
    for line, row in _rows(file):
        review = _review(f"{file}:{line}", row)
        first, known = found.setdefault(review.sha256, (line, review))
        if known.verdict != review.verdict:
            raise UserError(
                f"{file}:{line}: {review.path or review.sha256} is {review.verdict} here and "
                f"{known.verdict} in line {first}: keep one of the two lines"
            )
    return tuple(review for _, review in found.values())


def write_verdicts(file: Path, reviews: Iterable[Review]) -> None:
    """Write them whole or not at all, as ``read_verdicts`` reads them."""
    with atomic(file) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for review in reviews:
            path, *rest = astuple(review)
            path = path.replace("\r", " ")  # which the csv module writes bare, though it ends a row
            writer.writerow((f"'{path}" if path.startswith(FORMULA) else path, *rest))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Every row that is not empty, by column, with the number of its last line."""
    try:
        text = read_regular(file).decode("utf-8-sig")
        header = next(StringIO(text), "")
        separator = ";" if ";" in header and "," not in header else ","
        lines = csv.reader(text_lines(StringIO(text, newline="")), delimiter=separator, strict=True)
        columns = [name.strip() for name in next(lines, [])]
        if missing := [name for name in REQUIRED if name not in columns]:
            raise UserError(f"{file}:1: no column {missing[0]}; expected the columns {COLUMNS}")
        for values in lines:
            if not any(values):
                continue
            if len(values) != len(columns):
                raise UserError(
                    f"{file}:{lines.line_num}: expected {len(columns)} values, as in the header, "
                    f"found {len(values)}"
                )
            yield lines.line_num, dict(zip(columns, map(str.strip, values), strict=True))
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({error})") from None


def _review(where: str, row: dict[str, str]) -> Review:
    sha256, verdict = row["sha256"].lower(), row["verdict"].lower()
    if not SHA256.fullmatch(sha256):
        raise UserError(f"{where}: sha256 {sha256[:70]!r} is not 64 hexadecimal digits")
    if verdict not in set(Verdict):
        raise UserError(
            f"{where}: verdict {verdict[:70]!r} is not known: choose one of {', '.join(Verdict)}"
        )
    path = row.get("path", "")
    if path.startswith("'") and path[1:].startswith(FORMULA):
        path = path[1:]
    numbers = _numbers(where, row.get("rank", ""), row.get("suspicion", ""))
    return Review(path, sha256, Verdict(verdict), *numbers, row.get("time", ""))


def _numbers(where: str, rank: str, suspicion: str) -> tuple[int | None, float | None]:
    try:
        share = float(suspicion.replace(",", ".")) if suspicion else None
        if share is None or isfinite(share):
            return int(rank) if rank else None, share
    except ValueError:
        pass
    raise UserError(f"{where}: rank {rank[:70]!r} or suspicion {suspicion[:70]!r} is not a number")
