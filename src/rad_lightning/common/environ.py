"""Environment variables that hold for a while: for libraries that read them and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# By these, Lightning takes a process for one of several. Ours starts the others itself, so they
# can only be left over from an outer launcher (srun, torchrun), in which it would wait for nobody.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def forget_ranks() -> None:
    """Make this process the first one; call it before Lightning is imported."""
    for name in RANKS:
        os.environ.pop(name, None)
    if not os.environ.get("NODE_RANK", "0").isdigit():
        os.environ.pop("NODE_RANK")


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
