"""How this process ends: signals as exceptions that are not lost, and workers that do not outlive
their command."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, NoReturn

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells and Slurm give it
LOOK = 1.0  # seconds between two looks at the parent
WATCH = "rad_lightning parent"  # name of the thread that looks
LEAVE = 60.0  # seconds that a training whose parent has ended has to write its checkpoint

_commands: set[int] = set()  # processes that run a command themselves
_saves = threading.Event()  # set while a training of this process would save itself at SIGTERM
_waits = threading.Event()  # set while signals wait
_asked: list[type[KeyboardInterrupt]] = []  # what the signals that came have raised


class Terminated(KeyboardInterrupt):
    """The process was asked to end with SIGTERM. What closes files at Ctrl-C does so here too."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Inside, SIGTERM raises ``Terminated``, once: what then tidies up is not disturbed. It and
    Ctrl-C are remembered: see ``asked_to_end``."""
    _commands.add(os.getpid())
    with _taken(signal.SIGTERM), _taken(signal.SIGINT), _quiet_where_it_is_lost():
        try:
            yield
        finally:
            _asked.clear()


def asked_to_end() -> KeyboardInterrupt | None:
    """What a signal has raised in this process. Python loses an exception that comes in a
    destructor or a callback of its own, and a library may catch it or make another one of it."""
    return _asked[0]() if _asked else None


def end_if_asked() -> None:
    """Call it between two pieces of work: raises what was lost of a signal, in the main thread."""
    if _asked and threading.current_thread() is threading.main_thread():
        _raise(_asked[0])


@contextmanager
def sigterm_left_to_lightning() -> Iterator[None]:
    """Inside, from ``lightning_takes_sigterm`` on, a Lightning training notes SIGTERM, so that its
    step is finished and saved: see ``training.callbacks.SaveLast``."""
    with _on(signal.SIGTERM, signal.getsignal(signal.SIGTERM)):
        _saves.set()
        try:
            yield
        finally:
            _saves.clear()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, a signal waits for the end: for a library that cannot bear an exception in the middle
    of its start. If it takes SIGTERM, it does not keep it."""
    with _on(signal.SIGTERM, signal.getsignal(signal.SIGTERM)):
        _waits.set()
        try:
            yield
        finally:
            _waits.clear()


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
    signal.signal(signal.SIGTERM, _handle)
    _asked.clear()  # of an earlier cell of this process
    if not any(thread.name == WATCH for thread in threading.enumerate()):
        parent = os.getppid()
        threading.Thread(target=_end_with, args=(parent,), name=WATCH, daemon=True).start()


def _taken(number: signal.Signals) -> AbstractContextManager[None]:
    """A shell starts what is to run in the background with Ctrl-C ignored: left so."""
    if signal.getsignal(number) == signal.SIG_IGN:
        return nullcontext()
    return _on(number, _handle)


@contextmanager
def _on(
    number: signal.Signals, handler: Callable[..., Any] | int | signal.Handlers | None
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_DFL if handler is None else handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def _quiet_where_it_is_lost() -> Iterator[None]:
    """Inside, no traceback is printed of a signal's exception that Python loses."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not (_asked and isinstance(lost.exc_value, KeyboardInterrupt)):
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _handle(number: int, frame: FrameType | None) -> None:
    """Raise what the signal says. In the middle of an import, some seconds, torch aborts the
    process and others hide what is raised: then at its end, or at the second signal."""
    what = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if not _asked and (_waits.is_set() or _importing(frame)):
        _asked.append(what)
        threading.Thread(target=_again, args=(number,), daemon=True).start()
    else:
        _raise(what)


def _raise(what: type[KeyboardInterrupt]) -> NoReturn:
    _asked.append(what)
    if what is Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise what


def _again(number: int) -> None:
    """Send the signal to the main thread once more, when it need not wait any longer."""
    main = threading.main_thread().ident
    while len(_asked) == 1 and (
        _waits.is_set() or _importing(sys._current_frames().get(main or 0))
    ):
        time.sleep(LOOK / 20)
    if len(_asked) == 1 and main:
        signal.pthread_kill(main, number)


def _importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    if _saves.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        late = time.monotonic() + LEAVE
        while _saves.is_set() and time.monotonic() < late:
            time.sleep(LOOK / 100)
    os._exit(TERMINATED)  # before it takes up another cell
