"""The journal of a study: one JSON record per line, which Optuna reads and writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RunDirectory
from rad_lightning.common.sealed import read_regular

MOST_JOURNAL = 2**28  # bytes; a trial takes about 2 kB
RUNS = "runs"  # where the trainings of a study are, beside its journal
Ranges = FloatDistribution | IntDistribution


def open_study(journal: Path, lock: FileLock) -> optuna.Study:
    """The study in ``journal``, a new one where there is none. The caller holds ``lock``.

    Raises:
        UserError: the file is not a study's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drop_torn_line(journal)
    try:
        # Optuna's own locks stay behind a killed process, for half a minute or for good.
        backend = JournalFileBackend(str(journal), lock_obj=cast(Any, lock))
        study = optuna.create_study(
            storage=JournalStorage(backend), study_name="tune", load_if_exists=True
        )
        for trial in study.get_trials(deepcopy=False):
            refuse_damaged(trial, journal.parent / RUNS)
    except OSError:
        raise
    except Exception as error:  # records that are no records make Optuna raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{journal}: not a study that can be read ({reason}); move it away, and the same "
            "command reads the trainings that are done again"
        ) from error
    return study


def refuse_damaged(trial: FrozenTrial, runs: Path) -> None:
    """Raise ``ValueError`` at a trial that no study of ours writes, or whose run in ``runs`` says
    something else."""
    for name, number in trial.params.items():
        kind = trial.distributions[name]
        if not isinstance(kind, Ranges) or not kind.low <= number <= kind.high:
            raise ValueError(f"trial {trial.number} has {name} = {number}")
    if trial.state != TrialState.COMPLETE:
        return
    run = RunDirectory(runs / str(trial.user_attrs.get("run")))
    wanted = run.read_result().get("held_out_nll") if run.done else trial.value
    if trial.value is None or not math.isfinite(trial.value) or trial.value != wanted:
        raise ValueError(f"trial {trial.number} has the value {trial.value}, its run {wanted}")


def drop_torn_line(journal: Path) -> None:
    """A record that a killed process left half written would corrupt the one behind it.

    Raises:
        UserError: not a regular file, or one too large to be a journal.
    """
    if not journal.exists():
        return
    try:
        content = read_regular(journal, MOST_JOURNAL)
    except ValueError as error:
        raise UserError(f"{journal}: {error}; use another study=FOLDER") from None
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)
