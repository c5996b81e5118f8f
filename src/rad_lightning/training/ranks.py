"""The processes of one training (DDP): quiet like a single one, not held up by a stopped one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import Protocol

from pytorch_lightning.strategies import DDPStrategy

from rad_lightning.common.owners import STOPPED, state_and_start

ANSWER = 60  # seconds that processes of a training wait for each other
PATIENCE = 10  # looks at a stopped process until it counts as lost
LOOK = 1.0  # seconds between two looks


class Rank(Protocol):
    """A started process: ``multiprocessing``'s or ``subprocess``'s."""

    @property
    def pid(self) -> int | None: ...

    def kill(self) -> None: ...


class SpawnedDDP(DDPStrategy):
    """Lightning's strategy; a process that does not answer ends the training."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn", timeout=timedelta(seconds=ANSWER))

    def setup_environment(self) -> None:
        # In the process itself: what is said in the command is not passed on to it.
        silence_lightning()
        super().setup_environment()


def silence_lightning() -> None:
    """Lightning's start-up notices and warnings are about its own defaults; errors still come
    through."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning")


@contextmanager
def ended_when_stopped(ranks: Callable[[], Sequence[Rank]]) -> Iterator[list[str]]:
    """Inside, all ``ranks`` are killed once one of them has been stopped (SIGSTOP) for a while:
    the others would wait for it until their time is up, and only then would it be ended.

    Looks are counted, not seconds: where this process is stopped with them, at Ctrl-Z, all go on
    together. Outside Linux nothing is known of a process, and time-outs end the training.

    Yields:
        A list that gets the reason, if there is one.
    """
    reasons: list[str] = []
    ended = Event()

    def look() -> None:
        looks: dict[int, int] = {}
        while not ended.wait(LOOK) and not reasons:
            for number, rank in enumerate(ranks()):
                found = state_and_start(rank.pid) if rank.pid else None
                looks[number] = looks.get(number, 0) + 1 if found and found[0] == STOPPED else 0
                if looks[number] >= PATIENCE:
                    reasons.append(f"process {number} (pid {rank.pid}) was stopped (SIGSTOP)")
                    break
        if reasons:
            for rank in ranks():
                rank.kill()

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield reasons
    finally:
        ended.set()
        thread.join()
