"""Two processes on the CPU (gloo): one model, one result, and a sweep that is not replayed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rad_lightning.common.environ import NODES, RANKS
from support import HANG, SMALL_SYNTHETIC, command, started

pytestmark = pytest.mark.slow
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@dataclass
class Sweep:
    told: str
    warned: str
    runs: list[Path]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads((run / "result.json").read_text()) for run in self.runs]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two cells of two processes each, where an outer launcher has left its variables."""
    folder = tmp_path_factory.mktemp("ddp")
    left = {**dict.fromkeys((*RANKS, *NODES), "1"), "MASTER_ADDR": "192.0.2.1"}
    arguments = ("-m", "seed=0,1", *SMALL_SYNTHETIC, *DDP, "logger=wandb")
    done = command(folder, *arguments, env={**os.environ, **left})
    found = (folder / "outputs" / "runs").glob("*/result.json")
    return Sweep(done.stdout, done.stderr, sorted(path.parent for path in found))


def test_two_processes_train_one_model(sweep: Sweep) -> None:
    for run, result in zip(sweep.runs, sweep.results, strict=True):
        assert 0 <= result["metrics"]["image_auroc"] <= 1
        checkpoint = torch.load(run / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 6
        moved = [k for k, v in checkpoint["state_dict"].items() if "net.2.weight" in k and v.any()]
        assert moved  # last layers start at zero: training reached the parameters that are saved


def test_its_processes_are_as_quiet_as_a_single_one(sweep: Sweep) -> None:
    # Lightning's notices, and its warnings.
    for notice in ("GLOBAL_RANK", "distributed_backend", "max_steps", "lightning"):
        assert notice not in sweep.warned


def test_a_sweep_of_such_trainings_is_not_replayed_by_its_processes(sweep: Sweep) -> None:
    assert " ".join(sweep.told.split()).count("plan 2 cells: 0 done, 2 to go") == 1
    assert [r["seed"] for r in sweep.results] == [0, 1]
    # By one of the processes, each image once.
    assert sum(r["features"]["computed"] for r in sweep.results) == 14
    # One W&B run each, though two processes trained.
    assert [len(list((run / "wandb").glob("offline-run-*"))) for run in sweep.runs] == [1, 1]


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)]
)
def test_a_lost_process_ends_the_training_in_one_line(
    tmp_path: Path, number: signal.Signals
) -> None:
    training = (*SMALL_SYNTHETIC, *DDP, "method.steps=100000", "evaluation.pictures=0")
    with started(tmp_path, *training) as process:
        while not list(tmp_path.glob("outputs/runs/*/metrics.csv")) and process.poll() is None:
            time.sleep(0.1)
        children = spawned_by(process.pid)
        assert len(children) == 2
        os.kill(children[1], number)
        _, told = process.communicate(timeout=HANG)
    assert process.returncode == 2
    *_, last = told.splitlines()
    assert last.startswith("error: trainer.devices: a process of the training was lost: process 1")
    assert number.name in last
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def spawned_by(parent: int) -> list[int]:
    """The processes that ``parent`` has started to train in."""
    every = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in every if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
