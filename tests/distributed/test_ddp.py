"""Two processes on the CPU (gloo): one run, one result, gradients averaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from support import SMALL_SYNTHETIC

DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def train(folder: Path, *more: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "rad_lightning", *SMALL_SYNTHETIC, *more],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=200,
    )
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
