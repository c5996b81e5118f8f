"""What tests share: small settings, where the development images are, nobody logged in."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "resnet18_tv_in1k_layers1to3.safetensors"

# A training that takes a second or two: tiny images, a tiny flow, few steps.
SMALL = (
    "data.size=[64,64]",
    "backbone.out_indices=[1,2]",
    "head.channels=8",
    "head.blocks=2",
    "head.hidden=16",
    "method.steps=6",
    "method.batch_size=64",
    "logger=csv",  # W&B's service takes seconds to start
)
SMALL_SYNTHETIC = (
    "data.train_images=6",
    "data.test_normal_images=3",
    "data.test_images_per_defect=1",
    *SMALL,
)


def nobody(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nobody is logged in to W&B, whoever runs the tests."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(home / "none"))
    monkeypatch.setenv("HOME", str(home))
