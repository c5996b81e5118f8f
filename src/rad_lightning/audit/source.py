"""Which images an audit ranks: those of a dataset, or those that a finished run trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RunDirectory, check_files
from rad_lightning.common.sealed import read_regular
from rad_lightning.config import AuditConfig, NoiseConfig, TrainConfig, from_yaml
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.samples import ANOMALOUS
from rad_lightning.data.splits import Roles

# With run=DIR the images and their features are the run's. What may be said beside it is where
# things lie now, and how the images are ranked.
OF_THE_RUN = ("seed", "data", "noise", "backbone", "head")
MOVED = ("data.root", "data.csv", "backbone.weights", "backbone.batch_size", "data.on_bad_image")
MOST_SETTINGS = 2**16  # bytes of a config.yaml; ours have 3 kB


def of_run(cfg: AuditConfig) -> AuditConfig:
    """``cfg`` with the images, roles, features and seed of the run that it names.

    Raises:
        UserError: no such run, or a setting that the run has already.
    """
    folder = Path(cfg.run or "")
    manifest = folder / "manifest.csv"
    if not (folder / "config.yaml").is_file() or not manifest.is_file():
        raise UserError(
            f"run={folder}: give the folder of a training run, with its config.yaml and "
            "manifest.csv"
        )
    for key in map(key_of, cfg.asked):
        if key.split(".")[0] in OF_THE_RUN and key not in MOVED:
            raise UserError(
                f"{key} comes from the run: with run=DIR, set only {', '.join(MOVED)} "
                "and the settings of the audit"
            )
    run = read_config(folder / "config.yaml")  # first: it bounds what is hashed
    check_files(RunDirectory(folder), ("config.yaml", "manifest.csv"))
    written = set(map(key_of, cfg.asked))
    data, backbone = run.data, run.backbone
    for name in ("root", "csv", "on_bad_image"):
        if f"data.{name}" in written:
            data = replace(data, **{name: getattr(cfg.data, name)})
    for name in ("weights", "batch_size"):
        if f"backbone.{name}" in written:
            backbone = replace(backbone, **{name: getattr(cfg.backbone, name)})
    found = replace(
        cfg,
        seed=run.seed,
        data=data,
        noise=NoiseConfig(mode="manifest", manifest=str(manifest)),
        backbone=backbone,
        head=run.head,
    )
    TrainConfig.check(found)
    return found


def key_of(override: str) -> str:
    """``"+data.root=DIR" -> "data.root"``."""
    return override.lstrip("+~").partition("=")[0]


def read_config(file: Path) -> TrainConfig:
    """The settings of a run, as plain values: nothing in the file is executed.

    Raises:
        UserError: not a configuration that this version writes.
    """
    try:
        return from_yaml(read_regular(file, MOST_SETTINGS).decode())
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def audited_rows(data: Dataset, noise: NoiseConfig) -> list[int]:
    """The rows of the images to rank: all that would be trained on.

    Where nothing says what is tested on (no split of the dataset's own, no manifest, no drawn
    noise), a training would take the normal images of its test set from the very same folder: those
    are ranked too.
    """
    rows = data.rows(*Roles.TRAINED)
    if noise.mode == "none" and not any(s.split for s in data.table.samples):
        tested = data.rows(*Roles.TESTED)
        rows += [row for row in tested if data.table.samples[row].label != ANOMALOUS]
    return sorted(rows)


def only(data: Dataset, rows: list[int]) -> Dataset:
    """The dataset of ``rows`` alone, all of them training images."""
    samples = tuple(data.table.samples[row] for row in rows)
    table = replace(data.table, samples=samples, mask_hashes={})  # no mask is read
    roles = tuple(
        data.roles[row] if data.roles[row] in Roles.TRAINED else Roles.TRAIN for row in rows
    )
    hashes = tuple(data.hashes[row] for row in rows)
    return Dataset(table, roles, hashes, data.contamination, data.reviews)


def cleaned_roles(
    data: Dataset, suspects: frozenset[str], unreadable: frozenset[str]
) -> tuple[str, ...]:
    """The roles of ``data`` in a training without the ``suspects`` (paths); ``Roles.SHARED`` ones
    are still tested on.

    Raises:
        UserError: nothing would be left to train on, or to test on.
    """
    found = []
    for sample, role in zip(data.table.samples, data.roles, strict=True):
        if sample.path in suspects:
            role = Roles.TEST if role == Roles.SHARED else Roles.UNUSED
        elif sample.path in unreadable:
            role = Roles.UNREADABLE
        found.append(role)
    for needed, name in ((Roles.TRAINED, "train"), (Roles.TESTED, "test")):
        if not set(needed) & set(found):
            raise UserError(
                f"apply: without {len(suspects)} suspects no image is left to {name} on; "
                "use a lower count=K, or a higher data.test_fraction"
            )
    return tuple(found)
