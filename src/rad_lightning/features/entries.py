"""One image's features on disk: a safetensors file that says whose they are, with a sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rad_lightning.common.files import write_bytes
from rad_lightning.common.threads import cores

NAME, SEAL = "features", "sha256"


def entry_path(store: Path, key: str) -> Path:
    """Where the features of the image with the sha256 ``key`` are."""
    return store / key[:2] / f"{key}.safetensors"


def write_entry(file: Path, features: np.ndarray) -> None:
    """Write features ``(V, C, H, W)`` whole or not at all.

    Nobody waits for the disk: what a power cut damages is found out by its sha256, and computed
    again.
    """
    tensor = torch.from_numpy(features).contiguous()
    content = save({NAME: tensor}, {SEAL: entry_sha256(file, tensor)})
    write_bytes(file, content, durable=False)


def read_entry(file: Path) -> Tensor:
    """Features ``(V, C, H, W)`` as they were written, mapped into memory.

    Raises:
        OSError, SafetensorError: not there, or damaged so that nothing can be read.
    """
    with safe_open(file, "pt") as content:
        found: Tensor = content.get_tensor(NAME)
    return found


def whole_entries(files: Iterable[Path]) -> set[Path]:
    """Those of ``files`` that are there and hold what was written, for this very image, backbone
    and settings. A damaged or foreign entry does not count."""
    listed = list(files)
    with ThreadPoolExecutor(cores()) as pool:
        return {f for f, whole in zip(listed, pool.map(is_whole, listed), strict=True) if whole}


def is_whole(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as content:
            recorded = (content.metadata() or {}).get(SEAL)
            return recorded == entry_sha256(file, content.get_tensor(NAME))
    except (OSError, SafetensorError, ValueError, RuntimeError):
        return False


def entry_sha256(file: Path, features: Tensor) -> str:
    """Over the values, their type and shape, and whose they are: store and image."""
    whose = f"{file.parent.parent.name}/{file.stem} {features.dtype} {tuple(features.shape)};"
    seen = hashlib.sha256(whose.encode())
    seen.update(features.reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()
