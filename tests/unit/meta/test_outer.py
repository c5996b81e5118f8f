from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad

from rad_lightning.flows.coupling import CouplingFlow, Parameters, nll
from rad_lightning.meta.inner import Rate
from rad_lightning.meta.outer import Inner, Outcome, outcome
from rad_lightning.robust.regularizer import weight_penalty

Batch = tuple[Tensor, ...]
TASKS, SUPPORT, QUERY = 3, 6, 5
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Setting:
    """A shaken flow with a side input, and the batches of three tasks."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.flow = CouplingFlow(4, 2, 8, 2.0, seed=5, condition=2).to(dtype)
        with torch.no_grad():
            for i, p in enumerate(self.flow.parameters()):
                p.add_(0.2 * noise(*p.shape, seed=i, dtype=dtype))
        self.params = {n: p.detach().requires_grad_() for n, p in self.flow.named_parameters()}
        self.support = self.batch(SUPPORT, 50, dtype)
        self.query = self.batch(QUERY, 60, dtype)

    def batch(self, size: int, seed: int, dtype: torch.dtype) -> Batch:
        scale = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)[:, None, None]
        sides = noise(TASKS, size, 2, seed=seed + 1, dtype=dtype)
        return scale * noise(TASKS, size, 4, seed=seed, dtype=dtype), sides

    def values(self, params: Parameters, batch: Batch) -> Tensor:
        return nll(self.flow, params, *batch)

    def outcome(self, inner: Inner, **more: bool) -> Outcome:
        return outcome(self.values, self.params, self.support, self.query, inner, **more)

    def gradients(self, inner: Inner, **more: bool) -> tuple[Tensor, list[Tensor]]:
        """The queries' losses, and the gradient of their mean."""
        found = self.outcome(inner, **more).query
        return found.detach(), list(torch.autograd.grad(found.mean(), list(self.params.values())))

    def tasks(self) -> Iterator[tuple[Batch, Batch]]:
        for i in range(TASKS):
            yield tuple(x[i] for x in self.support), tuple(x[i] for x in self.query)


def penalty(params: Parameters) -> Tensor:
    return 2.0 * weight_penalty(params)


def detached(params: Parameters) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in params.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("penalised", [None, penalty], ids=["bare", "penalised"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_mapped_tasks_are_the_tasks_one_after_the_other(
    steps: int,
    order: int,
    penalised: Callable[[Parameters], Tensor] | None,
    dtype: torch.dtype,
) -> None:
    setting = Setting(dtype)
    inner = Inner(steps, 0.1, order, penalty=penalised)
    values, gradients = setting.gradients(inner, vectorised=True)
    loop, expected = setting.gradients(inner, vectorised=False)
    close = TOLERANCE[dtype]
    assert values.shape == (TASKS, QUERY)
    torch.testing.assert_close(values, loop, rtol=close, atol=close)
    for found, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=close, atol=close)
    assert max(float(g.abs().max()) for g in expected) > 1e-2


@pytest.mark.parametrize("vectorised", [True, False])
def test_a_query_is_judged_after_descent_on_the_mean_loss_of_its_own_support(
    vectorised: bool,
) -> None:
    setting = Setting()
    found = setting.outcome(Inner(1, 0.1), vectorised=vectorised).query
    start = detached(setting.params)
    for row, (support, query) in zip(found, setting.tasks(), strict=True):
        gradient = grad(lambda p, s=support: setting.values(p, s).mean())(start)
        adapted = {n: p - 0.1 * gradient[n] for n, p in start.items()}
        torch.testing.assert_close(row.detach(), setting.values(adapted, query))
        assert (row - setting.values(start, query)).abs().max() > 1e-3


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_penalty_is_part_of_what_a_support_is_adapted_to(vectorised: bool) -> None:
    setting = Setting()
    found = setting.outcome(Inner(1, 0.1, penalty=penalty), vectorised=vectorised).query
    bare = setting.outcome(Inner(1, 0.1), vectorised=vectorised).query
    start = detached(setting.params)
    decay = grad(penalty)(start)
    for row, (support, query) in zip(found, setting.tasks(), strict=True):
        gradient = grad(lambda p, s=support: setting.values(p, s).mean())(start)
        adapted = {n: p - 0.1 * (gradient[n] + decay[n]) for n, p in start.items()}
        torch.testing.assert_close(row.detach(), setting.values(adapted, query))
    assert (found - bare).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["one", "per_step", "per_parameter"])
def test_learned_rates_get_the_same_gradient_from_mapped_tasks_as_from_a_loop(kind: str) -> None:
    setting = Setting()
    one = torch.tensor(0.1, dtype=torch.float64)
    of = {
        "one": {"lr": one},
        "per_step": {"lr": one.repeat(2)},
        "per_parameter": {n: torch.full_like(p, 0.1) for n, p in setting.params.items()},
    }[kind]
    found = []
    for vectorised in (True, False):
        rates = {n: r.clone().requires_grad_() for n, r in of.items()}
        lr: Rate = rates if kind == "per_parameter" else rates["lr"]
        loss = setting.outcome(Inner(2, lr), vectorised=vectorised).query.mean()
        found.append(torch.autograd.grad(loss, list(rates.values())))
    for mapped, looped in zip(*found, strict=True):
        torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=1e-14)
    assert max(float(g.abs().max()) for g in found[0]) > 1e-4


@pytest.mark.parametrize("vectorised", [True, False])
def test_only_the_named_parameters_adapt_to_a_task(vectorised: bool) -> None:
    setting = Setting()
    names = [n for n in setting.params if ".1." in n]
    inner = Inner(2, 0.1, names=names)
    adapted = inner(setting.values, setting.params, next(setting.tasks())[0])
    assert [n for n, p in setting.params.items() if not torch.equal(adapted[n], p)] == names
    found = setting.outcome(inner, vectorised=vectorised).query[0]
    torch.testing.assert_close(found, setting.values(adapted, next(setting.tasks())[1]))


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_gradient_of_every_task_is_clipped_by_itself(vectorised: bool) -> None:
    setting = Setting()
    start = detached(setting.params)
    gradients = [
        grad(lambda p, s=support: setting.values(p, s).mean())(start)
        for support, _ in setting.tasks()
    ]
    norms = [torch.cat([g.flatten() for g in of.values()]).norm() for of in gradients]
    largest = float(sorted(norms)[1])  # of three: one is shortened, one is not
    found = setting.outcome(Inner(1, 0.1, clip=largest), vectorised=vectorised).query
    for row, (_, query), gradient, norm in zip(
        found, setting.tasks(), gradients, norms, strict=True
    ):
        scale = min(1.0, largest / float(norm))
        adapted = {n: p - 0.1 * scale * gradient[n] for n, p in start.items()}
        torch.testing.assert_close(row.detach(), setting.values(adapted, query))


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("order", [1, 2])
def test_looks_at_support_and_ensemble_are_the_adapted_parameters_losses_there(
    order: int, vectorised: bool
) -> None:
    setting = Setting()
    inner = Inner(2, 0.1, order)
    found = setting.outcome(
        inner, vectorised=vectorised, look_at_support=True, look_at_ensemble=True
    )
    assert found.support is not None and found.ensemble is not None
    assert found.support.shape == (TASKS, SUPPORT) and found.ensemble.shape == (TASKS, QUERY)
    assert found.query.requires_grad
    assert not found.support.requires_grad and not found.ensemble.requires_grad
    first = next(setting.tasks())[1]
    for i, (support, query) in enumerate(setting.tasks()):
        adapted = inner(setting.values, setting.params, support)
        torch.testing.assert_close(found.query[i], setting.values(adapted, query))
        torch.testing.assert_close(found.support[i], setting.values(adapted, support).detach())
        torch.testing.assert_close(found.ensemble[i], setting.values(adapted, first).detach())
    assert (found.ensemble[1] - found.ensemble[0]).abs().max() > 1e-3


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_looks_come_only_where_they_are_asked_for_and_do_not_change_the_gradient(
    vectorised: bool,
) -> None:
    setting, inner = Setting(), Inner(1, 0.1)
    neither = setting.outcome(inner, vectorised=vectorised)
    assert neither.support is None and neither.ensemble is None
    one = setting.outcome(inner, vectorised=vectorised, look_at_ensemble=True)
    assert one.support is None and one.ensemble is not None
    other = setting.outcome(inner, vectorised=vectorised, look_at_support=True)
    assert other.support is not None and other.ensemble is None
    bare = setting.gradients(inner, vectorised=vectorised)
    looked = setting.gradients(
        inner, vectorised=vectorised, look_at_support=True, look_at_ensemble=True
    )
    for a, b in zip(bare[1], looked[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
