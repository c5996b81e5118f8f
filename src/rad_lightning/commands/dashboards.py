"""``dashboards``: a W&B workspace and report over the runs of a project."""

from __future__ import annotations

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.config import DashboardsConfig
from rad_lightning.tracking.dashboards import TABLE, Boards, build, save
from rad_lightning.tracking.login import default_entity, login_problem


def dashboards(cfg: DashboardsConfig) -> None:
    """Create them, or with ``cfg.dry_run`` say what they would hold, without a network.

    Raises:
        UserError: not logged in to W&B, or W&B refuses.
    """
    progress = Progress(quiet=not cfg.progress)
    if cfg.dry_run:
        describe(build(cfg.entity or "ENTITY", cfg.project, cfg.sweep), progress)
        progress.say("dry_run=true: nothing was sent")
        return
    if problem := login_problem():
        raise UserError(f"dashboards: {problem}; dry_run=true only says what would be created")
    boards = build(cfg.entity or default_entity(), cfg.project, cfg.sweep)
    notes, workspace, report = save(boards)
    describe(boards, progress)
    for note in notes:
        progress.say(f"note: {note}")
    progress.say(f"workspace: {workspace}")
    progress.say(f"report:    {report}")


def describe(boards: Boards, progress: Progress) -> None:
    """The names of the sections and of their panels."""
    at = boards.workspace
    progress.say(f"workspace and report {at.name!r} in {at.entity}/{at.project}")
    for section in boards.sections:
        progress.say(f"  {section.title}")
        for title, panel in section.panels.items():
            progress.say(f"    {title} ({type(panel).__name__})")
    progress.say(f"  Runs\n    the runs table: {', '.join(TABLE)}")
