"""Three procedural surfaces: a woven cloth, a granite slab, and a gear on a plain ground.

A surface is a set of functions of the position, so it can be looked at anywhere: a defect that
displaces material asks it at other places, and pose is a change of coordinates. Positions are
fractions of the image side, from the top left; colours are RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
Point = tuple[float, float]
Paint = Callable[[Field, Field], Field]

TURN = 2 * np.pi


@dataclass(frozen=True)
class Surface:
    """One part in one pose.

    ``colour`` and ``beneath`` map x, y of shape ``(H, W)`` to ``(H, W, 3)``: the surface, and what
    shows where its material is missing. ``body`` is its coverage in 0..1. ``spot`` draws a place
    for a defect of the given type, and ``displaced`` says where material of a misprint at the
    given place is taken from.
    """

    colour: Paint
    beneath: Paint
    body: Paint
    spot: Callable[[np.random.Generator, str], Point]
    displaced: Callable[[Field, Field, Point], tuple[Field, Field]]


def smoothstep(low: float, high: float, value: Field) -> Field:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blend(below: Field, above: Field, alpha: Field) -> Field:
    return below + (above - below) * alpha[..., None]


def value_noise(rng: np.random.Generator, lattice: int = 64) -> Callable[[Field, Field], Field]:
    """Smooth noise in 0..1 with features of size 1, repeating after ``lattice`` = 2^n."""
    values = rng.random(lattice * lattice)
    wrap = lattice - 1  # a power of two less one, as a bit mask: much faster than a remainder

    def noise(x: Field, y: Field) -> Field:
        column, row = np.floor(x), np.floor(y)
        tx, ty = x - column, y - row
        tx, ty = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty)
        left, above = column.astype(np.int32) & wrap, row.astype(np.int32) & wrap
        right, top, bottom = (left + 1) & wrap, above * lattice, ((above + 1) & wrap) * lattice
        upper, lower = values.take(top + left), values.take(bottom + left)
        upper += (values.take(top + right) - upper) * tx
        lower += (values.take(bottom + right) - lower) * tx
        blended: Field = upper + (lower - upper) * ty
        return blended

    return noise


def cloudy(noise: Callable[[Field, Field], Field], x: Field, y: Field, octaves: int) -> Field:
    """Several octaves of one noise, in about 0..1."""
    layers = [noise(x * 2**i + 17.3 * i, y * 2**i + 9.1 * i) / 2**i for i in range(octaves)]
    total: Field = np.sum(layers, axis=0) / (2 - 2.0 ** (1 - octaves))
    return total


def weave(rng: np.random.Generator) -> Surface:
    """Twill: blue warp over pale weft, slightly turned, stretched and uneven."""
    threads = 15 * rng.uniform(0.96, 1.04)
    turn = rng.normal(0, 0.025)
    phase = rng.uniform(0, 64, 2)
    wave, fibre, dye = value_noise(rng), value_noise(rng), value_noise(rng)
    warp_tint, weft_tint = np.array([0.20, 0.33, 0.52]), np.array([0.80, 0.79, 0.74])

    def colour(x: Field, y: Field) -> Field:
        u = (x * np.cos(turn) + y * np.sin(turn)) * threads + phase[0]
        v = (y * np.cos(turn) - x * np.sin(turn)) * threads + phase[1]
        u, v = u + 0.5 * wave(u / 4, v / 4), v + 0.5 * wave(v / 4 + 30, u / 4)
        column, row = np.floor(u), np.floor(v)
        across_warp, across_weft = np.sin(np.pi * (u - column)), np.sin(np.pi * (v - row))
        over = np.mod(column - row, 4) < 2
        fuzz = np.where(over, fibre(u * 7, v * 1.5), fibre(u * 1.5, v * 7 + 31))
        uneven = np.where(over, dye(column, 0 * v), dye(0 * u + 9, row))
        profile = np.where(over, across_warp, across_weft) ** 0.6
        shade = (0.42 + 0.58 * profile) * (0.84 + 0.16 * fuzz + 0.16 * uneven)
        pixels: Field = np.where(over[..., None], warp_tint, weft_tint) * shade[..., None]
        return pixels

    def beneath(x: Field, y: Field) -> Field:
        return np.array([0.05, 0.05, 0.07]) + 0.05 * fibre(x * 40, y * 40)[..., None]

    def displaced(x: Field, y: Field, _: Point) -> tuple[Field, Field]:
        return x + 2 / threads, y + 0.4 / threads

    return Surface(colour, beneath, _everywhere, _anywhere, displaced)


def stone(rng: np.random.Generator) -> Surface:
    """Granite: grey quartz, warm feldspar, dark mica, and soft large-scale clouds."""
    origin = rng.uniform(0, 64, 2)
    grain = 19 * rng.uniform(0.92, 1.08)
    drift, spar, mica, grit = (value_noise(rng) for _ in range(4))
    warmth = rng.normal(0, 0.012)

    def colour(x: Field, y: Field) -> Field:
        u, v = x * grain + origin[0], y * grain + origin[1]
        bent_u = u + 1.3 * drift(u * 0.7, v * 0.7)
        bent_v = v + 1.3 * drift(u * 0.7 + 29, v * 0.7 + 41)
        cloud = cloudy(drift, u / 5, v / 5, 2)
        pixels = np.array([0.60 + warmth, 0.59, 0.58 - warmth]) * (0.86 + 0.28 * cloud)[..., None]
        pink = smoothstep(0.50, 0.60, cloudy(spar, bent_u * 0.8, bent_v * 0.8, 2))
        pixels = blend(pixels, np.array([0.74 + warmth, 0.62, 0.54 - warmth]), 0.75 * pink)
        dark = smoothstep(0.62, 0.72, cloudy(mica, bent_u * 1.5, bent_v * 1.5, 2))
        pixels = blend(pixels, np.array([0.30, 0.28, 0.28]), 0.85 * dark)
        return pixels * (0.88 + 0.24 * grit(u * 4, v * 4))[..., None]

    def beneath(x: Field, y: Field) -> Field:
        rough = cloudy(mica, x * 30 + 7, y * 30, 2)
        return np.array([0.36, 0.33, 0.30]) * (0.1 + 0.8 * rough)[..., None]

    def displaced(x: Field, y: Field, at: Point) -> tuple[Field, Field]:
        return at[0] + (x - at[0]) * 0.3, at[1] + (y - at[1]) * 0.3  # a patch of coarse grain

    return Surface(colour, beneath, _everywhere, _anywhere, displaced)


def gear(rng: np.random.Generator) -> Surface:
    """A brushed steel gear with a bore and five holes, at any angle and slightly off centre.
    Long because a gear is a list of shapes."""
    cx, cy = 0.5 + rng.uniform(-0.03, 0.03, 2)
    angle = rng.uniform(0, TURN)
    radius = 0.37 * rng.uniform(0.985, 1.015)
    teeth, holes, ring, bore = 16, 5, 0.205, 0.085
    brushed, ground = value_noise(rng), value_noise(rng)
    light = rng.normal(0.8, 0.12)

    def polar(x: Field, y: Field) -> tuple[Field, Field]:
        return np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)

    def depth(x: Field, y: Field) -> Field:
        """Distance into the metal, roughly; negative outside."""
        r, theta = polar(x, y)
        outline = radius + 0.028 * np.clip(2.4 * np.cos(teeth * (theta - angle)), -1, 1)
        sector = np.mod(theta - angle + np.pi / holes, TURN / holes) - np.pi / holes
        hole = np.hypot(r * np.cos(sector) - ring, r * np.sin(sector)) - 0.045
        return np.minimum(np.minimum(outline - r, r - bore), hole)

    def body(x: Field, y: Field) -> Field:
        return smoothstep(-0.003, 0.003, depth(x, y))

    def beneath(x: Field, y: Field) -> Field:
        rough = 0.92 + 0.16 * cloudy(ground, x * 20, y * 20, 3)
        shadow = 1 - 0.45 * smoothstep(-0.035, 0.01, depth(x - 0.012, y - 0.014))
        return np.array([0.25, 0.30, 0.34]) * (rough * shadow)[..., None]

    def colour(x: Field, y: Field) -> Field:
        r, theta = polar(x, y)
        inside = depth(x, y)
        lines = cloudy(brushed, r * 110, 1.5 * np.cos(theta - angle) + 9, 2)
        sheen = 0.13 * np.cos(2 * (theta - light)) + 0.05 * np.cos(4 * (theta - light))
        metal = 0.63 + sheen + 0.20 * (lines - 0.5)
        metal -= 0.24 * (1 - smoothstep(0.0, 0.014, inside))  # bevelled edges
        metal += 0.10 * np.exp(-(((r - 0.30) / 0.006) ** 2))  # a turned groove
        metal -= 0.14 * np.exp(-(((r - 0.309) / 0.005) ** 2))
        steel = np.array([0.97, 0.99, 1.02]) * metal[..., None]
        return blend(beneath(x, y), steel, smoothstep(-0.003, 0.003, inside))

    def spot(rng: np.random.Generator, kind: str) -> Point:
        if kind == "missing":  # a tooth
            distance, theta = radius + 0.005, angle + TURN / teeth * int(rng.integers(teeth))
        elif kind == "misprint":  # a hole
            distance, theta = ring, angle + TURN / holes * int(rng.integers(holes))
        else:  # between two holes
            distance = rng.uniform(0.18, 0.27)
            theta = angle + TURN / holes * (int(rng.integers(holes)) + 0.5)
        return float(cx + distance * np.cos(theta)), float(cy + distance * np.sin(theta))

    def displaced(x: Field, y: Field, at: Point) -> tuple[Field, Field]:
        out = np.array([at[0] - cx, at[1] - cy]) / ring
        return x - 0.035 * out[0], y - 0.035 * out[1]  # the hole sits too far out

    return Surface(colour, beneath, body, spot, displaced)


def _everywhere(x: Field, y: Field) -> Field:
    return np.ones_like(x)


def _anywhere(rng: np.random.Generator, kind: str) -> Point:
    x, y = rng.uniform(0.2, 0.8, 2)
    return float(x), float(y)


SURFACES: dict[str, Callable[[np.random.Generator], Surface]] = {
    "weave": weave,
    "stone": stone,
    "gear": gear,
}
