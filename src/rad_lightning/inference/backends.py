"""What runs a detector's network: torch on a run directory, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RESULT, RunDirectory
from rad_lightning.common.sealed import SEAL, read_object
from rad_lightning.config import TrainConfig, from_plain
from rad_lightning.data.splits import file_hashes
from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.inference.metadata import (
    DetectorMetadata,
    metadata_from_dict,
    metadata_of_run,
    recorded_facts,
)
from rad_lightning.inference.network import Network
from rad_lightning.inference.onnx import OnnxBackend, first_line
from rad_lightning.methods.registry import objective_of
from rad_lightning.training.checkpoint import read_checkpoint
from rad_lightning.training.job import chosen_weights, feature_spec

DEVICES = ("auto", "cpu", "cuda")
AGAIN = "run the same training command with resume=false to write it again"


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
    if (run.path / RESULT).exists():
        try:
            run.read_result()
        except ValueError as error:
            raise UserError(f"checkpoint = {checkpoint}: {RESULT}: {error}; {AGAIN}") from None
        return run
    inside = (
        sorted(p.parent.name for p in run.path.glob(f"*/{RESULT}")) if checkpoint.is_dir() else []
    )
    if inside:
        raise UserError(
            f"checkpoint = {checkpoint}: holds {len(inside)} runs, name one: {inside[0]}"
        )
    raise UserError(
        f"checkpoint = {checkpoint}: no finished run, {RESULT} is missing; "
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
    try:
        result = run.read_result()
        cfg = from_plain(result.get("config"))
        if not objective_of(cfg.method).flow:
            raise UserError(
                f"method={cfg.method.name} is a reference without a flow and saves no detector; "
                "use a run of another method"
            )
        recorded = recorded_facts(result)
        metadata = metadata_of_run(result, cfg)
    except ValueError as error:
        raise UserError(f"checkpoint = {checkpoint}: {error}") from error
    head = load_head(run.checkpoint, recorded.checkpoint_sha256)
    name = weights or chosen_weights(cfg)
    backbone = FrozenBackbone(cfg.backbone.name, tuple(cfg.layers), name, cfg.backbone.options)
    found, wanted = backbone.fingerprint(), recorded.backbone_fingerprint
    if found != wanted:
        raise UserError(
            f"backbone.weights = {name}: not the weights that {metadata.run} was trained on "
            f"(fingerprint {found[:12]}, recorded {wanted[:12]}); give those with "
            "backbone.weights=FILE"
        )
    return metadata, Network(backbone, head, feature_spec(cfg)), cfg


def load_head(file: Path, sha256: str) -> Head:
    """The trained head in a Lightning checkpoint, in float32.

    Args:
        sha256: of the file, as the run has recorded it.

    Raises:
        UserError: not that file, or no checkpoint of ours; weights that are NaN or infinite.
    """
    try:
        content = read_checkpoint(file, sha256)
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
    except ValueError as error:
        raise UserError(f"{file}: {first_line(error)}; {AGAIN}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{file}: not a checkpoint of this version ({reason})") from error
    for name, value in head.state_dict().items():
        if not value.isfinite().all():
            raise UserError(f"{file}: {name} holds NaN or infinity, the training diverged; {AGAIN}")
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
        content = read_object(beside)
        if SEAL not in content:
            raise ValueError("not what this version's export writes; export both again")
        metadata = metadata_from_dict(content["detector"])
        recorded = str(content["sha256"])
    except KeyError as error:
        raise UserError(f"{beside}: not what an export writes ({error} is missing)") from error
    except ValueError as error:
        raise UserError(f"{beside}: {error}") from error
    if file_hashes([file]) != [recorded]:
        raise UserError(f"{beside}: describes another file than {file.name}; export both again")
    backend = OnnxBackend(file, device)
    height, width = metadata.size
    blank = np.full((1, 3, height, width), 127, np.float32), np.array([[0, 0, height, width]])
    answer = backend(*blank)
    try:
        checked(answer, 1, metadata.size)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return metadata, backend


def checked(
    answer: tuple[np.ndarray, ...], count: int, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """What a backend answers for ``count`` images of ``size``.

    Raises:
        UserError: other shapes or types than a detector's.
    """
    wanted = [(count,), (count, *size)][: max(1, len(answer))]
    shapes = [part.shape for part in answer]
    if shapes != wanted or any(part.dtype.kind != "f" for part in answer):
        found = ", ".join(f"{part.dtype} {part.shape}" for part in answer)
        raise UserError(
            f"not a detector's network: it answers {found or 'nothing'}, expected float scores "
            f"{wanted[0]} and, if any, maps {(count, *size)}"
        )
    return answer


def facts_of(file: Path) -> Path:
    """Where an exported file's facts are: ``detector.onnx.json``."""
    return file.with_name(f"{file.name}.json")
