import math

import pytest
import torch
from torch import Tensor

from rad_lightning.flows.coupling import CouplingFlow
from rad_lightning.robust.regularizer import affine, log_linear, weight_penalty

U = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)


def test_the_penalty_is_the_mean_square_of_all_weights_together() -> None:
    params = {
        "a.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "a.bias": torch.tensor([100.0]),
        "b.weight": torch.tensor([5.0]),
    }
    assert weight_penalty(params).item() == pytest.approx((1 + 4 + 9 + 16 + 25) / 5)


def test_biases_of_a_flow_are_not_penalised() -> None:
    flow = CouplingFlow(4, 2, 8, 2.0, seed=1)
    params = {n: p.detach().clone().requires_grad_() for n, p in flow.named_parameters()}
    weights = torch.cat([p.flatten() for n, p in params.items() if n.endswith("weight")])
    found = weight_penalty(params)
    torch.testing.assert_close(found, weights.square().mean())
    names = list(params)
    gradients = torch.autograd.grad(found, list(params.values()), allow_unused=True)
    reached = {n for n, g in zip(names, gradients, strict=True) if g is not None}
    assert reached == {n for n in names if n.endswith("weight")} and len(reached) < len(names)


def test_the_size_of_a_flow_does_not_change_its_penalty() -> None:
    small, large = ({"weight": torch.full((n, n), 0.3)} for n in (3, 300))
    assert weight_penalty(small).item() == pytest.approx(weight_penalty(large).item())


def test_parameters_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="no parameter is a weight"):
        weight_penalty({"bias": torch.ones(3)})


def test_the_affine_strength_grows_from_lambda_by_the_factor_of_gamma() -> None:
    assert affine(U, 0.4, 3.0).tolist() == pytest.approx([0.4, 1.0, 1.6])
    assert affine(U, 0.4, 0.0).tolist() == pytest.approx([0.4] * 3)


def test_the_log_linear_strength_spans_its_range_evenly_in_logarithms() -> None:
    assert log_linear(U, 0.1, 10.0).tolist() == pytest.approx([0.1, 1.0, 10.0])
    assert log_linear(U, 1e-4, 9.0).tolist() == pytest.approx([1e-4, 0.03, 9.0])
    assert log_linear(U, 2.0, 2.0).tolist() == pytest.approx([2.0] * 3)


@pytest.mark.parametrize("form", [affine, log_linear])
def test_more_uncertainty_never_means_less_penalty(form: object) -> None:
    u = torch.linspace(0, 1, 50)
    found: Tensor = form(u, 0.1, 5.0)  # type: ignore[operator]
    assert (found.diff() > 0).all() and found.shape == u.shape
    assert math.isclose(float(found[0]), 0.1, rel_tol=1e-6)
