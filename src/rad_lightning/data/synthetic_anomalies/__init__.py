"""Synthetic anomalies on normal images: label noise where a dataset has too few real ones.

The same image and seed give the same bytes on every machine.
"""

from rad_lightning.data.synthetic_anomalies.cutpaste import cutpaste
from rad_lightning.data.synthetic_anomalies.files import made_path, parse_made, write_made
from rad_lightning.data.synthetic_anomalies.kinds import KINDS, make
from rad_lightning.data.synthetic_anomalies.perlin import perlin_blend

__all__ = ["KINDS", "cutpaste", "made_path", "make", "parse_made", "perlin_blend", "write_made"]
