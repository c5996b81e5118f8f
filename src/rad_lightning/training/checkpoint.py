"""``last.ckpt``: Lightning's checkpoint, with the run's name and a sha256 of its content in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from rad_lightning.common.files import write_bytes
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory
from rad_lightning.common.sealed import read_regular

RUN, SEAL = "rad_lightning_run", "rad_lightning_sha256"
MOST_BYTES = 8 * 2**30  # a flow has some MB


class SealedCheckpoints(TorchCheckpointIO):
    """How a ``Trainer`` writes and reads checkpoints, each whole or not at all.

    Lightning's own are written to the system's temporary folder first, which may have no room where
    the run's folder has some, and are named by it in errors.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises ``OSError``, with ``path`` as its ``filename``, where it cannot be written."""
        content = checkpoint | {RUN: Path(path).parent.name}
        buffer = BytesIO()
        torch.save(content | {SEAL: content_sha256(content)}, buffer)
        write_bytes(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(file: Path, sha256: str | None = None) -> dict[str, Any]:
    """What ``SealedCheckpoints`` wrote, on the CPU.

    Args:
        sha256: of the file, where it was recorded.

    Raises:
        ValueError: anything else, with the reason in one line, without the file's name.
        OSError: not there, or not readable.
    """
    raw = read_regular(file, MOST_BYTES)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError("it is damaged, or not the file that the run has written")
    try:
        content = torch.load(BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes the unpickler raise almost anything
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    if not isinstance(content, dict) or SEAL not in content:
        raise ValueError("it is not a checkpoint of this version")
    if content.pop(SEAL) != content_sha256(content):
        raise ValueError("it is damaged: its sha256 is not that of its content")
    return content


def usable_checkpoint(run: RunDirectory, progress: Progress) -> Path | None:
    """The checkpoint to go on from. A damaged one, or another run's, is removed with a line: the
    training starts over."""
    file = run.checkpoint
    if not file.is_file():
        return None
    try:
        named = read_checkpoint(file)[RUN]
        if named != run.path.name:
            raise ValueError(f"it belongs to the run {named}")
    except ValueError as error:
        progress.say(f"  start again  {file}: {error}; the training begins anew")
        file.unlink(missing_ok=True)
        return None
    return file


def content_sha256(content: Any) -> str:
    """A hash of nested plain values and tensors, the same before saving and after loading."""
    seen = hashlib.sha256()
    _feed(seen, content)
    return seen.hexdigest()


def _feed(seen: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        seen.update(f"{plain.dtype}{tuple(plain.shape)};".encode())
        seen.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        seen.update(f"mapping {len(value)};".encode())
        for pair in value.items():
            _feed(seen, pair)
    elif isinstance(value, list | tuple):
        seen.update(f"sequence {len(value)};".encode())
        for item in value:
            _feed(seen, item)
    else:
        seen.update(f"{value!r};".encode())
