"""Five kinds of defect, from plain to hard, and the photograph of a surface that may have one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rad_lightning.data.synthetic.surfaces import (
    SURFACES,
    TURN,
    Field,
    Point,
    Surface,
    blend,
    smoothstep,
    value_noise,
)

OVERSAMPLING = 2

# A defect takes the surface, its colours, x, y and a place, and gives new colours and coverage.
Defect = Callable[[Surface, Field, Field, Field, Point, np.random.Generator], tuple[Field, Field]]


def photograph(
    category: str, defect: str | None, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw one image, uint8 ``(size, size, 3)``, and its mask, bool ``(size, size)``."""
    ticks = (np.arange(size * OVERSAMPLING) + 0.5) / (size * OVERSAMPLING)
    x, y = np.meshgrid(ticks, ticks)
    surface = SURFACES[category](rng)
    colours = _dust(surface.colour(x, y), x, y, rng)
    coverage = np.zeros_like(x)
    if defect is not None:
        place = surface.spot(rng, defect)
        colours, coverage = DEFECTS[defect](surface, colours, x, y, place, rng)
    lit = _shrink(colours * _lighting(x, y, rng)[..., None])
    noisy = lit + rng.normal(0, 0.014, lit.shape)
    return np.floor(np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8), _shrink(coverage) > 0.3


def _shrink(field: Field) -> Field:
    height, width, *rest = field.shape
    n = OVERSAMPLING
    small: Field = field.reshape(height // n, n, width // n, n, *rest).mean(axis=(1, 3))
    return small


def _lighting(x: Field, y: Field, rng: np.random.Generator) -> Field:
    gain, direction, slope = rng.normal(1, 0.05), rng.uniform(0, TURN), rng.uniform(0, 0.16)
    across = (x - 0.5) * np.cos(direction) + (y - 0.5) * np.sin(direction)
    vignette = 1 - 0.18 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    light: Field = gain * (1 + slope * across) * vignette
    return light


def _dust(colours: Field, x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Harmless specks that normal images have as well."""
    for _ in range(int(rng.integers(0, 4))):
        px, py = rng.uniform(0, 1, 2)
        grey = np.full(3, rng.choice([0.12, 0.85]))
        distance = np.hypot(x - px, y - py)
        colours = blend(colours, grey, 0.5 * smoothstep(-0.009, -0.003, -distance))
    return colours


def _patch(x: Field, y: Field, at: Point, radius: float, rng: np.random.Generator) -> Field:
    """Signed distance to the edge of an irregular round patch, positive inside."""
    noise = value_noise(rng, 16)
    stretch, turn = rng.uniform(0.75, 1.3), rng.uniform(0, TURN)
    u = (x - at[0]) * np.cos(turn) + (y - at[1]) * np.sin(turn)
    v = (y - at[1]) * np.cos(turn) - (x - at[0]) * np.sin(turn)
    ragged = radius * (0.75 + 0.5 * noise(u / radius * 1.5 + 8, v / radius * 1.5 + 8))
    edge: Field = ragged - np.hypot(u * stretch, v / stretch)
    return edge


def blob(
    surface: Surface, colours: Field, x: Field, y: Field, at: Point, rng: np.random.Generator
) -> tuple[Field, Field]:
    """A spill of rust or paint: saturated and opaque."""
    edge = _patch(x, y, at, rng.uniform(0.05, 0.075), rng)
    tints = np.array([[0.48, 0.22, 0.08], [0.62, 0.12, 0.12], [0.10, 0.36, 0.24]])
    tint = tints[int(rng.integers(len(tints)))]
    gloss = 1 + 0.35 * smoothstep(0.0, 0.05, edge)
    alpha = 0.88 * smoothstep(-0.004, 0.008, edge) * surface.body(x, y)
    return blend(colours, tint * gloss[..., None], alpha), alpha


def missing(
    surface: Surface, colours: Field, x: Field, y: Field, at: Point, rng: np.random.Generator
) -> tuple[Field, Field]:
    """A hole, a chip or a lost tooth: what lies beneath shows, with a lit lower edge."""
    edge = _patch(x, y, at, rng.uniform(0.05, 0.065), rng)
    on_body = surface.body(x, y)
    alpha = smoothstep(-0.002, 0.003, edge)
    lip = smoothstep(-0.010, -0.004, edge) * (1 - alpha) * on_body
    rimmed = blend(colours, np.full(3, 0.85), 0.45 * lip * smoothstep(-0.02, 0.04, y - at[1]))
    return blend(rimmed, surface.beneath(x, y), alpha), np.maximum(alpha * on_body, lip)


def scratch(
    surface: Surface, colours: Field, x: Field, y: Field, at: Point, rng: np.random.Generator
) -> tuple[Field, Field]:
    """A thin bent line, bright with a dark flank, that fades at its ends."""
    turn, bend = rng.uniform(0, TURN), rng.uniform(-1.2, 1.2)
    length, width = rng.uniform(0.12, 0.18), rng.uniform(0.005, 0.008)
    along = (x - at[0]) * np.cos(turn) + (y - at[1]) * np.sin(turn)
    across = (y - at[1]) * np.cos(turn) - (x - at[0]) * np.sin(turn) - bend * along**2
    ends = smoothstep(-length, -0.8 * length, -np.abs(along))
    bright = smoothstep(-width, -0.3 * width, -np.abs(across)) * ends
    flank = smoothstep(-width, -0.3 * width, -np.abs(across - 1.4 * width)) * ends
    on_body = surface.body(x, y)
    shaded = blend(colours, np.full(3, 0.08), 0.6 * flank * on_body)
    drawn = blend(shaded, np.full(3, 0.95), 0.7 * bright * on_body)
    return drawn, np.maximum(bright, flank) * on_body


def smudge(
    surface: Surface, colours: Field, x: Field, y: Field, at: Point, rng: np.random.Generator
) -> tuple[Field, Field]:
    """A greasy film: a faint veil that takes contrast away, without a clear edge."""
    edge = _patch(x, y, at, rng.uniform(0.09, 0.12), rng)
    film = smoothstep(-0.03, 0.03, edge) * surface.body(x, y)
    veil = np.full(3, rng.choice([0.25, 0.85]))
    return blend(colours, veil, rng.uniform(0.42, 0.56) * film), film


def misprint(
    surface: Surface, colours: Field, x: Field, y: Field, at: Point, rng: np.random.Generator
) -> tuple[Field, Field]:
    """The right material in the wrong place: structure changes, colours do not."""
    edge = _patch(x, y, at, rng.uniform(0.09, 0.115), rng)
    alpha = smoothstep(-0.004, 0.004, edge)
    moved = surface.colour(*surface.displaced(x, y, at))
    return blend(colours, moved, alpha), alpha


DEFECTS: dict[str, Defect] = {
    "blob": blob,
    "missing": missing,
    "scratch": scratch,
    "misprint": misprint,
    "smudge": smudge,
}
