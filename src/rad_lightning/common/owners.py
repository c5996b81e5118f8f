"""Which process something on disk belongs to, and whether that process is still there.

A pid alone may be another process's by now, or one of another machine that shares the folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")  # of Linux; elsewhere less is known of a process
STOPPED = "T"  # state of a process that got SIGSTOP, or Ctrl-Z


@dataclass(frozen=True)
class Owner:
    """A process: ``machine`` stands for its machine, container and boot, ``start`` for the moment
    that it began in (0 where the system does not say)."""

    machine: str
    pid: int
    start: int

    def __str__(self) -> str:
        """``machine-pid-start``, in letters and digits: part of a file's name."""
        return f"{self.machine}-{self.pid}-{self.start}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        """What ``str`` gave; raises ``ValueError`` for anything else."""
        machine, pid, start = text.split("-")
        return cls(machine, int(pid), int(start))

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process that this one could see."""
        return self.machine == machine()

    @property
    def dead(self) -> bool:
        """Whether it is known to have ended; of another machine's, nothing is known."""
        if not self.here:
            return False
        if found := state_and_start(self.pid):
            return found[0] in "ZX" or found[1] != self.start
        return not _answers(self.pid)  # no /proc, or one that shows a user their own processes

    @property
    def stopped(self) -> bool:
        """Whether it is there and stopped: it goes on at ``kill -CONT`` and not before."""
        return self.here and state_and_start(self.pid) == (STOPPED, self.start)


def this_process() -> Owner:
    found = state_and_start(os.getpid())
    return Owner(machine(), os.getpid(), found[1] if found else 0)


def state_and_start(pid: int) -> tuple[str, int] | None:
    """The letter of a process's state, and when it began in ticks since the boot; ``None`` for one
    that is not there."""
    try:
        # Behind the name of the program, which may hold anything.
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def machine() -> str:
    """Eight letters and digits that other machines, containers and boots do not have."""
    known = [platform.node()]
    with suppress(OSError):
        known.append((PROC / "sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        known.append(str((PROC / "self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # or no pid at all
        return False
    except PermissionError:  # somebody else's
        return True
    return True
