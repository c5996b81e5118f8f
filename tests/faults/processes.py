"""Tries in processes of their own: forked from this warm one, which has imported torch already, or
started afresh where several processes are to be seen. Each ends with all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.outcomes import Ended

PATIENCE = float(os.environ.get("RAD_PATIENCE", "120"))  # seconds until a try is a hang
LOOK = 0.01  # seconds between two looks at a process
LEAVE = 20  # seconds that the processes of an ended command have to end, too


def warm() -> None:
    """Import what every command needs, so that a forked process need not."""
    from importlib import import_module

    from PIL import Image

    from rad_lightning import cli

    for name in cli.COMMANDS:
        if name != "dashboards":
            with suppress(ImportError):
                import_module(f"rad_lightning.commands.{name}")
    for name in ("rad_lightning.sweep.run", "rad_lightning.sweep.jobs", "matplotlib.pyplot"):
        import_module(name)
    Image.init()
    sys.dont_write_bytecode = True  # no file of ours, for those who count them
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


class Forked:
    """``function()`` in a child, in ``folder``, in a session of its own."""

    def __init__(self, function: Callable[[], None], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the folder: what is in it may be on a full disk.
        self.files = [folder.with_name(f".{folder.name}.{name}") for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _child(function, folder, self.files)
        self.code: int | None = None

    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code
        return self.code is None

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """How it ended; after ``seconds`` it is ended."""
        late = time.monotonic() + seconds
        while self.running() and time.monotonic() < late:
            time.sleep(LOOK)
        hung = self.code is None
        self.end()
        out, err = (file.read_text(errors="replace") for file in self.files)
        return Ended(None if hung else self.code, out, err)

    def tell(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        """End it with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.running():
            time.sleep(LOOK)


def _child(function: Callable[[], None], folder: Path, files: Sequence[Path]) -> None:
    """What the forked process does; it never comes back from here."""
    code = 1
    try:
        os.setsid()
        for number, file in enumerate(files, 1):
            at = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(at, number)
        os.chdir(folder)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(
                number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
            )
        function()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def rad(folder: Path, *arguments: str, seconds: float = PATIENCE) -> Ended:
    """A command of the package, forked."""
    return begun(folder, *arguments).wait(seconds)


def begun(folder: Path, *arguments: str) -> Forked:
    from rad_lightning.cli import main

    return Forked(lambda: main(list(arguments)), folder)


class Fresh:
    """``python -m rad_lightning`` as a user starts it, for tries with several processes."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder.with_name(f".{folder.name}.{name}") for name in ("out", "err")]
        out, err = (file.open("w") for file in self.files)
        with out, err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rad_lightning", *arguments],
                cwd=folder,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        self.pid = self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def others(self) -> list[int]:
        """The other living processes of its session."""
        return [pid for pid in session(self.pid) if pid != self.pid]

    def wait(self, seconds: float) -> Ended:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        code = self.process.poll()
        late = time.monotonic() + LEAVE
        while code is not None and self.others() and time.monotonic() < late:
            time.sleep(10 * LOOK)
        left = self.others()
        self.end()
        out, err = (file.read_text(errors="replace") for file in self.files)
        if code is not None and left:
            return Ended(None, out, f"{err}\n{len(left)} processes stayed behind")
        return Ended(None if code is None else code if code >= 0 else 128 - code, out, err)

    def end(self) -> None:
        for pid in session(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def session(leader: int) -> list[int]:
    """The living processes of a session, also those of groups of their own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


@contextmanager
def fresh(folder: Path, *arguments: str) -> Iterator[Fresh]:
    process = Fresh(folder, *arguments)
    try:
        yield process
    finally:
        process.end()
