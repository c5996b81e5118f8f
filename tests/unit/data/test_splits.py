from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rad_lightning.common.errors import UserError
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.data.splits import (
    Roles,
    file_hashes,
    manifest_rows,
    read_manifest,
    split_table,
    write_manifest,
)


def table(rows: list[tuple[int, str, str, str]]) -> SampleTable:
    """A table of (label, defect type, group, split)."""
    samples = [
        Sample(f"{i:04d}.png", label, kind, group, "c", split)
        for i, (label, kind, group, split) in enumerate(rows)
    ]
    return SampleTable("t", "c", Path(), tuple(samples))


def unique(count: int, label: int, kind: str, split: str = "") -> list[tuple[int, str, str, str]]:
    return [(label, kind, f"{kind}-{split}-{i}", split) for i in range(count)]


LABELLED = st.sampled_from(
    [(0, "good"), (0, "good"), (1, "crack"), (1, "hole"), (-1, "unlabelled")]
)
ROWS = st.lists(st.tuples(LABELLED, st.integers(0, 12)), min_size=1, max_size=40)
OPTIONS = st.fixed_dictionaries(
    {
        "scheme": st.sampled_from(["group", "published"]),
        "seed": st.integers(0, 5),
        "test_fraction": st.sampled_from([0.0, 0.2, 0.5]),
        "pool_fraction": st.sampled_from([0.0, 0.3, 0.5]),
        "pool_normals": st.sampled_from(["drop", "train"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, options=OPTIONS, own=st.booleans(), shuffle=st.randoms(use_true_random=False))
def test_split_keeps_groups_apart_whatever_the_order(rows, options, own, shuffle) -> None:
    # an anchor keeps the training set from being empty
    listed = [(0, "good", "anchor", "train" if own else "")] + [
        (label, kind, f"g{group}", ("train" if group % 2 else "test") if own else "")
        for (label, kind), group in rows
    ]
    data = table(listed)
    try:
        roles = split_table(data, **options)
    except UserError as error:
        assert "is left to" in str(error)
        return
    assert len(roles) == len(data) and set(roles) <= set(Roles.ALL)
    assert roles == split_table(data, **options)
    if options["scheme"] == "group":
        by_group = defaultdict(set)
        for sample, role in zip(data.samples, roles, strict=True):
            by_group[sample.group].add(role)
        for found in by_group.values():
            assert Roles.TEST not in found or found == {Roles.TEST}
    for sample, role in zip(data.samples, roles, strict=True):
        assert role != Roles.POOL or sample.label == 1
        assert role != Roles.TRAIN or sample.label != 1
    order = list(range(len(data)))
    shuffle.shuffle(order)
    shuffled = replace(data, samples=tuple(data.samples[i] for i in order))
    assert split_table(shuffled, **options) == tuple(roles[i] for i in order)


def counts(data: SampleTable, roles: tuple[str, ...]) -> Counter[tuple[str, str]]:
    return Counter((s.defect_type, r) for s, r in zip(data.samples, roles, strict=True))


def test_own_split_without_train_anomalies_takes_its_pool_from_the_test_anomalies() -> None:
    rows = unique(20, 0, "good", "train") + unique(10, 0, "good", "test")
    rows += unique(10, 1, "crack", "test") + unique(7, 1, "hole", "test")
    data = table(rows)
    found = counts(data, split_table(data, scheme="group", seed=0, pool_fraction=0.5))
    assert found == {
        ("good", "train"): 20,
        ("good", "test"): 10,
        ("crack", "pool"): 5,
        ("crack", "test"): 5,
        ("hole", "pool"): 3,
        ("hole", "test"): 4,
    }


def test_own_train_anomalies_are_the_pool_and_leave_the_test_set_alone() -> None:
    rows = unique(20, 0, "good", "train") + unique(6, 1, "defect", "train")
    rows += unique(10, 0, "good", "test") + unique(5, 1, "defect", "test")
    data = table(rows)
    with_pool = counts(data, split_table(data, scheme="group", seed=0, pool_fraction=0.5))
    without = counts(data, split_table(data, scheme="group", seed=0))
    assert with_pool["defect", "pool"] == without["defect", "unused"] == 6
    assert with_pool["defect", "test"] == without["defect", "test"] == 5


def test_test_normals_do_not_depend_on_the_pool_and_the_pool_grows() -> None:
    data = table(unique(50, 0, "good") + unique(20, 1, "crack"))
    splits = [split_table(data, scheme="group", seed=3, pool_fraction=f) for f in (0.0, 0.25, 0.5)]
    tests = [{i for i, r in enumerate(roles[:50]) if r == Roles.TEST} for roles in splits]
    assert tests[0] == tests[1] == tests[2] and len(tests[0]) == 10
    pools = [{i for i, r in enumerate(roles) if r == Roles.POOL} for roles in splits]
    assert pools[0] < pools[1] < pools[2] and len(pools[2]) == 10


def test_seeds_differ_and_zero_is_one() -> None:
    data = table(unique(50, 0, "good"))
    assert split_table(data, scheme="group", seed=0) != split_table(data, scheme="group", seed=1)


def test_published_ignores_groups() -> None:
    data = table([(0, "good", "one", "")] * 10 + [(1, "crack", "one", "")] * 10)
    found = counts(data, split_table(data, scheme="published", seed=0, pool_fraction=0.5))
    assert found == {
        ("good", "test"): 2,
        ("good", "train"): 8,
        ("crack", "pool"): 5,
        ("crack", "test"): 5,
    }


def test_normals_of_pool_groups_can_be_trained_on() -> None:
    parts = [[(1, "defect", f"kos{i}", "")] + [(0, "good", f"kos{i}", "")] * 7 for i in range(10)]
    data = table([row for part in parts for row in part])
    with pytest.raises(UserError, match="set pool_normals=train with a pool_fraction above 0"):
        split_table(data, scheme="group", seed=0, pool_fraction=0.5)
    with pytest.raises(UserError, match="raise pool_fraction above 0"):
        split_table(data, scheme="group", seed=0, pool_normals="train")
    roles = split_table(data, scheme="group", seed=0, pool_fraction=0.5, pool_normals="train")
    assert Counter(roles) == {Roles.TEST: 40, Roles.TRAIN: 35, Roles.POOL: 5}


def test_unlabelled_images_are_trained_on_and_some_tested() -> None:
    data = table(unique(20, -1, "unlabelled"))
    roles = split_table(data, scheme="group", seed=0)
    assert Counter(roles) == {Roles.TRAIN: 16, Roles.TEST: 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "image"}, "scheme=image is not valid: choose one of group, published"),
        ({"pool_normals": "keep"}, "pool_normals=keep is not valid: choose one of drop, train"),
        ({"test_fraction": 1.0}, "test_fraction=1.0 is not valid"),
        ({"pool_fraction": -0.1}, "pool_fraction=-0.1 is not valid"),
        ({"pool_fraction": float("nan")}, "pool_fraction=nan is not valid"),
        ({"seed": -1}, "seed=-1 is not valid"),
    ],
)
def test_impossible_options_are_named(options, message) -> None:
    with pytest.raises(UserError, match=message):
        split_table(table(unique(5, 0, "good")), **{"scheme": "group", "seed": 0, **options})


def test_an_own_split_must_be_whole_and_keep_groups_together() -> None:
    with pytest.raises(UserError, match="has no split but other images have"):
        split_table(
            table([(0, "good", "a", "train"), (0, "good", "b", "")]), scheme="group", seed=0
        )
    torn = table([(0, "good", "a", "train"), (0, "good", "a", "test")])
    with pytest.raises(UserError, match="group a in both train and test"):
        split_table(torn, scheme="group", seed=0)
    assert split_table(torn, scheme="published", seed=0) == ("train", "test")


def test_no_anomaly_left_to_test_on_is_an_error() -> None:
    data = table(unique(5, 0, "good") + [(1, "crack", "one", "")] * 3)
    with pytest.raises(UserError, match="lower pool_fraction"):
        split_table(data, scheme="group", seed=0, pool_fraction=0.9)


def test_manifest_is_the_same_bytes_and_comes_back(tmp_path: Path) -> None:
    data = table([(0, "good", "a,b", ""), (1, 'a "long" crack', "ü", "")])
    path = tmp_path / "sub" / "manifest.csv"
    write_manifest(path, data, ("train", "test"), ("00", "ff"))
    assert path.read_bytes() == (
        b"path,sha256,category,label,defect_type,group,role\n"
        b'0000.png,00,c,0,good,"a,b",train\n'
        b'0001.png,ff,c,1,"a ""long"" crack",\xc3\xbc,test\n'
    )
    assert read_manifest(path) == manifest_rows(data, ("train", "test"), ("00", "ff"))
    assert [p.name for p in path.parent.iterdir()] == ["manifest.csv"]


def test_names_that_a_spreadsheet_would_run_come_back(tmp_path: Path) -> None:
    names = ["=1.png", "'=1.png", "-a\r\n.png", "@x.png", "'q.png"]
    found = [Sample(n, -1, "-kind", n, "+c") for n in names]
    data, path = SampleTable("t", "+c", Path(), tuple(found)), tmp_path / "manifest.csv"
    roles, hashes = ("train",) * len(names), ("00",) * len(names)
    write_manifest(path, data, roles, hashes)
    assert read_manifest(path) == manifest_rows(data, roles, hashes)
    assert b"\n=" not in path.read_bytes() and b",-k" not in path.read_bytes()


HEADER = "path,sha256,category,label,defect_type,group,role\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", ":1: expected the columns path,sha256"),
        (HEADER + "a,0,c,0,good,g,train\na,0,c,7,good,g,train\n", ":3: label '7' is not known"),
        (
            HEADER + "a,0,c,0,good,g,tset\n",
            ":2: role 'tset' is not known: choose one of train, injected",
        ),
        (HEADER + "a,0\n", ":2: expected 7 values, found 2"),
    ],
)
def test_a_wrong_manifest_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(path)


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        read_manifest(tmp_path / "none.csv")


def test_file_hashes_keep_the_order(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(20)]
    for path in paths:
        path.write_text(path.name)
    hashes = file_hashes(paths)
    assert len(set(hashes)) == 20 and hashes == file_hashes(paths, workers=1)
    empty = tmp_path / "empty"
    empty.touch()
    known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_hashes([empty]) == [known]


def test_stream_is_pinned() -> None:
    """The published splits rest on these numbers: a change here changes every result."""
    roles = split_table(table(unique(10, 0, "good")), scheme="group", seed=0)
    assert np.flatnonzero([role == Roles.TEST for role in roles]).tolist() == [5, 7]
