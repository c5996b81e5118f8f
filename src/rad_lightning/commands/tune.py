"""``tune``: which settings of the method give held-out training images the best likelihood?

Bayesian optimisation with Optuna's TPE sampler. A trial is a normal training, and its value is
``held_out_nll`` of its ``result.json``: the trimmed NLL, in nats per dimension, of held-out
*training* images under the parameters that would be deployed. Nothing else of a result is read, and
no label. Test scores matter only where one is infinite: then the training fails and its trial is
pruned.

The folder of a study:

- ``journal.jsonl``: all trials, one JSON record per line; several processes may work on it
- ``runs/``: the trainings; one that is done is never done again
- ``study.csv``, ``best.yaml``: the trials as a table, the best one as settings
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from rad_lightning.common.errors import BusyError, DivergedError, TooLargeError, UserError
from rad_lightning.common.files import write_text
from rad_lightning.common.locks import held
from rad_lightning.common.processes import end_if_asked
from rad_lightning.common.progress import Progress, duration
from rad_lightning.common.randomness import stream_seed
from rad_lightning.common.runs import RunDirectory
from rad_lightning.config import (
    TuneConfig,
    TuneRange,
    digest,
)
from rad_lightning.training.job import Job, Shared, open_job
from rad_lightning.training.run import run_job

try:
    import optuna
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial, Trial, TrialState

    from rad_lightning.commands.journal import open_study
except ModuleNotFoundError as error:
    raise UserError("tune needs Optuna: pip install 'rad-lightning[hpo]'") from error

JOURNAL, TABLE, BEST = "journal.jsonl", "study.csv", "best.yaml"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # FAIL: interrupted, done again


def tune(cfg: TuneConfig) -> Path:
    """Run trials until ``cfg.trials`` are finished, earlier calls' included; the study's folder.

    Raises:
        UserError: wrong data or settings, a folder of another study, or no trial with a value.
    """
    progress = Progress(quiet=not cfg.progress)
    shared = Shared()
    lowest = {values.key: values.low for values in cfg.space.values()}
    # Settings, images and weights: what a trial of this study has in common with its others.
    same = open_job(cfg.trial(lowest), shared).run.path.name
    space = sorted(list(asdict(values).values()) for values in cfg.space.values())
    search = Search(cfg, digest([same, space], 32))
    done = len(search.trials(*FINISHED))
    progress.say(f"       study  {search.folder}: {done} of {cfg.trials} trials finished")
    if done < cfg.trials:
        with progress.bar("trials", cfg.trials - done) as bar:
            while search.next_trial(shared, progress):
                bar.advance()
    search.write()
    search.print_best(progress)
    return search.folder


class Search:
    """A study on disk. What two processes must not do at once is done ``locked``."""

    def __init__(self, cfg: TuneConfig, key: str) -> None:
        self.cfg, self.folder = cfg, Path(cfg.study)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock")
        with self.locked():
            self.study = open_study(self.folder / JOURNAL, self.lock)
            known = self.study.user_attrs.get("key")
            if known is None:
                self.study.set_user_attr("key", key)
        if known not in (None, key):
            raise UserError(
                f"{self.folder}: holds a study of other settings, images or another space; "
                "use another study=FOLDER"
            )

    def locked(self) -> AbstractContextManager[None]:
        """Alone with the study; who waits long for it says for whom."""
        return held(Path(self.lock.lock_file), lock=self.lock)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def next_trial(self, shared: Shared, progress: Progress) -> bool:
        """Run one trial, if there is one to run.

        Raises:
            UserError: wrong data; settings that fail before any trial has come to its end.
        """
        with self.trial_to_run() as trial:
            if trial is None:
                return False
            try:
                ended = self.study.tell(trial, self.value(trial, shared))
            except optuna.TrialPruned as reason:
                end_if_asked()  # or an error is what a library made of a signal
                trial.set_user_attr("reason", str(reason))
                ended = self.study.tell(trial, state=TrialState.PRUNED)
            except BaseException:  # Ctrl-C too: the next call does it again
                self.study.tell(trial, state=TrialState.FAIL)
                raise
        self.write()
        progress.say(self.line_about(ended))
        return True

    @contextmanager
    def trial_to_run(self) -> Iterator[Trial | None]:
        """A trial with its settings drawn; while its process runs, it holds a lock."""
        with self.locked():
            self.fail_killed()
            begun = len(self.trials(*FINISHED, TrialState.RUNNING))
            trial = self.draw(begun) if begun < self.cfg.trials else None
            sign = self.sign_of_life(trial.number) if trial else None
            if sign:
                sign.acquire()
        try:
            yield trial
        finally:
            if sign:
                sign.release()
                Path(sign.lock_file).unlink(missing_ok=True)

    def draw(self, begun: int) -> Trial:
        """A new trial. Seeded by how many there are, it is the same after an interruption."""
        seed = stream_seed("tune", self.cfg.seed, begun) % 2**32
        with warnings.catch_warnings():
            # Optuna 4 calls it experimental to keep away from what others are trying.
            warnings.simplefilter("ignore")
            self.study.sampler = TPESampler(seed=seed, constant_liar=True)
        return self.study.ask({v.key: distribution(v) for v in self.cfg.space.values()})

    def sign_of_life(self, number: int) -> FileLock:
        return FileLock(self.folder / f".trial{number}.lock")

    def fail_killed(self) -> None:
        """Trials that no process is at any more do not count."""
        for trial in self.trials(TrialState.RUNNING):
            sign = self.sign_of_life(trial.number)
            try:
                with sign.acquire(timeout=0):
                    self.study.tell(trial.number, state=TrialState.FAIL)
            except Timeout:
                continue
            Path(sign.lock_file).unlink(missing_ok=True)

    def value(self, trial: Trial, shared: Shared) -> float:
        """The trial's held-out NLL, nats per dimension.

        Raises:
            TrialPruned: its settings cannot go together, or no detector came out.
            UserError: what is wrong has nothing to do with its settings.
        """
        try:
            cfg = self.cfg.trial(trial.params)
        except UserError as error:
            raise optuna.TrialPruned(str(error)) from error
        job = open_job(cfg, shared)
        trial.set_user_attr("run", job.run.path.name)
        try:
            return held_out_nll(job)
        except BusyError:
            raise
        except UserError as error:
            if isinstance(error, (DivergedError, TooLargeError)) or self.trials(
                TrialState.COMPLETE
            ):
                raise optuna.TrialPruned(" ".join(str(error).split())) from error
            raise  # as every trial would, an unreadable image for example

    def best(self) -> FrozenTrial | None:
        return min(
            self.trials(TrialState.COMPLETE), key=lambda t: (t.value, t.number), default=None
        )

    def line_about(self, ended: FrozenTrial) -> str:
        """One line about a trial that has just ended."""
        best, took = self.best(), duration(ended.duration.total_seconds() if ended.duration else 0)
        if ended.value is None:
            line = f"pruned: {ended.user_attrs.get('reason')}"
        else:
            line = f"held-out NLL {ended.value:.4f}"
        so_far = f"best {best.value:.4f} of trial {best.number}" if best else "no value yet"
        return f"{f'trial {ended.number}':>12}  {line} ({so_far}), {took}"

    def write(self) -> None:
        """``study.csv`` and ``best.yaml``, each whole or not at all."""
        keys = [values.key for values in self.cfg.space.values()]
        with self.locked():
            rows = [table_row(trial, keys) for trial in self.trials(*TrialState)]
            header = ("trial", "state", "value", *keys, "seconds", "run")
            RunDirectory(self.folder).write_csv(TABLE, header, rows)
            if best := self.best():
                write_text(self.folder / BEST, best_yaml(self.cfg, best))

    def print_best(self, progress: Progress) -> None:
        best = self.best()
        if best is None:
            pruned = self.trials(TrialState.PRUNED)
            why = f", the last one: {pruned[-1].user_attrs.get('reason')}" if pruned else ""
            raise UserError(f"{self.folder}: no trial has a value{why}")
        if running := len(self.trials(TrialState.RUNNING)):
            progress.say(f"     running  {running} trials in other processes")
        progress.say(f"        best  trial {best.number}: held-out NLL {best.value:.6f}")
        progress.say(f"         use  {shlex.join(file_command(self.folder))}")
        progress.say(f"       files  {self.folder / TABLE}, {self.folder / BEST}")


def distribution(values: TuneRange) -> FloatDistribution | IntDistribution:
    if values.int:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def held_out_nll(job: Job) -> float:
    """Train and evaluate unless that is done; how likely the held-out training images are.

    Raises:
        UserError: whatever a training raises, or no image was held out.
    """
    with job.run.alone():
        if not (job.run.done and job.cfg.resume):
            run_job(job, Progress(quiet=True))
    value = job.run.read_result().get("held_out_nll")
    if value is None:
        raise UserError(
            "no training image was held out (too few, or all show one physical part): "
            "trials cannot be compared"
        )
    return float(value)


def table_row(trial: FrozenTrial, keys: Sequence[str]) -> list[Any]:
    """A line of ``study.csv``; empty where a trial has no such thing."""
    ended = trial.state in FINISHED and trial.duration is not None
    return [
        trial.number,
        trial.state.name.lower(),
        "" if trial.value is None else repr(trial.value),
        *(trial.params.get(key, "") for key in keys),
        f"{trial.duration.total_seconds():.3f}" if ended and trial.duration else "",
        trial.user_attrs.get("run", ""),
    ]


def best_yaml(cfg: TuneConfig, best: FrozenTrial) -> str:
    """A config for Hydra: the whole method, whatever ``method=`` says, and what else was tuned."""
    found = cfg.trial(best.params)
    content: dict[str, Any] = {"method": asdict(found.method)}
    for key in best.params:
        group, _, name = key.partition(".")
        if group != "method":
            content.setdefault(group, {})[name] = best.params[key]
    return (
        "# @package _global_\n"
        f"# Trial {best.number}: held-out NLL {best.value} nats per dimension.\n"
        f"# {shlex.join(file_command(Path(cfg.study)))}\n" + OmegaConf.to_yaml(content)
    )


def file_command(folder: Path) -> list[str]:
    """How to train with ``best.yaml``: its folder is a config group of the folder above."""
    place = folder if folder.name else folder.resolve()
    where = ["--config-dir", str(place.parent), f"+{place.name}={Path(BEST).stem}"]
    return ["python", "-m", "rad_lightning", *where]
