"""How strong the penalty may be on this data set: a few short trainings, before the training."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Generator, Tensor

from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import L2Config, MethodConfig
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.flows.sampling import jittered
from rad_lightning.flows.stacked import fit_stack
from rad_lightning.methods.batches import flat_samples
from rad_lightning.methods.registry import Training
from rad_lightning.robust.regularizer import weight_penalty

SCALES = (1e-3, 1e-2, 1e-1, 1.0)  # of the range of λ that the settings give
STEPS = 75  # of each short training: four of them take as long as one of plain
JUDGED = 4096  # held-out samples that are looked at
TRIM = 0.1  # share of the least likely ones left out: they may be mislabelled


def scaled(l2: L2Config, scale: float) -> L2Config:
    """The same penalty, ``scale`` times as strong throughout."""
    return replace(
        l2,
        lambda_0=l2.lambda_0 * scale,
        lambda_min=l2.lambda_min * scale,
        lambda_max=l2.lambda_max * scale,
    )


def typical(l2: L2Config) -> float:
    """λ halfway between an uncertainty of 0 and of 1: a short training has no U yet."""
    if l2.form == "log_linear":
        return float((l2.lambda_min * l2.lambda_max) ** 0.5)
    return l2.lambda_0 * (1 + (l2.gamma / 2 if l2.form == "affine" else 0.0))


def with_scale(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[MethodConfig, float | None]:
    """``method`` with its penalty as strong as the training images bear, where ``l2.auto`` asks for
    it and images are held out; and the scale.

    Flows under each of ``SCALES`` are trained side by side for ``STEPS`` steps of maximum
    likelihood. Taken is the strongest whose held-out NLL, without the least likely tenth, is within
    one standard error of the best one's (Breiman et al., 1984). The paper tunes its strengths by
    Bayesian optimisation, which is what ``tune`` does.
    """
    held_out = training.held_out
    if not (method.l2.on and method.l2.auto) or held_out is None or not len(held_out):
        return method, None
    losses = held_out_losses(method, head, training, held_out, seed)
    scale = SCALES[strongest(losses)]
    return replace(method, l2=scaled(method.l2, scale)), scale


def held_out_losses(
    method: MethodConfig, head: Head, training: Training, held_out: Tensor, seed: int
) -> Tensor:
    """NLL of held-out samples under a short training with each of ``SCALES``, ``(K, P)``."""
    device, generator = head.whitening.mean.device, Generator()
    generator.manual_seed(stream_seed("penalty_scale", seed))
    samples, positions = flat_samples(training.samples)
    strengths = torch.tensor([s * typical(method.l2) for s in SCALES], device=device)
    flow = copy.deepcopy(head.flow)

    def batch(of: Tensor, at: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        chosen = torch.randint(len(of), (size,), generator=generator)
        return of[chosen].to(device).float(), head.condition(at[chosen].to(device))

    def draw() -> tuple[Tensor | None, ...]:
        drawn, condition = batch(samples, positions, min(method.batch_size, len(samples)))
        parts = (jittered(drawn, training.jitter, generator), condition)
        same = (p if p is None else p.expand(len(SCALES), *p.shape) for p in parts)
        return (*same, strengths)

    def loss(params: Parameters, given: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        x, condition, strength = given
        return nll(flow, params, x, condition).mean() + strength * weight_penalty(params)

    found = fit_stack([flow] * len(SCALES), draw, loss, steps=STEPS, lr=method.lr)
    x, condition = batch(*flat_samples(held_out), JUDGED)
    with torch.no_grad():
        each = [
            nll(flow, {name: p[k] for name, p in found.items()}, x, condition).cpu()
            for k in range(len(SCALES))
        ]
    return torch.stack(each)


def strongest(losses: Tensor) -> int:
    """Which of K settings, of rising strength, to take by their losses ``(K, P)`` on the same
    samples: the last that is not clearly worse than the best.

    The samples that the best one finds least likely are left out, for all settings the same.
    """
    best = losses.sort(1).values[:, : max(1, round((1 - TRIM) * losses.shape[1]))].mean(1).argmin()
    kept = losses[best].argsort()[: max(2, round((1 - TRIM) * losses.shape[1]))]
    worse = losses[:, kept] - losses[best, kept]
    error = worse.std(1) / len(kept) ** 0.5
    return int((worse.mean(1) <= error).nonzero().max())
