"""``export``: a trained detector as one file, compared with the original before it is kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import atomic, write_text
from rad_lightning.common.machine import lack
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import check_files, environment
from rad_lightning.common.sealed import sealed
from rad_lightning.config import ExportConfig, TrainConfig
from rad_lightning.data.dataset import read_table
from rad_lightning.data.find import find_images
from rad_lightning.data.images import BadImage
from rad_lightning.data.splits import Roles, file_hashes, read_manifest
from rad_lightning.inference.backends import (
    Backend,
    TorchBackend,
    facts_of,
    find_run,
    open_run,
)
from rad_lightning.inference.detector import Placed, batch, read_placed
from rad_lightning.inference.metadata import DetectorMetadata
from rad_lightning.inference.network import Network
from rad_lightning.inference.onnx import OnnxBackend

FILES = {"onnx": "detector.onnx", "torch": "detector.pt2"}
OPSET = 18  # what torch.onnx writes without converting; the first whose Resize smooths as ours
COMPARED = 8  # images
TOLERANCE = 1e-4  # of a value, or of 1 where it is smaller
SCHEMA_VERSION = 1


def export(cfg: ExportConfig) -> Path:
    """Write ``detector.onnx`` or ``detector.pt2`` and a ``.json`` of that name; returns the file.

    Raises:
        UserError: no detector, no images to compare on, a backbone that cannot be exported, or
            an export that gives other numbers.
    """
    progress = Progress(quiet=not cfg.progress)
    require_packages(cfg.format)
    metadata, network, trained = open_run(Path(cfg.checkpoint), cfg.backbone.weights)
    if trained.backbone.precision != "float32":
        raise UserError(
            f"checkpoint = {cfg.checkpoint}: trained with backbone.precision="
            f"{trained.backbone.precision}; use a run in float32"
        )
    progress.say(f"    detector  {metadata.run} · {metadata.backbone}")
    placed = images_to_compare(cfg, trained, metadata)
    given = batch(placed)
    as_trained = TorchBackend(network, torch.device("cpu"))(*given)
    network.rounded = False
    in_float = TorchBackend(network, torch.device("cpu"))(*given)
    rounding = difference(in_float[:1], as_trained[:1])

    file = Path(cfg.output) / FILES[cfg.format]
    progress.say(f"     writing  {file}, which takes up to a minute")
    with progress.stage("export"):
        parity = written(file, cfg.format, network, metadata, given)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "file": file.name,
        "sha256": file_hashes([file])[0],
        "format": cfg.format,
        **({"opset": OPSET} if cfg.format == "onnx" else {}),
        "detector": metadata.as_dict(),
        **interface(network, metadata),
        "compared": {
            "images": len(placed),
            "batch_sizes": sorted({1, len(placed)}),
            "largest_difference": parity,
            "tolerance": TOLERANCE,
            "largest_difference_to_the_scores_of_the_training": rounding,
        },
        **environment(),
    }
    write_text(facts_of(file), sealed(facts))
    progress.say(f"    compared  on {len(placed)} images: within {parity:.1e} of torch in float32")
    progress.say(f"              scores of the training, in half precision: within {rounding:.1e}")
    progress.say(f"       model  {file} ({file.stat().st_size / 2**20:.1f} MiB)")
    progress.say(f"       facts  {facts_of(file)}")
    return file


def written(
    file: Path,
    format: str,
    network: Network,
    metadata: DetectorMetadata,
    given: tuple[np.ndarray, np.ndarray],
) -> float:
    """Write ``network`` in its ``format``; the largest difference of what the file gives.

    Raises:
        UserError: the network cannot be exported, or the file gives other numbers: it is not there.
    """
    with atomic(file) as aside:
        with quiet_exporter():
            try:
                program = trace(network, metadata)
                write, run = WRITERS[format]
                write(program, aside, metadata)
            except Exception as error:  # the exporters raise nearly anything
                if isinstance(error, OSError) or lack(error):
                    raise
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"{metadata.backbone} cannot be exported: {reason[0]}") from error
        parity = compare(TorchBackend(network, torch.device("cpu")), run(aside), *given)
        if not parity <= TOLERANCE:
            raise UserError(
                f"the exported network differs from the original by {parity:.2g}, more "
                f"than the allowed {TOLERANCE:g}: nothing was written"
            )
    return parity


def require_packages(format: str) -> None:
    needed = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    if lacking := [name for name in needed if find_spec(name) is None]:
        raise UserError(f"format=onnx needs {lacking[0]}: pip install 'rad-lightning[onnx]'")


def images_to_compare(
    cfg: ExportConfig, trained: TrainConfig, metadata: DetectorMetadata
) -> list[Placed]:
    """Some of the images that the user names, or of the run's test images: evenly drawn, so that
    normal and anomalous ones are among them."""
    if cfg.input is not None:
        files, _ = find_images(cfg.input)
    else:
        try:
            run = find_run(Path(cfg.checkpoint))
            check_files(run, ("manifest.csv",))
            # Not the run's cache: where a foreign run says, nothing is to be written.
            table = read_table(trained.data, Path(cfg.cache.dir))
            where = {s.path: table.absolute(s) for s in table.samples}
            rows = read_manifest(run.path / "manifest.csv")
            files = [where[r.path] for r in rows if r.role == Roles.TEST and r.path in where]
            if not files:
                raise UserError("no test image of the run is there")
        except UserError as error:
            raise UserError(f"{error}; name images to compare on with input=DIR") from error
    chosen = np.linspace(0, len(files) - 1, min(COMPARED, len(files))).round().astype(int)
    try:
        return [read_placed(files[i], metadata) for i in chosen]
    except BadImage as error:
        raise UserError(f"{error}; name other images to compare on with input=DIR") from error


def trace(network: Network, metadata: DetectorMetadata) -> torch.export.ExportedProgram:
    """The network as a program for any batch size; it takes boxes only where images are padded."""
    count = torch.export.Dim("batch", min=1, max=2**16)
    boxes = torch.tensor([[0, 0, *metadata.size]]).repeat(2, 1)
    inputs: tuple[Tensor, ...] = (torch.zeros(2, 3, *metadata.size), boxes)
    if metadata.fit == "stretch":
        inputs = inputs[:1]
    shapes = dict(zip(("images", "boxes"), [{0: count}] * len(inputs), strict=False))
    with torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=shapes)


def write_onnx(
    program: torch.export.ExportedProgram, file: Path, metadata: DetectorMetadata
) -> None:
    outputs = ["score", "map"] if metadata.map_range else ["score"]
    names = ["images"] if metadata.fit == "stretch" else ["images", "boxes"]
    with torch.no_grad():
        written = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, external_data=False,
            input_names=names, output_names=outputs,
        )  # fmt: skip
    assert written is not None
    written.save(file, external_data=False)


def write_torch(program: torch.export.ExportedProgram, file: Path, _: DetectorMetadata) -> None:
    buffer = BytesIO()  # torch's own writer aborts the process when the disk is full
    torch.export.save(program, buffer)
    file.write_bytes(buffer.getvalue())


class ProgramBackend:
    """A saved torch program."""

    def __init__(self, file: Path) -> None:
        program = torch.export.load(file)
        self.inputs = len(program.graph_signature.user_inputs)
        self.module = program.module()

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        inputs = [torch.from_numpy(part) for part in (images, boxes)[: self.inputs]]
        with torch.no_grad():
            return tuple(part.numpy() for part in self.module(*inputs))


Writer = Callable[[torch.export.ExportedProgram, Path, DetectorMetadata], None]
WRITERS: dict[str, tuple[Writer, Callable[[Path], Backend]]] = {
    "onnx": (write_onnx, lambda file: OnnxBackend(file, "cpu")),
    "torch": (write_torch, ProgramBackend),
}


def compare(one: Backend, other: Backend, images: np.ndarray, boxes: np.ndarray) -> float:
    """The largest difference between two backends on all images, at once and one by one."""
    single = [(images[i : i + 1], boxes[i : i + 1]) for i in range(len(images))]
    return max(difference(other(*given), one(*given)) for given in [(images, boxes), *single])


def difference(found: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...]) -> float:
    """The largest one, as a share of the wanted value, or of 1 where that is smaller; infinite
    where the shapes differ or a value is no number."""
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    shares = [np.abs(f - w) / np.maximum(1, np.abs(w)) for f, w in pairs]
    largest = float(max(share.max() for share in shares))
    return largest if np.isfinite(largest) else float("inf")


def interface(network: Network, metadata: DetectorMetadata) -> dict[str, Any]:
    """What goes into the file and comes out, for those who run it without this package."""
    height, width = metadata.size
    pads = metadata.fit == "pad"
    inputs = {"images": f"float32 (batch, 3, {height}, {width}), RGB, 0 to 255"}
    if pads:
        inputs["boxes"] = "int64 (batch, 4): top, left, height, width of the image on its canvas"
    outputs = {"score": "float32 (batch,), in nats per dimension; flagged where score > threshold"}
    if network.has_maps:
        outputs["map"] = f"float32 (batch, {height}, {width}), the anomaly of every pixel"
    placing = (
        "into the canvas with its proportions, centred, the rest mirrored"
        if pads
        else ("to the canvas, whatever its proportions")
    )
    return {
        "input": inputs,
        "output": outputs,
        "rule": "robust_z = (score - median) / spread",
        "preprocessing": {
            "images": "8-bit RGB, 0 to 255; grey in all three channels, 16-bit grey as value * 255 "
            f"/ {metadata.white}, transparency laid over grey 128",
            "upright": "by the EXIF tag",
            "resize": f"bicubic with antialiasing, {placing}",
            "size": [height, width],
            "fit": metadata.fit,
            "inside_the_file": {
                "mean": network.backbone.mean.flatten().tolist(),
                "std": network.backbone.std.flatten().tolist(),
                "views": list(network.spec.views),
            },
        },
    }


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporters' notices are about their own passes; what fails is raised."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
