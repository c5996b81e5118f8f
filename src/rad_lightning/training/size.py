"""How much memory settings need at least, known before any of it is asked for.

Where a system grants more memory than it has, who asks for too much is killed without a word.
"""

from __future__ import annotations

from rad_lightning.common.errors import TooLargeError
from rad_lightning.common.machine import memory_bytes
from rad_lightning.config import HeadConfig, TrainConfig

BLOCK = 2**14  # bytes of a block's modules themselves, at least
COPIES = 4  # of every parameter: itself, its gradient, two means of the optimiser


def flow_parameters(head: HeadConfig) -> int:
    """How many numbers the flow learns: two subnets of one hidden layer in each block."""
    first = head.channels // 2
    second = head.channels - first
    layers = [(first, second), (second, first)]
    subnets = sum(
        (given + head.position_dims + 1) * head.hidden + (head.hidden + 1) * 2 * moved
        for given, moved in layers
    )
    return head.blocks * subnets


def step_bytes(cfg: TrainConfig) -> int:
    """The least memory of a training step, in bytes: the flow as it is trained, and what the
    backward pass keeps of the batch (each hidden layer, before and after its activation)."""
    head, number = cfg.head, 8 if cfg.trainer.precision == "64-true" else 4
    kept = cfg.method.batch_size * 2 * head.blocks * (2 * head.hidden + 2 * head.channels)
    return number * (COPIES * flow_parameters(head) + kept) + BLOCK * head.blocks


def batch_bytes(cfg: TrainConfig, images: int) -> int:
    """The least memory of a batch of the backbone, in bytes: its pixels, as read and as numbers."""
    height, width = cfg.data.size
    return min(cfg.backbone.batch_size, images) * height * width * 3 * (1 + 4)


def refuse_too_large(cfg: TrainConfig, images: int) -> None:
    """Raise ``TooLargeError`` where a training on ``images`` images cannot fit into this machine's
    memory, whatever else it holds."""
    most = memory_bytes()
    head = cfg.head
    for needed, about in (
        (
            step_bytes(cfg),
            f"head.hidden = {head.hidden}, head.blocks = {head.blocks}, method.batch_size = "
            f"{cfg.method.batch_size}: a training step",
        ),
        (
            batch_bytes(cfg, images),
            f"backbone.batch_size = {cfg.backbone.batch_size}, data.size = {cfg.data.size}: a "
            "batch of images",
        ),
    ):
        if needed > most:
            raise TooLargeError(
                f"{about} takes {needed / 2**30:.3g} GiB or more of memory, there are "
                f"{most / 2**30:.3g}: use smaller values"
            )
