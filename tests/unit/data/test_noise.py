"""Label noise: what is injected, that nothing leaks, that levels nest, that nothing is capped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rad_lightning.common.errors import UserError
from rad_lightning.config import NoiseConfig
from rad_lightning.data.noise import Contamination, inject
from rad_lightning.data.samples import ANOMALOUS, GOOD, NORMAL, Sample, SampleTable
from rad_lightning.data.splits import Roles, split_table

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def table_of(parts: list[tuple[str, int]]) -> SampleTable:
    """A table with one group per entry: its defect type (or good) and its number of images."""
    samples = [
        Sample(f"{g:03}/{i}.png", int(kind != GOOD), kind, f"part{g}", "k")
        for g, (kind, count) in enumerate(parts)
        for i in range(count)
    ]
    return SampleTable(
        "made-up", "k", Path("nowhere"), tuple(sorted(samples, key=lambda s: s.path))
    )


def drawn(
    table: SampleTable, seed: int = 0, pool_fraction: float = 0.5, **noise: Any
) -> tuple[SampleTable, tuple[str, ...], Contamination]:
    cfg = NoiseConfig(**{"mode": "replace", **noise})
    cfg.check()
    roles = split_table(table, scheme="group", seed=seed, pool_fraction=pool_fraction)
    return inject(table, roles, cfg, seed)


def of_role(table: SampleTable, roles: tuple[str, ...], *wanted: str) -> list[Sample]:
    return [s for s, r in zip(table.samples, roles, strict=True) if r in wanted]


tables = st.lists(
    st.tuples(st.sampled_from([GOOD, GOOD, "hole", "crack", "fray"]), st.integers(1, 4)),
    min_size=12,
    max_size=50,
).map(table_of)
settings_of_noise = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["replace", "add", "pool_fraction"]),
        "ratio": st.sampled_from(LEVELS),
        "stratify": st.booleans(),
        "clustered": st.booleans(),
        "overlap": st.booleans(),
    }
)


def feasible(table: SampleTable, seed: int, **noise: Any) -> Any:
    try:
        return drawn(table, seed, **noise)
    except UserError:
        assume(False)


@given(tables, st.integers(0, 5), settings_of_noise)
def test_nothing_leaks_and_the_books_balance(
    table: SampleTable, seed: int, noise: dict[str, Any]
) -> None:
    after, roles, done = feasible(table, seed, **noise)
    trained = of_role(after, roles, *Roles.TRAINED)
    tested = of_role(after, roles, *Roles.TESTED)
    if not noise["overlap"]:
        assert not {s.path for s in trained} & {s.path for s in tested}
        assert not {s.group for s in trained} & {s.group for s in tested}
    anomalies = [s for s in trained if s.label == ANOMALOUS]
    assert anomalies == of_role(after, roles, Roles.INJECTED, Roles.SHARED)
    assert done.injected == len(anomalies) and done.normals == len(trained) - len(anomalies)
    assert abs(done.achieved - noise["ratio"]) <= 0.5 / done.of + 1e-12
    assert done.contamination == pytest.approx(len(anomalies) / max(1, len(trained)))
    if noise["clustered"]:
        assert len({s.defect_type for s in anomalies}) <= 1
    if noise["mode"] == "pool_fraction":
        assert done.of == sum(s.label == ANOMALOUS for s in table.samples)


@given(tables, st.integers(0, 5), settings_of_noise)
def test_levels_are_nested_and_the_test_set_is_frozen(
    table: SampleTable, seed: int, noise: dict[str, Any]
) -> None:
    low, high = noise["ratio"], 0.5
    _, below, _ = feasible(table, seed, **noise)
    after, above, _ = feasible(table, seed, **{**noise, "ratio": high})
    names = [s.path for s in after.samples]
    injected = (Roles.INJECTED, Roles.SHARED)
    few = {n for n, r in zip(names, below, strict=True) if r in injected}
    many = {n for n, r in zip(names, above, strict=True) if r in injected}
    assert few <= many or low > high
    normal_low = {n for n, r in zip(names, below, strict=True) if r == Roles.TRAIN}
    normal_high = {n for n, r in zip(names, above, strict=True) if r == Roles.TRAIN}
    assert normal_high <= normal_low
    tested = [
        [n for n, r in zip(names, roles, strict=True) if r in Roles.TESTED]
        for roles in (below, above)
    ]
    assert tested[0] == tested[1]


@given(tables, st.integers(0, 5), st.booleans(), st.sampled_from(["real", "synthetic"]))
def test_replace_keeps_the_size_of_the_training_set(
    table: SampleTable, seed: int, stratify: bool, source: str
) -> None:
    sizes = set()
    for ratio in LEVELS:
        after, roles, done = feasible(table, seed, ratio=ratio, stratify=stratify, source=source)
        sizes.add(len(of_role(after, roles, *Roles.TRAINED)))
        assert sizes == {done.of}


@given(tables, st.integers(0, 5), settings_of_noise, st.randoms())
def test_the_draw_depends_on_the_names_not_on_the_order_of_rows(
    table: SampleTable, seed: int, noise: dict[str, Any], rng: Any
) -> None:
    after, roles, _ = feasible(table, seed, **noise)
    mixed = list(table.samples)
    rng.shuffle(mixed)
    other, other_roles, _ = drawn(replace(table, samples=tuple(mixed)), seed, **noise)
    assert dict(zip((s.path for s in after.samples), roles, strict=True)) == dict(
        zip((s.path for s in other.samples), other_roles, strict=True)
    )


@given(tables, st.integers(0, 3), settings_of_noise)
def test_the_largest_feasible_level_named_is_feasible(
    table: SampleTable, seed: int, noise: dict[str, Any]
) -> None:
    noise = {**noise, "mode": "add", "ratio": 0.9}
    try:
        drawn(table, seed, **noise)
    except UserError as error:
        assume("largest feasible ratio is" in str(error))
        named = float(str(error).rpartition(" is ")[2])
        assert named < 0.9
        drawn(table, seed, **{**noise, "ratio": named})
        with pytest.raises(UserError, match="largest feasible"):
            of = drawn(table, seed, **{**noise, "ratio": 0.0})[2].of
            drawn(table, seed, **{**noise, "ratio": named + 1.01 / of})


WIDE = table_of([(GOOD, 1)] * 80 + [("hole", 1)] * 24 + [("crack", 1)] * 12 + [("fray", 1)] * 4)


def test_the_pool_sizes_the_training_set() -> None:
    after, roles, done = drawn(WIDE, ratio=0.5)
    assert Counter(roles)[Roles.INJECTED] == 20 and done.of == 40  # 20 in the pool, half of 40
    assert done.defect_types == {"hole": 12, "crack": 6, "fray": 2}
    assert done.denominator == "training images"
    _, _, smaller = drawn(WIDE, ratio=0.3, max_ratio=0.3)
    assert smaller.of == 64 and smaller.injected == 19  # all 64 normals; round(19.2)
    assert len(of_role(after, roles, *Roles.TESTED)) == 16 + 20


def test_every_level_is_stratified() -> None:
    _, _, done = drawn(WIDE, ratio=0.25)
    assert done.defect_types == {"hole": 6, "crack": 3, "fray": 1}
    kinds = [drawn(WIDE, seed=s, ratio=0.25, stratify=False)[2].defect_types for s in range(9)]
    assert len({tuple(k.items()) for k in kinds}) > 1


def test_clustered_takes_the_most_frequent_type_or_the_named_one() -> None:
    assert drawn(WIDE, ratio=0.5, clustered=True)[2].defect_types == {"hole": 12}
    done = drawn(WIDE, ratio=0.5, clustered=True, defect_type="fray")[2]
    assert done.defect_types == {"fray": 2} and done.of == 4
    with pytest.raises(UserError, match="choose one of crack, fray, hole"):
        drawn(WIDE, ratio=0.5, clustered=True, defect_type="dent")


def test_add_keeps_every_normal_image() -> None:
    _, roles, done = drawn(WIDE, mode="add", ratio=0.25)
    assert Counter(roles)[Roles.TRAIN] == 64
    assert (done.injected, done.of, done.denominator) == (16, 64, "normal training images")
    assert done.contamination == 16 / 80
    with pytest.raises(UserError, match=r"has 20 images to draw; .* ratio is 0.312"):
        drawn(WIDE, mode="add", ratio=0.5)


def test_half_of_all_anomalies_is_the_whole_pool() -> None:
    _, roles, done = drawn(WIDE, mode="pool_fraction", ratio=0.5)
    assert done.injected == 20 and done.of == 40 and Counter(roles)[Roles.POOL] == 0


def test_overlap_trains_on_what_is_tested_and_says_so() -> None:
    _, roles, done = drawn(WIDE, ratio=0.5, overlap=True, pool_fraction=0.0)
    assert Counter(roles)[Roles.SHARED] == done.injected == 32  # half of all 64 normals' places
    assert Counter(roles)[Roles.INJECTED] == 0


def test_made_defects_take_the_place_of_their_own_source() -> None:
    after, roles, done = drawn(WIDE, ratio=0.25, source="synthetic", pool_fraction=0.0)
    made = of_role(after, roles, Roles.INJECTED)
    assert done.defect_types == {"cutpaste": 8, "perlin": 8} and done.of == 64
    sources = {s.path.split("/", 2)[2].removesuffix(".bmp") for s in made}
    assert sources == {s.path for s in of_role(after, roles, Roles.UNUSED)}
    assert len({s.path.split("/")[1] for s in made}) == 16  # each with a seed of its own
    assert all(s.label == ANOMALOUS and s.mask_path is None for s in made)
    groups = {s.path: s.group for s in WIDE.samples}
    assert all(s.group == groups[s.path.split("/", 2)[2].removesuffix(".bmp")] for s in made)
    both, roles, done = drawn(WIDE, mode="add", ratio=1.0, source="synthetic", pool_fraction=0.0)
    assert Counter(roles)[Roles.INJECTED] == Counter(roles)[Roles.TRAIN] == 64
    assert [s.path for s in both.samples] == sorted(s.path for s in both.samples)


def test_a_fixed_size_is_kept_or_refused() -> None:
    assert drawn(WIDE, ratio=0.5, train_images=30)[2].injected == 15
    with pytest.raises(UserError, match=r"largest feasible ratio is 0.4$"):
        drawn(WIDE, ratio=0.5, train_images=50)
    with pytest.raises(UserError, match="use a value from 2 to 64"):
        drawn(WIDE, ratio=0.5, train_images=65)


def test_no_anomaly_to_draw_is_said() -> None:
    calm = table_of([(GOOD, 1)] * 10)
    with pytest.raises(UserError, match="no anomalous image in the noise pool"):
        drawn(calm, ratio=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "none", "ratio": 0.3}, "does nothing with noise=none"),
        ({"mode": "replace", "ratio": 0.6}, r"largest feasible one is noise.max_ratio = 0.5"),
        ({"mode": "manifest"}, "need each other"),
        ({"mode": "add", "manifest": "m.csv"}, "need each other"),
        ({"mode": "add", "train_images": 5}, "not read by noise=add"),
        ({"mode": "add", "defect_type": "hole"}, "clustered=true only"),
        ({"mode": "pool_fraction", "source": "synthetic"}, "needs real anomalies"),
        ({"mode": "add", "overlap": True, "source": "synthetic"}, "needs real anomalies"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NoiseConfig(**settings).check()


def test_the_draw_of_a_seed_never_changes() -> None:
    """A published manifest must come out the same with every later version and machine."""
    after, roles, _ = drawn(WIDE, seed=7, ratio=0.1)
    injected = [s.path for s in of_role(after, roles, Roles.INJECTED)]
    assert injected == GOLDEN
    assert NORMAL not in {s.label for s in of_role(after, roles, Roles.INJECTED)}


GOLDEN = ["088/0.png", "094/0.png", "102/0.png", "106/0.png"]
