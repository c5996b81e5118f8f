"""``predict``: score images with a trained detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import atomic
from rad_lightning.common.machine import FULL, reason_of
from rad_lightning.common.names import printed, shortened, writable
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RESULT, RunDirectory
from rad_lightning.common.threads import cores, torch_threads
from rad_lightning.config import PredictConfig
from rad_lightning.data import pixels
from rad_lightning.data.find import find_images
from rad_lightning.data.images import BadImage
from rad_lightning.evaluation.overlays import side_by_side
from rad_lightning.inference.detector import Detector, Prediction
from rad_lightning.inference.metadata import DetectorMetadata
from rad_lightning.inference.page import PredictionPage

HEADER = ("path", "score", "threshold", "verdict", "robust_z")
OVERLAYS, UNREADABLE = "overlays", "unreadable.csv"
NO_NAME = "its name is not UTF-8; rename it"
SHOWN = 5  # unreadable files on the terminal; the rest is counted


def predict(cfg: PredictConfig) -> Path:
    """Write ``scores.csv``, ``overlays/``, ``index.html`` and, where files could not be read,
    ``unreadable.csv``; returns the folder.

    Tables and page appear whole, when all images are scored.

    Raises:
        UserError: no detector, no image, or none that can be read.
    """
    progress = Progress(quiet=not cfg.progress)
    out = RunDirectory(Path(cfg.output))
    if (out.path / RESULT).exists():
        raise UserError(f"output = {cfg.output}: the folder of a training run; use another one")
    pixels.limit.set(cfg.max_pixels)
    files, base, unreadable = named_images(cfg.input, out.path / OVERLAYS)
    detector = Detector.load(cfg.checkpoint, device=cfg.device, weights=cfg.backbone.weights)
    metadata = detector.metadata
    progress.say(f"    detector  {metadata.run} · {metadata.backbone}")
    if metadata.map_range is None and cfg.overlays != "none":
        progress.say(f"        note  the {metadata.head} head has no anomaly maps: no overlays")

    rows: list[tuple[str, ...]] = []
    page = PredictionPage(metadata, cfg.thumbnails)
    notes: list[str] = []
    with torch_threads(cores()), progress.bar("images", len(files)) as bar:
        for file, found in zip(files, detector.stream(files, cfg.batch_size), strict=True):
            bar.advance()
            if isinstance(found, BadImage):
                unreadable.append(found)
                continue
            score, limit, z = map(repr, (found.score, metadata.threshold, found.robust_z))
            rows.append((found.name, score, limit, found.verdict, z))
            name = file.relative_to(base)
            page.add(found, name, _write_overlay(found, name, metadata, cfg, out.path, notes))
    if not rows:
        raise UserError(f"{first(unreadable)}; no image of input = {cfg.input} can be read")
    _write_unreadable(out, unreadable)
    out.write_text("index.html", page.page(cfg.input, unreadable))
    out.write_csv("scores.csv", HEADER, rows)
    _say_results(progress, out.path, rows, unreadable, notes)
    return out.path


def named_images(given: str, earlier: Path) -> tuple[list[Path], Path, list[BadImage]]:
    """``find_images`` without what an earlier prediction wrote, where the output lies in the input;
    those whose names no table could hold are apart."""
    files, base = find_images(given, skip=earlier)
    wrong = [
        BadImage(Path(printed(str(file))), NO_NAME) for file in files if not writable(str(file))
    ]
    return [file for file in files if writable(str(file))], base, wrong


def first(several: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    return f"{several[0]}" + (f" (and {len(several) - 1} more)" if len(several) > 1 else "")


def _write_overlay(
    found: Prediction,
    name: Path,
    metadata: DetectorMetadata,
    cfg: PredictConfig,
    folder: Path,
    notes: list[str],
) -> Path | None:
    """The image beside its map, under the image's own name; its path in ``folder`` if written.

    What keeps this one picture from being written becomes a note: the scores are there without it.

    Raises:
        OSError: the disk takes no more, or nothing at all.
    """
    drawn = cfg.overlays == "all" or (cfg.overlays == "flagged" and found.flagged)
    if found.map is None or metadata.map_range is None or not drawn:
        return None
    # Behind the image's own suffix: a.png and a.jpg may lie in one folder.
    inside = Path(OVERLAYS, name.parent, shortened(f"{name.name}.jpg"))
    pixels = side_by_side(found.image, found.map, *metadata.map_range)
    try:
        with atomic(folder / inside) as aside:
            Image.fromarray(pixels).save(aside, quality=90)
    except OSError as error:
        if error.errno in FULL:
            raise
        notes.append(f"no overlay of {name}: {reason_of(error)}")
        return None
    return inside


def _write_unreadable(out: RunDirectory, unreadable: Sequence[BadImage]) -> None:
    if unreadable:
        lines = [(str(e.path), e.reason) for e in unreadable]
        out.write_csv(UNREADABLE, ("path", "reason"), lines)
    else:  # of an earlier prediction
        (out.path / UNREADABLE).unlink(missing_ok=True)


def _say_results(
    progress: Progress,
    folder: Path,
    rows: Sequence[tuple[str, ...]],
    unreadable: Sequence[BadImage],
    notes: Sequence[str],
) -> None:
    if notes:
        progress.say(f"        note  {first(notes)}")
    flagged, threshold = sum(row[3] == "flagged" for row in rows), float(rows[0][2])
    progress.say(
        f"     verdict  {flagged} of {len(rows)} images flagged, their score is above "
        f"{threshold:.4g}"
    )
    for error in unreadable[:SHOWN]:
        progress.say(f"  unreadable  {error}")
    if unreadable:
        progress.say(f"  unreadable  {len(unreadable)} in all, see {folder / UNREADABLE}")
    progress.say(f"      scores  {folder / 'scores.csv'}")
    progress.say(f"        page  {folder / 'index.html'}")
