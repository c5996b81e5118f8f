"""How a try ends, and the table of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

RIGHT, REFUSED, WRONG, TRACEBACK, HANG = OUTCOMES = (
    "right",
    "refused",
    "wrong",
    "traceback",
    "hang",
)
FAULTS = (WRONG, TRACEBACK, HANG)  # what must not happen
REFUSAL = re.compile(r"(error|interrupted|terminated|stopped): \S")
REMARK = re.compile(r"(warning|note): \S")  # may stand beside the line that refuses
LONGEST = 240  # characters of a fault's description


@dataclass(frozen=True)
class Ended:
    """A process that has ended: ``code`` as a shell has it (128 + signal), ``None`` where it was
    still running after the time that it had."""

    code: int | None
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return (self.err.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Tried:
    """One try and its outcome; ``about`` says what was seen where it is a fault."""

    kind: str
    name: str
    outcome: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.outcome}: {' '.join(self.about.split())[:LONGEST]}"


def outcome_of(ended: Ended, wrong: str | None) -> tuple[str, str]:
    """The outcome and what was seen.

    Args:
        wrong: what is wrong with what the command left behind although it says that all is well;
            ``None`` where all is well.
    """
    if ended.code is None:
        return HANG, ended.last
    if "Traceback (most recent call last)" in ended.err + ended.out:
        return TRACEBACK, ended.last
    if ended.code == 0:
        return (RIGHT, "") if wrong is None else (WRONG, wrong)
    if ended.code in (134, 135, 136, 139):
        return TRACEBACK, f"crashed with {ended.code}: {ended.last}"
    told = [line for line in ended.err.strip().splitlines() if not REMARK.match(line)]
    if not told:
        return WRONG, f"exit code {ended.code} without a word"
    if len(told) == 1 and REFUSAL.match(told[0]):
        return REFUSED, ""
    return TRACEBACK, f"{len(told)} lines: {told[-1]}"


def table(tries: Sequence[Tried]) -> str:
    """Markdown: a row for each kind, and one for all."""
    rows: dict[str, Counter[str]] = {}
    for tried in tries:
        rows.setdefault(tried.kind, Counter())[tried.outcome] += 1
    rows["all"] = sum(rows.values(), Counter())
    lines = [f"| kind | tried | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * (1 + len(OUTCOMES))]
    for kind, counts in rows.items():
        cells = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {kind} | {counts.total()} | {cells} |")
    return "\n".join(lines) + "\n"


def faults(tries: Sequence[Tried]) -> list[Tried]:
    return [tried for tried in tries if tried.outcome in FAULTS]
