"""How a flow is fitted: ``conf/method``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rad_lightning.common.errors import UserError
from rad_lightning.config.fields import Part, setting

UNCERTAINTIES = (
    "generalisation_gap", "view_variance", "ensemble_variance", "tail_weight", "loss_covariance",
)  # fmt: skip
TASK_SOURCES = ("bootstrap", "pseudo_noise", "cross_category", "trusted")
TRUST_SOURCES = ("in_sample", "memories", "out_of_fold", "both")
OF_A_BATCH = ("generalisation_gap", "tail_weight")
BETWEEN_TASKS = ("ensemble_variance", "loss_covariance")


@dataclass
class L2Config(Part):
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
    # As strong as held-out training images bear: all of λ times a factor from short trainings.
    auto: bool = setting(False)
    where: str = setting("both", choices=("inner", "outer", "both"))
    momentum: float = setting(0.9, low=0.0, high=0.999)  # of the running mean of U

    @property
    def on(self) -> bool:
        return self.form != "none"


@dataclass
class MetaConfig(Part):
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
class TrustConfig(Part):
    """How suspicious each training image is, found before the training, and what follows from it
    (docs/method.md, "Trust"). No label is read, but with ``known_rate`` and ``known``."""

    # in_sample: a flow of all images; out_of_fold: flows that each leave out a share of the
    # physical parts; memories: of few images each, no training; both: the mean of these two ranks.
    source: str = setting("none", choices=("none", *TRUST_SOURCES))
    folds: int = setting(3, low=2, high=20)
    steps: int = setting(100, low=1)  # gradient steps of each fold's flow
    # Further rounds train the folds' flows with less of what the one before doubts; they count as
    # far as the set is surely contaminated.
    rounds: int = setting(1, low=1, high=10)
    memories: int = setting(8, low=1)
    memory_share: float = setting(0.15, above=0.0, high=0.9)  # of the parts, in a memory
    by_part: bool = setting(True)  # images of a physical part share one rank, and weigh as one
    # What follows. fence: images count the less the further their scores lie above the others',
    # which needs no contamination; split: suspects are left out, as many as the contamination says;
    # iqr: images beyond the upper fence of a box plot are; expose: an image counts the less the
    # more suspicious it is, and the oddest samples of suspicious ones are pushed away.
    use: str = setting("split", choices=("fence", "split", "iqr", "expose"))
    # fence: in spreads of the ordinary images' scores; half weight there, see ``beyond``.
    fence: float = setting(3.0, low=1.0)
    reach: float = setting(1.0, above=0.0)  # suspects: so many times the assumed contamination
    rate: float | None = setting(None, low=0.0, high=0.9)  # None: estimated from the scores
    known_rate: bool = setting(False)  # oracle_rate: the true one, unknown in practice
    known: bool = setting(False)  # oracle_exposed: the truly injected images are the suspects
    # expose: with p the probability that an image is mislabelled, a logistic step in its rank of
    # width ``temperature``, its odd samples are pushed away as p to this power and all of them
    # learned as 1 - p to it; none of it below ``floor``, the contamination that an estimate reads
    # off clean images too, and in full from twice that on.
    temperature: float = setting(0.06, above=0.0)
    power: float = setting(2.0, above=0.0)
    floor: float = setting(0.08, above=0.0, high=0.5)
    # Share of a suspect's samples that may be pushed away; None: one and a half times
    # ``head.top_fraction``, the share that an image's score is made of.
    odd: float | None = setting(None, above=0.0, high=1.0)
    share: float = setting(0.2, above=0.0, high=0.9)  # of a batch, drawn from these
    weight: float = setting(0.15, above=0.0)  # of their loss
    margin: float = setting(2.2)  # NLL, nats per dimension, from which it fades

    @property
    def on(self) -> bool:
        return self.source != "none"


@dataclass
class RobustLossConfig(Part):
    """What a step does with the images of its batch that fit worst, chosen anew in each.

    ``trim``: leaves them out (RobustRealNVP, Liu et al., AAAI 2022). ``loe_hard``, ``loe_soft``:
    pushes their likelihood down, wholly or by half (latent outlier exposure, Qiu et al., ICML
    2022).
    """

    form: str = setting("none", choices=("none", "trim", "loe_hard", "loe_soft"))
    rate: float = setting(0.2, low=0.0, high=0.9)  # share of the images that are treated so
    known_rate: bool = setting(False)  # oracle_rate: the true contamination instead
    weight: float = setting(1.0, above=0.0)  # of the anomaly loss
    margin: float = setting(4.0)  # NLL, nats per dimension, from which it fades
    top_fraction: float = setting(0.25, above=0.0, high=1.0)  # of an image's samples that it reads

    @property
    def on(self) -> bool:
        return self.form != "none"


@dataclass
class MemoryConfig(Part):
    """References without a flow: nearest neighbours in a memory of training patches.

    ``sparse``: the mean over small memories, each of few images (MeDS' first stage). ``lof``: one
    core set, its outlying patches removed and the rest weighted by local outlier factor (SoftPatch,
    Jiang et al., NeurIPS 2022).
    """

    form: str = setting("none", choices=("none", "sparse", "lof"))
    memories: int = setting(8, low=1)
    share: float = setting(0.15, above=0.0, high=1.0)  # of the training images, in a memory
    coreset: float = setting(0.1, above=0.0, high=1.0)  # of the patches, kept
    neighbours: int = setting(6, low=1)  # of the local outlier factor
    drop: float = setting(0.15, low=0.0, high=0.9)  # share of outlying patches left out of lof

    @property
    def on(self) -> bool:
        return self.form != "none"


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
    # Further parts by name, each with its settings (CONTRIBUTING.md, "A new method").
    parts: dict[str, Any] = field(default_factory=dict)
    trust: TrustConfig = field(default_factory=TrustConfig)
    latent: RobustLossConfig = field(default_factory=RobustLossConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    l2: L2Config = field(default_factory=L2Config)
    meta: MetaConfig = field(default_factory=MetaConfig)

    def check(self) -> None:
        """Refuse settings that would do nothing, or that need each other."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.name):
            raise UserError(f"method.name = {self.name!r}: use only letters, digits and _.+-")
        self.meta.check()
        self._check_parts()
        if not self.l2.on:
            return
        if self.l2.lambda_min > self.l2.lambda_max:
            raise UserError(
                f"method.l2.lambda_min = {self.l2.lambda_min:g}: use a value <= "
                f"method.l2.lambda_max = {self.l2.lambda_max:g}"
            )
        if self.l2.uncertainty == "generalisation_gap" and not self.holdout:
            raise UserError(
                "method.l2.uncertainty='generalisation_gap' needs held-out training images: "
                "set method.holdout > 0"
            )
        if not self.meta.on and self.l2.uncertainty not in OF_A_BATCH:
            raise UserError(
                f"method.l2.uncertainty = {self.l2.uncertainty!r} needs method.meta.source: "
                f"set it, or use one of {', '.join(OF_A_BATCH)}"
            )
        if not self.meta.on and self.l2.where == "inner":
            raise UserError("method.l2.where = 'inner' needs method.meta.source")
        if self.meta.tasks == 1 and self.l2.uncertainty in BETWEEN_TASKS:
            raise UserError(
                f"method.l2.uncertainty = {self.l2.uncertainty!r} compares tasks: "
                "set method.meta.tasks >= 2"
            )

    def _check_parts(self) -> None:
        """Refuse parts that cannot go together."""
        trust, meta = self.trust, self.meta
        alone = [n for n, on in (("latent", self.latent.on), ("memory", self.memory.on)) if on]
        others = [n for n, part in (("trust", trust), ("meta", meta), ("l2", self.l2)) if part.on]
        if alone and (len(alone) > 1 or set(others) - ({"l2"} if alone == ["latent"] else set())):
            raise UserError(
                f"method.{alone[0]}.form cannot be combined with other parts: "
                f"switch off {', '.join(f'method.{n}' for n in alone[1:] + others)}"
            )
        if meta.source == "trusted" and not trust.on:
            raise UserError(
                "method.meta.source=trusted needs method.trust.source: choose one of "
                f"{', '.join(TRUST_SOURCES)}"
            )
        if trust.on and meta.on and meta.source != "trusted":
            raise UserError(
                f"method.meta.source={meta.source} does not read method.trust: use trusted"
            )
        if trust.known and trust.use != "expose":
            raise UserError(
                f"method.trust.known with use={trust.use}: set method.trust.use=expose; to leave "
                "the injected images out, set method.clean_only=true"
            )
