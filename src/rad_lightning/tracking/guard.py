"""W&B works for a training, which neither fails nor waits for ever because of it.

W&B writes through a helper process. When that is lost, every later call fails, those of later
trainings in the same process too; when it is stopped, calls wait for ever, the one at the end of
the process too. A helper that does not answer is therefore ended, and the next training starts a
new one.
"""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Thread
from typing import Any, TypeVar

import wandb
from pytorch_lightning.loggers.logger import Logger

from rad_lightning.common.errors import UserError
from rad_lightning.common.machine import reason_of
from rad_lightning.common.processes import end_if_asked

T = TypeVar("T")
PATIENCE = 60.0  # seconds that the helper may take to answer
UPLOAD = 1800.0  # and, online, to send what is left at the end
LOOKS = 0.5  # seconds between two looks at the clock
STEP = "trainer/global_step"  # what W&B draws curves over


class Watchdog(Thread):
    """Ends the helper when a call has waited for too long: the call then gets an error."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.deadline, self.bitten = math.inf, False

    def run(self) -> None:
        while True:
            time.sleep(LOOKS)
            if time.monotonic() > self.deadline:
                self.deadline, self.bitten = math.inf, True
                end_helper()

    @contextmanager
    def over(self, patience: float) -> Iterator[None]:
        self.bitten, self.deadline = False, time.monotonic() + patience
        try:
            yield
        finally:
            self.deadline = math.inf

    def over_the_end(self) -> None:
        """Of this process, at which W&B waits for its helper."""
        self.deadline = time.monotonic() + PATIENCE


@cache
def watchdog() -> Watchdog:
    """One for the whole process, from the first W&B run on: threads cannot start at its end."""
    watch = Watchdog()
    watch.start()
    return watch


class Guard:
    """Calls to W&B. After the first that fails there are no more: ``problem`` then says why."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def __call__(self, call: Callable[[], T], patience: float | None = None) -> T | None:
        """What the call returns; ``None`` where it fails, or W&B has failed before.

        Raises:
            UserError: the call's own.
        """
        if self.problem:
            return None
        watch = watchdog()
        try:
            with watch.over(PATIENCE if patience is None else patience):
                return call()
        except UserError:
            raise
        except Exception as error:  # of sockets, of W&B, of what it works with
            end_if_asked()
            why = "its helper process does not answer" if watch.bitten else reason_of(error)
            self.problem = f"no complete W&B run ({why}); logger=csv trains without W&B"
            forget_helper()
            return None
        finally:
            # Behind W&B's own, so that it runs first.
            atexit.unregister(watch.over_the_end)
            atexit.register(watch.over_the_end)


def helper() -> Any:
    """W&B's helper process, a ``Popen``; ``None`` where this process has started none."""
    # No public way leads to it; where this one has gone, nothing is found.
    found: Any = wandb.sdk.wandb_setup
    for name in ("_singleton", "_connection", "_proc", "_process"):
        found = getattr(found, name, None)
    return found


def end_helper() -> None:
    """Kill the helper: whoever waits for it gets an error."""
    if process := helper():
        process.kill()


def forget_helper() -> None:
    """Start afresh with the next run."""
    end_helper()
    with suppress(Exception, SystemExit):  # which W&B ends with, as its helper did not end well
        wandb.teardown()


class Curves(Logger):  # type: ignore[misc]  # Lightning is not looked into for types
    """A Lightning logger into a W&B run. ``guard`` keeps the training from its faults."""

    name, version = "wandb", ""

    def __init__(self, run: Any, guard: Guard) -> None:
        super().__init__()
        self.run, self.guard = run, guard

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        known = {} if step is None else {STEP: step}
        self.guard(lambda: self.run.log({**metrics, **known}))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in the run's config from its start."""
