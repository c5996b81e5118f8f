"""Two processes on the CPU (gloo): one run, one result, gradients averaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from support import SMALL_SYNTHETIC

DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def command(folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rad_lightning", *SMALL_SYNTHETIC, *more],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )
    return done.stdout


def train(folder: Path, *more: str) -> Path:
    command(folder, *more)
    (run,) = (folder / "outputs" / "runs").iterdir()
    return run


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    run = train(tmp_path, *DDP)
    result = json.loads((run / "result.json").read_text())
    assert result["features"]["computed"] == 14  # by one of the processes, once
    assert 0 <= result["metrics"]["image_auroc"] <= 1
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    moved = [k for k, v in checkpoint["state_dict"].items() if "net.2.weight" in k and v.any()]
    assert moved  # last layers start at zero: training reached the parameters that are saved


def test_a_sweep_of_such_trainings_is_not_replayed_by_its_processes(tmp_path: Path) -> None:
    told = command(tmp_path, "-m", "seed=0,1", *DDP, "logger=wandb")
    assert " ".join(told.split()).count("plan 2 cells: 0 done, 2 to go") == 1
    runs = sorted(p.parent for p in (tmp_path / "outputs" / "runs").glob("*/result.json"))
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert [r["seed"] for r in results] == [0, 1]
    assert sum(r["features"]["computed"] for r in results) == 14
    # One W&B run each, though two processes trained.
    assert [len(list((run / "wandb").glob("offline-run-*"))) for run in runs] == [1, 1]
