"""Synthetic anomalies on normal images: label noise where a dataset has too few real ones.

The same image and seed give the same bytes on every machine.
"""

from rad_lightning.data.synthetic_anomalies.cutpaste import cutpaste
from rad_lightning.data.synthetic_anomalies.files import (
    parse_synthetic,
    synthetic_path,
    write_synthetic,
)
from rad_lightning.data.synthetic_anomalies.kinds import KINDS, draw_anomaly
from rad_lightning.data.synthetic_anomalies.perlin import perlin_blend

__all__ = [
    "KINDS",
    "cutpaste",
    "draw_anomaly",
    "parse_synthetic",
    "perlin_blend",
    "synthetic_path",
    "write_synthetic",
]
