"""An exported detector against torch on a CPU: parity and images/s, measured in one run.

Both get ready arrays, the same threads, and take turns; the median of several rounds counts.

    python benchmarks/export.py [--checkpoint RUN] [--images DIR] [--threads 1]

Without a run, a detector is trained on the embedded images; without images, those of the run are
taken.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rad_lightning.cli import main as command
from rad_lightning.commands.export import compare, export, images_to_compare
from rad_lightning.config import ExportConfig
from rad_lightning.data.find import find_images
from rad_lightning.inference.backends import Backend, TorchBackend, open_run
from rad_lightning.inference.detector import batch, read_placed
from rad_lightning.inference.onnx import OnnxBackend

BATCHES, ROUNDS, PER_ROUND = (1, 8), 7, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", help="a folder, a file or a pattern")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = asked.checkpoint or train(Path(folder))
        cfg = ExportConfig(
            checkpoint=str(run), output=folder, format="onnx", input=asked.images, progress=False
        )
        file = export(cfg)
        metadata, network, trained = open_run(run)
        network.rounded = False
        ours: Backend = TorchBackend(network, torch.device("cpu"))
        theirs: Backend = OnnxBackend(file, "cpu", asked.threads)
        if asked.images:
            files = find_images(asked.images)[0]
            placed = [read_placed(f, metadata) for f in files[: max(PER_ROUND, *BATCHES)]]
        else:
            placed = images_to_compare(cfg, trained, metadata)
        images, boxes = batch(placed)
        side = f"{metadata.size[0]} x {metadata.size[1]}"
        print(f"{metadata.run}: {metadata.backbone}, {metadata.head} head, {side}")
        print(f"parity on {len(images)} images: within {compare(ours, theirs, images, boxes):.1e}")
        print(f"images/s with {asked.threads} thread(s):")
        for size in BATCHES:
            torch_rate, onnx_rate = rates(ours, theirs, images, boxes, size)
            ratio = onnx_rate / torch_rate
            print(
                f"  batch {size}: torch {torch_rate:6.1f}   onnxruntime {onnx_rate:6.1f}"
                f"   ({ratio:.2f} x)"
            )


def rates(
    one: Backend, other: Backend, images: np.ndarray, boxes: np.ndarray, size: int
) -> tuple[float, float]:
    """Images/s of two backends in batches of ``size``, the medians of rounds that alternate."""
    rows = np.arange(max(PER_ROUND, size)) % len(images)
    parts = [(images[r], boxes[r]) for r in np.split(rows, len(rows) // size)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for backend, taken in zip((one, other), seconds, strict=True):
            started = time.perf_counter()
            for part in parts:
                backend(*part)
            if number:  # the first round warms up
                taken.append(time.perf_counter() - started)
    first, second = (len(rows) / statistics.median(taken) for taken in seconds)
    return first, second


def train(folder: Path) -> Path:
    """A detector of the default size on the embedded images."""
    places = (f"output={folder / 'runs'}", f"cache.dir={folder / 'cache'}", "progress=false")
    small = ("data.train_images=16", "data.test_images_per_defect=2", "data.test_normal_images=8")
    more = ("data.size=[256,256]", "method.steps=50", "evaluation.pictures=0", "logger=csv")
    command(["data.category=stone", *small, *more, *places])
    (run,) = (folder / "runs").iterdir()
    return run


if __name__ == "__main__":
    main()
