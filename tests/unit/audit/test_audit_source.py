"""Which images are audited_rows, and what becomes of them in a cleaned manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from rad_lightning.audit.source import audited_rows, cleaned_roles, key_of, only
from rad_lightning.common.errors import UserError
from rad_lightning.config import NoiseConfig
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.noise import describe
from rad_lightning.data.samples import ANOMALOUS, NORMAL, UNLABELLED, Sample, SampleTable
from rad_lightning.data.splits import Roles

ROWS = [
    ("a", NORMAL, Roles.TRAIN),
    ("b", ANOMALOUS, Roles.INJECTED),
    ("c", ANOMALOUS, Roles.SHARED),
    ("d", ANOMALOUS, Roles.POOL),
    ("e", NORMAL, Roles.TEST),
    ("f", ANOMALOUS, Roles.TEST),
    ("g", UNLABELLED, Roles.TEST),
    ("h", NORMAL, Roles.UNUSED),
    ("i", NORMAL, Roles.UNREADABLE),
]


def dataset(split: str = "") -> Dataset:
    samples = tuple(Sample(path, label, "", path, "x", split) for path, label, _ in ROWS)
    roles = tuple(role for *_, role in ROWS)
    table = SampleTable("x", "x", Path(), samples)
    hashes = tuple(path * 3 for path, *_ in ROWS)
    return Dataset(table, roles, hashes, describe(NoiseConfig(), table, roles))


def judged_paths(data: Dataset, mode: str) -> str:
    return "".join(
        data.table.samples[row].path for row in audited_rows(data, NoiseConfig(mode=mode))
    )


@pytest.mark.parametrize(
    ("mode", "split", "paths"),
    [
        ("none", "", "abceg"),  # nothing says which of the normal images are tested on
        ("none", "test", "abc"),
        ("replace", "", "abc"),
        ("manifest", "", "abc"),
    ],
)
def test_what_is_trained_on_is_judged_and_what_a_split_tests_on_is_not(
    mode: str, split: str, paths: str
) -> None:
    assert judged_paths(dataset(split), mode) == paths


def test_the_judged_images_are_a_training_set_of_their_own() -> None:
    found = only(dataset(), [0, 1, 2, 4])
    assert [s.path for s in found.table.samples] == list("abce")
    assert found.roles == (Roles.TRAIN, Roles.INJECTED, Roles.SHARED, Roles.TRAIN)
    assert found.hashes == ("aaa", "bbb", "ccc", "eee")


def test_suspects_are_not_trained_on_and_everything_else_is_as_it_was() -> None:
    roles = cleaned_roles(dataset(), frozenset("bce"), frozenset("h"))
    assert dict(zip("abcdefghi", roles, strict=True)) == {
        "a": Roles.TRAIN, "b": Roles.UNUSED, "c": Roles.TEST, "d": Roles.POOL, "e": Roles.UNUSED,
        "f": Roles.TEST, "g": Roles.TEST, "h": Roles.UNREADABLE, "i": Roles.UNREADABLE,
    }  # fmt: skip


@pytest.mark.parametrize(("suspects", "lacking"), [("abc", "train"), ("efg", "test")])
def test_a_manifest_that_no_training_would_take_is_refused(suspects: str, lacking: str) -> None:
    data = dataset()
    if lacking == "test":
        data = only(data, [0, 1])
    with pytest.raises(UserError, match=f"no image is left to {lacking} on"):
        cleaned_roles(data, frozenset(suspects), frozenset())


@pytest.mark.parametrize(
    ("override", "key"),
    [("data.root=a=b", "data.root"), ("+space.x=1", "space.x"), ("~head", "head")],
)
def test_the_key_of_what_was_typed(override: str, key: str) -> None:
    assert key_of(override) == key
