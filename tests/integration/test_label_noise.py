"""Label noise as a user meets it: asked for, reported, recorded, and rebuilt elsewhere."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rad_lightning.data.splits import file_hashes
from support import SMALL, SMALL_SYNTHETIC, Cli, one_error, only_run, result_of, rows_of

pytestmark = pytest.mark.slow
SYNTHETIC = (*SMALL_SYNTHETIC, "data.test_images_per_defect=2")


def result_in(folder: str) -> dict[str, Any]:
    return result_of(only_run(folder))


def manifest_in(folder: str) -> list[dict[str, str]]:
    return rows_of(only_run(folder) / "manifest.csv")


def copied_images(tmp_path: Path) -> Path:
    """The embedded images as a dataset of the user's own, elsewhere."""
    (tree,) = (Path("outputs/cache/synthetic")).iterdir()
    return Path(shutil.copytree(tree, tmp_path / "elsewhere"))


def test_noise_is_printed_recorded_and_reported(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SYNTHETIC, "noise=replace", "noise.ratio=0.5", "output=a") == 0
    out = capsys.readouterr().out
    assert "replace: 50 % requested, 50 % achieved = 3 of 6 training images" in " ".join(
        out.split()
    )
    result = result_in("a")
    assert result["noise"]["achieved"] == 0.5 and result["noise"]["of"] == 6
    assert result["images"] == {"injected": 3, "pool": 2, "test": 8, "train": 3, "unused": 3}
    assert 0 <= result["metrics"]["train_suspect_auroc"] <= 1
    rows = manifest_in("a")
    assert Counter(r["role"] for r in rows) == result["images"]
    assert all(r["label"] == "1" for r in rows if r["role"] == "injected")
    roles = Counter(r["role"] for r in rows_of(only_run("a") / "scores.csv"))
    assert roles == {"test": 8, "train": 3, "injected": 3}


@pytest.mark.parametrize("source", ["real", "synthetic"])
def test_a_manifest_rebuilds_the_training_set_elsewhere(
    cli: Cli, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = ("noise=replace", "noise.ratio=0.5", f"noise.source={source}")
    assert cli(*SYNTHETIC, *noise, "output=a") == 0
    run = only_run("a")
    elsewhere = copied_images(tmp_path)
    again = (
        *SMALL,
        "data=mvtec",
        f"data.root={elsewhere}",
        "data.category=weave",
        "backbone.weights=untrained",
        "cache.dir=fresh_cache",
        "noise=manifest",
        f"noise.manifest={run / 'manifest.csv'}",
        "output=b",
    )
    assert cli(*again) == 0
    assert manifest_in("b") == manifest_in("a")
    first, second = result_in("a"), result_in("b")
    assert second["noise"]["source"] == source
    assert second["manifest_sha256"] == file_hashes([run / "manifest.csv"])[0]
    assert second["metrics"] == first["metrics"]
    assert second["noise"]["achieved"] == 0.5
    if source == "real":
        changed = next(r["path"] for r in manifest_in("a") if r["role"] == "injected")
        Image.new("RGB", (128, 128)).save(elsewhere / changed)
        assert cli(*again, "output=c") == 2
        error = capsys.readouterr().err
        assert changed in error and "not the image that" in error


def test_the_oracle_trains_without_what_was_injected(cli: Cli) -> None:
    noise = ("noise=replace", "noise.ratio=0.5")
    assert cli(*SYNTHETIC, *noise, "output=plain") == 0
    assert cli(*SYNTHETIC, *noise, "method=oracle_clean", "output=oracle") == 0
    assert manifest_in("plain") == manifest_in("oracle")
    assert result_in("plain")["threshold"] != result_in("oracle")["threshold"]
    # A run on the clean images of that very manifest is the same training.
    rows = manifest_in("plain")
    for row in rows:
        row["role"] = "unused" if row["role"] == "injected" else row["role"]
    with Path("clean.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    clean = ("noise=manifest", "noise.manifest=clean.csv", "method.holdout=0")
    assert cli(*SYNTHETIC, *clean, "output=clean") == 0
    shutil.rmtree("oracle")
    held = (*noise, "method=oracle_clean", "method.holdout=0")
    assert cli(*SYNTHETIC, *held, "output=oracle") == 0
    auroc = [result_in(name)["metrics"]["image_auroc"] for name in ("clean", "oracle")]
    assert auroc[0] == auroc[1]


def test_ksdd2_draws_from_its_own_training_defects(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, good, bad in (("train", 8, 3), ("test", 4, 3)):
        folder = tmp_path / "ksdd2" / split
        folder.mkdir(parents=True)
        for number in range(good + bad):
            pixels = rng.integers(100, 140, (96, 48, 3), dtype=np.uint8)
            mask = np.zeros((96, 48), np.uint8)
            if number >= good:
                pixels[20:40, 10:30], mask[20:40, 10:30] = 0, 255
            name = f"{len(list(folder.iterdir())):05}"
            Image.fromarray(pixels).save(folder / f"1{name}.png")
            Image.fromarray(mask).save(folder / f"1{name}_GT.png")
    data = ("data=ksdd2", f"data.root={tmp_path / 'ksdd2'}", "backbone.weights=untrained")
    noise = ("noise=replace", "noise.ratio=0.5")
    assert cli(*data, *SMALL, *noise) == 0
    rows = manifest_in("outputs/runs")
    drawn = [r["path"] for r in rows if r["role"] == "injected"]
    assert len(drawn) == 3 and all(p.startswith("train/") for p in drawn)
    assert Counter(r["role"] for r in rows)["test"] == 7  # its own test set, untouched


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("noise=replace", "noise.ratio=0.7"), "largest feasible one is noise.max_ratio = 0.5"),
        (("noise=add", "noise.ratio=1"), "largest feasible ratio is 0.833"),
        (("noise.ratio=0.1",), "does nothing with noise=none"),
        (("noise=manifest", "noise.manifest=gone.csv"), "gone.csv is not a file"),
        (("noise=manifest", "noise.manifest=binary.csv"), "binary.csv: not a CSV file in UTF-8"),
        (("noise=replase",), "noise=replase: choose one of add, manifest, none, pool_fraction, re"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], message: str
) -> None:
    Path("binary.csv").write_bytes(bytes(range(128, 256)))
    assert cli(*SYNTHETIC, *settings) == 2
    assert message in one_error(capsys)


def test_what_cannot_be_read_is_not_counted_as_injected(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SYNTHETIC, "noise=replace", "noise.ratio=0.5", "output=a") == 0
    elsewhere = copied_images(tmp_path)
    drawn = [r["path"] for r in manifest_in("a") if r["role"] == "injected"]
    (elsewhere / drawn[0]).write_bytes(b"no image")
    data = ("data=mvtec", f"data.root={elsewhere}", "data.category=weave")
    noise = ("noise=replace", "noise.ratio=0.5", "data.on_bad_image=skip", "output=b")
    assert cli(*SMALL, *data, "backbone.weights=untrained", *noise) == 0
    result = result_in("b")
    roles = Counter(r["role"] for r in manifest_in("b"))
    assert result["noise"]["injected"] == roles["injected"] == 2
    assert result["noise"]["of"] == 5 and result["noise"]["achieved"] == 0.4


@pytest.mark.parametrize(
    "settings",
    [
        ("method.holdout=0", "evaluation.train_images=0"),
        ("method=oracle_clean", "method.holdout=0", "evaluation.train_images=1"),
    ],
)
def test_the_threshold_never_lacks_images(cli: Cli, settings: tuple[str, ...]) -> None:
    for seed in range(3):
        assert cli(*SYNTHETIC, "noise=replace", "noise.ratio=0.5", f"seed={seed}", *settings) == 0


def test_an_oracle_with_nothing_left_to_learn_from_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = ("noise=replace", "noise.max_ratio=0.9", "noise.ratio=0.9", "noise.train_images=2")
    assert cli(*SYNTHETIC, *noise, "method=oracle_clean") == 2
    assert "all 2 training images are injected ones" in capsys.readouterr().err
