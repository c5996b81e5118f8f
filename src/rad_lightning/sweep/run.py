"""A whole sweep: plan, launch what is to go, watch it, report, and say what failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rad_lightning.common.errors import CellsFailedError, UserError
from rad_lightning.common.machine import lack
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import FAILURE
from rad_lightning.config import TrainConfig
from rad_lightning.report import write_report
from rad_lightning.sweep.jobs import failure_of, forget, write_failure
from rad_lightning.sweep.plan import Planned, announce, make_plan, write_plan
from rad_lightning.sweep.watch import Watch
from rad_lightning.training.job import Job

Overrides = Sequence[str]
Launch = Callable[[Sequence[Overrides]], Sequence[BaseException | None]]


def run_sweep(
    composed: Sequence[tuple[Overrides, TrainConfig | UserError]],
    launch: Launch,
    *,
    command: str,
    title: str | None,
) -> list[Planned]:
    """Bring every cell to its result, then write the report.

    Which cells ended, and how, is read from their run directories, so that any launcher will do.

    Args:
        composed: each cell's overrides with its config, or the fault in it.
        launch: runs cells in whatever processes, and returns once they have ended.
        command: what a reader types to get the same sweep.
        title: of the report; ``None`` takes the folder's name.

    Raises:
        UserError: no job is possible.
        CellsFailedError: at the end, when cells have no result; the others are done.
    """
    quiet = not all(cfg.progress for _, cfg in composed if isinstance(cfg, TrainConfig))
    progress = Progress(quiet=quiet)
    planned = make_plan(composed, forget(), progress)
    announce(planned, progress)
    folder, claims = next((p.run.path.parent, p.cfg.claims) for p in planned if p.job and p.cfg)
    write_plan(folder, planned, command, title or folder.name, claims)
    to_go = [p for p in planned if p.to_go]
    for item in to_go:
        (item.run.path / FAILURE).unlink(missing_ok=True)
    try:
        with Watch(planned, progress):
            raised = launch([p.overrides for p in to_go]) if to_go else []
            for item, error in zip(to_go, raised, strict=True):
                if error is not None and item.job and item.to_go:
                    record(item.job, error)
    except KeyboardInterrupt:
        progress.say(f"   interrupted with {sum(p.to_go for p in planned)} cells to go")
        raise
    if any(p.done for p in planned):
        try:
            progress.say(f"      report  {write_report(folder)}")
        except UserError as error:  # no labelled image was tested
            progress.say(f"   no report  {error}")
        except OSError as error:
            raise UserError(
                f"{lack(error) or error}: the finished cells are there, the report is not; the "
                "same command goes on"
            ) from error
    if reasons := what_failed(planned):
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        lost = sum(not p.done for p in planned)
        again = "; the same command tries them again" if any(p.to_go for p in planned) else ""
        raise CellsFailedError(
            f"{lost} of {len(planned)} cells have no result: {reasons[0]}{more}{again}"
        )
    return planned


def record(job: Job, error: BaseException) -> None:
    """Why a cell has no result, unless the cell has said so itself.

    Raises:
        UserError: it cannot be written, so that nothing else could.
    """
    if failure_of(job.run):
        return
    try:
        write_failure(job, error)
    except OSError as lost:
        why = lack(error) or " ".join(str(error).split())
        raise UserError(f"{lack(lost)}: the sweep stops; its first failure: {why}") from lost


def what_failed(planned: Sequence[Planned]) -> list[str]:
    """A line for every cell without a result, the same line once."""
    reasons = []
    for item in planned:
        if item.done:
            continue
        if item.problem:
            reasons.append(item.problem)
        elif failure := failure_of(item.run):
            reasons.append(str(failure["reason"]))
        else:
            reasons.append(f"{item.run.path.name} is being run by another process, or was killed")
    return list(dict.fromkeys(reasons))
