import math
import weakref

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage
from sklearn import metrics as sk
from torch import Tensor

from rad_lightning.evaluation.evaluate import OnDemand
from rad_lightning.evaluation.metrics import (
    NotFiniteError,
    auroc,
    f1_max,
    image_metrics,
    per_defect_auroc,
    pixel_metrics,
)

RANKING = {"image_auroc", "image_ap", "image_f1", "oracle_f1_max", "oracle_f1_threshold"}


def images(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and labels of forty images; ``kind`` says where on the number line."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [25, 15]))
    scores = rng.normal(labels * 1.0, 1.0)
    if kind == "ties":
        scores = np.round(scores)
    scores = {"large": 800 + scores, "negative": -50 + scores, "tight": 800 + 1e-3 * scores}.get(
        kind, scores
    )
    return torch.from_numpy(scores).float(), torch.from_numpy(labels)


KINDS = ["plain", "ties", "large", "negative", "tight"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_ranking_metrics_are_scikit_learns(kind: str, seed: int) -> None:
    scores, labels = images(kind, seed)
    found, notes = image_metrics(scores, labels, float(scores.median()))
    wide = scores.double().numpy()
    assert found["image_auroc"] == pytest.approx(sk.roc_auc_score(labels, wide), abs=1e-6)
    assert found["image_ap"] == pytest.approx(sk.average_precision_score(labels, wide), abs=1e-6)
    assert notes == [] and 0.5 < found["image_auroc"] < 1


@pytest.mark.parametrize("kind", KINDS)
def test_threshold_metrics_are_scikit_learns(kind: str) -> None:
    scores, labels = images(kind)
    limit = float(scores[7])  # an image at the threshold is not above it
    found, _ = image_metrics(scores, labels, limit)
    flagged = scores.double().numpy() > limit
    assert found["image_f1"] == pytest.approx(sk.f1_score(labels, flagged))
    assert found["image_recall"] == pytest.approx(sk.recall_score(labels, flagged))
    specificity = sk.recall_score(labels, flagged, pos_label=0)
    assert found["image_false_alarm_rate"] == pytest.approx(1 - specificity)


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_f1_is_the_best_over_all_thresholds(kind: str) -> None:
    scores, labels = images(kind)
    wide = scores.double()
    found, where = f1_max(wide, labels)
    every = [sk.f1_score(labels, wide.numpy() >= t) for t in wide.unique().tolist()]
    assert found == pytest.approx(max(every))
    assert sk.f1_score(labels, wide.numpy() >= where) == pytest.approx(found)


def test_metrics_depend_on_the_ranking_alone() -> None:
    scores, labels = images("plain")
    wide = scores.double()
    assert auroc(wide, labels) == auroc(wide.exp() * 7 + 800, labels) == auroc(wide - 1e3, labels)


def test_nothing_above_the_threshold_is_an_f1_of_zero() -> None:
    scores, labels = images("plain")
    found, _ = image_metrics(scores, labels, 1e9)
    assert (found["image_f1"], found["image_recall"], found["image_false_alarm_rate"]) == (0, 0, 0)


def test_the_threshold_is_compared_in_double_precision_as_scores_csv_does() -> None:
    scores = torch.tensor([1.0, 2.0])
    found, _ = image_metrics(scores, torch.tensor([0, 1]), 2.0 - 1e-9)
    assert found["image_recall"] == float(scores[1].item() > 2.0 - 1e-9)


@pytest.mark.parametrize(
    ("label", "word", "kept"),
    [(0, "normal", "image_false_alarm_rate"), (1, "anomalous", "image_recall")],
)
def test_one_class_alone_has_no_ranking_metrics_and_says_why(
    label: int, word: str, kept: str
) -> None:
    found, notes = image_metrics(torch.tensor([1.0, 3.0]), torch.full((2,), label), 2.0)
    assert found == {kept: 0.5}
    assert len(notes) == 1 and word in notes[0]


def test_an_empty_test_set_has_no_metrics_and_says_so() -> None:
    found, notes = image_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.0)
    assert found == {} and "empty" in notes[0]


def test_all_names_are_there_when_both_classes_are() -> None:
    found, _ = image_metrics(*images("plain"), 0.0)
    assert found.keys() == RANKING | {"image_false_alarm_rate", "image_recall"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error(bad: float) -> None:
    scores, labels = images("plain")
    scores[3] = bad
    with pytest.raises(NotFiniteError, match="1 of 40"):
        image_metrics(scores, labels, 0.0)
    with pytest.raises(NotFiniteError):
        pixel_metrics([scores.view(5, 8)], [labels.view(5, 8).bool()])


def test_per_defect_auroc_sets_each_kind_against_all_normals() -> None:
    scores, labels = images("large")
    kinds = [("cut" if i % 2 else "dent") if y else "good" for i, y in enumerate(labels.tolist())]
    found = per_defect_auroc(scores, labels, kinds)
    assert list(found) == ["cut", "dent"]
    for kind, value in found.items():
        keep = [i for i, k in enumerate(kinds) if k in ("good", kind)]
        expected = sk.roc_auc_score(labels[keep], scores[keep].double())
        assert value == pytest.approx(expected, abs=1e-6)


def test_per_defect_auroc_leaves_unlabelled_images_out() -> None:
    scores = torch.tensor([1.0, 2.0, 9.0, 0.0])
    found = per_defect_auroc(scores, torch.tensor([0, 1, -1, -1]), ["good", "cut", "cut", "?"])
    assert found == {"cut": 1.0}


def test_per_defect_auroc_needs_normal_images() -> None:
    assert per_defect_auroc(torch.tensor([1.0]), torch.tensor([1]), ["cut"]) == {}


def pixels(seed: int, step: float | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of unequal sizes; regions large and small, touching by a corner, and a normal image."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros(hw, bool) for hw in ((8, 9), (6, 7), (7, 5))]
    masks[0][1:4, 1:5] = masks[0][6, 7] = True
    masks[1][0:2, 0:2] = masks[1][2:4, 2:4] = masks[1][5, 6] = True  # first two: one region
    maps = [rng.normal(800 + 1.0 * m, 1.0) for m in masks]
    if step:
        maps = [np.round(m / step) * step for m in maps]
    return [torch.from_numpy(m).float() for m in maps], [torch.from_numpy(m) for m in masks]


def brute_force_aupro(maps: list[Tensor], masks: list[Tensor], limit: float = 0.3) -> float:
    """Threshold by threshold, region by region; then trapezoids up to the limit."""
    regions, normal = [], np.concatenate([m[~k].numpy() for m, k in zip(maps, masks, strict=True)])
    for m, k in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(k.numpy(), structure=np.ones((3, 3)))
        regions += [m.numpy()[labelled == r] for r in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for t in sorted({float(v) for m in maps for v in m.flatten()}, reverse=True):
        overlaps = [float((r >= t).mean()) for r in regions]
        points.append((float((normal >= t).mean()), sum(overlaps) / len(overlaps)))
    below = [(x, y) for x, y in points if x <= limit]
    (x0, y0), (x1, y1) = below[-1], points[len(below)]  # the last point is (1, 1)
    below.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    x, y = np.array(below).T
    return float(integrate.trapezoid(y, x)) / limit


@pytest.mark.parametrize("step", [None, 0.5, 2.0], ids=["distinct", "ties", "coarse"])
@pytest.mark.parametrize("seed", range(4))
def test_pixel_metrics_are_scikit_learns_and_the_brute_force_loops(
    seed: int, step: float | None
) -> None:
    maps, masks = pixels(seed, step)
    found, notes = pixel_metrics(maps, masks)
    flat = torch.cat([m.flatten() for m in maps]).double()
    truth = torch.cat([m.flatten() for m in masks])
    assert found["pixel_auroc"] == pytest.approx(sk.roc_auc_score(truth, flat), abs=1e-9)
    assert found["pixel_aupro"] == pytest.approx(brute_force_aupro(maps, masks), abs=1e-9)
    assert notes == []


def crowded(seed: int, density: float, step: float | None) -> tuple[list[Tensor], list[Tensor]]:
    """Images of many sizes, a row and a lone pixel among them, with up to dozens of regions."""
    rng = np.random.default_rng(seed)
    sizes = ((16, 12), (1, 9), (7, 7), (20, 5), (1, 1), (11, 13))
    masks = [ndimage.binary_dilation(rng.random(hw) < density) for hw in sizes]
    masks[2][:] = False
    maps = [rng.normal(1.5 * m, 1.0) for m in masks]
    if step:
        maps = [np.round(m / step) * step for m in maps]
    return [torch.from_numpy(m).float() for m in maps], [torch.from_numpy(m) for m in masks]


@pytest.mark.parametrize("step", [None, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("density", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_of_many_regions_is_that_of_the_brute_force_loops(
    seed: int, density: float, step: float | None
) -> None:
    maps, masks = crowded(seed, density, step)
    found, _ = pixel_metrics(maps, masks)
    assert found["pixel_aupro"] == pytest.approx(brute_force_aupro(maps, masks), abs=1e-9)
    assert 0.15 < found["pixel_aupro"] < 1


def drawn(*images: tuple[list[list[float]], str]) -> tuple[list[Tensor], list[Tensor]]:
    """Maps, and masks in which # is a defect; the rows of a mask stand beside each other."""
    maps = [torch.tensor(scores) for scores, _ in images]
    masks = [torch.tensor([[c == "#" for c in row] for row in m.split()]) for _, m in images]
    return maps, masks


def test_aupro_between_two_rates_is_interpolated_by_hand() -> None:
    # Four normal pixels: the rate jumps from 0.25 to 0.5, in a tie that also ends a region.
    maps, masks = drawn(([[9, 8, 1], [0, 5, 5]], "#.. .#."), ([[7]], "#"))
    # (0, 0.25) at 9, (0.25, 0.25) at 8, (0.25, 0.75) at 7, (0.5, 1) at 5; so (0.3, 0.8).
    by_hand = (0.25 * 0.25 + 0.05 * (0.75 + 0.8) / 2) / 0.3
    assert pixel_metrics(maps, masks)[0]["pixel_aupro"] == pytest.approx(by_hand)
    assert brute_force_aupro(maps, masks) == pytest.approx(by_hand)


def test_aupro_where_a_rate_is_the_limit_itself_by_hand() -> None:
    # Ten normal pixels, of which a tie takes three; what is found at the same rate comes too late.
    maps, masks = drawn(([[9, 8, 8, 8, 8]], "##..."), ([[7, 1, 2, 3, 4, 0, 0, 0]], "#......."))
    # (0, 0.25) at 9, (0.3, 0.5) at 8, (0.3, 1) at 7.
    by_hand = (0.25 + 0.5) / 2
    assert pixel_metrics(maps, masks)[0]["pixel_aupro"] == pytest.approx(by_hand)
    assert brute_force_aupro(maps, masks) == pytest.approx(by_hand)


def test_a_perfect_map_has_area_one_and_an_inverted_one_zero() -> None:
    _, masks = pixels(0)
    perfect, _ = pixel_metrics([m.float() for m in masks], masks)
    inverted, _ = pixel_metrics([-m.float() for m in masks], masks)
    assert list(perfect.values()) == pytest.approx([1.0, 1.0])
    assert list(inverted.values()) == pytest.approx([0.0, 0.0])


def test_a_constant_map_has_the_area_of_chance() -> None:
    _, masks = pixels(0)
    found, _ = pixel_metrics([torch.zeros(m.shape) for m in masks], masks)
    assert found["pixel_auroc"] == pytest.approx(0.5)
    assert found["pixel_aupro"] == pytest.approx(0.15)  # the diagonal, cut at 0.3


def test_small_regions_count_as_much_as_large_ones() -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:5] = mask[8, 8] = True
    only_large = torch.zeros(10, 10)
    only_large[:5] = 2.0
    only_large[8, 8] = -1.0  # found last of all
    found, _ = pixel_metrics([only_large], [mask])
    assert found["pixel_auroc"] > 0.97 and found["pixel_aupro"] < 0.51


@pytest.mark.parametrize(("value", "word"), [(False, "normal"), (True, "defect")])
def test_masks_of_one_kind_have_no_pixel_metrics_and_say_why(value: bool, word: str) -> None:
    found, notes = pixel_metrics([torch.rand(3, 3)], [torch.full((3, 3), value)])
    assert found == {} and f"only {word}" in notes[0]


def test_no_masks_have_no_pixel_metrics_and_say_why() -> None:
    found, notes = pixel_metrics([], [])
    assert found == {} and len(notes) == 1


@pytest.mark.parametrize("scores", [[1.0] * 4, [1.0, 1.0000001, 1.0, 1.0]])
def test_equal_scores_are_worth_a_guess(scores: list[float]) -> None:
    found, _ = image_metrics(torch.tensor(scores), torch.tensor([0, 1, 0, 1]), 1.0)
    assert found["image_auroc"] == 0.5 + 0.25 * (len(set(scores)) > 1)
    assert found["oracle_f1_max"] == pytest.approx(2 / 3)


def test_pixel_metrics_in_ranges_are_those_of_one_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(40, 30), (25, 61), (33, 33)]
    masks = [torch.rand(size, generator=generator) > 0.9 for size in sizes]
    maps = [torch.rand(m.shape, generator=generator) + 0.3 * m for m in masks]
    for ties in (maps, [(5 * m).round() for m in maps]):
        whole, _ = pixel_metrics(ties, masks)
        with monkeypatch.context() as patch:
            patch.setattr("rad_lightning.evaluation.metrics.PIXELS_AT_ONCE", 300)
            parts, _ = pixel_metrics(ties, masks)
        assert parts == pytest.approx(whole, abs=1e-12)


def test_pixel_metrics_hold_few_maps_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = weakref.WeakSet[torch.Tensor](), 0

    def made(number: int) -> torch.Tensor:
        nonlocal most
        found = torch.rand(50, 50, generator=torch.Generator().manual_seed(number))
        alive.add(found)
        most = max(most, len(alive))
        return found

    monkeypatch.setattr("rad_lightning.evaluation.metrics.PIXELS_AT_ONCE", 5000)
    masks = [torch.rand(50, 50) > 0.95 for _ in range(40)]
    found, _ = pixel_metrics(OnDemand(made, range(40)), masks)
    assert 0.4 < found["pixel_auroc"] < 0.6
    assert most < 8
