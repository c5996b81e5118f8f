"""Progress on the terminal: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from rad_lightning.common.names import printed
from rad_lightning.common.processes import end_if_asked


class Terminal(Console):
    """A console whose reader may leave: in ``| head -1``, the work goes on in silence. No text of
    others (names of files) can move its cursor, change its colours or end it by an error."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(printed, text.split("\n"))), **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Whatever is printed at the end must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Bar:
    """Counts items of one stage. Without a terminal it prints one line when the stage ends."""

    def __init__(self, console: Console, name: str, total: int, live: bool) -> None:
        self.console, self.name, self.total = console, name, total
        self.done, self.started = 0, time.perf_counter()
        self.rich = (
            RichProgress(
                TextColumn("{task.description:>12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            if live
            else None
        )

    def __enter__(self) -> Bar:
        if self.rich:
            self.rich.start()
            self.task = self.rich.add_task(self.name, total=self.total, rate="")
        return self

    def advance(self, count: int = 1) -> None:
        """Between two pieces of the work: a signal that was lost ends it here."""
        end_if_asked()
        self.count(count)

    def count(self, count: int = 1) -> None:
        self.done += count
        if self.rich:
            self.rich.update(self.task, advance=count, rate=self.rate())

    def rate(self) -> str:
        return f"{self.done / max(time.perf_counter() - self.started, 1e-9):.1f}/s"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.rich:
            self.rich.stop()
        if kind is None:
            seconds = time.perf_counter() - self.started
            self.console.print(
                f"{self.name:>12}  {self.done} in {seconds:.1f} s ({self.rate()})", highlight=False
            )


class Progress:
    """What a command tells while it works, and what each of its stages took: ``seconds`` on the
    clock, ``cpu_seconds`` of all threads of this process."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Terminal(
            quiet=quiet, soft_wrap=True, markup=False
        )  # names may hold [brackets]
        self.live = self.console.is_terminal and not quiet
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.clock = time.perf_counter
        self.started = self.clock()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def bar(self, name: str, total: int) -> Bar:
        return Bar(self.console, name, total, self.live)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to ``seconds[name]`` and ``cpu_seconds[name]``."""
        end_if_asked()
        started, cpu = self.clock(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - started
            cpu = time.process_time() - cpu
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + cpu


def duration(seconds: float) -> str:
    """``75 -> "1 min 15 s"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
