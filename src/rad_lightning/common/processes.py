"""How this process ends: SIGTERM as an exception, and workers that do not outlive their command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells and Slurm give it
LOOK = 1.0  # seconds between two looks at the parent
WATCH = "rad_lightning parent"  # name of the thread that looks
LEAVE = 60.0  # seconds that a training whose parent has ended has to write its checkpoint

_commands: set[int] = set()  # processes that run a command themselves
_saves = threading.Event()  # set while a training of this process would save itself at SIGTERM


class Terminated(KeyboardInterrupt):
    """The process was asked to end with SIGTERM. What closes files at Ctrl-C does so here too."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises ``Terminated``, once: what then tidies up is not disturbed."""
    _commands.add(os.getpid())
    with _on_sigterm(_terminate):
        yield


@contextmanager
def sigterm_left_to_lightning() -> Iterator[None]:
    """Inside, from ``lightning_takes_sigterm`` on, a Lightning training notes SIGTERM, so that its
    step is finished and saved: see ``training.callbacks.SaveLast``."""
    with _on_sigterm(signal.getsignal(signal.SIGTERM)):
        _saves.set()
        try:
            yield
        finally:
            _saves.clear()


def lightning_takes_sigterm() -> None:
    """Leave SIGTERM to Lightning, which takes it only where nobody else has. It does so just before
    the first step; until then it would end the process without a word."""
    if _saves.is_set() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_worker() -> bool:
    """Whether this process works for a command that runs in another one."""
    return os.getpid() not in _commands


def prepare_worker() -> None:
    """In a process that a launcher started: SIGTERM raises, and the process ends with its parent,
    which a kill -9 leaves no time to end it; a training that is under way saves itself first."""
    if not is_worker() or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _terminate)
    if not any(thread.name == WATCH for thread in threading.enumerate()):
        parent = os.getppid()
        threading.Thread(target=_end_with, args=(parent,), name=WATCH, daemon=True).start()


@contextmanager
def _on_sigterm(handler: Callable[..., Any] | int | signal.Handlers | None) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    if _saves.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        late = time.monotonic() + LEAVE
        while _saves.is_set() and time.monotonic() < late:
            time.sleep(LOOK / 100)
    os._exit(TERMINATED)  # before it takes up another cell
