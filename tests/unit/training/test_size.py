"""Memory that settings need: counted right, and refused before it is asked for."""

from __future__ import annotations

import pytest

from rad_lightning.common.errors import TooLargeError
from rad_lightning.config import BackboneConfig, DataConfig, HeadConfig, NoiseConfig, TrainConfig
from rad_lightning.config import MethodConfig as Method
from rad_lightning.sweep import plan
from rad_lightning.sweep.plan import Planned
from rad_lightning.training.head import build_head
from rad_lightning.training.size import flow_parameters, refuse_too_large


def settings(head: HeadConfig, method: Method | None = None, batch: int = 16) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(name="synthetic"),
        noise=NoiseConfig(),
        backbone=BackboneConfig(batch_size=batch),
        head=head,
        method=method or Method(),
    )


@pytest.mark.parametrize(("channels", "position_dims"), [(8, 0), (33, 8)])
def test_parameters_are_counted_without_a_flow(channels: int, position_dims: int) -> None:
    cfg = HeadConfig(
        name="patch", channels=channels, position_dims=position_dims, blocks=3, hidden=17
    )
    flow = build_head(cfg, (1, 64, 4, 4), 0).flow
    assert flow_parameters(cfg) == sum(p.numel() for p in flow.parameters())


@pytest.mark.parametrize(
    ("cfg", "named"),
    [
        (settings(HeadConfig(name="patch", hidden=3_000_000_000)), "head.hidden"),
        (settings(HeadConfig(name="patch", blocks=10**9)), "head.blocks"),
        (settings(HeadConfig(name="patch"), Method(batch_size=10**11)), "method.batch_size"),
        (settings(HeadConfig(name="patch"), batch=10**9), "backbone.batch_size"),
    ],
)
def test_what_no_memory_holds_is_refused_with_what_to_change(cfg: TrainConfig, named: str) -> None:
    with pytest.raises(TooLargeError, match=f"{named}.*GiB or more of memory.*use smaller"):
        refuse_too_large(cfg, 10**9)


def test_usual_settings_are_not_refused() -> None:
    refuse_too_large(settings(HeadConfig(name="patch")), 100)


def test_a_cell_too_large_or_broken_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(plan, "build_head", built)
    for hidden in (3_000_000, 16):
        item = Planned((), settings(HeadConfig(name="patch", hidden=hidden)))
        assert plan._timed(item) is None
