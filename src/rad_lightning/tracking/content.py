"""What a finished training puts into its W&B run, all of it out of its result and its files.

Flat keys in the summary, which a dashboard sorts by; pictures; histograms of the test scores; the
one-row table ``cell``, which charts over many runs read; the suspects; and the files themselves, as
an artifact.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from rad_lightning.common.histograms import bin_edges, histogram_end
from rad_lightning.common.runs import RunDirectory
from rad_lightning.common.tables import read_rows
from rad_lightning.tracking.guard import Curves

FILES = ("config.yaml", "manifest.csv", "scores.csv", "suspects.csv")
FACTS = ("dataset", "category", "backbone", "head", "method", "seed")
FINAL = ("held_out", "held_out_nll", "uncertainty", "lambda", "peak_memory_mib", "manifest_sha256")
LABELS = {"0": "normal", "1": "anomalous", "-1": "unlabelled"}
SUSPECTS = 100  # rows of the table; the artifact holds all
BINS = 32


def log_result(logger: Curves, run: RunDirectory, result: dict[str, Any], images: bool) -> None:
    """Send everything about a finished training to its W&B run.

    Args:
        result: what ``result.json`` will hold.
        images: whether pictures of images go along.
    """
    logger.guard(lambda: _log_result(logger.run, run, result, images))


def _log_result(started: Any, run: RunDirectory, result: dict[str, Any], images: bool) -> None:
    with redirect_stderr(io.StringIO()):  # thumbnails of several sizes, files that go at once
        started.log(
            {
                **score_histograms(read_csv(run.path / "scores.csv"), result["threshold"]["value"]),
                **(pictures(run.path, result["worst"]) if images else {}),
                **tables(run.path, result),
                **point(result),
            }
        )
        # Behind the history, whose last values W&B would otherwise put in their place.
        started.summary.update(summary(result))
        save_manifest(started, run.path)
        started.log_artifact(artifact(run.path))


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result.json`` as flat keys: ``image_auroc``, ``noise/achieved``, ``method``, ``seed``..."""
    trust = result.get("trust", {})
    return {
        **{key: result[key] for key in FACTS},
        **{key: result[key] for key in FINAL if key in result},
        **result["metrics"],
        **{f"image_auroc/{k}": v for k, v in result["per_defect_image_auroc"].items()},
        **{f"noise/{k}": v for k, v in result["noise"].items() if not isinstance(v, dict)},
        **{f"trust/{k}": v for k, v in trust.items() if not isinstance(v, dict)},
        **{f"seconds/{k}": v for k, v in result["seconds"].items()},
        "threshold": result["threshold"]["value"],
    }


def point(result: Mapping[str, Any]) -> dict[str, float]:
    """One point of a curve over many runs: the image AUROC at this run's label noise."""
    value = result["metrics"].get("image_auroc")
    noise = result["noise"]["requested"]
    return {} if value is None else {"image_auroc": value, "noise/requested": noise}


def score_histograms(rows: Iterable[Mapping[str, str]], threshold: float) -> dict[str, Any]:
    """``scores/normal``, ``scores/anomalous``, ...: test scores by true label, in common bins.

    Scores far beyond the threshold are counted in the last bin: they have no natural scale.
    """
    by_label: dict[str, list[float]] = {}
    for row in rows:
        if row["role"] == "test":
            by_label.setdefault(LABELS[row["label"]], []).append(float(row["score"]))
    if not by_label:
        return {}
    low = min(map(min, by_label.values()))
    end = histogram_end(low, threshold)
    shown = {name: np.minimum(values, end) for name, values in by_label.items()}
    edges = bin_edges(np.concatenate(list(shown.values())), BINS)
    return {
        f"scores/{name}": wandb.Histogram(np_histogram=np.histogram(values, edges))
        for name, values in shown.items()
    }


def pictures(folder: Path, worst: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The pictures that a run has drawn, under one key each."""
    found: dict[str, list[Any]] = {
        "pictures/worst": [
            wandb.Image(str(folder / item["file"]), caption=caption(item)) for item in worst
        ]
    }
    for key, names in {
        "pictures/overlays": ["overlays_worst", "overlays_median", "overlays_best"],
        "pictures/histogram": ["histogram"],
        "pictures/curves": ["curves"],
    }.items():
        files = [folder / f"{name}.png" for name in names]
        found[key] = [wandb.Image(str(f), caption=f.stem) for f in files if f.is_file()]
    return {key: images for key, images in found.items() if images}


def caption(item: Mapping[str, Any]) -> str:
    """What a thumbnail of ``result.json``'s ``worst`` shows, in a line."""
    verdict = "flagged" if item["flagged"] else "passed"
    return f"{item['path']} ({item['defect_type']}): {verdict}, margin {item['margin']:g}"


def tables(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """``cell``: a row that says where in a sweep this run stands and what it reached; ``suspects``:
    the most suspicious training images, where the method has ranked them."""
    cell = {
        **{key: result[key] for key in ("dataset", "category", "head", "method", "seed")},
        "noise_mode": result["noise"]["mode"],
        "noise": float(result["noise"]["requested"]),
        "noise_achieved": float(result["noise"]["achieved"]),
        "image_auroc": result["metrics"].get("image_auroc"),
    }
    found = {"cell": wandb.Table(columns=list(cell), data=[list(cell.values())])}
    suspects = folder / "suspects.csv"
    if suspects.is_file():
        rows = [
            [row["path"], float(row["suspicion"]), row["suspect"] == "1", row["role"]]
            for row in read_csv(suspects)[:SUSPECTS]
        ]
        columns = ["path", "suspicion", "suspect", "role"]
        found["suspects"] = wandb.Table(columns=columns, data=rows)
    return found


def artifact(folder: Path) -> Any:
    """The run's settings, images and scores as an artifact of type ``run-files``.

    It names the files where they lie, without a copy: they are read when the run is sent.
    """
    found = wandb.Artifact(re.sub(r"[^\w.-]", "_", folder.name)[:128], type="run-files")
    for file in (folder.resolve() / name for name in FILES):
        if file.is_file():
            found.add_file(str(file), name=file.name, policy="immutable", skip_cache=True)
    return found


def save_manifest(started: Any, folder: Path) -> None:
    """A copy of the manifest among the W&B run's own files."""
    target = Path(started.dir) / "manifest.csv"
    shutil.copyfile(folder / "manifest.csv", target)
    started.save(str(target), base_path=started.dir, policy="now")


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(read_rows(lines))
