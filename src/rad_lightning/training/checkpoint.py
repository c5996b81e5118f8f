"""How a checkpoint gets onto the disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from rad_lightning.common.files import write_bytes


class WholeCheckpoint(TorchCheckpointIO):
    """Checkpoints appear whole or not at all.

    Lightning's own are written to the system's temporary folder first, which may have no room where
    the run's folder has some, and are named by it in errors.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Raises ``OSError``, with ``path`` as its ``filename``, where it cannot be written."""
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())
