"""One cell of a sweep, in whatever process a launcher gives it: a result, or the reason why not."""

from __future__ import annotations

import traceback
from typing import Any

from rad_lightning.common.errors import BusyError, UserError
from rad_lightning.common.machine import lack
from rad_lightning.common.processes import Terminated, end_if_asked, is_worker
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import FAILURE, RunDirectory
from rad_lightning.common.sealed import read_object, sealed
from rad_lightning.config import TrainConfig
from rad_lightning.training.job import Job, Shared, open_job
from rad_lightning.training.run import run_job

ENDED = "its process was ended with SIGTERM"

# What the cells of this process share. A process that runs a second sweep starts with `forget`.
_shared = Shared()


def forget() -> Shared:
    """Start afresh: files may have changed since the last sweep of this process."""
    global _shared
    _shared = Shared()
    return _shared


def run_in_sweep(cfg: TrainConfig) -> None:
    """Train and evaluate unless it is done; a failure is written down and ends this cell alone.

    Raises:
        UserError: the job cannot even be named (its data are wrong).
    """
    progress = Progress(quiet=True)
    try:
        with progress.stage("data"):
            job = open_job(cfg, _shared)
    except Terminated:
        if not is_worker():
            raise
        raise UserError(ENDED) from None
    try:
        with job.run.alone(cfg.trainer.num_nodes):
            if job.run.done and cfg.resume:
                return
            run_job(job, progress)
            (job.run.path / FAILURE).unlink(missing_ok=True)
    except BusyError:
        return  # another sweep is at this very job
    except Terminated:
        if not is_worker():
            raise
        write_failure(job, UserError(ENDED))
    except Exception as error:
        if not is_worker():
            end_if_asked()
        try:
            write_failure(job, error)
        except OSError:
            raise error from None  # for the process that runs the sweep to report


def write_failure(job: Job, error: BaseException) -> None:
    """``failure.json``: the reason in one line, and the traceback where it is not the user's."""
    facts = job.facts()
    named = {k: facts[k] for k in ("dataset", "category", "head", "method", "seed")}
    trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
    reason = " ".join((lack(error) or str(error)).split()) or type(error).__name__
    plain = isinstance(error, UserError) or lack(error)
    content = {
        "run": job.run.path.name,
        "reason": reason if plain else f"{type(error).__name__}: {reason}",
        "kind": type(error).__name__,
        "traceback": trace,
        "cell": {**named, "ratio": facts["noise"]["requested"]},
    }
    job.run.write_text(FAILURE, sealed(content))


def failure_of(run: RunDirectory) -> dict[str, Any] | None:
    """What ``write_failure`` wrote; ``None`` where nothing failed."""
    try:
        return read_object(run.path / FAILURE)
    except (OSError, ValueError):
        return None
