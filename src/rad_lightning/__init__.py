"""Anomaly detection with normalizing flows that survives mislabelled training images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rad_lightning.detector import Detector

__all__ = ["Detector"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when first asked for: it brings torch, which the command line need not wait for."""
    if name == "Detector":
        return import_module("rad_lightning.detector").Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
