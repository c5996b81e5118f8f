"""Bi-level training: MAML with an uncertainty-steered penalty (RAD, arXiv 2508.17789)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MetaConfig, MethodConfig
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.meta.inner import Rate
from rad_lightning.meta.outer import Inner, Outcome, outcome
from rad_lightning.meta.tasks import Bank, EpisodeBatches, Episodes, Samples
from rad_lightning.methods.exposure import Exposure, exposure_of
from rad_lightning.methods.module import FlowModule, unseen_samples
from rad_lightning.methods.penalty import gathered
from rad_lightning.methods.registry import OBJECTIVE, Training, part
from rad_lightning.methods.task_sources import CENTRAL, Given, build_source, needs
from rad_lightning.robust import uncertainty
from rad_lightning.robust.trusted import central_images

Batch = tuple[Tensor, ...]  # samples and, with a positional encoding, its values


class RadFlow(FlowModule):
    """Fits ``head.flow`` so that a step of adaptation on a task's support serves its query.

    Automatic optimisation, and the real parameters go through ``functional_call``: gradients are
    averaged under DDP, clipped and accumulated like any other's.

    Args:
        support: what to adapt on after training (``deploy=adapted``); ``None`` deploys θ.
    """

    def __init__(
        self,
        head: Head,
        method: MethodConfig,
        unseen: tuple[Tensor, Tensor] | None = None,
        support: Samples | None = None,
        exposure: Exposure | None = None,
    ) -> None:
        super().__init__(head, method, unseen)
        self.support, self.exposure = support, exposure or Exposure()
        self.adapted: Tensor  # whether the flow holds θ' by now; a checkpoint says so too
        self.register_buffer("adapted", torch.zeros((), dtype=torch.bool))
        meta = method.meta
        self.names = block_names(head, meta.adapted_blocks)
        start = math.log(meta.inner_lr)
        # In logarithms: a learned rate keeps its sign, and moves by shares of itself.
        self.log_rates = nn.ParameterList()
        if meta.learned_lr == "per_step":
            self.log_rates.append(nn.Parameter(torch.full((meta.inner_steps,), start)))
        elif meta.learned_lr == "per_parameter":
            for name in self.names:
                self.log_rates.append(nn.Parameter(torch.full_like(self.params[name], start)))

    def rates(self) -> list[nn.Parameter]:
        return list(self.log_rates)

    def inner(self, order: int) -> Inner:
        """The inner loop as it stands: its learning rate, and λ(U) where it applies there."""
        meta, lr = self.method.meta, self._rate()
        penalty = self.penalty.inner if self.penalty is not None else None
        return Inner(meta.inner_steps, lr, order, self.names, meta.inner_clip or None, penalty)

    def _rate(self) -> Rate:
        meta = self.method.meta
        if meta.learned_lr == "none":
            return meta.inner_lr
        rates = [r.exp() for r in self.log_rates]
        return (
            rates[0] if meta.learned_lr == "per_step" else dict(zip(self.names, rates, strict=True))
        )

    def values(self, params: Parameters, batch: Batch) -> Tensor:
        """NLL of every sample."""
        return nll(self.head.flow, params, *batch)

    def batch(self, samples: Samples) -> Batch:
        condition = self.head.condition(samples.positions)
        return (samples.values,) if condition is None else (samples.values, condition)

    def training_step(self, batch: Episodes, _: int) -> Tensor:
        meta, kind = self.method.meta, self.method.l2.uncertainty
        penalised = self.penalty is not None
        found = outcome(
            self.values,
            self.params,
            self.batch(batch.support),
            self.batch(batch.query),
            self.inner(meta.order),
            vectorised=meta.vectorised,
            look_at_support=penalised and kind == "loss_covariance",
            look_at_ensemble=penalised and kind == "ensemble_variance",
        )
        exposed = batch.exposed if batch.exposed.any() else None
        of_samples = not penalised or kind in ("tail_weight", "generalisation_gap")
        measured = None if of_samples else of_tasks(kind, found, batch)
        normal, push = self.exposure.split(found.query, exposed)
        if exposed is not None:
            self.log("train/exposure", push)
        return self.finish_step(normal.mean() + push, normal, measured)

    def deployed(self) -> Parameters:
        if self.support is None or self.adapted:
            return self.params
        support = Samples(*(part.to(self.device) for part in self.support))
        batch = tuple(part.to(self.params[self.names[0]].dtype) for part in self.batch(support))
        adapted = self.inner(order=1)(self.values, self.params, batch)
        return {name: value.detach() for name, value in adapted.items()}

    @torch.no_grad()
    def deploy(self) -> None:
        for name, value in self.deployed().items():
            self.params[name].copy_(value)
        self.adapted.fill_(True)


@torch.no_grad()
def of_tasks(kind: str, found: Outcome, episodes: Episodes) -> Tensor:
    """An uncertainty that only tasks can show, ``()``, over those of all processes; of the samples
    that are learned: those pushed away have a high NLL on purpose."""
    learned = ~episodes.exposed[0]  # the same places in every task
    if kind == "ensemble_variance":  # of each process' own models, which share a query
        assert found.ensemble is not None
        models = found.ensemble[:, learned]
        return gathered(uncertainty.ensemble_variance(models)[None]).mean()
    query = gathered(found.query.detach()[:, learned])
    if kind == "view_variance":
        images, views = (
            gathered(part[:, learned]) for part in (episodes.query.images, episodes.query.views)
        )
        return uncertainty.view_variance(query, images, views).mean()
    assert found.support is not None
    return uncertainty.loss_covariance(gathered(found.support).mean(1), query.mean(1))


def block_names(head: Head, last: int | None) -> list[str]:
    """Names of the flow's parameters, or of those in its ``last`` coupling blocks."""
    first = 0 if last is None else head.spec.blocks - last
    # Names are LIST.BLOCK.REST, see CouplingFlow.
    return [n for n, _ in head.flow.named_parameters() if int(n.split(".")[1]) >= first]


@part(
    OBJECTIVE,
    "bilevel",
    chosen=lambda method: method.meta.on,
    cost=lambda method: 1.0 + 3 * method.meta.inner_steps,  # benchmarks/meta.py
)
def build_bilevel(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[RadFlow, EpisodeBatches]:
    """Tasks from the source that the settings name, and the flow that adapts to them.

    Raises:
        UserError: too few training images for tasks.
    """
    meta = method.meta
    unseen = unseen_samples(method, training, seed)
    if len(training.samples) < 2:
        raise UserError(
            f"method={method.name}: tasks need two training images beside the held-out ones, "
            f"there are {len(training.samples)}"
        )
    bank = Bank(training.samples, training.groups, training.jitter)
    central = torch.ones(len(bank), dtype=torch.bool)
    if CENTRAL in needs(method):
        central = central_images(head, training.samples, meta.trusted_fraction)
    source = build_source(Given(method, bank, central, training, seed))
    support = deploy_support(meta, bank, central, seed)
    batches = EpisodeBatches(source, meta.tasks, method.batch_size)
    exposure = exposure_of(method.trust, training)
    return RadFlow(head, method, unseen, support, exposure), batches


def deploy_support(meta: MetaConfig, bank: Bank, trusted: Tensor, seed: int) -> Samples | None:
    """What the deployed flow adapts on; ``None`` where θ itself is deployed."""
    if meta.deploy == "meta":
        return None
    images = torch.arange(len(bank))
    if meta.deploy_support == "trusted":
        images = images[trusted]
    generator = Generator().manual_seed(stream_seed("deploy", seed))
    return bank.draw(images, min(meta.deploy_samples, int(bank.count[images].sum())), generator)
