"""Checkpoints that were damaged, or are another run's, are not gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults.stored import Damages, checkpoint_damages, damages, tries
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory
from rad_lightning.training.checkpoint import (
    SealedCheckpoints,
    content_sha256,
    read_checkpoint,
    usable_checkpoint,
)

QUIET = Progress(quiet=True)


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "global_step": 7,
        "state_dict": {
            "head.whitening.mean": torch.randn(12),
            "head.flow.weight": torch.randn(3, 4).T,  # not contiguous
            "head.flow.empty": torch.empty(0),
            "head.flow.count": torch.tensor(3),
            "head.flow.mask": torch.tensor([True, False]),
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}, "lr": 1e-3}],
        "callbacks": {"best": float("inf"), "names": ("a", "b"), "on": True, "none": None},
    }


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "one")
    SealedCheckpoints().save_checkpoint(content(), found.checkpoint)
    return found


def test_a_checkpoint_comes_back_as_written(run: RunDirectory) -> None:
    found = SealedCheckpoints().load_checkpoint(run.checkpoint)
    assert found.pop("rad_lightning_run") == "one"
    assert content_sha256(found) == content_sha256(content())
    assert [p.name for p in run.path.iterdir()] == ["last.ckpt"]
    assert usable_checkpoint(run, QUIET) == run.checkpoint


@pytest.mark.parametrize("kind", [damages, checkpoint_damages])
def test_a_training_does_not_go_on_from_a_damaged_checkpoint(
    run: RunDirectory, kind: Damages
) -> None:
    whole = run.checkpoint.read_bytes()
    for seed in range(tries()):
        name, damaged = kind(whole, np.random.default_rng(seed))
        run.checkpoint.write_bytes(damaged)
        if usable_checkpoint(run, QUIET) is None:
            assert not run.checkpoint.exists()
            continue
        found = read_checkpoint(run.checkpoint)  # padding between two entries, say
        found.pop("rad_lightning_run")
        assert content_sha256(found) == content_sha256(content()), (seed, name)


def test_another_runs_checkpoint_is_removed_with_a_line(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run.path.rename(run.path.with_name("two"))
    assert usable_checkpoint(RunDirectory(moved), Progress(quiet=False)) is None
    out = " ".join(capsys.readouterr().out.split())
    assert "start again" in out and "belongs to the run one; the training begins anew" in out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": "1"}),
        ([1, [2]], [[1], 2]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
    ],
    ids=str,
)
def test_different_contents_have_different_hashes(one: Any, other: Any) -> None:
    assert content_sha256(one) != content_sha256(other)
