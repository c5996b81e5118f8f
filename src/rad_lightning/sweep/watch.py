"""Progress of a sweep from its files alone: the same for every launcher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event, Thread
from types import TracebackType

from rad_lightning.common.progress import Progress, duration
from rad_lightning.common.runs import finite_number
from rad_lightning.sweep.jobs import failure_of
from rad_lightning.sweep.plan import Planned

EVERY = 0.5  # seconds between two looks


class Watch:
    """One line per finished or failed cell, with the time to go, while its context lasts."""

    def __init__(self, planned: Sequence[Planned], progress: Progress) -> None:
        self.total = len(planned)
        self.waiting = [p for p in planned if p.to_go]
        self.finished = sum(p.done for p in planned)
        self.ended = 0  # since the start: the pace
        self.progress = progress
        self.stop = Event()
        self.started = time.monotonic()
        self.thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.bar = self.progress.bar("sweep", len(self.waiting))
        self.bar.__enter__()
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop.set()
        self.thread.join()
        try:
            self.look()
        finally:
            self.bar.__exit__(kind, error, trace)

    def _look(self) -> None:
        while not self.stop.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Report what has ended since the last look."""
        for item in list(self.waiting):
            failure = failure_of(item.run)
            if not item.done and failure is None:
                continue
            self.waiting.remove(item)
            self.finished += 1
            self.ended += 1
            self.bar.count()
            self.progress.say(f"{self.finished:>7}/{self.total}  {self._line(item, failure)}")

    def _line(self, item: Planned, failure: dict[str, str] | None) -> str:
        assert item.job is not None
        facts = item.job.facts()
        noise = facts["noise"]
        level = "" if noise["mode"] == "none" else f" {noise['mode']} {noise['requested']:g}"
        name = (
            f"{facts['dataset']}/{facts['category']} {facts['head']} {facts['method']}{level} "
            f"seed {facts['seed']}"
        )
        if item.done:
            result = item.run.read_result()
            value = result["metrics"].get("image_auroc")
            shown = "no image AUROC" if value is None else f"image AUROC {100 * value:.1f}"
            seconds = finite_number(result.get("wall_seconds"))
            outcome = f"{shown} ({seconds:.0f} s)" if seconds is not None else shown
        else:
            outcome = f"FAILED: {(failure or {}).get('reason')}"
        elapsed = time.monotonic() - self.started
        left = elapsed / self.ended * len(self.waiting)
        eta = f", {duration(left)} to go" if self.waiting else ""
        return f"{name}: {outcome}; {duration(elapsed)} so far{eta}"
