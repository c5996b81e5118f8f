"""A stopped process of a training ends all of them, and which of them is the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from rad_lightning.common.environ import NODES
from rad_lightning.config import MethodConfig, TrainerConfig
from rad_lightning.training import ranks
from rad_lightning.training.ranks import ended_when_stopped
from rad_lightning.training.trainer import build_trainer, quiet_lightning
from support import HANG


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that wait."""
    monkeypatch.setattr(ranks, "LOOK", 0.01)
    sleep = [sys.executable, "-S", "-c", f"import time; time.sleep({HANG})"]
    started = [subprocess.Popen(sleep) for _ in range(2)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_all_end_with_a_stopped_one(two: list[subprocess.Popen[bytes]]) -> None:
    with ended_when_stopped(lambda: two) as reasons:
        os.kill(two[1].pid, signal.SIGSTOP)
        assert [process.wait(HANG) for process in two] == [-signal.SIGKILL] * 2
    assert reasons == [f"process 1 (pid {two[1].pid}) was stopped (SIGSTOP)"]


def test_those_that_run_or_have_ended_are_left_alone(two: list[subprocess.Popen[bytes]]) -> None:
    two[0].kill()
    two[0].wait()
    with ended_when_stopped(lambda: two) as reasons:
        time.sleep(0.3)
        assert two[1].poll() is None
    assert not reasons


def test_one_that_goes_on_in_time_is_left_alone(
    two: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look(pid: int) -> tuple[str, int]:
        """The first is always stopped but for every ``PATIENCE``th look."""
        looks.append("T" if len(looks) % (2 * ranks.PATIENCE) else "R")
        return (looks[-1], 0) if pid == two[0].pid else ("S", 0)

    monkeypatch.setattr(ranks, "state_and_start", look)
    with ended_when_stopped(lambda: two) as reasons:
        while len(looks) < 5 * ranks.PATIENCE:
            time.sleep(0.01)
    assert not reasons


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("devices", [1, 2])
def test_what_an_outer_launcher_left_does_not_make_one_node_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, devices: int
) -> None:
    monkeypatch.setenv(name, "9")
    cfg = TrainerConfig(accelerator="cpu", devices=devices)
    with quiet_lightning():
        trainer = build_trainer(cfg, MethodConfig(), tmp_path, [])
    assert trainer.is_global_zero and trainer.node_rank == 0 and trainer.world_size == devices
    if devices > 1:
        environment = trainer.strategy.cluster_environment
        assert environment.main_address == "127.0.0.1" and environment.main_port > 1024
        assert "TORCHELASTIC_USE_AGENT_STORE" not in os.environ


def test_of_several_nodes_what_the_user_has_set_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # which the trainer sets, and all loggers ask
    for name, value in (("NODE_RANK", "1"), ("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "4000")):
        monkeypatch.setenv(name, value)
    cfg = TrainerConfig(accelerator="cpu", devices=1, num_nodes=2)
    with quiet_lightning():
        trainer = build_trainer(cfg, MethodConfig(), tmp_path, [])
    environment = trainer.strategy.cluster_environment
    assert (trainer.node_rank, trainer.global_rank, trainer.world_size) == (1, 1, 2)
    assert (environment.main_address, environment.main_port) == ("10.0.0.1", 4000)
