"""Everything of one training but the method: ``conf/{data,noise,backbone,head,...}``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rad_lightning.common.errors import UserError
from rad_lightning.config.fields import setting
from rad_lightning.config.method import MethodConfig

VIEWS = ("identity", "hflip", "vflip", "rot180", "rot90", "rot270")


@dataclass
class DataConfig:
    """Which images, at which size, and how they are divided (docs/noise.md)."""

    name: str = setting()  # of a layout in data/layouts, or synthetic
    root: str | None = setting(None, numbers=False)
    category: str | None = setting(None)
    size: list[int] = setting([256, 256], low=32, high=4096)  # height, width
    fit: str = setting("stretch", choices=("stretch", "pad"))
    # Value of white in 16-bit files, 4095 of a 12-bit camera; None: found in the training images.
    white: int | None = setting(None, low=1, high=65535)
    split: str = setting("group", choices=("group", "published"))
    split_seed: int | None = setting(None, low=0)  # None: the run's seed
    test_fraction: float = setting(0.2, above=0.0, high=0.9)
    pool_fraction: float | None = setting(None, low=0.0, high=0.9)  # None: what the noise needs
    pool_normals: str = setting("drop", choices=("drop", "train"))
    # Of an image at most; a larger one cannot be read. None: 178 956 970. In the run key if set.
    max_pixels: int | None = setting(None, low=1, numbers=False)
    on_bad_image: str = setting("error", choices=("error", "skip"))
    csv: str | None = setting(None, numbers=False)
    normal_dir: str | None = setting(None)
    abnormal_dir: str | None = setting(None)
    # The embedded set only: images generated per category.
    train_images: int = setting(48, low=2)
    test_normal_images: int = setting(24, low=1)
    test_images_per_defect: int = setting(8, low=1)


@dataclass
class NoiseConfig:
    """Which anomalous images are put among the training images (docs/noise.md).

    ``ratio`` is a share of: the training images (``replace``), the normal training images
    (``add``), all anomalous images of the dataset (``pool_fraction``).
    """

    mode: str = setting("none", choices=("none", "replace", "add", "pool_fraction", "manifest"))
    ratio: float = setting(0.0, low=0.0, high=1.0)
    max_ratio: float = setting(0.5, above=0.0, high=0.9)  # replace: sizes the training set
    train_images: int | None = setting(None, low=2)  # replace: None, the most that max_ratio allows
    source: str = setting("real", choices=("real", "synthetic"))
    stratify: bool = setting(True)
    clustered: bool = setting(False)
    defect_type: str | None = setting(None)  # clustered: which one; None, the most frequent
    overlap: bool = setting(False)
    seed: int | None = setting(None, low=0)  # None: the run's seed
    # Its content is in the run key by way of the images and roles that it gives.
    manifest: str | None = setting(None, numbers=False)

    @property
    def reserves_pool(self) -> bool:
        """Whether anomalies must be set aside before the test set is frozen."""
        drawn = self.mode in ("replace", "add", "pool_fraction")
        return drawn and self.source == "real" and not self.overlap

    def check(self) -> None:
        """Refuse settings that would do nothing, or that contradict each other."""
        if self.mode in ("none", "manifest") and self.ratio:
            raise UserError(
                f"noise.ratio = {self.ratio:g} does nothing with noise={self.mode}: use it with "
                "noise=replace, noise=add or noise=pool_fraction"
            )
        if (self.mode == "manifest") != (self.manifest is not None):
            raise UserError("noise=manifest and noise.manifest=FILE need each other")
        if self.mode == "replace" and self.ratio > self.max_ratio:
            raise UserError(
                f"noise.ratio = {self.ratio:g}: the largest feasible one is noise.max_ratio = "
                f"{self.max_ratio:g}; raising that makes the training set of every level smaller"
            )
        if self.train_images is not None and self.mode != "replace":
            raise UserError(f"noise.train_images is not read by noise={self.mode}: use replace")
        if self.defect_type is not None and not self.clustered:
            raise UserError("noise.defect_type is read with noise.clustered=true only")
        if self.source == "synthetic" and (self.overlap or self.mode == "pool_fraction"):
            named = "noise.overlap=true" if self.overlap else "noise=pool_fraction"
            raise UserError(f"{named} needs real anomalies: it cannot go with source=synthetic")


# None that names a file or a class: the settings may come with a folder from elsewhere.
MODEL_OPTIONS = (
    "img_size", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "patch_size",
    "window_size", "output_stride",
)  # fmt: skip


@dataclass
class BackboneConfig:
    """A frozen timm model. ``weights``: ``hub``, ``untrained`` (seeded demo), a local file, or
    ``auto`` (``untrained`` for the embedded synthetic images, which need no download, else
    ``hub``)."""

    name: str = setting("resnet18")
    out_indices: list[int] | None = setting(None, low=0)  # None: those of the head, LAYERS
    # Further arguments of timm.create_model, of those in MODEL_OPTIONS: {img_size: 256} for a ViT.
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = setting("auto", numbers=False)
    batch_size: int = setting(16, low=1, numbers=False)
    precision: str = setting("float32", choices=("float32", "bfloat16"))


# patch: the finest layer shows texture more than defects (experiments/base); pooled: the paper's.
LAYERS = {"patch": [2, 3], "pooled": [1, 2, 3]}
UNTRAINED_LAYERS = [1, 2, 3]  # the deeper random filters are, the less they say


@dataclass
class HeadConfig:
    """What is a sample of the flow, and the flow itself (shared by both heads)."""

    name: str = setting(choices=("patch", "pooled"))
    channels: int = setting(64, low=2)  # D: whitened principal components that the flow sees
    blocks: int = setting(8, low=1)
    hidden: int = setting(128, low=1)
    clamp: float = setting(1.0, above=0.0, high=10.0)
    # Whose mean is taken off the features: all positions', or each one's own, where every image
    # shows the part in the same place.
    center: str = setting("global", choices=("global", "position"))
    views: list[str] = setting(["identity"], choices=VIEWS)
    score: str = setting("nll", choices=("nll", "latent"))
    # Noise on the flow's training samples, whose own standard deviation is 1 in every dimension; it
    # falls with the fourth root of the number of training images.
    jitter: float = setting(0.4, low=0.0, high=10.0)
    # patch
    local_pool: int = setting(3, low=1)
    top_fraction: float = setting(0.03, above=0.0, high=1.0)
    position_dims: int = setting(16, low=0, high=1024)
    # pooled
    scales: list[float] = setting([1.0], above=0.0, high=4.0)


@dataclass
class TrainerConfig:
    """Where the training runs; handed to ``pytorch_lightning.Trainer``."""

    accelerator: str = setting("auto", numbers=False)
    devices: Any = setting(1)  # each process draws its own batches: it changes the numbers
    num_nodes: int = setting(1, low=1)
    strategy: str = setting("auto", numbers=False)
    precision: str = setting("32-true", choices=("32-true", "64-true"))
    # Of a CPU, for everything; None: all cores for the backbone, one for a flow of the usual size.
    threads: int | None = setting(None, low=1, high=1024, numbers=False)
    checkpoint_every: int = setting(200, low=1, numbers=False)


@dataclass
class LoggerConfig:
    """Where curves and metrics go beside the run's own files. ``wandb``: into a Weights & Biases
    run in the run directory, which leaves the machine only with ``mode=online``."""

    name: str = setting("wandb", choices=("wandb", "csv"), numbers=False)
    mode: str = setting("offline", choices=("offline", "online"), numbers=False)
    project: str = setting("rad_lightning", numbers=False)
    entity: str | None = setting(None, numbers=False)
    group: str | None = setting(None, numbers=False)  # None: the name of the output folder
    tags: list[str] = setting(["rad_lightning"], numbers=False)
    images: bool = setting(True, numbers=False)  # false: no picture of an image in the W&B run


@dataclass
class CacheConfig:
    """Features on disk. ``dir`` is shared by all runs; ``enabled=false`` computes in memory."""

    enabled: bool = setting(True, numbers=False)
    dir: str = setting("outputs/cache", numbers=False)


@dataclass
class EvaluationConfig:
    """Threshold from the training scores, and which metrics and pictures are made."""

    threshold: str = setting("robust", choices=("robust", "quantile"))
    quantile: float = setting(0.95, above=0.0, high=1.0)
    robust_z: float = setting(3.0, above=0.0, high=1e6)
    pixel: bool = setting(True)
    # Training images scored beside the held-out ones; None: all. Scoring all can take as long as
    # scoring the test set, which a sweep pays for in every cell.
    train_images: int | None = setting(None, low=0)
    pictures: int = setting(3, low=0, numbers=False)  # of the best, median, worst each; 0: none
    worst: int = setting(4, low=0, numbers=False)  # thumbnails of the worst images, for reports


@dataclass
class ReviewConfig:
    """A simulated person who judges the most suspicious training images by their true labels, one
    of each physical part first, to measure what verdicts are worth; a share of ``error`` is wrong.
    """

    budget: int = setting(0, low=0)  # images; more than there are: all
    error: float = setting(0.0, low=0.0, high=1.0)


@dataclass
class TrainConfig:
    """Everything of one training run."""

    seed: int = setting(0, low=0, high=2**32 - 1)
    output: str = setting("outputs/runs", numbers=False)
    resume: bool = setting(True, numbers=False)
    progress: bool = setting(True, numbers=False)
    data: DataConfig = MISSING
    noise: NoiseConfig = MISSING
    backbone: BackboneConfig = MISSING
    head: HeadConfig = MISSING
    method: MethodConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    # verdicts.csv of the page of an audit; what it says is in the run key by way of the roles.
    verdicts: str | None = setting(None, numbers=False)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    # Published figures to show beside a sweep's own: {name: {noise ratio: percent}}.
    claims: dict[str, dict[str, float]] = field(default_factory=dict, metadata={"numbers": False})

    @property
    def layers(self) -> list[int]:
        """The backbone's feature maps that the head reads, as indices of timm."""
        given = self.backbone.out_indices
        usual = UNTRAINED_LAYERS if self.untrained else LAYERS[self.head.name]
        return usual if given is None else given

    @property
    def untrained(self) -> bool:
        """Whether the backbone has random weights: where they are asked for, and on the embedded
        images, which need no download."""
        weights = self.backbone.weights
        return weights == "untrained" or (weights == "auto" and self.data.name == "synthetic")

    def check(self) -> None:
        """Raise ``UserError`` at combinations that no single field can see."""
        self.noise.check()
        self.method.check()
        self._check_tasks()
        if self.review.budget and not self.method.trust.on:
            raise UserError(
                f"review.budget = {self.review.budget}: method={self.method.name} ranks nothing "
                "that could be judged; use a method with method.trust.source, such as robust"
            )
        if self.review.error and not self.review.budget:
            raise UserError(f"review.error = {self.review.error:g} needs review.budget > 0")
        sides = self.data.size
        if len(sides) != 2:
            raise UserError(f"data.size = {sides}: give two numbers, [height, width]")
        turned = {"rot90", "rot270"} & set(self.head.views)
        if turned and sides[0] != sides[1]:
            raise UserError(
                f"head.views has {sorted(turned)[0]} but data.size = {sides} is not square: "
                "choose from identity, hflip, vflip, rot180"
            )
        for key in self.backbone.options:
            if key not in MODEL_OPTIONS:
                known = ", ".join(MODEL_OPTIONS)
                raise UserError(f"backbone.options.{key}: no such option; choose from {known}")
        indices = self.backbone.out_indices
        if indices is not None and indices != sorted(set(indices)):
            raise UserError(f"backbone.out_indices = {indices}: give numbers in rising order")
        if self.head.local_pool % 2 == 0:
            raise UserError(f"head.local_pool = {self.head.local_pool}: use an odd number")
        if self.head.position_dims % 4:
            raise UserError(f"head.position_dims = {self.head.position_dims}: use a multiple of 4")

    def _check_tasks(self) -> None:
        meta, l2 = self.method.meta, self.method.l2
        if meta.on and self.method.batch_size < 2 * meta.tasks:
            raise UserError(
                f"method.batch_size = {self.method.batch_size}: use at least two samples for "
                f"each of the method.meta.tasks = {meta.tasks} tasks, {2 * meta.tasks} or more"
            )
        ranks = self.trainer.devices if isinstance(self.trainer.devices, int) else 1
        if l2.on and meta.on and l2.uncertainty == "ensemble_variance" and meta.tasks < 2 * ranks:
            raise UserError(
                f"method.meta.tasks = {meta.tasks}: method.l2.uncertainty='ensemble_variance' "
                f"compares the tasks of each process; use {2 * ranks} or more"
            )
        if l2.on and l2.uncertainty == "view_variance" and len(self.head.views) < 2:
            raise UserError(
                f"method.l2.uncertainty = 'view_variance' needs two views, head.views has "
                f"{self.head.views}"
            )
        if meta.on and (meta.adapted_blocks or 0) > self.head.blocks:
            raise UserError(
                f"method.meta.adapted_blocks = {meta.adapted_blocks}: use a value <= "
                f"head.blocks = {self.head.blocks}"
            )
