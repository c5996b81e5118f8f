"""One cell of a sweep, in whatever process a launcher gives it: a result, or the reason why not."""

from __future__ import annotations

import json
import traceback
from typing import Any

from rad_lightning.common.errors import BusyError, UserError
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import FAILURE, RunDirectory
from rad_lightning.config import TrainConfig
from rad_lightning.training.job import Cell, Shared, open_cell
from rad_lightning.training.run import train_cell

# What the cells of this process share. A process that runs a second sweep starts with `forget`.
_shared = Shared()


def forget() -> Shared:
    """Start afresh: files may have changed since the last sweep of this process."""
    global _shared
    _shared = Shared()
    return _shared


def run_cell(cfg: TrainConfig) -> None:
    """Train and evaluate unless it is done; a failure is written down and ends this cell alone.

    Raises:
        UserError: the cell cannot even be named (its data are wrong).
    """
    progress = Progress(quiet=True)
    with progress.stage("data"):
        cell = open_cell(cfg, _shared)
    try:
        with cell.run.alone():
            if cell.run.done and cfg.resume:
                return
            train_cell(cell, progress)
            (cell.run.path / FAILURE).unlink(missing_ok=True)
    except BusyError:
        return  # another sweep is at this very cell
    except Exception as error:
        write_failure(cell, error)


def write_failure(cell: Cell, error: BaseException) -> None:
    """``failure.json``: the reason in one line, and the traceback where it is not the user's."""
    facts = cell.facts()
    named = {k: facts[k] for k in ("dataset", "category", "head", "method", "seed")}
    trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
    reason = " ".join(str(error).split()) or type(error).__name__
    content = {
        "run": cell.run.path.name,
        "reason": reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}",
        "kind": type(error).__name__,
        "traceback": trace,
        "cell": {**named, "ratio": facts["noise"]["requested"]},
    }
    cell.run.write_text(FAILURE, json.dumps(content, indent=2) + "\n")


def failure_of(run: RunDirectory) -> dict[str, Any] | None:
    """What ``write_failure`` wrote; ``None`` where nothing failed."""
    try:
        content: dict[str, Any] = json.loads((run.path / FAILURE).read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError):
        return None
