"""References without a flow: nearest neighbours in memories of training samples."""

from __future__ import annotations

from torch import Generator

from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MethodConfig
from rad_lightning.flows.heads import Head
from rad_lightning.methods.registry import OBJECTIVE, Training, part
from rad_lightning.robust.memories import MemoryHead, lof_head, sparse_head


@part(OBJECTIVE, "memory", chosen=lambda method: method.memory.on, flow=False, cost=lambda _: 0.0)
def build_memory(method: MethodConfig, head: Head, training: Training, seed: int) -> MemoryHead:
    """A detector without a flow on the samples of ``head``."""
    memory = method.memory
    generator = Generator().manual_seed(stream_seed("memory", seed))
    samples = training.samples.to(head.whitening.mean.device).float()
    if memory.form == "sparse":
        return sparse_head(head, samples, training.groups, memory.memories, memory.share, generator)
    return lof_head(head, samples, memory.coreset, memory.neighbours, memory.drop, generator)
