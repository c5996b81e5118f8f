"""Several flows trained at once; the learning-rate cycle of both trainers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rad_lightning.flows.coupling import Parameters
from rad_lightning.flows.stacked import clip_each, fit_stack, one_cycle


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 10, 11, 100])
def test_every_number_of_steps_has_a_cycle_that_ends_low(steps: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight])
    schedule = one_cycle(optimizer, 0.1, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert 0 < max(rates) <= 0.1 + 1e-12
    assert schedule.get_last_lr()[0] < 1e-5
    if steps >= 10:
        assert rates[0] < 0.01 and max(rates[: steps // 5]) > 0.09  # rises first


def test_each_of_the_stack_becomes_what_it_would_have_become_alone() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(3, 1) for _ in range(3)]
    data = torch.randn(3, 40, 4)

    def loss(params: Parameters, batch: tuple[Tensor, None]) -> Tensor:
        x = batch[0]
        return (x[:, :3] @ params["weight"].T + params["bias"] - x[:, 3:]).square().mean()

    seen: list[int] = []
    settings = {"steps": 25, "lr": 0.05, "clip": 0.5}
    together = fit_stack(
        models, lambda: (data, None), loss, **settings, tick=lambda: seen.append(0)
    )
    assert len(seen) == 25
    for k, model in enumerate(models):
        alone = fit_stack([model], lambda k=k: (data[k : k + 1], None), loss, **settings)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][k], value[0])
            assert not torch.equal(value[0], model.get_parameter(name))  # trained, on a copy


def test_each_gradient_is_clipped_by_its_own_norm() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.1, 0.0]]), torch.tensor([[4.0], [0.0]])]
    clip_each(gradients, 1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6, 0.0], [0.1, 0.0]]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.8], [0.0]]))
