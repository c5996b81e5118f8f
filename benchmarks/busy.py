"""What a busy machine costs: trainings alone, and beside a busy loop on every core.

cell    the default training on the embedded images without a cache, by stage
sweep   three cells of one step each, from the shell: what starting and planning cost
cells   eighteen short cells of one sweep

Medians of REPEATS runs each, alternating idle and busy, with their ratio: a machine whose cores are
all shared with one other process can do no better than 2. ``--flow`` times training steps of flows
of several sizes with one thread and with all, the measurement behind ``threads.WORK_PER_THREAD``.

    python benchmarks/busy.py [REPEATS] [--flow]
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rad_lightning.common.threads import cores

QUIET = ("logger=csv", "progress=false")
CELL = (*QUIET, "cache.enabled=false")
SHORT = (*QUIET, "evaluation.pictures=0", "evaluation.worst=0")
SWEEP = ("-m", *SHORT, "seed=0,1,2", "method.steps=1")
CELLS = ("-m", *SHORT, "seed=0,1,2", "method=plain,oracle_clean", "noise=replace",
         "noise.ratio=0,0.3,0.5", "method.steps=20")  # fmt: skip
STAGES = ("data", "features", "samples", "training", "scoring", "evaluation", "pictures")
FLOWS = [(samples, hidden) for hidden in (128, 256, 512, 1024) for samples in (1024, 4096)]


def spin() -> None:
    while True:
        pass


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing, as fast as they can."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(loops)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def run(settings: Sequence[str], cache: Path) -> dict[str, float]:
    """Seconds of one command, ``total`` from start to end, and of the stages of its only cell."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rad_lightning", *settings, f"cache.dir={cache}"]
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        found = {"total": time.perf_counter() - started}
        results = list(Path(folder).glob("outputs/runs/*/result.json"))
        if len(results) == 1:
            found |= json.loads(results[0].read_text())["seconds"]
    return found


def compare(name: str, settings: Sequence[str], repeats: int, cache: Path) -> None:
    run(settings, cache)  # the first one generates images and fills the cache
    idle: list[dict[str, float]] = []
    loaded: list[dict[str, float]] = []
    for _ in range(repeats):
        idle.append(run(settings, cache))
        with busy(cores()):
            loaded.append(run(settings, cache))
    for part in ("total", *STAGES):
        if part in idle[0]:
            alone, beside = (median(r[part] for r in runs) for runs in (idle, loaded))
            print(f"{name:8}{part:12}{alone:9.2f}{beside:9.2f}{beside / alone:9.2f}", flush=True)


def flows() -> None:
    import torch

    from rad_lightning.common.threads import torch_threads
    from rad_lightning.flows.coupling import CouplingFlow, nll

    print(f"{'samples':>8}{'hidden':>8}{'1 thread':>10}{f'{cores()} threads':>11}{'gain':>7}  ms")
    for samples, hidden in FLOWS:
        flow = CouplingFlow(64, 8, hidden, 1.0, seed=0, condition=8)
        batch = torch.randn(samples, 64), torch.randn(samples, 8)

        def step(flow: CouplingFlow = flow, batch: tuple[torch.Tensor, ...] = batch) -> None:
            nll(flow, None, *batch).mean().backward()

        times = []
        for threads in (1, cores()):
            with torch_threads(threads):
                step()
                times.append(1e3 * median(seconds(step) for _ in range(20)))
        print(f"{samples:8}{hidden:8}{times[0]:10.1f}{times[1]:11.1f}{times[0] / times[1]:7.2f}")


def seconds(action) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main(repeats: int) -> None:
    print(f"{cores()} cores, medians of {repeats}")
    print(f"{'what':8}{'stage':12}{'idle s':>9}{'busy s':>9}{'ratio':>9}")
    with tempfile.TemporaryDirectory() as cache:
        for name, settings in (("cell", CELL), ("sweep", SWEEP), ("cells", CELLS)):
            compare(name, settings, repeats, Path(cache))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    if "--flow" in sys.argv:
        flows()
    else:
        main(*numbers or [5])
