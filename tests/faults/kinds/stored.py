"""Files of ours that are read back, damaged: features, checkpoints, results."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.base import Reference, differs, drawn, predicted, reference, scratch, well
from faults.damage import checkpoint_damages, damages, feature_damages, json_damages
from faults.processes import begun, rad

ENTRIES = (".npy", ".safetensors")


def cache(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """One or several entries of the feature cache, then a training of other name."""
    whole = reference(folder / "whole", "method.steps=3")
    for number in range(count):
        rng = drawn(seed, "cache", number)
        with scratch(folder / "try") as here:
            shutil.copytree(whole.folder / "outputs" / "cache", here / "outputs" / "cache")
            found = sorted(
                f for f in (here / "outputs" / "cache").rglob("*") if f.suffix in ENTRIES
            )
            names = []
            for at in rng.choice(len(found), int(rng.integers(1, 4)), replace=False):
                file, data = found[at], found[at].read_bytes()
                kind = rng.random()
                if kind < 0.15:
                    name, spoiled = "a neighbour's", found[at - 1].read_bytes()
                elif kind < 0.55:
                    name, spoiled = feature_damages(data, rng, file.suffix)
                else:
                    name, spoiled = damages(data, rng)
                file.write_bytes(spoiled)
                names.append(name)
            ended = rad(here, *whole.arguments)
            wrong = whole.wrong(here) if ended.code == 0 else None
            yield ", ".join(names), ended, wrong


def interrupted(folder: Path, data: Path) -> Reference:
    """A training that was killed behind its first checkpoint, and how it ends undisturbed."""
    more = ("method.steps=40", "trainer.checkpoint_every=10")
    whole = reference(folder / "whole", *more, data=data)
    for _ in range(20):
        with scratch(folder / "cut") as here:
            shutil.copytree(whole.folder / "outputs" / "cache", here / "outputs" / "cache")
            process = begun(here, *whole.arguments)
            while process.running() and not list(here.glob("outputs/runs/*/last.ckpt")):
                time.sleep(0.001)
            process.tell(signal.SIGKILL)
            process.end()
            if not list(here.glob("outputs/runs/*/result.json")):
                shutil.copytree(here, folder / "kept")
                return Reference(whole.arguments, folder / "kept", whole.run)
    raise RuntimeError("no training could be killed between its checkpoint and its end")


def resumed(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``last.ckpt`` of an interrupted training, then the same command again."""
    from faults.base import photos

    whole = interrupted(folder, photos(folder / "photos"))
    for number in range(count):
        rng = drawn(seed, "resumed", number)
        with scratch(folder / "try") as here:
            whole.copied(here)
            (file,) = here.glob("outputs/runs/*/last.ckpt")
            name = spoil(file, rng)
            ended = rad(here, *whole.arguments)
            yield name, ended, whole.wrong(here) if ended.code == 0 else None


def spoil(file: Path, rng: Any) -> str:
    damage = damages if rng.random() < 0.5 else checkpoint_damages
    name, spoiled = damage(file.read_bytes(), rng)
    file.write_bytes(spoiled)
    return name


READERS = {
    "predict": ("predict", "overlays=none", "output=out", "progress=false"),
    "export": ("export", "format=torch", "output=out", "progress=false"),
}


def read(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``last.ckpt`` of a finished run, then ``predict`` or ``export``."""
    whole = reference(folder / "whole")
    photos = folder / "whole_photos" / "bad"
    well(rad(whole.folder, *READERS["predict"], f"checkpoint={whole.run}", f"input={photos}"))
    right = predicted(whole.folder / "out")
    for number in range(count):
        rng = drawn(seed, "read", number)
        with scratch(folder / "try") as here:
            run = shutil.copytree(whole.run, here / whole.run.name)
            name = spoil(run / "last.ckpt", rng)
            if rng.random() < 0.75:
                asked = (f"checkpoint={run}", f"input={photos}")
                ended = rad(here, *READERS["predict"], *asked)
                wrong = None if predicted(here / "out") == right else "other scores"
                yield f"predict, {name}", ended, wrong
            else:
                ended = rad(here, *READERS["export"], f"checkpoint={run}")
                wrong = ended.code == 0 and number_changed(run, whole.run)
                yield f"export, {name}", ended, "exported" if wrong else None


def number_changed(run: Path, other: Path) -> bool:
    """Whether the network of a damaged checkpoint has other numbers."""
    import torch

    states = [torch.load(r / "last.ckpt", weights_only=True)["state_dict"] for r in (run, other)]
    return states[0].keys() != states[1].keys() or any(
        not torch.equal(states[0][k], v) for k, v in states[1].items()
    )


def results(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``result.json``, then ``predict``, the same training again, or ``report``."""
    whole = reference(folder / "whole")
    photos = folder / "whole_photos" / "bad"
    well(rad(whole.folder, *READERS["predict"], f"checkpoint={whole.run}", f"input={photos}"))
    right = predicted(whole.folder / "out")
    well(rad(whole.folder, "report", "sweep=outputs/runs"))
    cells = (whole.run.parent / "report" / "table.csv").read_bytes()
    for number in range(count):
        rng = drawn(seed, "results", number)
        with scratch(folder / "try") as here:
            whole.copied(here)
            run = here / "outputs" / "runs" / whole.run.name
            damage = damages if rng.random() < 0.3 else json_damages
            name, spoiled = damage((run / "result.json").read_bytes(), rng)
            (run / "result.json").write_bytes(spoiled)
            shutil.rmtree(run.parent / "report")
            match number % 3:
                case 0:
                    asked = (f"checkpoint={run}", f"input={photos}")
                    ended = rad(here, *READERS["predict"], *asked)
                    wrong = None if predicted(here / "out") == right else "other scores"
                    yield f"predict, {name}", ended, wrong
                case 1:
                    ended = rad(here, *whole.arguments)
                    yield (
                        f"train, {name}",
                        ended,
                        differs(run, whole.run) if not ended.code else None,
                    )
                case _:
                    ended = rad(here, "report", "sweep=outputs/runs")
                    yield f"report, {name}", ended, other_table(run.parent, cells, ended.out)


def other_table(sweep: Path, cells: bytes, out: str) -> str | None:
    file = sweep / "report" / "table.csv"
    if not file.is_file() or file.read_bytes() == cells or "skipped" in out:
        return None
    return "other numbers in the report"
