import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor
from torch.func import grad, vmap
from torch.func import jacrev as jacobian

from rad_lightning.flows.coupling import (
    CouplingFlow,
    call,
    latent_norm,
    nll,
    soft_clamp,
    standard_normal_nll,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def shaken(dim: int, *, condition: int = 0, clamp: float = 2.0, blocks: int = 3) -> CouplingFlow:
    """A float64 flow whose zero-initialised last layers are random too."""
    flow = CouplingFlow(dim, blocks, 7, clamp, seed=5, condition=condition).double()
    with torch.no_grad():
        for i, p in enumerate(flow.parameters()):
            p.add_(0.3 * noise(*p.shape, seed=i))
    return flow


def params_of(flow: CouplingFlow) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in flow.named_parameters()}


def moved(params: dict[str, Tensor], direction: dict[str, Tensor], by: float) -> dict[str, Tensor]:
    return {k: v + by * direction[k] for k, v in params.items()}


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(sum((a[k] * b[k]).sum() for k in a))


@pytest.mark.parametrize("dim", [2, 3, 6, 7])
@pytest.mark.parametrize("condition", [0, 2])
def test_reported_log_det_is_that_of_the_autograd_jacobian(dim: int, condition: int) -> None:
    flow = shaken(dim, condition=condition)
    x = noise(4, dim, seed=1)
    side = noise(4, condition, seed=2) if condition else None
    _, log_det = flow(x, side)
    assert log_det.abs().min() > 1e-3
    for i in range(len(x)):
        own = None if side is None else side[i : i + 1]
        jac = jacobian(lambda v, own=own: flow(v[None], own)[0][0])(x[i])
        torch.testing.assert_close(torch.linalg.slogdet(jac).logabsdet, log_det[i])


@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize("condition", [0, 3])
def test_inverse_undoes_forward_and_forward_undoes_inverse(dim: int, condition: int) -> None:
    flow, x = shaken(dim, condition=condition), noise(5, dim, seed=1)
    side = noise(5, condition, seed=2) if condition else None
    z, _ = flow(x, side)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(z, side), x)
    torch.testing.assert_close(flow(flow.inverse(x, side), side)[0], x)


def test_density_integrates_to_one() -> None:
    flow = shaken(2, clamp=0.7, blocks=2)
    axis = torch.linspace(-15, 15, 301, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = (-2 * nll(flow, params_of(flow), points)).exp().view(301, 301)
    assert density[0].max() < 1e-8 and density[:, 0].max() < 1e-8  # nothing lies outside the grid
    mass = torch.trapezoid(torch.trapezoid(density, axis), axis)
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_nll_of_toy_numbers_by_hand() -> None:
    z, log_det = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, -2.0])
    expected = [(12.5 + math.log(2 * math.pi) - 1) / 2, (math.log(2 * math.pi) + 2) / 2]
    assert standard_normal_nll(z, log_det).tolist() == pytest.approx(expected)
    assert latent_norm(z).tolist() == pytest.approx([6.25, 0.0])


def test_nll_is_scipys_density_of_z_plus_the_volume_term() -> None:
    flow, x = shaken(5), noise(6, 5, seed=1)
    with torch.no_grad():
        z, log_det = flow(x)
        ours = nll(flow, params_of(flow), x)
    log_p = multivariate_normal(cov=torch.eye(5).numpy()).logpdf(z.numpy()) + log_det.numpy()
    assert (-5 * ours.numpy()).tolist() == pytest.approx(log_p.tolist())


def test_the_flow_starts_as_a_permutation_with_the_standard_normal_likelihood() -> None:
    flow, x = CouplingFlow(5, 8, 16, 3.0, seed=1).double(), noise(6, 5, seed=1)
    z, log_det = flow(x)
    assert torch.equal(z.sort(1).values, x.sort(1).values)
    assert torch.equal(log_det, torch.zeros(6, dtype=torch.float64))
    expected = -norm.logpdf(x.numpy()).mean(1)
    assert nll(flow, params_of(flow), x).tolist() == pytest.approx(expected.tolist())


def test_permutations_mix_the_halves() -> None:
    flow = shaken(6, blocks=4)
    jac = jacobian(lambda v: flow(v[None])[0][0])(noise(6, seed=1))
    assert (jac.abs() > 1e-12).all()  # every output depends on every input


def test_soft_clamp_is_bounded_odd_and_increasing() -> None:
    s = torch.linspace(-1e4, 1e4, 10_001, dtype=torch.float64)
    clamped = soft_clamp(s, 3.0)
    assert clamped.abs().max() < 3.0 and clamped.abs().max() > 2.99
    assert (clamped.diff() > 0).all()
    torch.testing.assert_close(clamped, -clamped.flip(0))


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_soft_clamp_has_difernets_slope_at_zero_whatever_the_limit(limit: float) -> None:
    slope = grad(lambda s: soft_clamp(s, limit))(torch.tensor(0.0, dtype=torch.float64))
    assert float(slope) == pytest.approx(0.636)


def test_log_scales_stay_within_the_clamp_on_wild_weights() -> None:
    flow = shaken(4, clamp=1.5, blocks=2)
    with torch.no_grad():
        for p in flow.parameters():
            p.mul_(1e3)
    _, log_det = flow(noise(50, 4, seed=1))
    assert log_det.abs().max() <= 2 * 4 * 1.5  # each dimension is scaled once per block
    assert log_det.abs().max() > 1.5


def test_condition_changes_density_and_latents_of_both_halves() -> None:
    flow, x = shaken(4, condition=2), noise(3, 4, seed=1)
    one, other = (flow(x, noise(3, 2, seed=s)) for s in (2, 3))
    assert ((one[0] - other[0]).abs() > 1e-9).all() and ((one[1] - other[1]).abs() > 1e-9).all()


def test_one_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CouplingFlow(1, 2, 4, 3.0, seed=0)


def test_equal_seeds_give_equal_flows_and_others_others() -> None:
    a, b, c = (CouplingFlow(8, 3, 4, 3.0, seed=s).state_dict() for s in (7, 7, 8))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["orders"], c["orders"])
    weights = [k for k in a if a[k].is_floating_point() and a[k].any()]
    assert weights and all(not torch.equal(a[k], c[k]) for k in weights)


def test_building_a_flow_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    CouplingFlow(4, 2, 4, 3.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda p: {k + "x": v for k, v in p.items()},
        lambda p: dict(list(p.items())[1:]),
        lambda p: {**p, "orders": torch.zeros(1)},
    ],
    ids=["misspelt", "missing", "added"],
)
def test_parameters_that_do_not_fit_are_refused(
    corrupt: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    flow = shaken(4)
    with pytest.raises(KeyError, match="do not fit"):
        nll(flow, corrupt(params_of(flow)), noise(2, 4))


@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_half_inputs_do_not_touch_the_likelihood(
    dtype: torch.dtype, condition: int
) -> None:
    flow, x = shaken(6, condition=condition).float(), noise(5, 6, seed=1).to(dtype)
    side = noise(5, condition, seed=2).float() if condition else None
    expected = nll(flow, params_of(flow), x.float(), side)
    with torch.autocast("cpu", torch.bfloat16):
        found = nll(flow, params_of(flow), x, side)
        wide = nll(flow, params_of(flow), x.float(), side)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) and torch.equal(wide, expected)


def test_float64_stays_float64() -> None:
    z, log_det = call(flow := shaken(4), params_of(flow), noise(2, 4))
    assert z.dtype == log_det.dtype == torch.float64


def test_nll_uses_the_given_parameters_not_the_modules() -> None:
    flow, x = shaken(4), noise(3, 4, seed=1)
    other = {k: v * 0 for k, v in params_of(flow).items()}
    expected = -norm.logpdf(x.numpy()).mean(1)
    assert nll(flow, other, x).tolist() == pytest.approx(expected.tolist())


def tasks(flow: CouplingFlow, count: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    stacked = {
        k: torch.stack([v + 0.1 * noise(*v.shape, seed=i) for i in range(count)])
        for k, v in params_of(flow).items()
    }
    return stacked, noise(count, 5, flow.dim, seed=9)


def test_vmap_over_stacked_parameters_is_the_loop() -> None:
    flow = shaken(5)
    stacked, x = tasks(flow)
    found = vmap(partial(nll, flow))(stacked, x)
    loop = [nll(flow, {k: v[i] for k, v in stacked.items()}, x[i]) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(loop))


def test_vmap_of_grad_is_the_loop_of_autograd() -> None:
    flow = shaken(5)
    stacked, x = tasks(flow)
    found = vmap(grad(lambda p, x: nll(flow, p, x).mean()))(stacked, x)
    for i in range(3):
        own = {k: v[i].clone().requires_grad_() for k, v in stacked.items()}
        expected = torch.autograd.grad(nll(flow, own, x[i]).mean(), list(own.values()))
        for key, value in zip(own, expected, strict=True):
            torch.testing.assert_close(found[key][i], value)


def adapted_loss(flow: CouplingFlow, x: Tensor, y: Tensor, params: dict[str, Tensor]) -> Tensor:
    """One inner gradient step on ``x``, then the loss on ``y``."""
    inner = grad(lambda p: nll(flow, p, x).mean())(params)
    return nll(flow, moved(params, inner, -0.5), y).mean()


def test_gradient_through_a_gradient_step_is_that_of_finite_differences() -> None:
    flow = shaken(4)
    params = params_of(flow)
    loss = partial(adapted_loss, flow, noise(6, 4, seed=1), noise(6, 4, seed=2))
    exact = grad(loss)(params)
    frozen = grad(lambda p: nll(flow, p, noise(6, 4, seed=2)).mean())(params)
    for seed in range(3):
        way = {k: noise(*v.shape, seed=100 * seed + i) for i, (k, v) in enumerate(params.items())}
        step = 1e-6
        slope = (loss(moved(params, way, step)) - loss(moved(params, way, -step))) / (2 * step)
        assert dot(exact, way) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
        assert dot(frozen, way) != pytest.approx(float(slope), rel=1e-2)


def test_ordinary_backward_through_vmapped_inner_steps_reaches_the_modules_parameters() -> None:
    flow = shaken(4)
    real = dict(flow.named_parameters())
    x, y = noise(2, 5, 4, seed=1), noise(2, 5, 4, seed=2)
    one_task = partial(adapted_loss, flow)
    vmap(lambda a, b: one_task(a, b, real))(x, y).mean().backward()
    expected = grad(lambda p: (one_task(x[0], y[0], p) + one_task(x[1], y[1], p)) / 2)(
        params_of(flow)
    )
    for key, value in real.items():
        torch.testing.assert_close(value.grad, expected[key])
