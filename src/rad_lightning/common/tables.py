"""CSV text that no spreadsheet takes for a formula, and that reads back as what was written."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any

# What begins a formula, full-width forms included, behind any number of the marks that say "text".
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|inf|nan)")


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with floats as ``repr``, and an apostrophe before text that would be a formula."""
    buffer = StringIO()
    # With this line end, the csv module quotes a carriage return inside of a cell.
    writer = csv.writer(buffer, lineterminator="\r\n")
    lines = []
    for row in (header, *rows):
        writer.writerow([_escaped(cell) for cell in row])
        lines.append(buffer.getvalue().removesuffix("\r\n"))
        buffer.seek(0)
        buffer.truncate()
    return "".join(f"{line}\n" for line in lines)


def plain(cell: str) -> str:
    """A cell as it was before ``to_csv``; what an older version wrote is what it is."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def text_lines(lines: Iterable[str]) -> Iterator[str]:
    """``lines``, as they are.

    Raises:
        csv.Error: one holds a NUL byte, as a damaged file may; Python would take it for text.
    """
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise csv.Error(f"line {number} holds a NUL byte")
        yield line


def read_rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows that ``to_csv`` wrote, by column; ``lines`` come with their own line ends.

    Raises:
        csv.Error: not a CSV file.
    """
    for row in csv.DictReader(text_lines(lines)):
        yield {key: plain(cell) for key, cell in row.items() if key and cell is not None}


def _escaped(cell: Any) -> Any:
    if not isinstance(cell, str) or NUMBER.fullmatch(cell) or not FORMULA.match(cell):
        return cell
    return f"'{cell}"
