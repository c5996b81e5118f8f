from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rad_lightning.common.randomness import stream_seed
from rad_lightning.report.statistics import (
    RESAMPLES,
    Array,
    category_means,
    closed_gap,
    estimate,
    holm,
    resampled_means,
    smallest_p,
    spearman,
    wilcoxon_p,
)

GEAR, MESH = np.array([0.90, 0.92, 0.97]), np.array([0.70, 0.74])


def looped(groups: list[Array], resamples: int) -> Array:
    """The same draws, one at a time and without broadcasting."""
    rng = np.random.default_rng(stream_seed("report/bootstrap"))
    drawn = [rng.integers(len(g), size=(resamples, len(g))) for g in groups]
    means = []
    for b in range(resamples):
        parts = [sum(g[i] for i in rows[b]) / len(g) for g, rows in zip(groups, drawn, strict=True)]
        means.append(sum(parts) / len(groups))
    return np.array(means)


def test_the_bootstrap_is_the_loop() -> None:
    groups = [GEAR[:, None] + [0.0, 1.0], MESH[:, None] - [0.0, 0.5]]
    np.testing.assert_allclose(resampled_means(groups, 50), looped(groups, 50), atol=1e-12)


def test_the_interval_is_the_percentile_one() -> None:
    found = estimate([GEAR, MESH])
    means = looped([GEAR, MESH], RESAMPLES)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)))
    assert (found.n, found.fewest) == (5, 2)


def test_categories_weigh_equally_however_many_seeds_they_have() -> None:
    assert estimate([GEAR, MESH]).mean == pytest.approx((0.93 + 0.72) / 2)


def test_the_spread_between_categories_is_not_in_the_interval() -> None:
    found = estimate([np.full(4, 0.5), np.full(4, 0.9)])
    assert found.low == pytest.approx(0.7) and found.high == pytest.approx(0.7)


def test_one_seed_has_no_interval_even_beside_a_category_with_more() -> None:
    for groups in ([GEAR[:1]], [GEAR, MESH[:1]]):
        found = estimate(groups)
        assert found.low is None and found.high is None and found.fewest == 1


def test_the_interval_of_many_normal_values_is_that_of_the_t_distribution() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 200)
    found = estimate([values])
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=1.5e-3)


MANY = 200_000


def chance(resamples: int) -> float:
    """By how many sigma of the means two intervals may differ when one has so many resamples and
    the other has ``MANY``: five times what a 2.5 % quantile of normal draws has as standard error.
    """
    return 5 * 2.7 * (1 / resamples + 1 / MANY) ** 0.5


def scipys(columns: Array, statistic: Callable[..., Array]) -> tuple[float, float]:
    """The percentile interval of a statistic of the means of ``(n, K)`` columns, kept together."""
    found = stats.bootstrap(
        tuple(columns.T), statistic, n_resamples=MANY, batch=20_000, paired=True,
        vectorized=True, method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def of_seeds(kind: str, n: int) -> Array:
    """AUROC as of ``n`` seeds."""
    rng = np.random.default_rng(n)
    if kind == "skewed":
        return 1 - rng.exponential(0.03, n)
    return rng.normal(0.9, 0.03, n)


@pytest.mark.parametrize("kind", ["normal", "skewed"])
@pytest.mark.parametrize("n", [5, 10, 40])
def test_the_interval_of_one_category_is_scipys(kind: str, n: int) -> None:
    values = of_seeds(kind, n)
    expected = scipys(values[:, None], np.mean)
    sigma = values.std() / n**0.5
    many = np.percentile(resampled_means([values[:, None]], MANY), (2.5, 97.5))
    np.testing.assert_allclose(many, expected, rtol=0, atol=chance(MANY) * sigma)
    found = estimate([values])
    assert (found.low, found.high) == pytest.approx(expected, rel=0, abs=chance(RESAMPLES) * sigma)
    assert found.mean == pytest.approx(values.mean())


def test_the_interval_of_few_seeds_is_scipys_to_the_last_digit() -> None:
    # One of 27 resamples is the least value three times: the quantile is that value itself.
    expected = scipys(GEAR[:, None], np.mean)
    found = estimate([GEAR])
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12) == (0.90, 0.97)


@pytest.mark.parametrize("n", [5, 12])
def test_the_interval_of_the_gap_closed_is_scipys_of_paired_columns(n: int) -> None:
    plain = of_seeds("normal", n) - 0.2
    rng = np.random.default_rng(1)
    group = plain[:, None] + rng.normal((0.05, 0, 0.1), (0.02, 0, 0.02), (n, 3))

    def share(method: Array, plain: Array, oracle: Array, axis: int) -> Array:
        m, p, o = (x.mean(axis=axis) for x in (method, plain, oracle))
        return (m - p) / (o - p)  # type: ignore[no-any-return]

    expected = scipys(group, share)
    _, closed = closed_gap([group])
    assert closed is not None
    sigma = (expected[1] - expected[0]) / 3.92
    assert (closed.low, closed.high) == pytest.approx(
        expected, rel=0, abs=chance(RESAMPLES) * sigma
    )


def test_the_gap_closed_by_hand() -> None:
    # Means: method 0.85, plain 0.80, oracle 0.90, so half of a gap of 0.10.
    group = np.array([[0.84, 0.80, 0.90], [0.86, 0.80, 0.90]])
    gap, closed = closed_gap([group])
    assert gap.mean == pytest.approx(0.10)
    assert closed is not None and closed.mean == pytest.approx(0.5)
    assert (closed.low, closed.high) == pytest.approx((0.4, 0.6))


def test_the_gap_closed_is_the_ratio_of_means_not_the_mean_of_ratios() -> None:
    group = np.array([[0.82, 0.80, 0.81], [0.80, 0.80, 0.90]])
    _, closed = closed_gap([group])
    assert closed is not None and closed.mean == pytest.approx(0.02 / 0.11)


def test_the_columns_of_a_seed_stay_together() -> None:
    # The method is halfway for every seed, so every resample says one half.
    plain = np.array([0.5, 0.6, 0.7, 0.8])
    group = np.stack((plain + 0.05, plain, plain + 0.10), axis=1)
    _, closed = closed_gap([group])
    assert closed is not None and (closed.low, closed.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("oracle", [[0.90, 0.70], [0.80, 0.80], [0.70, 0.70]])
def test_no_share_of_a_gap_that_may_be_zero(oracle: list[float]) -> None:
    group = np.array([[0.85, 0.80, value] for value in oracle])
    assert closed_gap([group])[1] is None


def test_no_share_of_a_gap_whose_spread_is_unknown() -> None:
    assert closed_gap([np.array([[0.85, 0.80, 0.90]])])[1] is None


def test_wilcoxon_is_scipys_exact_one() -> None:
    d = np.array([0.03, -0.01, 0.05, 0.02, 0.07, 0.04, -0.06, 0.09])
    assert wilcoxon_p(d) == stats.wilcoxon(d, method="exact").pvalue


def test_wilcoxon_with_ties_counts_every_sign_pattern() -> None:
    d = np.array([0.9 - 0.8, 0.5 - 0.4, 0.2, -0.1, 0.3, 0.4])  # three ties, but for rounding
    ranks = stats.rankdata(np.abs(d).round(9))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    sums, seen = signs.T @ ranks, float(np.sign(d) @ ranks)
    assert wilcoxon_p(d) == pytest.approx(np.mean(np.abs(sums) >= abs(seen) - 1e-9))


def test_wilcoxon_of_many_pairs_meets_the_normal_approximation() -> None:
    d = np.random.default_rng(3).normal(0.1, 1, 400).round(1)  # full of ties and zeros
    assert wilcoxon_p(d) == pytest.approx(stats.wilcoxon(d, method="asymptotic").pvalue, rel=0.02)


def test_no_difference_at_all_is_p_one() -> None:
    assert wilcoxon_p(np.zeros(4)) == 1.0


@pytest.mark.parametrize("pairs", [1, 3, 5, 6, 9])
def test_the_smallest_p_is_reached_by_differences_of_one_sign(pairs: int) -> None:
    assert smallest_p(pairs) == pytest.approx(wilcoxon_p(np.arange(1.0, pairs + 1)))


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; never falling.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert (corrected >= np.array(p) - 1e-15).all() and (corrected <= 1).all()
    assert (corrected <= len(p) * np.array(p) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_holm_of_no_tests() -> None:
    assert holm([]).shape == (0,)


def test_category_means_of_columns() -> None:
    means = category_means([np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[10.0, 20.0]])])
    assert means.tolist() == [6.0, 11.5]


def test_spearman_is_scipys_with_an_honest_p() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, 20) / 10  # ties, as the levels of a sweep
    y = x + rng.normal(0, 0.2, 20)
    found, scipys = spearman(x, y), stats.spearmanr(x, y)
    assert found.value == pytest.approx(scipys.statistic) and found.n == 20
    assert found.p == pytest.approx(scipys.pvalue, abs=0.01)
    assert spearman(x, y) == found


def test_few_pairs_in_order_are_no_proof() -> None:
    three = np.array([0.1, 0.2, 0.3])
    assert spearman(three, three**2).value == pytest.approx(1)
    assert spearman(three, -three).value == pytest.approx(-1)
    assert spearman(three, three).p == pytest.approx(2 / 6, abs=0.02)  # of 3! orders
    ten = np.arange(10.0)
    assert spearman(ten, ten).p < 0.001


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0], [0.1 + 0.2, 0.3]])
def test_what_does_not_vary_has_no_correlation(x: list[float]) -> None:
    found = spearman(np.array(x), np.arange(float(len(x))))
    assert found.value is None and found.p is None and found.n == len(x)
