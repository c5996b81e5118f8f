from dataclasses import replace

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.flows import heads
from rad_lightning.flows.heads import Head, HeadSpec

PATCH = HeadSpec(
    grid=(3, 4), inputs=6, channels=4, blocks=2, hidden=5, clamp=2.0, position_dims=0,
    top_fraction=0.25, score="nll", seed=1,
)  # fmt: skip
POOLED = replace(PATCH, grid=(1, 1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(spec: HeadSpec) -> Head:
    """A head with a fitted whitening and a flow that is not the identity."""
    head = Head(spec)
    head.whitening.fit(noise(200, spec.inputs, seed=9) * 3 + 1)
    with torch.no_grad():
        for i, p in enumerate(head.flow.parameters()):
            p.add_(0.3 * noise(*p.shape, seed=i))
    return head


def by_hand(head: Head, vector: Tensor, position: int = 0) -> float:
    """The NLL in nats per dimension of one feature vector ``(C,)``, step by step."""
    y = (vector - head.whitening.mean) @ head.whitening.projection
    side = None if head.encoding is None else head.encoding[position][None]
    with torch.no_grad():
        z, log_det = head.flow(y[None], side)
    if head.spec.score == "latent":
        return float((z**2).sum() / 2) / len(y)
    return -(norm.logpdf(z[0].numpy()).sum() + float(log_det)) / len(y)


@pytest.mark.parametrize("position_dims", [0, 4])
@pytest.mark.parametrize("score", ["nll", "latent"])
def test_every_position_scores_as_computed_by_hand(position_dims: int, score: str) -> None:
    head = fitted(replace(PATCH, position_dims=position_dims, score=score))
    features = noise(2, 2, 6, 3, 4, seed=3)
    found = head.position_scores(head.embed(features))
    assert found.shape == (2, 2, 3, 4)
    for n, v, i, j in [(0, 0, 0, 0), (1, 0, 2, 3), (0, 1, 1, 2), (1, 1, 0, 3)]:
        expected = by_hand(head, features[n, v, :, i, j], i * 4 + j)
        assert float(found[n, v, i, j]) == pytest.approx(expected, abs=1e-4)


def test_pooled_score_is_the_mean_over_views() -> None:
    head, features = fitted(POOLED), noise(3, 4, 6, 1, 1, seed=3)
    found = head.image_scores(head.position_scores(head.embed(features)))
    for n in range(3):
        expected = sum(by_hand(head, features[n, v, :, 0, 0]) for v in range(4)) / 4
        assert float(found[n]) == pytest.approx(expected, abs=1e-4)


def test_patch_score_is_the_mean_of_the_top_positions() -> None:
    head, features = fitted(PATCH), noise(2, 1, 6, 3, 4, seed=3)
    positions = head.position_scores(head.embed(features))
    expected = positions.flatten(1).topk(3).values.mean(1)  # a quarter of 12
    torch.testing.assert_close(head.image_scores(positions), expected)


def test_latent_score_leaves_the_volume_out() -> None:
    samples = noise(1, 1, 12, 4, seed=3)
    full, latent = (fitted(replace(PATCH, score=s)) for s in ("nll", "latent"))
    gap = full.position_scores(samples) - latent.position_scores(samples)
    assert gap.std() > 0.01


def test_padded_positions_have_no_score_and_leave_the_others_alone() -> None:
    head, features = fitted(replace(PATCH, position_dims=4)), noise(2, 1, 6, 3, 4, seed=3)
    whole = head.position_scores(head.embed(features))
    features[0, :, :, :, 3] = torch.nan
    found = head.position_scores(head.embed(features))
    assert found.isnan().sum() == 3 and found[0, 0, :, 3].isnan().all()
    torch.testing.assert_close(found[~found.isnan()], whole[~found.isnan()])


def test_an_image_without_any_position_scores_nan_everywhere() -> None:
    assert fitted(PATCH).position_scores(torch.full((1, 1, 12, 4), torch.nan)).isnan().all()


def test_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    head, samples = fitted(replace(PATCH, position_dims=4)), noise(3, 2, 12, 4, seed=3)
    whole = head.position_scores(samples)
    monkeypatch.setattr(heads, "SAMPLES_AT_ONCE", {"cpu": 7})
    torch.testing.assert_close(head.position_scores(samples), whole)


def test_no_images_score_to_nothing() -> None:
    assert fitted(PATCH).position_scores(torch.zeros(0, 1, 12, 4)).shape == (0, 1, 3, 4)


def test_half_precision_samples_score_like_their_float_values() -> None:
    head, samples = fitted(PATCH), noise(2, 1, 12, 4, seed=3).half()
    assert torch.equal(head.position_scores(samples), head.position_scores(samples.float()))


def test_more_channels_than_features_are_refused() -> None:
    with pytest.raises(UserError, match=r"head\.channels = 7.*2 to 6"):
        Head(replace(PATCH, channels=7))


def test_all_channels_are_accepted_odd_ones_too() -> None:
    head = fitted(replace(PATCH, inputs=5, channels=5))
    assert head.position_scores(noise(1, 1, 12, 5)).isfinite().all()


def test_only_the_flow_is_trained() -> None:
    head = Head(PATCH)
    assert {id(p) for p in head.parameters()} == {id(p) for p in head.flow.parameters()}


def test_a_head_survives_its_spec_and_state_dict() -> None:
    first = fitted(replace(PATCH, position_dims=4))
    second = Head(replace(PATCH, position_dims=4, seed=99))
    second.load_state_dict(first.state_dict())
    features = noise(1, 1, 6, 3, 4)
    assert torch.equal(
        second.position_scores(second.embed(features)),
        first.position_scores(first.embed(features)),
    )


def test_a_double_precision_head_scores_like_a_single_one() -> None:
    head, samples = fitted(PATCH), noise(2, 1, 12, 4, seed=3)
    single = head.position_scores(samples)
    torch.testing.assert_close(head.double().position_scores(samples), single)


def test_a_position_whose_likelihood_diverged_spoils_the_images_score() -> None:
    head, samples = fitted(PATCH), noise(2, 1, 12, 4, seed=3)
    samples[0, 0, 5, 0] = torch.inf  # a whitened value beyond half precision
    found = head.image_scores(head.position_scores(samples))
    assert found.isfinite().tolist() == [False, True]
