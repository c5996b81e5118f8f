import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from rad_lightning.flows.whitening import Whitening


def correlated(count: int = 300, channels: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(channels, channels, generator=generator) * torch.arange(1, channels + 1)
    return torch.randn(count, channels, generator=generator) @ mix + 100


@pytest.mark.parametrize("outputs", [2, 6])
def test_fit_data_gets_zero_mean_and_identity_covariance(outputs: int) -> None:
    x = correlated()
    y = Whitening(6, outputs).fit(x)(x)
    assert y.shape == (300, outputs)
    torch.testing.assert_close(y.mean(0), torch.zeros(outputs), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.T.cov(correction=1), torch.eye(outputs), atol=1e-3, rtol=0)


def test_components_are_those_of_scikit_learns_whitened_pca() -> None:
    x = correlated()
    expected = torch.from_numpy(PCA(4, whiten=True).fit_transform(x.double().numpy()))
    found = Whitening(6, 4).fit(x)(x).double()
    torch.testing.assert_close(found.abs(), expected.abs(), atol=2e-3, rtol=1e-3)


def test_signs_do_not_depend_on_the_eigensolver(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated()
    before = Whitening(6, 6).fit(x).projection
    solve = torch.linalg.eigh
    flips = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda m: ((r := solve(m)).eigenvalues, r.eigenvectors * flips)
    )
    assert torch.equal(Whitening(6, 6).fit(x).projection, before)


def test_leading_dimensions_are_kept() -> None:
    x = correlated()
    whitening = Whitening(6, 3).fit(x)
    torch.testing.assert_close(whitening(x[:24].view(2, 3, 4, 6)).view(24, 3), whitening(x[:24]))


def test_missing_positions_stay_missing_in_every_component() -> None:
    x = correlated()
    gone = x[:3].clone()
    gone[1] = torch.nan
    y = Whitening(6, 3).fit(x)(gone)
    assert y.isnan().tolist() == [[False] * 3, [True] * 3, [False] * 3]


def test_a_direction_without_variance_is_damped() -> None:
    x = correlated()
    x = torch.cat((x, x[:, :1], torch.full((300, 1), 7.0)), 1)  # a copy and a constant
    whitening = Whitening(8, 8).fit(x)
    y = whitening(x)
    assert y.isfinite().all()
    assert y.var(0)[-2:].max() < 0.1  # not blown up to unit variance
    torch.testing.assert_close(y.var(0)[:4], torch.ones(4), atol=1e-2, rtol=0)
    strongest = x.double().T.cov().diagonal().sum().sqrt()
    assert whitening.projection.norm(dim=0).max() * strongest < 3e3


def test_constant_data_stays_finite() -> None:
    x = torch.full((5, 4), 0.1)
    assert Whitening(4, 2).fit(x)(x).abs().max() < 1e3


def test_fewer_samples_than_channels_stay_finite() -> None:
    x = correlated(4)
    y = Whitening(6, 6).fit(x)(x)
    assert y.isfinite().all() and y.abs().max() < 10


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    x = correlated()
    x[3, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        Whitening(6, 2).fit(x)


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Whitening(6, 2).fit(correlated(1))


def test_a_fitted_whitening_survives_its_state_dict() -> None:
    x = correlated()
    first = Whitening(6, 3).fit(x)
    second = Whitening(6, 3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    assert not list(first.parameters())  # nothing in it is trained


def test_features_can_be_left_as_they_are() -> None:
    x = 3 + torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Whitening(4, 4).fit(x).leave()(x), x)
    with pytest.raises(ValueError, match="2 outputs"):
        Whitening(4, 2).leave()
