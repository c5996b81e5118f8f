"""The configuration: one dataclass per group of ``conf/``, checked before anything runs.

Fields carry what they accept, so that the YAML files, the checks and the error messages cannot
disagree. ``setting(..., numbers=False)`` marks a field that changes how a run is done but none of
its numbers; such fields stay out of the run key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from rad_lightning.errors import UserError

UNCERTAINTIES = (
    "generalisation_gap", "view_variance", "ensemble_variance", "tail_weight", "loss_covariance",
)  # fmt: skip
TASK_SOURCES = ("bootstrap", "pseudo_noise", "cross_category")
OF_A_BATCH = ("generalisation_gap", "tail_weight")
BETWEEN_TASKS = ("ensemble_variance", "loss_covariance")
VIEWS = ("identity", "hflip", "vflip", "rot180", "rot90", "rot270")


def setting(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
    numbers: bool = True,
) -> Any:
    """A dataclass field with the range it accepts: ``low <= x <= high``, ``x > above``."""
    rules = {"low": low, "high": high, "above": above, "choices": choices, "numbers": numbers}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rules)
    return field(default=default, metadata=rules)


@dataclass
class DataConfig:
    """Which images, at which size, and how they are divided (docs/method.md, "Splits")."""

    name: str = setting(choices=("synthetic", "mvtec", "ksdd2", "ksdd", "mtd", "folder", "csv"))
    root: str | None = setting(None, numbers=False)
    category: str | None = setting(None)
    size: list[int] = setting([256, 256], low=32, high=4096)  # height, width
    fit: str = setting("stretch", choices=("stretch", "pad"))
    split: str = setting("group", choices=("group", "published"))
    split_seed: int | None = setting(None, low=0)  # None: the run's seed
    test_fraction: float = setting(0.2, above=0.0, high=0.9)
    pool_fraction: float | None = setting(None, low=0.0, high=0.9)  # None: what the noise needs
    pool_normals: str = setting("drop", choices=("drop", "train"))
    on_bad_image: str = setting("error", choices=("error", "skip"))
    csv: str | None = setting(None, numbers=False)
    normal_dir: str | None = setting(None)
    abnormal_dir: str | None = setting(None)
    # The embedded set only: images generated per category.
    train_images: int = setting(48, low=2)
    test_normal_images: int = setting(24, low=1)
    test_images_per_defect: int = setting(8, low=1)

    def check(self) -> None:
        """Refuse a place that the chosen layout would not look at."""
        readers = {
            "root": ("mvtec", "ksdd2", "ksdd", "mtd", "folder", "csv"),
            "csv": ("csv",),
            "normal_dir": ("folder",),
            "abnormal_dir": ("folder",),
        }
        for key, names in readers.items():
            if getattr(self, key) is not None and self.name not in names:
                raise UserError(
                    f"data.{key} is not read by data={self.name}: accepted with "
                    f"{', '.join(f'data={n}' for n in names)}"
                )


@dataclass
class NoiseConfig:
    """Which anomalous images are put among the training images (docs/method.md, "Label noise").

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
                f"noise.ratio = {self.ratio:g} does nothing with noise={self.mode}: accepted with "
                "noise=replace, noise=add, noise=pool_fraction"
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


@dataclass
class BackboneConfig:
    """A frozen timm model. ``weights``: ``hub``, ``untrained`` (seeded demo), a local file, or
    ``auto`` (``untrained`` for the embedded synthetic images, which need no download, else
    ``hub``)."""

    name: str = setting("resnet18")
    out_indices: list[int] = setting([1, 2, 3], low=0)
    weights: str = setting("auto", numbers=False)
    batch_size: int = setting(16, low=1, numbers=False)
    precision: str = setting("float32", choices=("float32", "bfloat16"))


@dataclass
class HeadConfig:
    """What is a sample of the flow, and the flow itself (shared by both heads)."""

    name: str = setting(choices=("patch", "pooled"))
    channels: int = setting(64, low=2)  # D: whitened principal components that the flow sees
    blocks: int = setting(8, low=1)
    hidden: int = setting(128, low=1)
    clamp: float = setting(1.0, above=0.0, high=10.0)
    views: list[str] = setting(["identity"], choices=VIEWS)
    score: str = setting("nll", choices=("nll", "latent"))
    # patch
    local_pool: int = setting(3, low=1)
    top_fraction: float = setting(0.03, above=0.0, high=1.0)
    position_dims: int = setting(8, low=0)
    # pooled
    scales: list[float] = setting([1.0], above=0.0, high=4.0)


@dataclass
class L2Config:
    """The weight penalty ``λ(U)·R(θ)``, R the mean square of the weights (docs/method.md).

    ``constant``: λ = ``lambda_0``. ``affine``: λ = ``lambda_0``·(1 + ``gamma``·U).
    ``log_linear``: from ``lambda_min`` at U = 0 to ``lambda_max`` at U = 1, evenly in log λ.
    """

    form: str = setting("none", choices=("none", "constant", "affine", "log_linear"))
    uncertainty: str = setting("generalisation_gap", choices=UNCERTAINTIES)
    lambda_0: float = setting(1.0, low=0.0)
    gamma: float = setting(1.0, low=0.0)
    lambda_min: float = setting(100.0, above=0.0)
    lambda_max: float = setting(1e4, above=0.0)
    where: str = setting("both", choices=("inner", "outer", "both"))
    momentum: float = setting(0.9, low=0.0, high=0.999)  # of the running mean of U

    @property
    def on(self) -> bool:
        return self.form != "none"


@dataclass
class MetaConfig:
    """Bi-level training (MAML): adapt on the support of a task, be judged on its query.

    A step sees ``method.batch_size`` samples, shared evenly by ``tasks`` and, within a task, by
    support and query.
    """

    source: str = setting("none", choices=("none", *TASK_SOURCES))
    tasks: int = setting(4, low=1)  # of one step, over all processes together
    images: int = setting(8, low=1)  # that a support, and a query, is drawn from
    inner_steps: int = setting(1, low=1, high=20)  # K
    inner_lr: float = setting(0.1, above=0.0)  # α
    inner_clip: float = setting(1.0, low=0.0)  # largest norm of an inner gradient; 0: any
    learned_lr: str = setting("none", choices=("none", "per_parameter", "per_step"))
    order: int = setting(2, choices=(1, 2))
    adapted_blocks: int | None = setting(None, low=1)  # the last so many (ANIL); None: all
    deploy: str = setting("adapted", choices=("meta", "adapted"))
    deploy_support: str = setting("noisy", choices=("noisy", "trusted"))
    deploy_samples: int = setting(4096, low=1)
    trusted_fraction: float = setting(0.5, above=0.0, high=1.0)
    # pseudo_noise
    pseudo: str = setting("cutpaste", choices=("cutpaste", "perlin", "latent"))
    max_rate: float = setting(0.5, low=0.0, high=1.0)  # a task's rate is uniform below it
    # cross_category: meta-train on these, adapt on data.category
    categories: list[str] | None = setting(None)
    vectorised: bool = setting(True, numbers=False)  # tasks in one vmap, or one by one

    @property
    def on(self) -> bool:
        return self.source != "none"

    def check(self) -> None:
        """Refuse categories that nothing reads, or the lack of them."""
        if (self.source == "cross_category") != (self.categories is not None):
            raise UserError(
                "method.meta.source=cross_category and method.meta.categories=[A,B] need each other"
            )


@dataclass
class MethodConfig:
    """How the flow is fitted: ``name`` is what tables call it, the switches are what it does.

    All off, it is maximum likelihood on all training images, the lower end of every comparison;
    ``clean_only`` leaves the injected images out, which only the experimenter can know: the upper
    end. ``l2`` adds the adaptive penalty, ``meta`` the bi-level training.
    """

    name: str = setting("plain")
    clean_only: bool = setting(False)
    steps: int = setting(300, low=1)
    batch_size: int = setting(1024, low=1)
    lr: float = setting(2e-3, above=0.0)
    weight_decay: float = setting(0.0, low=0.0)
    schedule: str = setting("one_cycle", choices=("one_cycle", "cosine", "constant"))
    grad_clip: float = setting(1.0, low=0.0)
    holdout: float = setting(0.1, low=0.0, high=0.5)  # share of training images kept from the flow
    # Which step's parameters: the best on held-out training images, or the last, as papers do.
    keep: str = setting("best", choices=("best", "last"))
    l2: L2Config = field(default_factory=L2Config)
    meta: MetaConfig = field(default_factory=MetaConfig)

    def check(self) -> None:
        """Refuse settings that would do nothing, or that need each other."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.name):
            raise UserError(f"method.name = {self.name!r}: accepted are letters, digits and _.+-")
        self.meta.check()
        if not self.l2.on:
            return
        if self.l2.lambda_min > self.l2.lambda_max:
            raise UserError(
                f"method.l2.lambda_min = {self.l2.lambda_min:g}: accepted are values up to "
                f"method.l2.lambda_max = {self.l2.lambda_max:g}"
            )
        if self.l2.uncertainty == "generalisation_gap" and not self.holdout:
            raise UserError(
                "method.l2.uncertainty='generalisation_gap' needs held-out training images: "
                "accepted is method.holdout > 0"
            )
        if not self.meta.on and self.l2.uncertainty not in OF_A_BATCH:
            raise UserError(
                f"method.l2.uncertainty = {self.l2.uncertainty!r} needs method.meta.source: "
                f"accepted without are {', '.join(OF_A_BATCH)}"
            )
        if not self.meta.on and self.l2.where == "inner":
            raise UserError("method.l2.where = 'inner' needs method.meta.source")
        if self.meta.tasks == 1 and self.l2.uncertainty in BETWEEN_TASKS:
            raise UserError(
                f"method.l2.uncertainty = {self.l2.uncertainty!r} compares tasks: "
                "accepted is method.meta.tasks >= 2"
            )


@dataclass
class TrainerConfig:
    """Where the training runs; handed to ``pytorch_lightning.Trainer``."""

    accelerator: str = setting("auto", numbers=False)
    devices: Any = setting(1)  # each process draws its own batches: it changes the numbers
    num_nodes: int = setting(1, low=1)
    strategy: str = setting("auto", numbers=False)
    precision: str = setting("32-true", choices=("32-true", "64-true"))
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
    robust_z: float = setting(3.0, above=0.0)
    pixel: bool = setting(True)
    # Training images scored beside the held-out ones; None: all. Scoring all can take as long as
    # scoring the test set, which a sweep pays for in every cell.
    train_images: int | None = setting(None, low=0)
    pictures: int = setting(3, low=0, numbers=False)  # of the best, median, worst each; 0: none
    worst: int = setting(4, low=0, numbers=False)  # thumbnails of the worst images, for reports


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
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    # Published figures to show beside a sweep's own: {name: {noise ratio: percent}}.
    claims: dict[str, dict[str, float]] = field(default_factory=dict, metadata={"numbers": False})

    def check(self) -> None:
        """Raise ``UserError`` at combinations that no single field can see."""
        self.data.check()
        self.noise.check()
        self.method.check()
        self._check_tasks()
        sides = self.data.size
        if len(sides) != 2:
            raise UserError(f"data.size = {sides}: accepted are two numbers, [height, width]")
        turned = {"rot90", "rot270"} & set(self.head.views)
        if turned and sides[0] != sides[1]:
            raise UserError(
                f"head.views has {sorted(turned)[0]} but data.size = {sides} is not square: "
                "accepted there are identity, hflip, vflip, rot180"
            )
        indices = self.backbone.out_indices
        if indices != sorted(set(indices)):
            raise UserError(f"backbone.out_indices = {indices}: accepted are rising numbers")
        if self.head.local_pool % 2 == 0:
            raise UserError(f"head.local_pool = {self.head.local_pool}: accepted are odd numbers")
        if self.head.position_dims % 4:
            raise UserError(
                f"head.position_dims = {self.head.position_dims}: accepted are multiples of 4"
            )

    def _check_tasks(self) -> None:
        meta, l2 = self.method.meta, self.method.l2
        if meta.on and self.method.batch_size < 2 * meta.tasks:
            raise UserError(
                f"method.batch_size = {self.method.batch_size}: accepted are at least two samples "
                f"for each of the method.meta.tasks = {meta.tasks} tasks"
            )
        ranks = self.trainer.devices if isinstance(self.trainer.devices, int) else 1
        if l2.on and meta.on and l2.uncertainty == "ensemble_variance" and meta.tasks < 2 * ranks:
            raise UserError(
                f"method.meta.tasks = {meta.tasks}: method.l2.uncertainty='ensemble_variance' "
                f"compares the tasks of each process; accepted are {2 * ranks} or more"
            )
        if l2.on and l2.uncertainty == "view_variance" and len(self.head.views) < 2:
            raise UserError(
                f"method.l2.uncertainty = 'view_variance' needs two views, head.views has "
                f"{self.head.views}"
            )
        if meta.on and (meta.adapted_blocks or 0) > self.head.blocks:
            raise UserError(
                f"method.meta.adapted_blocks = {meta.adapted_blocks}: accepted are values up to "
                f"head.blocks = {self.head.blocks}"
            )
        if meta.categories and self.data.name not in ("synthetic", "mvtec"):
            raise UserError(
                f"method.meta.source=cross_category: data={self.data.name} has no categories; "
                "accepted are data=mvtec, data=synthetic"
            )


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
            raise UserError(f"{self.key!r} cannot be tuned: accepted are {', '.join(types)}")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"low = {self.low:g}, high = {self.high:g}: accepted are finite values")
        if self.low >= self.high:
            raise UserError(f"low = {self.low:g}: accepted are values < high = {self.high:g}")
        if self.log and self.low <= 0:
            raise UserError(f"low = {self.low:g} with log=true: accepted are values > 0")
        whole = types[self.key] == "int"
        if self.int != whole:
            numbers = "whole numbers" if whole else "any number"
            raise UserError(f"{self.key} takes {numbers}: accepted is int={str(whole).lower()}")
        if whole and (self.low % 1 or self.high % 1):
            raise UserError(f"low = {self.low:g}, high = {self.high:g}: accepted are whole numbers")


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
                "method.holdout = 0: held-out images judge a trial, accepted are values > 0"
            )
        if self.trainer.num_nodes > 1:
            raise UserError(
                f"trainer.num_nodes = {self.trainer.num_nodes}: a trial runs on one machine; "
                "others may run the same command on the same study"
            )
        if not self.space:
            raise UserError("space = {}: accepted is at least one NAME: {key, low, high}")
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


def number_types(schema: Any) -> dict[str, str]:
    """Dotted keys of the numbers in a dataclass, with those of the dataclasses in it."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{key}": inner for key, inner in number_types(kind).items()}
        for plain in {int, float} & set(get_args(kind) or (kind,)):
            found[name] = plain.__name__
    return found


def unread_penalty(l2: L2Config, key: str) -> bool:
    """Whether ``key`` is a strength of the penalty that its form does not look at."""
    read = {
        "constant": ("lambda_0",),
        "affine": ("lambda_0", "gamma"),
        "log_linear": ("lambda_min", "lambda_max"),
    }
    strengths = {f"method.l2.{name}" for names in read.values() for name in names}
    return key in strengths - {f"method.l2.{name}" for name in read.get(l2.form, ())}


def replaced(node: Any, key: str, value: Any) -> Any:
    """A copy of a nested dataclass with another value at the dotted ``key``."""
    name, _, rest = key.partition(".")
    inner = replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: inner})


@dataclass
class ReportConfig:
    """Tables, plots and the page of a sweep, from the result files in its folder."""

    sweep: str = MISSING
    metric: str = "image_auroc"
    output: str | None = None  # None: the folder report/ in the sweep's
    progress: bool = True

    def check(self) -> None:
        """Nothing to compare: the folder is looked at when it is read."""


@dataclass
class PrepareConfig:
    """Look at a dataset before training on it; unpack it first when ``archive`` is given."""

    seed: int = setting(0, low=0)
    archive: str | None = None  # zip or tar to unpack into data.root first
    progress: bool = True
    cache: CacheConfig = field(default_factory=CacheConfig)
    data: DataConfig = MISSING

    def check(self) -> None:
        """Raise ``UserError`` at combinations that no single field can see."""
        self.data.check()


@dataclass
class PlannedSweeperConfig:
    """Hydra's node for our sweeper: the settings of its basic one."""

    _target_: str = "hydra_plugins.rad_lightning_sweeper.PlannedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


def register_schemas() -> None:
    """Tell Hydra the types, so that unknown keys and wrong types fail while composing."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="tune_schema", node=TuneConfig)
    store.store(name="prepare_schema", node=PrepareConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(group="hydra/sweeper", name="planned", node=PlannedSweeperConfig)
    for group, node in (
        ("data", DataConfig),
        ("noise", NoiseConfig),
        ("backbone", BackboneConfig),
        ("head", HeadConfig),
        ("method", MethodConfig),
        ("trainer", TrainerConfig),
        ("logger", LoggerConfig),
    ):
        store.store(group=group, name="schema", node=node)


def conf_dir() -> Path:
    """Where the YAML files are: inside the installed package, or the checkout's ``conf/``."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "conf", here.parents[1] / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise UserError(f"no conf/ folder beside {here}: reinstall the package")


def to_typed(cfg: Any) -> Any:
    """A composed Hydra config as its checked dataclass; ``UserError`` at the first fault."""
    typed = OmegaConf.to_object(cfg)
    for fault in faults(typed):
        raise UserError(fault)
    typed.check()  # type: ignore[union-attr]
    return typed


def to_yaml(typed: Any) -> str:
    """A checked config as the YAML that would give it again."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(typed)))


def faults(node: Any, prefix: str = "") -> Iterator[str]:
    """One line per value outside what its field accepts."""
    for f in dataclasses.fields(node):
        key, value = f"{prefix}{f.name}", getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from faults(value, f"{key}.")
            continue
        if value == []:
            yield f"{key} = []: accepted is at least one value"
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not _accepted(item, f.metadata):
                yield f"{key} = {value!r}: accepted are {_describe(f.metadata)}"
                break


def _accepted(value: Any, rules: Any) -> bool:
    choices, low, high, above = (rules.get(k) for k in ("choices", "low", "high", "above"))
    return (
        (choices is None or value in choices)
        and not (isinstance(value, float) and not math.isfinite(value))
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def _describe(rules: Any) -> str:
    if rules.get("choices") is not None:
        return ", ".join(map(str, rules["choices"]))
    bounds = [
        f"{sign} {rules[rule]:.12g}"
        for rule, sign in (("above", ">"), ("low", ">="), ("high", "<="))
        if rules.get(rule) is not None
    ]
    return "values " + " and ".join(bounds)


def number_fields(node: Any) -> dict[str, Any]:
    """The part of a config that changes the numbers of a run, as plain nested dicts.

    A part that is switched off (``on`` is false) changes nothing, whatever it holds.
    """
    kept: dict[str, Any] = {}
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            if getattr(value, "on", True) and (inner := number_fields(value)):
                kept[f.name] = inner
        elif f.metadata.get("numbers", True):
            kept[f.name] = value
    return kept


def digest(content: Any, length: int = 10) -> str:
    """A short stable hash of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
