"""Damaged tables: the user's own (``data.csv``) and manifests (``noise.manifest``)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.base import drawn, photos, reference, scratch, settings, well
from faults.damage import damages, table_damages
from faults.outcomes import Ended
from faults.processes import rad

FINGERPRINT = re.compile(r"fingerprint of images and roles: (\w+)")


def plain(data: bytes) -> list[tuple[str, ...]] | None:
    """The rows of a well-formed table, in any order; ``None`` where it is not well-formed."""
    try:
        text = data.decode("utf-8-sig")
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        return None
    if not lines or len({len(row) for row in lines}) != 1 or "\0" in text:
        return None
    cells = [tuple(cell.strip() for cell in line) for line in lines]
    return [cells[0], *sorted(cells[1:])]


def judged(right: str, found: str, whole: bytes, damaged: bytes) -> str | None:
    """What is wrong with a table that was read as ``found``.

    One that says other things in good form is another table. One in bad form, or one that says the
    same and yet gives other images, is not read right.
    """
    if found == right:
        return None
    rows = plain(damaged)
    if rows is None:
        return "a table in bad form was read"
    return "other images of the same table" if rows == plain(whole) else None


def images(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``data=csv``, for ``prepare``."""
    root = photos(folder / "photos", 6, 3)
    lines = ["path,label,split,group"]
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        label = int(file.parent.name == "bad")
        split = "test" if label or number > 6 else "train"
        lines.append(f"{file.relative_to(root)},{label},{split},part{number}")
    whole = ("\n".join(lines) + "\n").encode()
    file = folder / "table.csv"
    asked = ("prepare", "data=csv", f"data.csv={file}", f"data.root={root}")
    yield from spoiled(file, count, seed, whole, asked, _printed)


def _printed(_: Path, ended: Ended) -> str:
    """What ``prepare`` read."""
    found = FINGERPRINT.search(" ".join(ended.out.split()))
    return found.group(1) if found else "exit code 0 without counts"


def manifests(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``noise=manifest``, for a training."""
    done = reference(folder / "whole")
    file = folder / "table.csv"
    data = settings(folder / "whole_photos", "method.steps=3")
    asked = (*data, "noise=manifest", f"noise.manifest={file}")
    whole = (done.run / "manifest.csv").read_bytes()
    yield from spoiled(file, count, seed, whole, asked, _trained_on)


def _trained_on(folder: Path, _: Ended) -> str:
    """What a training was made on, and what came out."""
    names = ("manifest.csv", "scores.csv")
    files = [f for name in names for f in sorted(folder.glob(f"outputs/runs/*/{name}"))]
    return "".join(f.read_text() for f in files)


def spoiled(
    file: Path,
    count: int,
    seed: int,
    whole: bytes,
    asked: tuple[str, ...],
    read: Callable[[Path, Ended], str],
) -> Iterator[tuple[Any, ...]]:
    """The command ``asked`` on each damaged table; ``read`` says as what it was read."""
    file.write_bytes(whole)
    with scratch(file.with_name("try")) as here:
        right = read(here, well(rad(here, *asked)))
    for number in range(count):
        rng = drawn(seed, file.parent.name, number)
        name, data = (table_damages if rng.random() < 0.65 else damages)(whole, rng)
        file.write_bytes(data)
        with scratch(file.with_name("try")) as here:
            ended = rad(here, *asked)
            wrong = None if ended.code else judged(right, read(here, ended), whole, data)
            yield name, ended, wrong
