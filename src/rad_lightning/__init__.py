"""Anomaly detection with normalizing flows that survives mislabelled training images."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Threads that wait for others sleep instead of spinning: where another process has one of the
# cores, spinning costs many times the work. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")  # the same for Intel's OpenMP
# What gloo says of a lost process in a dozen lines, the error says in one.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

if TYPE_CHECKING:
    from rad_lightning.inference.detector import Detector

__all__ = ["Detector"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported on first use: it imports torch, which takes seconds and `--help` does not need."""
    if name == "Detector":
        return import_module("rad_lightning.inference.detector").Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
