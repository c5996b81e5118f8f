"""How many threads compute what, on a CPU.

The backbone is a few large operations: it takes all cores. The flow is thousands of small ones:
one thread trains it fastest, and a second one would make every operation wait for both cores, which
on a busy machine costs many times the work (``benchmarks/busy.py``). What is independent, the parts
of a data set that are scored, is shared out instead, each part to one thread: no thread waits
for another, and no sum is split, so that the numbers do not depend on the number of cores.

Where several processes run at once (joblib, Ray, Slurm, test workers), their launcher sets
``OMP_NUM_THREADS`` to the share of each; a user's own value counts in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

# Samples times hidden units of a training step for each further thread. From twice this on, two
# threads were faster than one, idle and busy (benchmarks/busy.py); half of it was slower.
WORK_PER_THREAD = 2**19

_limit: int | None = None  # what `limited` set


def cores() -> int:
    """The cores to compute with: those of ``limited``, else ``OMP_NUM_THREADS``, else what the
    process may use (its affinity and its container's quota)."""
    if _limit is not None:
        return _limit
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number per level
    if first.isdecimal() and int(first):
        return int(first)
    from joblib import cpu_count  # late: a slow import that the line above often saves

    return max(1, int(cpu_count()))


@contextmanager
def limited(count: int | None) -> Iterator[None]:
    """Inside, torch computes with one thread unless told otherwise, and ``cores()`` is ``count``
    where it is given."""
    global _limit
    before = _limit
    _limit = before if count is None else count
    try:
        with torch_threads(1):
            yield
    finally:
        _limit = before


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, an operation of torch is split over ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def flow_threads(samples: int, hidden: int) -> int:
    """Threads for training steps on ``samples`` samples with subnets ``hidden`` units wide.

    One for all default sizes. With more, sums of gradients may differ in their last bits.
    """
    if _limit is not None:
        return _limit
    return max(1, min(cores(), samples * hidden // WORK_PER_THREAD))


def each(
    function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device | None = None
) -> list[Result]:
    """``function`` of every part, in their order, without gradients; the parts are shared out over
    the cores, each to one thread. On another ``device``, which shares out its work itself, they
    follow each other."""

    def alone(part: Part) -> Result:
        with torch.no_grad():  # threads do not inherit it
            return function(part)

    on_cpu = device is None or device.type == "cpu"
    workers = min(cores(), len(parts)) if on_cpu else 1
    with torch_threads(1):
        if workers < 2:
            return [alone(part) for part in parts]
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(alone, parts))
