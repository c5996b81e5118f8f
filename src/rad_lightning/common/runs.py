"""The run directory: where it is, what it holds, and that every file in it appears whole."""

from __future__ import annotations

import hashlib
import math
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import Timeout

from rad_lightning.common.environ import node_rank
from rad_lightning.common.errors import BusyError, UserError
from rad_lightning.common.files import write_text
from rad_lightning.common.locks import held, holder
from rad_lightning.common.sealed import SEAL, read_object, sealed
from rad_lightning.common.tables import to_csv

RESULT, FAILURE, PLAN = "result.json", "failure.json", "sweep.json"
SCHEMA_VERSION = 3  # since 3 with the sha256 of its content and of the run's files
READABLE = (1, 2, 3)  # versions of result.json
NEEDED = ("dataset", "category", "head", "method", "seed", "metrics")  # of every version
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
        """Whether a complete result is there; a damaged file does not count."""
        try:
            self.read_result()
        except (OSError, ValueError):
            return False
        return True

    @contextmanager
    def alone(self, nodes: int = 1) -> Iterator[None]:
        """Hold the directory for this process; another one gets a ``BusyError``.

        All ``nodes`` of one training share it: only the first one locks.
        """
        if nodes > 1 and node_rank():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lock = self.path / ".lock"
            try:
                stack.enter_context(held(lock, wait=False))
            except Timeout:
                who, how = holder(lock)
                raise BusyError(
                    f"{self.path}: another process{who} is working on this run{how}"
                ) from None
            yield

    def restart(self) -> None:
        """Take the marks of an earlier run away, the mark of completion first."""
        for name in (RESULT, "last.ckpt"):
            (self.path / name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        return write_text(self.path / name, text)

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
        return self.write_text(name, to_csv(header, rows))

    def write_result(self, result: dict[str, Any]) -> Path:
        """``result`` with the sha256 of every other file of the run, ``files``."""
        return self.write_text(RESULT, sealed(result | {"files": self.file_hashes()}))

    def read_result(self) -> dict[str, Any]:
        """What ``write_result`` wrote, here or in an older version.

        Raises:
            ValueError: damaged, or no result; without the file's name.
            OSError: not there, or not readable.
        """
        return checked_result(read_object(self.path / RESULT))

    def file_hashes(self) -> dict[str, str]:
        """The sha256 of every file of the run, by name; not of what says how it ended."""
        files = (f for f in sorted(self.path.glob("[!.]*")) if f.name not in (RESULT, FAILURE))
        return {file.name: file_sha256(file) for file in files if file.is_file()}


def file_sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def checked_result(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a ``result.json``; raises ``ValueError`` where it is none."""
    version = content.get("schema_version")
    if not isinstance(version, int) or version not in READABLE:
        raise ValueError(f"schema_version {version!r}; this version reads {READABLE}")
    needed = (*NEEDED, "files", SEAL) if version >= 3 else NEEDED
    if lacking := [key for key in needed if key not in content]:
        raise ValueError(f"not the result of a run: {lacking[0]!r} is missing")
    if not isinstance(content["metrics"], Mapping):
        raise ValueError("not the result of a run: its metrics are no object")
    return content


def finite_number(value: Any) -> float | None:
    """``value``, where it is one."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def check_files(run: RunDirectory, names: Sequence[str]) -> None:
    """Whether the files of a finished run are those that it has written.

    Raises:
        UserError: they, or the ``result.json`` that says so, are not.
    """
    if not (run.path / RESULT).exists():
        return  # interrupted: nothing says what its files were
    try:
        recorded = run.read_result().get("files")
    except ValueError as error:
        raise UserError(f"{run.path / RESULT}: {error}") from None
    if recorded is None:
        return  # of an older version
    if wrong := [n for n in names if file_sha256(run.path / n) != recorded.get(n)]:
        raise UserError(
            f"{run.path / wrong[0]}: not what the run has written (its sha256 differs from that in "
            f"{RESULT})"
        )


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
