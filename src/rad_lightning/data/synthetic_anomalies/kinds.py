"""The kinds of synthetic anomalies, and one of them drawn on an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.data.images import ImageArray, MaskArray
from rad_lightning.data.synthetic_anomalies.cutpaste import cutpaste
from rad_lightning.data.synthetic_anomalies.perlin import perlin_blend

Maker = Callable[[ImageArray, np.random.Generator], tuple[ImageArray, MaskArray]]
KINDS: dict[str, Maker] = {"cutpaste": cutpaste, "perlin": perlin_blend}


def draw_anomaly(image: ImageArray, kind: str, seed: int) -> tuple[ImageArray, MaskArray]:
    """The defect of this kind and seed on ``image``: as the makers in ``KINDS`` take and return.

    The place depends on the seed, hardly on the image: give each image its own seed.

    Raises:
        UserError: unknown kind, or not an image of at least 16 x 16.
    """
    if kind not in KINDS:
        raise UserError(
            f"synthetic defect {kind!r} does not exist: choose one of {', '.join(KINDS)}"
        )
    stream = np.random.PCG64(stream_seed(f"made {kind}", seed))
    return KINDS[kind](image, np.random.Generator(stream))
