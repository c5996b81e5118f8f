"""Damaged images for ``predict``, damaged masks for a training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from faults.base import Reference, drawn, mvtec, photo, predicted, reference, rows, scratch, well
from faults.damage import damages
from faults.outcomes import REFUSED, RIGHT, TRACEBACK, WRONG, outcome_of
from faults.processes import rad

# Format, options of PIL's, whether the format knows its own damage (a checksum over all pixels).
FORMATS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "png": (".png", {}, True),
    "palette png": (".png", {}, True),
    "16-bit png": (".png", {}, True),
    "jpeg": (".jpg", {"quality": 90}, False),
    "progressive jpeg": (".jpeg", {"progressive": True}, False),
    "bmp": (".bmp", {}, False),
    "tiff": (".tif", {}, False),
    "deflated tiff": (".tiff", {"compression": "tiff_adobe_deflate"}, False),
    "webp": (".webp", {"lossless": True}, False),
}
BATCH = 26  # damaged images of one command
CLOSE = 1e-3  # scores in different batches differ by less


def drawn_as(form: str, pixels: np.ndarray) -> bytes:
    suffix, options, _ = FORMATS[form]
    image = Image.fromarray(pixels)
    if form == "palette png":
        image = image.quantize(64)
    if form == "16-bit png":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    buffer = BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def decoded(file: Path) -> Image.Image | None:
    """What a plain reader makes of a file; ``None`` where it makes nothing."""
    try:
        with Image.open(file) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                layer = image.convert("RGBA")
                ground = Image.new("RGBA", layer.size, (128, 128, 128, 255))
                image = Image.alpha_composite(ground, layer)
            return image.convert("RGB")
    except Exception:  # decoders raise nearly anything
        return None


def images(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Each is scored as what its file shows, or named with a reason.

    A format with a checksum has to notice; of another, a changed pixel is a pixel.
    """
    whole = reference(folder / "whole")
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        with scratch(folder / "try") as here:
            about = dict(_written(here, numbers, seed))
            ended = _predict(whole, here, "damaged", "p")
            if ended.code is None or "Traceback" in ended.err:
                yield from _singly(whole, here, about)
                continue
            named = (
                {Path(r["path"]).name: r["reason"] for r in rows(here / "p/unreadable.csv")}
                if (here / "p/unreadable.csv").is_file()
                else {}
            )
            well(_predict(whole, here, "clean", "c"))
            shown = predicted(here / "c")
            _decoded(whole, here, about)
            plain = predicted(here / "d")
            for name, score in {**dict.fromkeys(about), **predicted(here / "p")}.items():
                form, told = about[name]
                if name in named or (score is None and name in ended.err):
                    yield told, REFUSED, ""
                elif score is None:
                    yield told, WRONG, "neither scored nor named"
                elif _close(score, shown.get(f"{name}.png")):
                    yield told, RIGHT, ""
                elif FORMATS[form][2]:
                    yield told, WRONG, f"{form} with damaged pixels is scored"
                elif _close(score, plain.get(f"{name}.png")):
                    yield told, RIGHT, ""
                else:
                    yield told, WRONG, f"{score}, not {plain.get(f'{name}.png')}"


def _written(here: Path, numbers: range, seed: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Damaged files in ``damaged/``, undamaged ones as PNG in ``clean/``."""
    for sub in ("damaged", "clean", "decoded"):
        (here / sub).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = drawn(seed, "images", number)
        form = list(FORMATS)[number % len(FORMATS)]
        data = drawn_as(form, photo(2000 + number, number % 2 == 0)[0])
        name, spoiled = damages(data, rng)
        file = here / "damaged" / f"{number:04}{FORMATS[form][0]}"
        file.write_bytes(spoiled)
        whole = here / f"whole{file.suffix}"
        whole.write_bytes(data)
        if form == "16-bit png":
            shutil.copy(whole, here / "clean" / f"{file.name}.png")
        elif (image := decoded(whole)) is not None:
            image.save(here / "clean" / f"{file.name}.png")
        yield file.name, (form, f"{form}, {name}")


def _predict(whole: Reference, here: Path, source: str, output: str) -> Any:
    places = (f"checkpoint={whole.run}", f"input={here / source}", f"output={output}")
    return rad(here, "predict", *places, "overlays=none", "progress=false")


def _decoded(whole: Reference, here: Path, about: dict[str, Any]) -> None:
    """Scores in ``d/`` of what a plain reader makes of the damaged files."""
    for name in about:
        image = decoded(here / "damaged" / name)
        if image is not None and 0 < image.width * image.height < 4_000_000:
            image.save(here / "decoded" / f"{name}.png")
    if any((here / "decoded").iterdir()):
        well(_predict(whole, here, "decoded", "d"))


def _singly(whole: Reference, here: Path, about: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Each image in a command of its own, to see which one it was."""
    for name, (_, told) in about.items():
        shutil.rmtree(here / "one", ignore_errors=True)
        (here / "one").mkdir()
        shutil.copy(here / "damaged" / name, here / "one")
        outcome, seen = outcome_of(_predict(whole, here, "one", "o"), None)
        yield told, outcome, seen if outcome != TRACEBACK else f"{name}: {seen}"


def _close(score: str, other: str | None) -> bool:
    if other is None:
        return False
    pairs = [s.split() for s in (score, other)]
    values = [float(pair[0]) for pair in pairs]
    return bool(np.isclose(*values, rtol=CLOSE, atol=CLOSE)) and np.isfinite(values).all()


def masks(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """A damaged mask counts as what it shows, or pixel metrics are left out with a note."""
    data = mvtec(folder / "data")
    more = ("data=mvtec", "evaluation.pixel=true")
    whole = reference(folder / "whole", *more, data=data)
    right = _metrics(whole.run)
    (damaged,) = sorted((data / "part/ground_truth/spot").glob("000*"))
    data_of_it = damaged.read_bytes()
    for number in range(count):
        rng = drawn(seed, "masks", number)
        with scratch(folder / "try") as here:
            shutil.copytree(whole.folder / "outputs" / "cache", here / "outputs" / "cache")
            name, spoiled = damages(data_of_it, rng)
            damaged.write_bytes(spoiled)
            ended = rad(here, *whole.arguments)
            if ended.code:
                yield name, ended, None
                continue
            (run,) = (f.parent for f in here.glob("outputs/runs/*/result.json"))
            found = _metrics(run)
            notes = json.loads((run / "result.json").read_text())["notes"]
            if found == right:
                yield name, ended, None
            elif not any(key.startswith("pixel") for key in found):
                told = any("mask" in note for note in notes)
                yield name, REFUSED if told else WRONG, "no pixel metrics and no note"
            else:
                yield name, ended, "other pixel metrics"
    damaged.write_bytes(data_of_it)


def _metrics(run: Path) -> dict[str, float]:
    content: dict[str, float] = json.loads((run / "result.json").read_text())["metrics"]
    return content
