"""SIGTERM and SIGINT at any moment of each command."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.base import drawn, scratch
from faults.kinds.disk import Command, commands
from faults.outcomes import Ended
from faults.processes import begun, rad

START = 0.15  # seconds until the command line surely runs
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def signals(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """It ends with the signal's code and one line; the same command then comes to the right end."""
    found = commands(folder)
    lasts = {c.name: _lasts(c, folder) for c in found}
    for number in range(count):
        command = found[number // 2 % len(found)]
        sent = list(ENDS)[number % 2]
        moment = float(drawn(seed, "signals", number).uniform(START, lasts[command.name]))
        with scratch(folder / "try") as here:
            process = begun(here, *command.arguments)
            late = time.monotonic() + moment
            while process.running() and time.monotonic() < late:
                time.sleep(0.002)
            process.tell(sent)
            ended = process.wait()
            name = f"{command.name}, {sent.name} after {moment:.2f} s"
            yield name, *_judged(ended, command, here, sent)


def _judged(
    ended: Ended, command: Command, here: Path, sent: signal.Signals
) -> tuple[Ended, str | None]:
    if ended.code is None:
        return ended, None
    if ended.code == 0:  # it was about to end
        return ended, command.wrong(here)
    if ended.code not in (1, ENDS[sent]):
        return Ended(0, ended.out, ended.err), f"exit code {ended.code}: {ended.last}"
    again = rad(here, *command.arguments)
    if again.code:
        return Ended(0, "", ""), f"again: exit code {again.code}: {again.last}"
    if found := command.wrong(here):
        return Ended(0, "", ""), f"again: {found}"
    return ended, None


def _lasts(command: Command, folder: Path) -> float:
    here = folder / "timed"
    shutil.rmtree(here, ignore_errors=True)
    began = time.monotonic()
    rad(here, *command.arguments)
    return time.monotonic() - began
