from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from rad_lightning.flows.coupling import CouplingFlow, Parameters, nll
from rad_lightning.meta.inner import Rate, adapt

Dict = dict[str, Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def shaken() -> CouplingFlow:
    """A float64 flow whose zero-initialised last layers are random too."""
    flow = CouplingFlow(4, 2, 8, 2.0, seed=5).double()
    with torch.no_grad():
        for i, p in enumerate(flow.parameters()):
            p.add_(0.3 * noise(*p.shape, seed=i))
    return flow


FLOW = shaken()
PARAMS = {n: p.detach().clone() for n, p in FLOW.named_parameters()}
SUPPORT, QUERY = noise(7, 4, seed=101), 0.7 * noise(6, 4, seed=102) + 0.5
LAST_BLOCK = [n for n in PARAMS if n.split(".")[1] == "1"]


def loss(params: Parameters, x: Tensor) -> Tensor:
    return nll(FLOW, params, x).mean()


def meta_loss(params: Parameters, lr: Rate = 0.2, steps: int = 1, **more: Any) -> Tensor:
    return loss(adapt(loss, params, SUPPORT, steps=steps, lr=lr, **more), QUERY)


def moved(point: Dict, way: Dict, by: float) -> Dict:
    return {k: v + by * way[k] for k, v in point.items()}


def dot(a: Dict, b: Dict) -> float:
    return float(sum((a[k] * b[k]).sum() for k in a))


def slope(f: Callable[[Dict], Tensor], at: Dict, way: Dict, step: float = 1e-5) -> float:
    """Central difference along ``way``."""
    return float(f(moved(at, way, step)) - f(moved(at, way, -step))) / (2 * step)


def random_way(like: Dict, seed: int) -> Dict:
    return {k: noise(*v.shape, seed=1000 * seed + i) for i, (k, v) in enumerate(like.items())}


def coordinate(like: Dict, name: str, index: int) -> Dict:
    way = {k: torch.zeros_like(v) for k, v in like.items()}
    way[name].view(-1)[index] = 1
    return way


def by_hand(params: Dict, steps: int, lr: float) -> Dict:
    """θ'_K by plain autograd, every step cut off from the one before."""
    current = {n: p.clone().requires_grad_() for n, p in params.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(current, SUPPORT), list(current.values()))
        pairs = zip(current.items(), gradients, strict=True)
        current = {n: (p - lr * g).detach().requires_grad_() for (n, p), g in pairs}
    return current


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_finite_differences_in_random_directions(steps: int) -> None:
    def f(params: Parameters) -> Tensor:
        return meta_loss(params, steps=steps)

    exact, frozen = grad(f)(PARAMS), grad(lambda p: meta_loss(p, steps=steps, order=1))(PARAMS)
    for seed in range(5):
        way = random_way(PARAMS, seed + 1)
        assert dot(exact, way) == pytest.approx(slope(f, PARAMS, way), rel=1e-5)
        assert dot(frozen, way) != pytest.approx(slope(f, PARAMS, way), rel=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_finite_differences_in_single_coordinates(steps: int) -> None:
    def f(params: Parameters) -> Tensor:
        return meta_loss(params, steps=steps)

    exact = grad(f)(PARAMS)
    for name, gradient in exact.items():
        index = int(gradient.abs().argmax())
        found = float(gradient.view(-1)[index])
        expected = slope(f, PARAMS, coordinate(PARAMS, name, index))
        assert found == pytest.approx(expected, rel=1e-5), name


def test_backward_reaches_the_parameters_as_the_functional_gradient_does() -> None:
    real = {n: p.clone().requires_grad_() for n, p in PARAMS.items()}
    meta_loss(real, steps=2).backward()
    for name, expected in grad(lambda p: meta_loss(p, steps=2))(PARAMS).items():
        torch.testing.assert_close(real[name].grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_adapted_parameters_are_those_of_gradient_descent_by_hand(
    steps: int, order: int
) -> None:
    found = adapt(loss, PARAMS, SUPPORT, steps=steps, lr=0.2, order=order)
    for name, expected in by_hand(PARAMS, steps, 0.2).items():
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-12, atol=1e-14)
    assert loss(found, SUPPORT) < loss(PARAMS, SUPPORT) - 1e-3


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_the_outer_gradient_at_the_adapted_parameters(steps: int) -> None:
    found = grad(lambda p: meta_loss(p, steps=steps, order=1))(PARAMS)
    second = grad(lambda p: meta_loss(p, steps=steps, order=2))(PARAMS)
    at = by_hand(PARAMS, steps, 0.2)
    expected = torch.autograd.grad(loss(at, QUERY), list(at.values()))
    for name, value in zip(at, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)
    apart = max(float((found[n] - second[n]).abs().max()) for n in found)
    assert apart > 1e-2 * max(float(g.abs().max()) for g in second.values())


def test_to_first_order_the_adapted_parameters_move_with_the_given_ones() -> None:
    real = {n: p.clone().requires_grad_() for n, p in PARAMS.items()}
    adapted = adapt(loss, real, SUPPORT, steps=2, lr=0.1, order=1)
    total = torch.stack([p.sum() for p in adapted.values()]).sum()
    slopes = torch.autograd.grad(total, list(real.values()))
    assert all(torch.equal(s, torch.ones_like(s)) for s in slopes)


def quadratics() -> tuple[Tensor, Tensor]:
    """Curvatures ``(T, D, D)`` and centres ``(T, D)`` of three tasks."""
    roots = noise(3, 3, 3, seed=7)
    return roots @ roots.mT / 3 + 0.3 * torch.eye(3, dtype=torch.float64), noise(3, 3, seed=8)


def quadratic(params: Parameters, task: tuple[Tensor, Tensor]) -> Tensor:
    curvature, centre = task
    away = params["theta"] - centre
    return 0.5 * away @ curvature @ away


def descend(order: int, lr: float, steps: int) -> Tensor:
    tasks = list(zip(*quadratics(), strict=True))

    def objective(params: Parameters) -> Tensor:
        losses = [
            quadratic(adapt(quadratic, params, t, steps=steps, lr=lr, order=order), t)
            for t in tasks
        ]
        return torch.stack(losses).mean()

    point = {"theta": torch.zeros(3, dtype=torch.float64)}
    for _ in range(400):
        point = moved(point, grad(objective)(point), -0.5)
    return point["theta"]


@pytest.mark.parametrize("steps", [1, 2])
def test_descent_on_quadratics_converges_to_the_closed_form_of_either_order(steps: int) -> None:
    # θ'_K − c = (I − αA)^K (θ − c), so that the outer gradient is W (θ − c) with
    # W = (I − αA)^K A (I − αA)^K, and to first order W = A (I − αA)^K.
    lr = 0.2
    curvature, centre = quadratics()
    shrink = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - lr * curvature, steps)
    weights = {2: shrink @ curvature @ shrink, 1: curvature @ shrink}
    solved = {
        order: torch.linalg.solve(w.sum(0), (w @ centre[..., None]).sum(0)[:, 0])
        for order, w in weights.items()
    }
    assert (solved[1] - solved[2]).abs().max() > 1e-2
    for order, expected in solved.items():
        torch.testing.assert_close(descend(order, lr, steps), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("steps", "order"), [(1, 2), (3, 2), (1, 1)])
def test_the_gradient_of_one_learned_rate_is_that_of_finite_differences(
    steps: int, order: int
) -> None:
    def f(at: Dict) -> Tensor:
        return meta_loss(PARAMS, at["lr"], steps, order=order)

    at = {"lr": torch.tensor(0.2, dtype=torch.float64)}
    expected = slope(f, at, {"lr": torch.tensor(1.0, dtype=torch.float64)})
    assert float(grad(f)(at)["lr"]) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradients_of_rates_per_step_are_those_of_finite_differences(steps: int) -> None:
    def f(at: Dict) -> Tensor:
        return meta_loss(PARAMS, at["lr"], steps)

    at = {"lr": torch.tensor([0.2, 0.1, 0.05], dtype=torch.float64)[:steps]}
    found = grad(f)(at)["lr"]
    for k in range(steps):
        expected = slope(f, at, coordinate(at, "lr", k))
        assert float(found[k]) == pytest.approx(expected, rel=1e-5)
    assert len({round(float(g), 6) for g in found}) == steps


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradients_of_rates_per_parameter_are_those_of_finite_differences(steps: int) -> None:
    def f(at: Dict) -> Tensor:
        return meta_loss(PARAMS, at, steps)

    at = {n: 0.1 + 0.1 * noise(*p.shape, seed=i).abs() for i, (n, p) in enumerate(PARAMS.items())}
    found = grad(f)(at)
    for seed in range(3):
        way = random_way(at, seed + 50)
        assert dot(found, way) == pytest.approx(slope(f, at, way), rel=1e-5)
    for name in list(PARAMS)[::5]:
        index = int(found[name].abs().argmax())
        expected = slope(f, at, coordinate(at, name, index))
        assert float(found[name].view(-1)[index]) == pytest.approx(expected, rel=1e-5)


def test_rates_per_step_are_taken_in_order() -> None:
    rates = torch.tensor([0.3, 0.01], dtype=torch.float64)
    found = adapt(loss, PARAMS, SUPPORT, steps=2, lr=rates)
    first = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.3)
    expected = adapt(loss, first, SUPPORT, steps=1, lr=0.01)
    for name in PARAMS:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_only_the_named_parameters_adapt_but_all_get_an_outer_gradient(order: int) -> None:
    found = adapt(loss, PARAMS, SUPPORT, steps=2, lr=0.2, order=order, names=LAST_BLOCK)
    for name, value in PARAMS.items():
        assert torch.equal(found[name], value) is (name not in LAST_BLOCK), name
    real = {n: p.clone().requires_grad_() for n, p in PARAMS.items()}
    meta_loss(real, steps=2, order=order, names=LAST_BLOCK).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in real.values())


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_of_a_partial_adaptation_is_that_of_finite_differences(
    steps: int,
) -> None:
    def f(params: Parameters) -> Tensor:
        return meta_loss(params, steps=steps, names=LAST_BLOCK)

    exact = grad(f)(PARAMS)
    for seed in range(3):
        way = random_way(PARAMS, seed + 1)
        assert dot(exact, way) == pytest.approx(slope(f, PARAMS, way), rel=1e-5)
    for name in ("second_given_first.0.param_map.net.net.0.weight", LAST_BLOCK[0]):
        index = int(exact[name].abs().argmax())
        expected = slope(f, PARAMS, coordinate(PARAMS, name, index))
        assert float(exact[name].view(-1)[index]) == pytest.approx(expected, rel=1e-5)


def test_no_step_gives_the_parameters_back() -> None:
    found = adapt(loss, PARAMS, SUPPORT, steps=0, lr=0.2)
    assert found.keys() == PARAMS.keys() and found is not PARAMS
    assert all(found[n] is p for n, p in PARAMS.items())


@pytest.mark.parametrize("names", [None, LAST_BLOCK])
@pytest.mark.parametrize("order", [1, 2])
def test_the_given_parameters_stay_as_they_are(names: list[str] | None, order: int) -> None:
    given = {n: p.clone() for n, p in PARAMS.items()}
    before = dict(given)
    found = adapt(loss, given, SUPPORT, steps=2, lr=0.2, order=order, names=names)
    assert list(found) == list(PARAMS)
    assert all(given[n] is before[n] and torch.equal(p, PARAMS[n]) for n, p in given.items())


def norm(gradients: Dict) -> float:
    return float(torch.cat([g.flatten() for g in gradients.values()]).norm())


def test_a_clipped_inner_gradient_keeps_its_direction_and_has_the_largest_norm() -> None:
    gradient = grad(loss)(PARAMS, SUPPORT)
    largest = norm(gradient) / 3
    found = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2, clip=largest)
    for name, value in PARAMS.items():
        torch.testing.assert_close(found[name], value - 0.2 * gradient[name] / 3)


def test_a_clip_above_the_norm_changes_nothing() -> None:
    largest = 1.01 * norm(grad(loss)(PARAMS, SUPPORT))
    found = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2, clip=largest)
    expected = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2)
    assert all(torch.equal(found[n], expected[n]) for n in PARAMS)


def test_the_clip_is_of_the_adapting_parameters_gradient_alone() -> None:
    gradient = grad(loss)(PARAMS, SUPPORT)
    largest = 1.01 * norm({n: gradient[n] for n in LAST_BLOCK})
    assert largest < 0.9 * norm(gradient)
    found = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2, names=LAST_BLOCK, clip=largest)
    expected = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2, names=LAST_BLOCK)
    assert all(torch.equal(found[n], expected[n]) for n in PARAMS)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_through_clipped_steps_is_that_of_finite_differences(steps: int) -> None:
    largest = norm(grad(loss)(PARAMS, SUPPORT)) / 5

    def f(params: Parameters) -> Tensor:
        return meta_loss(params, steps=steps, clip=largest)

    exact = grad(f)(PARAMS)
    assert norm({n: exact[n] - g for n, g in grad(lambda p: meta_loss(p))(PARAMS).items()}) > 1e-3
    for seed in range(3):
        way = random_way(PARAMS, seed + 1)
        assert dot(exact, way) == pytest.approx(slope(f, PARAMS, way), rel=1e-5)


def test_a_clipped_gradient_of_zero_leaves_a_finite_meta_gradient() -> None:
    task = (torch.eye(3), torch.ones(3))
    at = {"theta": torch.ones(3)}
    found = grad(lambda p: adapt(quadratic, p, task, steps=2, lr=0.1, clip=1.0)["theta"].sum())(at)
    torch.testing.assert_close(found["theta"], torch.full((3,), 0.81))


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"names": ["nonsense"]}, KeyError, "not a parameter: 'nonsense'"),
        ({"lr": {**PARAMS, "nonsense": torch.tensor(0.1)}}, KeyError, "do not fit.*'nonsense'"),
        ({"lr": dict(list(PARAMS.items())[1:])}, KeyError, f"do not fit.*'{next(iter(PARAMS))}'"),
        ({"lr": {}, "names": LAST_BLOCK[:1]}, KeyError, f"do not fit.*'{LAST_BLOCK[0]}'"),
        ({"order": 3}, ValueError, "order = 3"),
        ({"order": 0}, ValueError, "order = 0"),
        ({"lr": torch.zeros(3)}, ValueError, r"shape \(3,\).*\(2,\)"),
        ({"lr": torch.zeros(2, 1)}, ValueError, r"shape \(2, 1\)"),
    ],
    ids=["name", "key", "keys", "named", "third", "zeroth", "steps", "shape"],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        adapt(loss, PARAMS, SUPPORT, **{"steps": 2, "lr": 0.1, **settings})


def test_rates_for_parameters_that_do_not_adapt_are_accepted() -> None:
    rates = {n: torch.tensor(0.2, dtype=torch.float64) for n in PARAMS}
    found = adapt(loss, PARAMS, SUPPORT, steps=1, lr=rates, names=LAST_BLOCK)
    expected = adapt(loss, PARAMS, SUPPORT, steps=1, lr=0.2, names=LAST_BLOCK)
    assert all(torch.equal(found[n], expected[n]) for n in PARAMS)
