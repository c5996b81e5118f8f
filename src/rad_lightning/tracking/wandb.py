"""One Weights & Biases run per training, beside the CSV log. ``result.json`` stays authoritative.

The run lies in the run directory (``wandb/``) and leaves the machine with ``logger.mode=online``
alone; ``wandb sync`` sends an offline one later, ``wandb leet`` shows it in the terminal.
"""

from __future__ import annotations

import csv
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from rad_lightning.common.environ import node_rank, variable
from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RunDirectory
from rad_lightning.config import TrainConfig
from rad_lightning.tracking import guard as guards
from rad_lightning.tracking.guard import Curves, Guard
from rad_lightning.tracking.login import login_problem


@contextmanager
def wandb_run(
    cfg: TrainConfig, run: RunDirectory, facts: dict[str, Any]
) -> Iterator[Curves | None]:
    """A logger whose run ends with this context, marked as failed when an exception ends it. What
    goes wrong with W&B is said by ``guard.problem`` of the logger and nothing else.

    What an interrupted training left in ``wandb/`` goes: an offline run cannot be continued, and a
    cell is to be one run.

    Args:
        facts: what the run is about (dataset, noise, ...); joins the config under ``facts``.

    Raises:
        UserError: ``logger.mode=online`` without a login.
    """
    further_node = cfg.trainer.num_nodes > 1 and node_rank() > 0
    if cfg.logger.name != "wandb" or further_node:
        yield None
        return
    folder = run.path / "wandb"
    shutil.rmtree(folder, ignore_errors=True)
    # Made here, because W&B would otherwise turn to a temporary folder if it cannot.
    folder.mkdir(parents=True)
    # W&B keeps copies of tables until they are sent: beside the run instead of in the home
    # directory.
    with variable("WANDB_DATA_DIR", str(folder.resolve())):
        guard = Guard()
        logger = Curves(guard(lambda: _start(cfg, run, facts)), guard)
        patience = guards.UPLOAD if cfg.logger.mode == "online" else None
        try:
            yield logger
        except BaseException:
            guard(lambda: wandb.finish(exit_code=1), patience)
            raise
        guard(lambda: wandb.finish(exit_code=0), patience)


def _start(cfg: TrainConfig, run: RunDirectory, facts: dict[str, Any]) -> Any:
    online = cfg.logger.mode == "online"
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_stats=not online,
        x_disable_meta=True,  # command line, host and user: not for a shared dashboard
        host="",
    )
    if online and (problem := login_problem()):
        raise UserError(f"logger.mode=online: {problem}; or use logger.mode=offline")
    return wandb.init(
        mode="online" if online else "offline",
        dir=str(run.path.resolve()),  # its service process may stand in another folder
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        group=cfg.logger.group or Path(cfg.output).resolve().name,
        job_type="train",
        name=run.path.name,
        id=run_id(cfg, run),
        resume="allow" if online else None,
        tags=tags(cfg.logger.tags, facts),
        config={**asdict(cfg), "facts": facts},
        reinit="finish_previous",
        settings=settings,
    )


def run_id(cfg: TrainConfig, run: RunDirectory) -> str:
    """Online, the cell's key: a second try continues the first one's run on the server.

    Offline nothing can be continued, and W&B's service process loses a run whose id it has seen.
    """
    key = run.path.name.rpartition("-")[2]
    return key if cfg.logger.mode == "online" else f"{key}-{secrets.token_hex(3)}"


def tags(given: list[str], facts: dict[str, Any]) -> list[str]:
    """What a dashboard filters by; W&B allows 64 characters a tag."""
    noise = facts["noise"]
    level = "clean" if noise["mode"] == "none" else f"{noise['mode']}={noise['requested']:g}"
    cell = [facts[key] for key in ("dataset", "category", "head", "method")]
    named = (*given, *cell, level, f"seed={facts['seed']}")
    return list(dict.fromkeys(str(tag)[:64] for tag in named if tag))


def log_curves(logger: Curves, metrics_csv: Path) -> None:
    """The curves of a ``metrics.csv``: of a part trained before, or in other processes."""
    with metrics_csv.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            named = {k: v for k, v in row.items() if k not in ("epoch", "step") and v}
            try:
                values = {k: float(v) for k, v in named.items()}
            except (TypeError, ValueError):
                continue  # a line that a killed process left torn
            if values and (row.get("step") or "").isdigit():
                logger.log_metrics(values, step=int(row["step"]))
