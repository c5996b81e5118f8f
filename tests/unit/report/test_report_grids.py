import numpy as np
import pytest
from scipy import stats

from rad_lightning.common.errors import UserError
from rad_lightning.report.analysis import Analysis, analyse
from rad_lightning.report.collect import read_sweep
from rad_lightning.report.grids import Cell, Grid


def analysed(fake, metric: str = "image_auroc") -> Analysis:
    return analyse(read_sweep(fake.folder), metric)


def cell(grid: Grid, label: str, ratio: float) -> Cell:
    (row,) = (row for row in grid.rows if row.label == label)
    return row.cells[grid.ratios.index(ratio)]


def mean(grid: Grid, label: str, ratio: float) -> float:
    found = cell(grid, label, ratio).estimate
    assert found is not None
    return found.mean


def test_means_over_seeds_then_over_categories(fake) -> None:
    for seed, value in enumerate((0.8, 0.9)):
        fake.run(value, category="gear", seed=seed)
    fake.run(0.5, category="mesh")
    found = analysed(fake)
    assert mean(found.mean, "plain", 0.0) == pytest.approx((0.85 + 0.5) / 2)
    assert [grid.name for grid in found.categories] == ["category gear", "category mesh"]
    assert mean(found.categories[0], "plain", 0.0) == pytest.approx(0.85)


def test_a_mean_that_lacks_a_category_says_which(fake) -> None:
    for category in ("gear", "mesh"):
        fake.run(0.9, category=category)
    fake.run(0.8, category="gear", ratio=0.3)
    found = analysed(fake)
    assert cell(found.mean, "plain", 0.0).missing == ()
    assert cell(found.mean, "plain", 0.3).missing == ("mesh",)
    assert "* and hollow points are means without mesh: plain at 0.3" in found.notes
    assert cell(found.categories[1], "plain", 0.3).estimate is None


def test_a_planned_category_is_missed_before_any_of_its_cells_ran(fake) -> None:
    fake.run(name="a")
    fake.plan([{"run": "a"}, {"run": "b", "category": "mesh"}])
    assert cell(analysed(fake).mean, "plain", 0.0).missing == ("mesh",)


def test_the_drop_pairs_category_and_seed(fake) -> None:
    fake.run(0.9, seed=0)
    fake.run(0.5, seed=1)  # has no noisy partner
    fake.run(0.8, seed=0, ratio=0.3)
    fake.run(0.1, seed=2, ratio=0.3)  # has no clean partner
    found = cell(analysed(fake).drop, "plain", 0.3).estimate
    assert found is not None and found.mean == pytest.approx(-0.1) and found.n == 1


def test_no_drop_without_a_clean_run_says_why(fake) -> None:
    fake.run(ratio=0.3)
    found = cell(analysed(fake).drop, "plain", 0.3)
    assert found.estimate is None and found.reason == "no pair with ρ = 0"


def gap_runs(fake, rad: bool = True) -> None:
    values = {"plain": 0.80, "oracle_clean": 0.90} | ({"rad": 0.86} if rad else {})
    for method, value in values.items():
        for seed in (0, 1):
            fake.run(value + 0.01 * seed, method=method, ratio=0.3, seed=seed)


def test_the_share_of_the_gap_by_hand(fake) -> None:
    gap_runs(fake)
    grid = analysed(fake).gap
    assert mean(grid, "oracle_clean − plain (points)", 0.3) == pytest.approx(0.10)
    assert mean(grid, "rad closes (% of the gap)", 0.3) == pytest.approx(0.6)


def test_the_gap_alone_where_there_is_no_third_method(fake) -> None:
    gap_runs(fake, rad=False)
    assert [row.label for row in analysed(fake).gap.rows] == ["oracle_clean − plain (points)"]


def test_no_gap_without_an_oracle_of_the_same_head(fake) -> None:
    fake.run(0.8, method="plain", head="patch", ratio=0.3)
    fake.run(0.9, method="oracle_clean", head="pooled", ratio=0.3)
    assert analysed(fake).gap.rows == ()


def test_a_gap_that_may_be_zero_closes_nothing_and_says_why(fake) -> None:
    for seed, oracle in enumerate((0.7, 0.9)):
        fake.run(0.8, method="plain", ratio=0.3, seed=seed)
        fake.run(oracle, method="oracle_clean", ratio=0.3, seed=seed)
        fake.run(0.85, method="rad", ratio=0.3, seed=seed)
    found = cell(analysed(fake).gap, "rad closes (% of the gap)", 0.3)
    assert found.estimate is None and found.reason == "the gap is not clearly above zero"


def test_of_two_plain_ones_the_one_with_the_same_training_settings_is_the_partner(fake) -> None:
    for lr, plain in ((0.001, 0.7), (0.002, 0.8)):
        for seed in (0, 1):
            fake.run(plain, method="plain", lr=lr, ratio=0.3, seed=seed)
            fake.run(0.9, method="oracle_clean", lr=lr, ratio=0.3, seed=seed)
    for seed in (0, 1):
        fake.run(0.85, method="rad", lr=0.002, ratio=0.3, seed=seed)
    assert mean(analysed(fake).gap, "rad closes (% of the gap)", 0.3) == pytest.approx(0.5)


def test_no_gap_for_a_metric_of_which_less_is_better(fake) -> None:
    for method, value in (("plain", 0.3), ("oracle_clean", 0.1)):
        fake.run(method=method, ratio=0.3, metrics={"image_false_alarm_rate": value})
    assert analysed(fake, "image_false_alarm_rate").gap.rows == ()


def test_comparisons_are_scipys_on_the_paired_differences(full) -> None:
    found = analysed(full)
    (at,) = (c for c in found.comparisons if (c.first, c.second, c.ratio) == ("rad", "plain", 0.4))
    values = {
        (s.label, r.category, r.seed): r.metrics["image_auroc"]
        for s in read_sweep(full.folder).series
        for r in s.runs
        if r.ratio == 0.4
    }
    pairs = [(c, s) for c in ("gear", "mesh") for s in range(6)]
    d = np.array([values["rad", *p] - values["plain", *p] for p in pairs]).round(12)
    assert at.difference.mean == pytest.approx(d.mean()) and at.difference.n == 12
    assert at.p == pytest.approx(stats.wilcoxon(d).pvalue)
    assert at.p < at.p_holm <= len(found.comparisons) * at.p


def test_over_all_levels_each_pair_counts_once(full) -> None:
    found = analysed(full).comparisons
    by = {(c.first, c.second, c.ratio): c.difference for c in found}
    overall = by["rad", "plain", None]
    assert overall.n == 12
    expected = (by["rad", "plain", 0.2].mean + by["rad", "plain", 0.4].mean) / 2
    assert overall.mean == pytest.approx(expected)


def test_over_all_levels_a_seed_that_lacks_one_is_left_out(fake) -> None:
    for method, value in (("plain", 0.7), ("rad", 0.8)):
        for ratio in (0.2, 0.4):
            fake.run(value, method=method, ratio=ratio, seed=0)
        fake.run(0.1 + 8 * (value - 0.7), method=method, ratio=0.2, seed=1)
    (overall,) = (c for c in analysed(fake).comparisons if c.ratio is None)
    assert overall.difference.n == 1 and overall.difference.mean == pytest.approx(0.1)


def test_a_level_that_a_category_cannot_have_costs_it_no_seed(fake) -> None:
    for method, value in (("plain", 0.7), ("rad", 0.8)):
        for category, ratios in (("gear", (0.2, 0.4)), ("mesh", (0.2,))):
            for ratio in ratios:
                fake.run(value, method=method, ratio=ratio, category=category)
    (overall,) = (c for c in analysed(fake).comparisons if c.ratio is None)
    assert overall.difference.n == 2 and overall.missing == ()


def test_heads_are_not_compared_with_each_other(fake) -> None:
    fake.run(head="patch", method="plain")
    fake.run(head="pooled", method="rad")
    assert analysed(fake).comparisons == ()


def test_the_notes_say_what_few_pairs_cannot_show(fake) -> None:
    for method, value in (("plain", 0.7), ("rad", 0.8)):
        for seed in range(3):
            fake.run(value + seed / 100, method=method, seed=seed)
    notes = " ".join(analysed(fake).notes)
    assert "With 3 pairs the smallest p is 0.25: no difference, however clear" in notes
    assert "fewer than 5 seeds per category (here as few as 3) are rough" in notes


def test_six_seeds_in_two_categories_leave_nothing_to_excuse(full) -> None:
    notes = " ".join(analysed(full).notes)
    assert "rough" not in notes and "smallest p" not in notes


def test_one_seed_is_called_luck(fake) -> None:
    fake.run()
    assert any("One seed per cell" in note for note in analysed(fake).notes)


def test_claims_are_marked_and_widen_the_columns(fake) -> None:
    fake.run(name="a", ratio=0.3)
    fake.plan([{"run": "a"}], claims={"RAD (paper)": {"0.0": 95.4, "0.5": 86.8}})
    found = analysed(fake)
    assert found.mean.ratios == (0.0, 0.3, 0.5)
    assert mean(found.mean, "RAD (paper) (claimed, not measured)", 0.5) == pytest.approx(0.868)
    assert found.categories[0].ratios == (0.3,)
    # They are about the image AUROC and nothing else.
    assert [row.claimed for row in analysed(fake, "image_ap").mean.rows] == [False]


def test_a_metric_that_no_run_has_is_one_line_with_those_that_they_have(fake) -> None:
    fake.run(metrics={"image_auroc": 0.9, "loss": 3.2, "oracle_f1_threshold": 0.4})
    with pytest.raises(UserError, match=r"metric=loss: .*choose one of image_auroc$"):
        analysed(fake, "loss")


def test_runs_without_the_metric_are_counted(fake) -> None:
    fake.run(seed=0)
    fake.run(None, seed=1)
    found = analysed(fake)
    assert "1 runs have no image_auroc and are in no table" in found.notes
    assert cell(found.mean, "plain", 0.0).estimate.n == 1


def test_requested_and_achieved_levels(fake) -> None:
    for seed, injected in enumerate((11, 12)):
        noise = {"mode": "replace", "source": "real", "requested": 0.3, "injected": injected,
                 "denominator": "training images", "of": 40, "achieved": injected / 40,
                 "contamination": injected / 40}  # fmt: skip
        fake.run(ratio=0.3, seed=seed, noise=noise)
    (level,) = analysed(fake).levels
    assert level.ratio == 0.3 and level.runs == 2
    assert level.achieved == (11 / 40, 12 / 40) and level.injected == (11, 12)
    assert level.protocol == (
        "replace: real defective images take the place of normal training images; "
        "ρ is a share of the training images"
    )
