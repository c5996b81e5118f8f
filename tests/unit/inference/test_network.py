"""The whole detector as one network, against the steps that a training takes with its cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.features.extract import Box, FeatureSpec, extract
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.flows.scoring import SMOOTHING, anomaly_map
from rad_lightning.inference.network import Network

SIZE = (32, 48)
BOXES: list[Box] = [(0, 0, 32, 48), (0, 10, 32, 28), (4, 0, 24, 48)]


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return FrozenBackbone("test_resnet", (1, 2), "untrained")


def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (len(BOXES), 3, *SIZE), generator=generator).float()


def fitted(
    backbone: FrozenBackbone, spec: FeatureSpec, boxes: list[Box], **changes: object
) -> Head:
    """A head on the features of these pictures, with a flow that is not the identity."""
    features = extract(backbone, pictures(), boxes, spec).float()
    base = HeadSpec(
        grid=(features.shape[3], features.shape[4]), inputs=features.shape[2], channels=4, blocks=2,
        hidden=8, clamp=1.0, position_dims=4, top_fraction=0.1, score="nll", seed=0,
    )  # fmt: skip
    head = Head(replace(base, **changes))  # type: ignore[arg-type]
    rows = features.flatten(3).transpose(2, 3).flatten(0, 2)
    rows = rows[~rows[:, 0].isnan()]
    generator = torch.Generator().manual_seed(1)
    spread = rows + rows.std() * torch.randn(rows.shape, generator=generator)
    head.whitening.fit(spread)
    with torch.no_grad():
        for p in head.flow.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return head


PATCH = FeatureSpec("patch", SIZE, "stretch", ("identity",))
POOLED = FeatureSpec("pooled", SIZE, "pad", ("identity", "hflip"), 1, (1.0, 0.5))


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (PATCH, {}),
        (replace(PATCH, fit="pad"), {}),
        (replace(PATCH, views=("identity", "vflip")), {"score": "latent"}),
        (replace(PATCH, fit="pad"), {"center": "position", "position_dims": 0}),
        (POOLED, {"position_dims": 0}),
    ],
    ids=["patch", "patch padded", "views, latent score", "centres by position", "pooled padded"],
)
def test_scores_and_maps_are_those_of_the_training_steps(
    backbone: FrozenBackbone, spec: FeatureSpec, changes: dict[str, object]
) -> None:
    boxes = BOXES if spec.fit == "pad" else [BOXES[0]] * len(BOXES)
    head = fitted(backbone, spec, boxes, **changes)
    network = Network(backbone, head, spec)
    scores, *maps = network(pictures(), torch.tensor(boxes))
    samples = head.embed(extract(backbone, pictures(), boxes, spec).float()).half()
    positions = head.position_scores(samples.float())
    torch.testing.assert_close(scores, head.image_scores(positions))
    assert bool(maps) == network.has_maps == (spec.form == "patch")
    for i, (top, left, height, width) in enumerate(boxes if maps else []):
        wanted = anomaly_map(positions[i], SIZE, boxes[i], SMOOTHING * min(SIZE))
        torch.testing.assert_close(maps[0][i, top : top + height, left : left + width], wanted)


def test_without_boxes_the_whole_canvas_is_the_image(backbone: FrozenBackbone) -> None:
    spec = replace(PATCH, fit="pad")
    network = Network(backbone, fitted(backbone, spec, BOXES), spec)
    whole = torch.tensor([BOXES[0]] * len(BOXES))
    assert torch.equal(network(pictures())[0], network(pictures(), whole)[0])


def test_rounding_to_half_precision_moves_scores_a_little_only(backbone: FrozenBackbone) -> None:
    head = fitted(backbone, PATCH, [BOXES[0]] * len(BOXES))
    rounded = Network(backbone, head, PATCH)(pictures())[0]
    exact = Network(backbone, head, PATCH, rounded=False)(pictures())[0]
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=5e-3, atol=5e-3)
