"""Pictures of a run: anomaly-map overlays, the histogram of scores, the curves of its training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from rad_lightning.common.files import atomic, write_bytes
from rad_lightning.common.histograms import bin_edges, histogram_end
from rad_lightning.common.names import printed
from rad_lightning.config import DataConfig, EvaluationConfig, TrainConfig
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.images import load_image, resize_image
from rad_lightning.data.samples import NORMAL, Sample, SampleTable
from rad_lightning.data.splits import Roles
from rad_lightning.evaluation.curves import Row, thin
from rad_lightning.evaluation.evaluate import Scored, pixel_map, pixel_mask
from rad_lightning.evaluation.overlays import blend, colour_range, side_by_side, thumbnail
from rad_lightning.evaluation.thresholds import robust_centre

NORMAL_COLOUR, ANOMALY_COLOUR, INK = "#3b75af", "#d1495b", "#22303c"
CAPTION = 40  # characters of a name: a title does not end at the edge of its figure
# Curves of a training by name: label and colour.
PANELS = {
    "nll": ("NLL\n(nats per dimension)", NORMAL_COLOUR),
    "uncertainty": ("uncertainty U", INK),
    "lambda": ("λ(U)", INK),
    "weight_penalty": ("penalty R(θ)", INK),
}


def draw(
    run: Path,
    data: Dataset,
    scored: Scored,
    limit: float,
    geometry: DataConfig,
    cfg: EvaluationConfig,
) -> None:
    """Write the histogram and the overlays of a run.

    Images are ranked by how far their score lies on the right side of the threshold, so that
    ``worst`` shows the misses and the false alarms. Unlabelled images rank as if anomalous.
    """
    if not len(scored.test) or not cfg.pictures:
        return
    samples = data.samples(*Roles.TESTED)
    labels = np.array([s.label for s in samples])
    scores = scored.test.numpy()
    title = f"{titled(data.table)}: scores of {len(samples)} test images"
    score_histogram(run / "histogram.png", scores, labels, limit, title)
    if not scored.has_maps:
        return
    order = np.argsort(right_side(scores, labels, limit), kind="stable")
    count = min(cfg.pictures, len(order))
    middle = (len(order) - count) // 2
    sheets = {
        "best": order[::-1][:count],
        "median": order[middle : middle + count],
        "worst": order[:count],
    }
    shown = {
        name: [
            _show(data.table, samples[i], scored.test_positions[i], scores[i] > limit, geometry)
            for i in chosen
        ]
        for name, chosen in sheets.items()
    }
    low, high = colour_range(scored.train_positions)
    for name, rows in shown.items():
        overlay_sheet(run / f"overlays_{name}.png", rows, low, high)


def draw_worst(
    run: Path,
    data: Dataset,
    scored: Scored,
    limit: float,
    geometry: DataConfig,
    cfg: EvaluationConfig,
) -> list[dict[str, Any]]:
    """Write a thumbnail (image | overlay) of each of the worst test images, for the reports.

    Returns:
        What each shows, worst first: ``file`` in ``run``, ``path``, ``label``, ``defect_type``,
        ``score``, ``flagged``, and ``margin``: how far the score lies on the right side of the
        threshold, in robust standard deviations of the training scores.
    """
    samples = data.samples(*Roles.TESTED)
    labels, scores = np.array([s.label for s in samples]), scored.test.numpy()
    with np.errstate(over="ignore"):  # of a spread of nearly nothing
        margins = right_side(scores, labels, limit) / robust_centre(scored.train)[1]
        margins = np.nan_to_num(margins)
    low, high = colour_range(scored.train_positions) if scored.has_maps else (0.0, 1.0)
    found = []
    for number, i in enumerate(np.argsort(margins, kind="stable")[: cfg.worst]):
        item = _show(data.table, samples[i], scored.test_positions[i], False, geometry)
        pixels = item.image
        if scored.has_maps:
            pixels = side_by_side(item.image, item.heat, low, high)
        file = f"worst_{number}.jpg"
        write_bytes(run / file, thumbnail(pixels))
        found.append(
            {
                "file": file,
                "path": samples[i].path,
                "label": samples[i].label,
                "defect_type": samples[i].defect_type,
                "score": float(scores[i]),
                "flagged": bool(scores[i] > limit),
                "margin": round(float(margins[i]), 3),
            }
        )
    return found


def right_side(scores: np.ndarray, labels: np.ndarray, limit: float) -> np.ndarray:
    """``(N,)``: how far each score lies on the right side of the threshold; negative if wrong.

    Unlabelled images count as if anomalous.
    """
    return np.where(labels == NORMAL, limit - scores, scores - limit)


def _show(
    table: SampleTable, sample: Sample, positions: Tensor, flagged: bool, cfg: DataConfig
) -> Shown:
    heat = pixel_map(table, sample, positions, cfg).numpy()
    size = (heat.shape[0], heat.shape[1])
    pixels = load_image(table.absolute(sample), white=table.white, least=size)
    image = resize_image(pixels, size)
    verdict = "flagged" if flagged else "passed"
    mask = pixel_mask(table, sample, cfg).numpy()
    title = f"{caption(sample.defect_type)} ({caption(Path(sample.path).name)}): {verdict}"
    return Shown(title, image, heat, mask)


def caption(text: str) -> str:
    """Text of others as a figure can show it: on one line, of ``CAPTION`` characters at most."""
    text = printed(text)
    return text if len(text) <= CAPTION else f"{text[: CAPTION // 2]}…{text[-CAPTION // 2 + 1 :]}"


def titled(table: SampleTable) -> str:
    return f"{table.name}/{caption(table.category)}"


@dataclass(frozen=True)
class Shown:
    """One test image with what the detector made of it."""

    title: str
    image: np.ndarray  # (H, W, 3) uint8
    heat: np.ndarray  # (H, W) float
    mask: np.ndarray | None  # (H, W) bool


def overlay_sheet(path: Path, shown: Sequence[Shown], low: float, high: float) -> None:
    """A row per image: the image, its anomaly map, and the map laid over it with the true mask.

    ``low`` and ``high`` are one colour range for the whole sheet, so that rows compare.
    """
    figure = Figure(figsize=(7.2, 2.45 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, item in zip(axes, shown, strict=True):
        row[0].imshow(item.image)
        row[1].imshow(item.heat, cmap="inferno", vmin=low, vmax=high)
        row[2].imshow(blend(item.image, item.heat, low, high))
        if item.mask is not None and item.mask.any():
            row[2].contour(item.mask, levels=[0.5], colors="#39ff88", linewidths=1.0)
        row[0].set_title(item.title, loc="left", fontsize=8, color=INK, parse_math=False)
        for axis in row:
            axis.set_axis_off()
    axes[0][1].set_title("anomaly map", fontsize=8, color=INK)
    axes[0][2].set_title("overlay, true defect outlined", fontsize=8, color=INK)
    _save(figure, path)


def score_histogram(
    path: Path, scores: np.ndarray, labels: np.ndarray, threshold: float, title: str
) -> None:
    """Test scores by true label, with the deployed threshold."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    low = float(scores.min())
    shown = np.minimum(scores, histogram_end(low, threshold))
    cut = int((shown < scores).sum())
    edges = bin_edges(shown, min(40, max(8, len(scores) // 3))).tolist()
    kinds = (
        (0, "normal", NORMAL_COLOUR),
        (1, "anomalous", ANOMALY_COLOUR),
        (-1, "unlabelled", INK),
    )
    for label, name, colour in kinds:
        if (labels == label).any():
            axis.hist(shown[labels == label], edges, alpha=0.6, color=colour, label=name)
    axis.axvline(threshold, color=INK, linestyle="--", linewidth=1, label="threshold")
    last = f"; the last bar holds {cut} beyond it" if cut else ""
    axis.set_xlabel(f"image score (nats per dimension){last}")
    axis.set_ylabel("test images")
    axis.set_title(title, loc="left", fontsize=9, parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_curves(run: Path, rows: Sequence[Row], name: str, cfg: TrainConfig) -> None:
    """Write ``curves.png``, if there are pictures and there is a curve."""
    if cfg.evaluation.pictures and thin(rows):
        training_curves(run / "curves.png", rows, f"{name}: training of {cfg.method.name}")


def training_curves(path: Path, rows: Sequence[Row], title: str) -> None:
    """A panel per curve over one axis of steps: every step, and means of runs of steps."""
    means = thin(rows)
    shown = [name for name in PANELS if name in means]
    figure = Figure(figsize=(6.4, 1.6 + 1.5 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1.6, *(1.0 for _ in shown[1:])]
    panels = figure.subplots(len(shown), squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
    for axis, name in zip(panels, shown, strict=True):
        label, colour = PANELS[name]
        axis.plot(*_known(rows, name), color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(means["step"], means[name], color=colour, linewidth=1.6, label="training")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        if name == "uncertainty":
            axis.set_ylim(0, 1)
        if name == "lambda" and wide(means[name]):
            axis.set_yscale("log")
    steps, held_out = _known(rows, "held_out_nll")
    if held_out:
        look = {"color": ANOMALY_COLOUR, "marker": "o", "markersize": 3, "linewidth": 1.2}
        panels[0].plot(steps, held_out, label="held-out images, trimmed", **look)
        panels[0].legend(frameon=False, fontsize=8)
    panels[0].set_title(title, loc="left", fontsize=9, parse_math=False)
    panels[-1].set_xlabel("training step")
    figure.align_ylabels()
    _save(figure, path)


def _known(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one column."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def wide(values: Sequence[float]) -> bool:
    """Whether a linear axis would hide the small ones."""
    return min(values) > 0 and max(values) > 10 * min(values)


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as aside, warnings.catch_warnings():
        # Of names in scripts that the font lacks, which are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # No software version in the file: equal runs write equal bytes.
        figure.savefig(aside, dpi=110, metadata={"Software": None})
