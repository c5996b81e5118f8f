"""What the other commands read, one dataclass each, with ``conf/COMMAND.yaml`` on top."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from omegaconf import MISSING

from rad_lightning.common.errors import UserError
from rad_lightning.config.fields import faults, number_fields, number_types, replaced, setting
from rad_lightning.config.method import L2Config, MethodConfig
from rad_lightning.config.run import CacheConfig, DataConfig, HeadConfig, TrainConfig


@dataclass
class TuneRange:
    """Values that a study may give to the setting ``key``: ``low <= x <= high``, drawn evenly,
    with ``log`` evenly in log x; with ``int`` whole numbers only."""

    key: str = MISSING
    low: float = MISSING
    high: float = MISSING
    log: bool = False
    int: bool = False

    def check(self) -> None:
        """Raise ``UserError`` at a range that holds nothing, or that its setting cannot take."""
        types = tunable()
        if self.key not in types:
            raise UserError(f"{self.key!r} cannot be tuned: choose one of {', '.join(types)}")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"low = {self.low:g}, high = {self.high:g}: use finite numbers")
        if self.low >= self.high:
            raise UserError(f"low = {self.low:g}: use a value < high = {self.high:g}")
        if self.log and self.low <= 0:
            raise UserError(f"low = {self.low:g} with log=true: use a value > 0")
        whole = types[self.key] == "int"
        if self.int != whole:
            numbers = "whole numbers" if whole else "any number"
            raise UserError(f"{self.key} takes {numbers}: set int={str(whole).lower()}")
        if whole and (self.low % 1 or self.high % 1):
            raise UserError(f"low = {self.low:g}, high = {self.high:g}: use whole numbers")


@dataclass
class TuneConfig(TrainConfig):
    """A study: ``trials`` trainings whose settings are drawn from ``space``, the rest as given."""

    trials: int = setting(30, low=1, numbers=False)  # finished ones, earlier calls' included
    study: str = setting("outputs/tune", numbers=False)  # its folder
    space: dict[str, TuneRange] = field(default_factory=dict, metadata={"numbers": False})

    def check(self) -> None:
        """Raise ``UserError`` at what no trial could do, besides what a training refuses."""
        super().check()
        if not self.method.holdout:
            raise UserError(
                "method.holdout = 0: trials are compared on held-out images, use a value > 0"
            )
        if self.trainer.num_nodes > 1:
            raise UserError(
                f"trainer.num_nodes = {self.trainer.num_nodes}: a trial runs on one machine; "
                "others may run the same command on the same study"
            )
        if not self.space:
            raise UserError("space = {}: give at least one NAME: {key, low, high}")
        known: dict[str, str] = {}
        for name, values in self.space.items():
            try:
                values.check()
                if (other := known.setdefault(values.key, name)) != name:
                    raise UserError(f"{values.key} is the key of space.{other} too")
                self._check_ends(values)
            except UserError as error:
                raise UserError(f"space.{name}: {error}") from None

    def _check_ends(self, values: TuneRange) -> None:
        """Both ends of a range are settings that a training accepts, and that it tells apart."""
        ends = [self.trial({values.key: end}) for end in (values.low, values.high)]
        unread = unread_penalty(self.method.l2, values.key)
        if unread or number_fields(ends[0]) == number_fields(ends[1]):
            raise UserError(
                f"{values.key} does nothing with method.l2.form={self.method.l2.form} "
                f"method.meta.source={self.method.meta.source}"
            )

    def trial(self, values: Mapping[str, float]) -> TrainConfig:
        """The training with ``values`` (dotted key -> number), checked like a user's own."""
        cfg = TrainConfig(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)}
        )
        types = tunable()
        for key, value in values.items():
            cfg = replaced(cfg, key, int(value) if types[key] == "int" else float(value))
        for fault in faults(cfg):
            raise UserError(fault)
        cfg.check()
        return cfg


def tunable() -> dict[str, str]:
    """The settings that a study may choose, each ``"int"`` or ``"float"``.

    Only those that leave the held-out samples as they are: likelihoods of other samples, say of
    more channels, say nothing about which settings are better.
    """
    found = {f"method.{key}": kind for key, kind in number_types(MethodConfig).items()}
    del found["method.holdout"]
    head = number_types(HeadConfig)
    return found | {f"head.{key}": head[key] for key in ("blocks", "hidden", "clamp")}


def unread_penalty(l2: L2Config, key: str) -> bool:
    """Whether ``key`` is a strength of the penalty that its form does not look at."""
    read = {
        "constant": ("lambda_0",),
        "affine": ("lambda_0", "gamma"),
        "log_linear": ("lambda_min", "lambda_max"),
    }
    strengths = {f"method.l2.{name}" for names in read.values() for name in names}
    return key in strengths - {f"method.l2.{name}" for name in read.get(l2.form, ())}


@dataclass
class AuditConfig(TrainConfig):
    """Rank training images by how likely they are mislabelled: ``method.trust`` says how, the rest
    which images, read how; or ``run``, whose images they are."""

    run: str | None = setting(None, numbers=False)  # a training run's folder
    apply: str | None = setting(None, numbers=False)  # the cleaned manifest to write
    count: int | None = setting(None, low=0, numbers=False)  # suspects; None: as estimated
    shown: int = setting(24, low=0, high=200, numbers=False)  # images on the page
    # What the user typed: it tells a setting that contradicts the run's from a default.
    asked: list[str] = field(default_factory=list, metadata={"numbers": False, "empty": True})

    def check(self) -> None:
        """Raise ``UserError`` at a method that ranks nothing, or that reads the true labels."""
        if self.run is None:  # else the run's settings count, once they are read
            super().check()
        trust = self.method.trust
        if not trust.on:
            raise UserError(
                f"method={self.method.name} does not rank training images: use a method with "
                "method.trust.source, such as method=robust"
            )
        if trust.known or trust.known_rate or self.method.clean_only:
            raise UserError(
                f"method={self.method.name} reads which images were injected: an audit needs a "
                "method without method.trust.known, known_rate and method.clean_only"
            )


@dataclass
class ReportConfig:
    """Tables, plots and the page of a sweep, from the result files in its folder; or whether
    finished runs are what they say."""

    sweep: str | None = None
    verify: str | None = None  # a run's folder, or one of runs: check hashes and metrics instead
    metric: str = "image_auroc"
    output: str | None = None  # None: the folder report/ in the sweep's
    progress: bool = True

    def check(self) -> None:
        """Raise ``UserError`` at no folder, or at two."""
        if (self.sweep is None) == (self.verify is None):
            raise UserError("report needs either sweep=DIR or verify=DIR")


@dataclass
class PrepareConfig:
    """Look at a dataset before training on it; unpack it first when ``archive`` is given."""

    seed: int = setting(0, low=0)
    archive: str | None = None  # zip or tar to unpack into data.root first
    progress: bool = True
    cache: CacheConfig = field(default_factory=CacheConfig)
    data: DataConfig = MISSING

    def check(self) -> None:
        """Nothing to compare: the data set is looked at when it is read."""


@dataclass
class DashboardsConfig:
    """A W&B workspace and report over the runs of ``entity``/``project``, or of one sweep of it."""

    entity: str | None = None  # user or team; None: the account's default one
    project: str = "rad_lightning"
    sweep: str | None = None  # the name of the sweep's folder: W&B's group; None: all runs
    dry_run: bool = False  # say what would be created, without a network
    progress: bool = True

    def check(self) -> None:
        """Raise ``UserError`` at names that W&B has no place for."""
        for key, value in (("entity", self.entity), ("project", self.project)):
            if value is not None and not re.fullmatch(r"[\w.-]+", value):
                raise UserError(f"{key} = {value!r}: use only letters, digits, '_', '-' and '.'")
        if re.search(r"['\"\\]", self.sweep or ""):  # W&B's filters do not escape them
            raise UserError(f"sweep = {self.sweep}: use a name without quotes")


@dataclass
class WeightsConfig:
    """The backbone's weights of a finished run, where they lie elsewhere by now."""

    weights: str | None = None  # None: what the run's settings name


@dataclass
class PredictConfig:
    """Score images with a trained detector."""

    checkpoint: str = MISSING  # a run directory, its last.ckpt, or an exported .onnx file
    input: str = MISSING  # a folder with all below it, a file, or a pattern like photos/*.png
    output: str = "outputs/predict"
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    batch_size: int = setting(8, low=1)
    overlays: str = setting("all", choices=("all", "flagged", "none"))
    thumbnails: int = setting(300, low=0)  # images on the page, those of the highest scores
    max_pixels: int | None = setting(None, low=1)  # of an image at most; None: 178 956 970
    progress: bool = True
    backbone: WeightsConfig = field(default_factory=WeightsConfig)

    def check(self) -> None:
        """Nothing to compare: files are looked at when they are read."""


@dataclass
class ExportConfig:
    """Write a trained detector as one file that needs nothing of this package."""

    checkpoint: str = MISSING  # a run directory or its last.ckpt
    output: str = "outputs/export"
    format: str = setting("onnx", choices=("onnx", "torch"))
    input: str | None = None  # images to compare both on; None: those of the run
    progress: bool = True
    cache: CacheConfig = field(default_factory=CacheConfig)
    backbone: WeightsConfig = field(default_factory=WeightsConfig)

    def check(self) -> None:
        """Nothing to compare: files are looked at when they are read."""
