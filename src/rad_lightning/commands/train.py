"""``train``: one dataset category, one head, one method in; one run directory out."""

from __future__ import annotations

from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory
from rad_lightning.config import TrainConfig
from rad_lightning.features.backbone import HUB
from rad_lightning.training.job import chosen_weights, open_job
from rad_lightning.training.run import run_job


def train(cfg: TrainConfig) -> RunDirectory:
    """Fit one detector, evaluate it, and write everything about it into its run directory.

    Raises:
        UserError: whatever is wrong with the data, the weights or the settings.
    """
    progress = Progress(quiet=not cfg.progress)
    if chosen_weights(cfg) == HUB:
        progress.say(f"     weights  {cfg.backbone.name} from the hub, once")
    with progress.stage("data"):
        job = open_job(cfg)
    with job.run.alone(cfg.trainer.num_nodes):
        return run_job(job, progress)
