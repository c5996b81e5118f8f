"""A trained detector on new images, from Python::

from rad_lightning import Detector

detector = Detector.load("outputs/runs/RUN")
for found in detector.predict(["a.png", "b.png"]):
    print(found.name, found.score, found.verdict)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from rad_lightning.data.images import BadImage, as_image
from rad_lightning.features.extract import PREVIEW, Box, load_placed, place, shrunk
from rad_lightning.inference.backends import (
    Backend,
    TorchBackend,
    checked,
    named_device,
    open_export,
    open_run,
)
from rad_lightning.inference.metadata import DetectorMetadata

BATCH_SIZE = 8
LOADER_THREADS = min(8, os.cpu_count() or 1)
FLAGGED, PASSED = "flagged", "passed"
Source = str | Path | Image.Image | np.ndarray
KINDS = "paths, PIL images or numpy arrays"


@dataclass(frozen=True)
class Prediction:
    """What a detector makes of one image.

    Attributes:
        name: the file's path, or what an image in memory is called.
        score: in nats per dimension, higher is more anomalous.
        flagged: whether the score is above the threshold.
        robust_z: the score's distance from the median of normal images, in robust standard
            deviations of theirs.
        map: ``(h, w)`` float32, the anomaly of every spot, at the resolution of the network's
            input, padding left out; ``None`` for a head without maps.
        image: ``(H, W, 3)`` uint8, the image upright and in its own proportions, at most
            ``PREVIEW`` pixels on the longer side.
    """

    name: str
    score: float
    flagged: bool
    robust_z: float
    map: np.ndarray | None
    image: np.ndarray

    @property
    def verdict(self) -> str:
        return FLAGGED if self.flagged else PASSED


@dataclass(frozen=True)
class Placed:
    """An image as the network takes it: ``canvas (H, W, 3)`` uint8 with the image in ``box``; and
    as people look at it."""

    name: str
    canvas: np.ndarray
    box: Box
    preview: np.ndarray


def read_placed(source: Source, metadata: DetectorMetadata, number: int = 0) -> Placed:
    """Read an image and bring it to the network's size; ``number`` names one without a file.

    Raises:
        BadImage: it cannot be read.
        TypeError: no image.
    """
    if not isinstance(source, Source):
        raise TypeError(f"image {number}: predict takes {KINDS}, not {type(source).__name__}")
    if isinstance(source, str | Path):
        found = load_placed(Path(source), metadata.size, metadata.fit, metadata.white)
        return Placed(str(source), *found)
    name = str(getattr(source, "filename", "") or f"image {number}")
    image = as_image(source, name, metadata.white)
    canvas, box = place(image, metadata.size, metadata.fit)
    return Placed(name, canvas, box, shrunk(image, PREVIEW))


def batch(placed: Sequence[Placed]) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(B, 3, H, W)`` float32 in 0..255 and boxes ``(B, 4)``: what a backend takes."""
    images = np.stack([p.canvas for p in placed]).transpose(0, 3, 1, 2)
    return images.astype(np.float32), np.array([p.box for p in placed], dtype=np.int64)


class Detector:
    """A trained detector.

    Args:
        metadata: how images are brought to the network, and what its scores mean.
        backend: runs the network.
    """

    def __init__(self, metadata: DetectorMetadata, backend: Backend) -> None:
        self.metadata, self.backend = metadata, backend

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", weights: str | None = None
    ) -> Detector:
        """The detector of a finished run.

        Args:
            path: the run's directory, the ``last.ckpt`` in it, or an exported ``.onnx`` file.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            weights: of the backbone: a file, ``"hub"`` or ``"untrained"``; what the run was trained
                with if not given. An exported file holds them.

        Raises:
            UserError: no such run, a backbone other than the run's, or a device that is not there.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            return cls(*open_export(path, device))
        chosen = named_device(device)
        metadata, network, _ = open_run(path, weights)
        return cls(metadata, TorchBackend(network, chosen))

    def predict(
        self, images: Source | Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> list[Prediction]:
        """Score one image or several, in their order.

        Args:
            images: paths, PIL images or arrays, see ``data.images.as_image``; an array of four
                dimensions holds several.

        Raises:
            BadImage: one of them cannot be read, or the network's answer is no finite number.
            TypeError: something else than images.
        """
        if not isinstance(images, Iterable | Source):
            raise TypeError(f"predict takes {KINDS}, one or several, not {type(images).__name__}")
        single = isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        several: Iterable[Source] = [images] if single else images  # type: ignore[list-item, assignment]
        found = []
        for item in self.stream(several, batch_size):
            if isinstance(item, BadImage):
                raise item
            found.append(item)
        return found

    def stream(
        self, images: Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | BadImage]:
        """``predict`` for any number of images: a prediction, or why there is none, of each in
        turn. Of the images, two batches are in memory at a time, at the network's size.

        Raises:
            TypeError: something else than images.
        """
        numbered = enumerate(images)
        with ThreadPoolExecutor(LOADER_THREADS) as pool:

            def ahead() -> list[Future[Placed | BadImage]]:
                return [pool.submit(self._read, *item) for item in islice(numbered, batch_size)]

            waiting = ahead()
            while waiting:
                placed = [future.result() for future in waiting]
                waiting = ahead()  # decoded while the network is at work
                found = iter(self._predict_batch([p for p in placed if isinstance(p, Placed)]))
                for item in placed:
                    yield item if isinstance(item, BadImage) else next(found)

    def _read(self, number: int, source: Source) -> Placed | BadImage:
        try:
            return read_placed(source, self.metadata, number)
        except BadImage as error:
            return error

    def _predict_batch(self, placed: list[Placed]) -> list[Prediction | BadImage]:
        if not placed:
            return []
        scores, *maps = checked(self.backend(*batch(placed)), len(placed), self.metadata.size)
        heats = maps[0] if maps else [None] * len(placed)
        return [
            self._judged(item, float(score), heat)
            for item, score, heat in zip(placed, scores, heats, strict=True)
        ]

    def _judged(self, item: Placed, score: float, heat: np.ndarray | None) -> Prediction | BadImage:
        """The prediction for an image; NaN or infinity is never a verdict."""
        z = self.metadata.robust_z(score)
        if heat is not None:
            top, left, height, width = item.box
            heat = heat[top : top + height, left : left + width].copy()
        if not (math.isfinite(score) and math.isfinite(z)):
            return BadImage(Path(item.name), f"the network answers {score}, which is no verdict")
        if heat is not None and not np.isfinite(heat).all():
            return BadImage(Path(item.name), "the network answers a map that is not finite")
        flagged = score > self.metadata.threshold
        return Prediction(item.name, score, flagged, z, heat, item.preview)
