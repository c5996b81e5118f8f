"""Two processes on the CPU (gloo): one model, one result, and a sweep that is not replayed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from support import SMALL_SYNTHETIC, command

pytestmark = pytest.mark.slow
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@dataclass
class Sweep:
    told: str
    runs: list[Path]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads((run / "result.json").read_text()) for run in self.runs]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two cells of two processes each."""
    folder = tmp_path_factory.mktemp("ddp")
    told = command(folder, "-m", "seed=0,1", *SMALL_SYNTHETIC, *DDP, "logger=wandb").stdout
    found = (folder / "outputs" / "runs").glob("*/result.json")
    return Sweep(told, sorted(path.parent for path in found))


def test_two_processes_train_one_model(sweep: Sweep) -> None:
    for run, result in zip(sweep.runs, sweep.results, strict=True):
        assert 0 <= result["metrics"]["image_auroc"] <= 1
        checkpoint = torch.load(run / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 6
        moved = [k for k, v in checkpoint["state_dict"].items() if "net.2.weight" in k and v.any()]
        assert moved  # last layers start at zero: training reached the parameters that are saved


def test_a_sweep_of_such_trainings_is_not_replayed_by_its_processes(sweep: Sweep) -> None:
    assert " ".join(sweep.told.split()).count("plan 2 cells: 0 done, 2 to go") == 1
    assert [r["seed"] for r in sweep.results] == [0, 1]
    # By one of the processes, each image once.
    assert sum(r["features"]["computed"] for r in sweep.results) == 14
    # One W&B run each, though two processes trained.
    assert [len(list((run / "wandb").glob("offline-run-*"))) for run in sweep.runs] == [1, 1]
