"""Environment variables that hold for a while: for libraries that read them and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# By these, Lightning takes a process for one of several. Ours starts the others itself, so they
# can only be left over from an outer launcher (srun, torchrun), in which it would wait for nobody.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
# By these, it takes the machine for one of several, and waits for the first of them.
NODES = ("NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


def forget_ranks() -> None:
    """Make this process the first one; call it before Lightning is imported."""
    for name in RANKS:
        os.environ.pop(name, None)
    for name in ("NODE_RANK", "GROUP_RANK"):
        if not os.environ.get(name, "0").isdigit():
            os.environ.pop(name)


def forget_nodes() -> None:
    """Make this machine the only one, for a training of one node; its last one may have left a port
    here, too."""
    for name in NODES:
        os.environ.pop(name, None)


def node_rank() -> int:
    """Which of several nodes this is, from 0, as the variables say that Lightning reads."""
    return int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """The variable has this value inside, and afterwards the one from before, or none."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
