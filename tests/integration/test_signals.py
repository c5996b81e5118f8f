"""SIGTERM at every stage: exit code 143, one line, and the same command goes on without a loss."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import HANG, SMALL_SYNTHETIC, command, started

TRAINING = (
    *SMALL_SYNTHETIC, "method.steps=300", "evaluation.pixel=false", "evaluation.pictures=0",
)  # fmt: skip


def rows(folder: Path) -> int:
    """Lines of the log of the only run in ``folder``."""
    return sum(len(log.read_text().splitlines()) for log in folder.glob("*/metrics.csv"))


def wait_until_trained(folder: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: rows(folder) >= 5 or process.poll() is not None)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(4 * HANG)
def test_a_terminated_training_goes_on_where_it_was(tmp_path: Path) -> None:
    command(tmp_path, *TRAINING, "output=whole")
    for kill in (signal.SIGTERM, signal.SIGKILL):  # the log survives both
        with started(tmp_path, *TRAINING, "output=cut") as process:
            wait_until_trained(tmp_path / "cut", process)
            process.send_signal(kill)
            _, told = process.communicate(timeout=HANG)
        if kill is signal.SIGTERM:
            assert process.returncode == 143
            assert told.splitlines()[-1].startswith("terminated: run the same command again")
            assert list((tmp_path / "cut").glob("*/last.ckpt"))
    went_on = command(tmp_path, *TRAINING, "output=cut")
    assert "resuming" in went_on.stdout
    for name in ("scores.csv", "metrics.csv"):
        first, second = (next((tmp_path / f).glob(f"*/{name}")) for f in ("whole", "cut"))
        assert first.read_bytes() == second.read_bytes(), name
    assert not list((tmp_path / "cut").glob("*/metrics.earlier.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("train",), ("audit",), ("-m", "seed=0,1")])
def test_a_start_that_is_terminated_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with started(tmp_path, *arguments, *TRAINING) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=HANG)
    # Before Python has read the command line, nothing of ours runs.
    assert process.returncode in (143, -signal.SIGTERM)
    assert "Traceback" not in told


@pytest.mark.slow
def test_ctrl_c_twice_while_the_command_is_imported_is_one_line(tmp_path: Path) -> None:
    with started(tmp_path, "train", *TRAINING) as process:
        time.sleep(0.15)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        _, told = process.communicate(timeout=HANG)
    assert process.returncode in (130, -signal.SIGINT)
    # Before any of ours runs, Python itself says so.
    assert "Traceback" not in told or process.returncode == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(2 * HANG)
def test_a_worker_whose_command_is_killed_saves_what_it_has_trained(tmp_path: Path) -> None:
    endless = (*TRAINING, "method.steps=1000000", "trainer.checkpoint_every=1000000")
    joblib = ("-m", "seed=0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    with started(tmp_path, *joblib, *endless, "output=cut") as process:
        wait_until_trained(tmp_path / "cut", process)
        assert not list(tmp_path.glob("cut/*/last.ckpt"))
        process.kill()
        wait_until(lambda: bool(list(tmp_path.glob("cut/*/last.ckpt"))))
    (checkpoint,) = tmp_path.glob("cut/*/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
