"""The look at held-out images: it sees the whole grid, and is not taken where nobody reads it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rad_lightning.training.callbacks import SAMPLES, KeepBest


def test_a_look_at_many_images_sees_every_column_of_the_grid() -> None:
    positions = torch.arange(32 * 32).repeat(128)  # 128 images on a 32 x 32 grid
    look = KeepBest(torch.zeros(len(positions), 4), positions, steps=100, seed=0)
    assert len(look.samples) == len(look.positions) == SAMPLES
    assert (look.positions % 32).unique().numel() == 32
    assert (look.positions // 32).unique().numel() == 32


@pytest.mark.parametrize(
    ("keep", "looks", "taken"), [(True, False, 21), (False, True, 21), (False, False, 0)]
)
def test_looks_are_taken_where_they_keep_or_show_something(
    monkeypatch: pytest.MonkeyPatch, keep: bool, looks: bool, taken: int
) -> None:
    callback = KeepBest(torch.zeros(9, 4), torch.zeros(9).long(), 100, 0, keep, looks)
    seen: list[int] = []
    module: Any = SimpleNamespace(state_dict=dict)
    for step in range(1, 101):
        trainer: Any = SimpleNamespace(global_step=step, max_steps=100, loggers=[])

        def look(_: object, step: int = step) -> float:
            seen.append(step)
            return 1.0

        monkeypatch.setattr(callback, "validation_nll", look)
        callback.on_train_batch_end(trainer, module)
    assert len(seen) == taken and (not taken or (seen[0] == 1 and seen[-1] == 100))
