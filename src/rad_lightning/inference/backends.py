"""What runs a detector's network: torch on a run directory, onnxruntime on an exported file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RESULT, RunDirectory
from rad_lightning.config import TrainConfig, from_plain
from rad_lightning.data.splits import file_hashes
from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.inference.metadata import DetectorMetadata, metadata_from_dict, metadata_of_run
from rad_lightning.inference.network import Network
from rad_lightning.methods.registry import objective_of
from rad_lightning.training.job import chosen_weights, feature_spec

DEVICES = ("auto", "cpu", "cuda")


class Backend(Protocol):
    """``(B, 3, H, W)`` float32 in 0..255 and boxes ``(B, 4)`` -> scores ``(B,)`` and, where there
    are any, maps ``(B, H, W)``."""

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]: ...


class TorchBackend:
    """A network in torch on a device."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network.to(device), device

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            batch = (torch.from_numpy(part).to(self.device) for part in (images, boxes))
            return tuple(part.cpu().numpy() for part in self.network(*batch))


class OnnxBackend:
    """An exported network in onnxruntime.

    Raises:
        UserError: onnxruntime is not installed or cannot read the file.
    """

    def __init__(self, file: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{file}: ONNX files need onnxruntime: pip install 'rad-lightning[onnx]'"
            ) from error
        cuda = "CUDAExecutionProvider"
        there = cuda in onnxruntime.get_available_providers()
        if device == "cuda" and not there:
            raise UserError("device=cuda: this onnxruntime has no CUDA; use auto or cpu")
        providers = ["CPUExecutionProvider"]
        if device != "cpu" and there:
            providers.insert(0, cuda)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone; its warnings are about its own kernels
        if threads:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=providers)
        except Exception as error:  # its errors share no base class
            raise UserError(
                f"{file}: not readable by onnxruntime ({str(error).splitlines()[0]})"
            ) from error
        self.inputs = [i.name for i in self.session.get_inputs()]

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        given = {"images": images, "boxes": boxes}
        found: list[np.ndarray] = self.session.run(
            None, {name: given[name] for name in self.inputs}
        )
        return tuple(found)


def named_device(name: str) -> torch.device:
    """``auto`` takes the GPU where there is one.

    Raises:
        UserError: ``cuda`` without a GPU, or no known name.
    """
    if name not in DEVICES:
        raise UserError(f"device = {name!r}: choose one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no GPU here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def find_run(checkpoint: Path) -> RunDirectory:
    """The finished run of a run directory or of the ``last.ckpt`` in it.

    Raises:
        UserError: neither, or a run that has not finished.
    """
    if not checkpoint.exists():
        raise UserError(
            f"checkpoint = {checkpoint}: no such run directory, last.ckpt or exported .onnx file"
        )
    if checkpoint.is_file() and checkpoint.name != "last.ckpt":
        raise UserError(
            f"checkpoint = {checkpoint}: give a run directory, the last.ckpt in it, or an "
            "exported .onnx file"
        )
    run = RunDirectory(checkpoint.parent if checkpoint.is_file() else checkpoint)
    if run.done:
        return run
    inside = (
        sorted(p.parent.name for p in run.path.glob(f"*/{RESULT}")) if checkpoint.is_dir() else []
    )
    if inside:
        raise UserError(
            f"checkpoint = {checkpoint}: holds {len(inside)} runs, name one: {inside[0]}"
        )
    raise UserError(
        f"checkpoint = {checkpoint}: no finished run, {RESULT} is missing or incomplete; "
        "run the same training command again to finish it"
    )


def open_run(
    checkpoint: Path, weights: str | None = None
) -> tuple[DetectorMetadata, Network, TrainConfig]:
    """The detector of a finished run, on the CPU.

    Args:
        weights: of the backbone, instead of what the run's settings name.

    Raises:
        UserError: no finished run, no flow in it, or another backbone than it was trained with.
    """
    run = find_run(checkpoint)
    result = run.read_result()
    try:
        cfg = from_plain(result.get("config"))
        metadata = metadata_of_run(result, cfg)
    except UserError as error:
        raise UserError(f"checkpoint = {checkpoint}: {error}") from error
    if not objective_of(cfg.method).flow:
        raise UserError(
            f"checkpoint = {checkpoint}: method={cfg.method.name} is a reference without a flow "
            "and saves no detector; use a run of another method"
        )
    head = load_head(run.checkpoint)
    name = weights or chosen_weights(cfg)
    backbone = FrozenBackbone(cfg.backbone.name, tuple(cfg.backbone.out_indices), name)
    found, recorded = backbone.fingerprint(), result["backbone_fingerprint"]
    if found != recorded:
        raise UserError(
            f"backbone.weights = {name}: not the weights that {metadata.run} was trained on "
            f"(fingerprint {found[:12]}, recorded {recorded[:12]}); give those with "
            "backbone.weights=FILE"
        )
    return metadata, Network(backbone, head, feature_spec(cfg)), cfg


def load_head(file: Path) -> Head:
    """The trained head in a Lightning checkpoint, in float32.

    Raises:
        UserError: no readable checkpoint of ours.
    """
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        fields = dict(content["hyper_parameters"]["head"])
        head = Head(HeadSpec(**fields | {"grid": tuple(fields["grid"])}))
        state = content["state_dict"].items()
        head.load_state_dict(
            {k.removeprefix("head."): v for k, v in state if k.startswith("head.")}
        )
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file; run the same training command to write it again"
        ) from None
    except Exception as error:  # garbage makes the unpickler raise almost anything
        raise UserError(
            f"{file}: not a checkpoint of this version ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    return head


def open_export(file: Path, device: str = "auto") -> tuple[DetectorMetadata, OnnxBackend]:
    """An exported detector, from its ``.onnx`` file and the ``.onnx.json`` beside it.

    Raises:
        UserError: one of them is missing or not what ``export`` wrote.
    """
    beside = facts_of(file)
    for path in (file, beside):
        if not path.is_file():
            raise UserError(f"{path}: no such file; export writes {file.name} and {beside.name}")
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        metadata = metadata_from_dict(content["detector"])
        recorded = str(content["sha256"])
    except UserError as error:
        raise UserError(f"{beside}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{beside}: not what an export writes ({error!r})") from error
    if file_hashes([file]) != [recorded]:
        raise UserError(f"{beside}: describes another file than {file.name}; export both again")
    return metadata, OnnxBackend(file, device)


def facts_of(file: Path) -> Path:
    """Where an exported file's facts are: ``detector.onnx.json``."""
    return file.with_name(f"{file.name}.json")
