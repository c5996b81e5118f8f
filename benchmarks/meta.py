"""What a bi-level step costs against a plain one, over as many samples.

A plain step is one gradient on 1024 samples; a meta step shares them by four tasks, half of each
for the support and half for the query. Memory is the most that the steps take beside the flow and
its batches (gradients and the optimiser's moments included): of the process on a CPU, of the
allocator on a GPU.

    python benchmarks/meta.py
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from rad_lightning.flows.coupling import CouplingFlow, nll
from rad_lightning.meta.outer import Inner, outcome

SAMPLES, TASKS, BLOCKS, HIDDEN, INNER_LR = 1024, 4, 8, 128, 0.1
HEADS = {"patch": (128, 16), "pooled": (64, 0)}  # D, length of the positional encoding
WARM_UP, SECONDS, MOST = 2, 1.5, 50  # steps; how long, and how many steps, a row is timed


class Row(NamedTuple):
    """A kind of step; ``steps`` = 0 is the plain one."""

    head: str
    steps: int = 0
    order: int = 0
    vectorised: bool = False


def rows(head: str) -> list[Row]:
    return [Row(head), *(Row(head, *of) for of in product((1, 3), (1, 2), (True, False)))]


def step_of(row: Row, device: torch.device) -> Callable[[], None]:
    dim, condition = HEADS[row.head]
    flow = CouplingFlow(dim, BLOCKS, HIDDEN, 1.0, seed=0, condition=condition).to(device)
    params = dict(flow.named_parameters())
    optimizer = torch.optim.AdamW(params.values(), lr=1e-4)

    def batch(*shape: int) -> tuple[Tensor, ...]:
        parts = [torch.randn(*shape, dim, device=device)]
        return (*parts, torch.randn(*shape, condition, device=device)) if condition else (*parts,)

    def values(params, batch):  # type: ignore[no-untyped-def]
        return nll(flow, params, *batch)

    whole, half = batch(SAMPLES), (TASKS, SAMPLES // (2 * TASKS))
    support, query = batch(*half), batch(*half)
    inner = Inner(row.steps, INNER_LR, row.order)

    def step() -> None:
        optimizer.zero_grad()
        if row.steps:
            found = outcome(values, params, support, query, inner, vectorised=row.vectorised)
            losses = found.query
        else:
            losses = values(params, whole)
        losses.mean().backward()
        optimizer.step()

    return step


def measure(row: Row) -> tuple[float, float]:
    """Milliseconds of a step, and MiB of memory."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    step = step_of(row, device)
    wait = torch.cuda.synchronize if cuda else lambda: None
    before = torch.cuda.memory_allocated() if cuda else peak()
    for _ in range(WARM_UP):
        step()
    wait()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < MOST):
        started = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - started)
    most = torch.cuda.max_memory_allocated() if cuda else peak()
    return 1e3 * median(times), (most - before) / 2**20


def peak() -> int:
    """The most bytes that this process ever had in memory."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    # A process for each row, or the memory of one would count for the next; all from a server that
    # has torch loaded.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rad_lightning.meta.outer"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        print(f"{pool.submit(device_name).result()}, {SAMPLES} samples a step, {TASKS} tasks")
        print(f"{'head':8}{'step':26}{'ms':>9}{'x plain':>9}{'MiB':>9}{'x plain':>9}")
        for head in HEADS:
            plain: tuple[float, float] | None = None
            for row in rows(head):
                found = pool.submit(measure, row).result()
                plain = plain or found
                shares = [a / b for a, b in zip(found, plain, strict=True)]
                print(
                    f"{head:8}{name(row):26}{found[0]:9.1f}{shares[0]:9.2f}{found[1]:9.0f}"
                    f"{shares[1]:9.2f}",
                    flush=True,
                )


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def name(row: Row) -> str:
    if not row.steps:
        return "plain"
    way = "vmap" if row.vectorised else "loop"
    return f"K={row.steps}  order {row.order}  {way}"


if __name__ == "__main__":
    main()
