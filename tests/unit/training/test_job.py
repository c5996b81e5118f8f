"""What names a run: the same files and settings, the same directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    EvaluationConfig,
    HeadConfig,
    MethodConfig,
    NoiseConfig,
    TrainConfig,
)
from rad_lightning.training.job import open_job


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)


def test_a_changed_mask_is_another_run_where_it_is_tested_with(tmp_path: Path) -> None:
    for value in range(8):
        write(tmp_path / f"good/{value}.png", value)
    write(tmp_path / "bad/a.png", 9)
    write(tmp_path / "masks/bad/a.png", 255)

    def name(*, pixel: bool) -> str:
        cfg = TrainConfig(
            data=DataConfig(name="folder", root=str(tmp_path)),
            noise=NoiseConfig(),
            backbone=BackboneConfig(name="resnet18", weights="untrained"),
            head=HeadConfig(name="patch"),
            method=MethodConfig(),
            evaluation=EvaluationConfig(pixel=pixel),
        )
        return open_job(cfg).run.path.name

    before = name(pixel=True), name(pixel=False)
    assert before == (name(pixel=True), name(pixel=False))
    write(tmp_path / "masks/bad/a.png", 0)
    assert name(pixel=True) != before[0]
    assert name(pixel=False) == before[1]
