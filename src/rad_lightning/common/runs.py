"""The run directory: where it is, what it holds, and that every file in it appears whole."""

from __future__ import annotations

import csv
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rad_lightning.common.errors import BusyError
from rad_lightning.common.files import write_text

RESULT, FAILURE, PLAN = "result.json", "failure.json", "sweep.json"
SCHEMA_VERSION = 2
REPORTED_PACKAGES = (
    "rad-lightning", "torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics",
    "hydra-core", "omegaconf", "normflows", "numpy", "scipy", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class RunDirectory:
    """One cell's files. ``result.json`` is written last: where it is, the run is done."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def done(self) -> bool:
        """Whether a complete result is there; a truncated file does not count."""
        try:
            return "metrics" in self.read_result()
        except (OSError, ValueError):
            return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the directory for this process; another one gets a ``BusyError``.

        On further nodes of one training all processes share it: only the first one locks.
        """
        if int(os.environ.get("NODE_RANK", "0")):
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise BusyError(f"{self.path}: another process is working on this run") from None

    def usable_checkpoint(self) -> Path | None:
        """The checkpoint to go on from; one that a crash left unreadable is removed."""
        if not self.checkpoint.is_file():
            return None
        try:
            torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # garbage makes the unpickler raise almost anything
            self.checkpoint.unlink()
            return None
        return self.checkpoint

    def restart(self) -> None:
        """Take the marks of an earlier run away, the mark of completion first."""
        for name in (RESULT, "last.ckpt"):
            (self.path / name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        return write_text(self.path / name, text)

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
        buffer = StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        return self.write_text(name, buffer.getvalue())

    def write_result(self, result: dict[str, Any]) -> Path:
        return self.write_text(RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")

    def read_result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / RESULT).read_text(encoding="utf-8"))
        return content


def environment() -> dict[str, Any]:
    """Versions and revision that a number was made with."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in REPORTED_PACKAGES},
        "git_revision": _git_revision(),
    }


def peak_memory_mib() -> float:
    """The most resident memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The checkout's revision; ``None`` for an installed package."""
    here = Path(__file__).resolve().parent
    if not (here.parents[2] / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return None
    return answer.stdout.strip() or None
