"""The look at held-out images sees the whole grid."""

import torch

from rad_lightning.training.callbacks import SAMPLES, KeepBest


def test_a_look_at_many_images_sees_every_column_of_the_grid() -> None:
    positions = torch.arange(32 * 32).repeat(128)  # 128 images on a 32 x 32 grid
    look = KeepBest(torch.zeros(len(positions), 4), positions, steps=100, seed=0)
    assert len(look.samples) == len(look.positions) == SAMPLES
    assert (look.positions % 32).unique().numel() == 32
    assert (look.positions // 32).unique().numel() == 32
