"""From the settings of ``method.trust`` to what a training may make of each image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MethodConfig, TrustConfig
from rad_lightning.flows.heads import Head
from rad_lightning.methods.exposure import outlier_share
from rad_lightning.methods.registry import SELECTION, Trust, part
from rad_lightning.robust.contamination import (
    RAMP,
    Contamination,
    beyond,
    contamination,
    deviations,
)
from rad_lightning.robust.exposure import oddest, within_image
from rad_lightning.robust.memories import sparse_memories
from rad_lightning.robust.review import Reviewed, alike, bad, counted, judged, precision
from rad_lightning.robust.trusted import (
    OutOfFold,
    image_suspicion,
    part_means,
    part_weights,
    parts,
    ranks,
)

FENCE = 1.5  # of a box plot, in interquartile ranges
MOST = 0.9  # share of the images that may be suspects
LEAST = 1e-3  # of a doubted image's weight, in a further round: a fold may hold nothing else
HALF = 0.5  # from this doubt on, an image is a suspect
SURE = 0.05  # lower end of the estimate from which further rounds count in full


def trust_cost(method: MethodConfig) -> float:
    """A step of F stacked flows takes as long as F steps."""
    folds = method.trust.folds if method.trust.source != "in_sample" else 1
    return float(trust_steps(method.trust) * folds)


@part(
    SELECTION,
    "trust",
    chosen=lambda method: method.trust.on,
    ticks=lambda method: trust_steps(method.trust),
    cost=trust_cost,
)
def find_trust(
    method: MethodConfig,
    head: Head,
    samples: Tensor,
    groups: Tensor,
    injected: Tensor,
    seed: int,
    tick: Callable[[], object] = lambda: None,
    reviewed: Tensor | None = None,
) -> Trust:
    """Rank the training images, and decide what follows from it.

    Args:
        head: with its whitening fitted and its flow untrained; stays so.
        samples: ``(N, V, L, D)``.
        groups: ``(N,)`` physical parts.
        injected: ``(N,)`` bool, read by the oracles ``known_rate`` and ``known`` alone.
        tick: called after every gradient step, ``trust_steps`` times.
        reviewed: ``(N,)`` of ``Reviewed``: no flow or spread is fitted to confirmed anomalies, and
            the other suspects are doubted as far as the last verdicts bear that out.

    Raises:
        UserError: too few images to rank, or nothing left that a flow could learn from.
    """
    cfg = method.trust
    generator = Generator().manual_seed(stream_seed("trust", seed))
    if len(samples) < 2:
        raise UserError(f"method={method.name}: a ranking needs two images, there is one")
    known = torch.zeros(len(samples), dtype=torch.long) if reviewed is None else reviewed
    base = part_weights(groups) if cfg.by_part else torch.ones(len(samples))
    base = base * ~bad(known)
    found = in_rounds(method, head, samples, groups, base, known, seed, generator, tick)
    scores, ranked, above, doubts = found
    suspicion, odd = ranks(ranks(ranked).mean(0)), within_image(scores)
    guess = contamination(above, groups, cfg.fence, generator)
    estimate = counted(guess, doubts[-1], suspicion, known)
    if cfg.use == "fence":
        # The first round alone does no harm to clean images.
        doubt = doubts[0].lerp(doubts[-1], sure(guess.low, suspicion, known))
        doubt = doubt * precision(suspicion, known)
        # Verdicts go further down than the fence where what is like the judged ones lies below it.
        likely = alike(above, suspicion, known, 2 * RAMP) * (known == Reviewed.NO)
        doubt = torch.maximum(doubt, likely)
        weights = (base * (1 - doubt))[:, None, None].expand(samples.shape[:3])
        return Trust(suspicion, doubt > HALF, weights, None, estimate, estimate.value, 0.0, odd)
    assumed = assumed_rate(cfg, estimate, injected)
    strength = 1.0 if cfg.known else min(1.0, max(0.0, assumed / cfg.floor - 1))
    of_part = parts(groups) if cfg.by_part else torch.arange(len(groups))
    told = cfg.use == "expose" and cfg.known
    suspects = injected if told else choose(cfg, ranked[0], suspicion, of_part, assumed)
    suspects = suspects & (known != Reviewed.GOOD)
    outliers = oddest(odd, outlier_share(cfg, head.spec))
    base = base[:, None, None].expand(samples.shape[:3])
    weights, exposed = believe(cfg, base, suspicion, suspects, outliers, assumed, strength)
    return Trust(suspicion, suspects, weights, exposed, estimate, assumed, strength, odd)


def in_rounds(
    method: MethodConfig,
    head: Head,
    samples: Tensor,
    groups: Tensor,
    base: Tensor,
    known: Tensor,
    seed: int,
    generator: Generator,
    tick: Callable[[], object],
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """The images scored ``method.trust.rounds`` times, each time with less of what is doubted.

    Args:
        base: ``(N,)`` how often an image is drawn where nothing is doubted.
        known: ``(N,)`` of ``Reviewed``.

    Returns:
        Of the last round: the sources' sample scores ``(N, V, L)`` each, their image scores
        ``(S, N)``, and how far these stand out, ``(N,)``; of each round: the doubt, ``(N,)``.

    Raises:
        UserError: too few images for folds or memories.
    """
    cfg, usable = method.trust, ~bad(known)
    kept, doubts = base, []
    for _ in range(rounds(cfg)):
        try:
            weights = kept[:, None, None].expand(samples.shape[:3])
            scores = sample_scores(method, head, samples, groups, weights, seed, generator, tick)
        except ValueError as error:  # too few images for folds or memories
            raise UserError(f"method={method.name}: {error}") from error
        alone = torch.stack([image_suspicion(head, s) for s in scores])
        ranked = torch.stack([part_means(a, groups) for a in alone]) if cfg.by_part else alone
        above = torch.stack([deviations(values, usable) for values in ranked]).mean(0)
        doubt = beyond(above, cfg.fence).float() * (known != Reviewed.GOOD)
        doubts.append(doubt)
        kept, usable = base * (1 - doubt).clamp(min=LEAST), usable & (doubt < HALF)
    return scores, ranked, above, doubts


def sure(low: float, suspicion: Tensor, known: Tensor) -> float:
    """How far a set is known to be contaminated, from 0 to 1: by the last verdicts where there are
    any, else by the lower end of the estimate, which no clean data set raised above 0."""
    if judged(known).any():
        return precision(suspicion, known)
    return min(1.0, low / SURE)


def believe(
    cfg: TrustConfig,
    base: Tensor,
    suspicion: Tensor,
    suspects: Tensor,
    outliers: Tensor,
    assumed: float,
    strength: float,
) -> tuple[Tensor, Tensor | None]:
    """How often a sample is learned from, and how often pushed away (if any is), ``(N, V, L)``.

    Args:
        base: ``(N, V, L)`` weights under which nothing is suspicious.
        outliers: ``(N, V, L)`` bool: the samples pushed away where their image is suspicious.
    """
    if cfg.use != "expose":
        return base * ~suspects[:, None, None], None
    doubt = suspects.float() if cfg.known else probability(suspicion, assumed, cfg.temperature)
    normal = 1 - strength * (1 - (1 - doubt) ** cfg.power)
    pushed = (doubt**cfg.power)[:, None, None] * outliers
    exposed = pushed if strength and (pushed > 0).any() else None
    return base * normal[:, None, None], exposed


def probability(suspicion: Tensor, rate: float, temperature: float) -> Tensor:
    """That an image is mislabelled, ``(N,)``: a logistic step in its rank around the ``rate`` most
    suspicious ones, as wide as rankings err."""
    return torch.sigmoid((suspicion - (1 - rate)) / temperature)


def trust_steps(cfg: TrustConfig) -> int:
    """Gradient steps that ``find_trust`` takes."""
    trained = cfg.source in ("out_of_fold", "both", "in_sample")
    return cfg.steps * rounds(cfg) if trained else 0


def rounds(cfg: TrustConfig) -> int:
    """How often the images are scored; memories would give the same again."""
    return 1 if cfg.source == "memories" else cfg.rounds


def sample_scores(
    method: MethodConfig,
    head: Head,
    samples: Tensor,
    groups: Tensor,
    weights: Tensor,
    seed: int,
    generator: Generator,
    tick: Callable[[], object],
) -> list[Tensor]:
    """Scores of all samples from each source in the settings, ``(N, V, L)`` each."""
    cfg = method.trust
    found = []
    if cfg.source in ("out_of_fold", "both", "in_sample"):
        folds = 1 if cfg.source == "in_sample" else cfg.folds
        flows = OutOfFold(
            folds, cfg.steps, method.batch_size, method.lr, stream_seed("folds", seed)
        )
        found.append(flows.scores(head, samples, groups, weights, tick))
    if cfg.source in ("memories", "both"):
        device = head.whitening.mean.device
        distances = sparse_memories(
            samples.to(device).float(), groups, cfg.memories, cfg.memory_share, generator
        )
        found.append(distances.cpu())
    return found


def assumed_rate(cfg: TrustConfig, estimate: Contamination, injected: Tensor) -> float:
    """The contamination that suspects are chosen by: given, known or estimated."""
    if cfg.known_rate:
        return float(injected.float().mean())
    return estimate.value if cfg.rate is None else cfg.rate


def choose(
    cfg: TrustConfig, scores: Tensor, suspicion: Tensor, part: Tensor, rate: float
) -> Tensor:
    """The suspects, ``(N,)`` bool: whole parts, as far as they go into the count."""
    if cfg.use == "iqr":
        low, high = scores.quantile(torch.tensor([0.25, 0.75], dtype=scores.dtype))
        fenced: Tensor = scores > high + FENCE * (high - low)
        return fenced
    count = math.floor(min(cfg.reach * rate, MOST) * len(suspicion))
    # Images of a part have one suspicion, which may be another part's too.
    order = torch.tensor(sorted(range(len(part)), key=lambda i: (-suspicion[i], part[i])))
    sizes = torch.bincount(part)
    taken = order[:count]
    if len(taken):
        last = part[taken[-1]]
        if (part[taken] == last).sum() < sizes[last]:
            taken = taken[part[taken] != last]
    suspects = torch.zeros(len(suspicion), dtype=torch.bool)
    suspects[taken] = True
    return suspects
