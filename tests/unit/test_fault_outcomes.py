"""The fault harness itself: how outcomes are told apart, and that its damages are damages."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from faults.damage import damages, feature_damages, json_damages, table_damages
from faults.outcomes import (
    HANG,
    REFUSED,
    RIGHT,
    TRACEBACK,
    WRONG,
    Ended,
    Tried,
    faults,
    outcome_of,
    table,
)

TRACE = "Traceback (most recent call last):\n  File x\nValueError: x"


@pytest.mark.parametrize(
    ("ended", "wrong", "expected"),
    [
        (Ended(0, "", ""), None, RIGHT),
        (Ended(0, "", ""), "other scores", WRONG),
        (Ended(0, "", TRACE), None, TRACEBACK),
        (Ended(1, "", TRACE), None, TRACEBACK),
        (Ended(2, "", "error: FILE: use another one"), None, REFUSED),
        (Ended(2, "", "warning: slow\nerror: FILE: use another one"), None, REFUSED),
        (Ended(2, "", "error: a\nerror: b"), None, TRACEBACK),
        (Ended(2, "", "error: "), None, TRACEBACK),
        (Ended(130, "", "interrupted: run it again"), None, REFUSED),
        (Ended(143, "", ""), None, WRONG),
        (Ended(139, "", "error: a"), None, TRACEBACK),
        (Ended(None, "", "error: a"), None, HANG),
    ],
)
def test_outcomes(ended: Ended, wrong: str | None, expected: str) -> None:
    assert outcome_of(ended, wrong)[0] == expected


def test_the_table_counts_each_outcome() -> None:
    tries = [
        Tried("cache", "zeros", RIGHT),
        Tried("cache", "cut", WRONG, "x"),
        Tried("ddp", "", HANG),
    ]
    lines = table(tries).splitlines()
    assert lines[0] == "| kind | tried | right | refused | wrong | traceback | hang |"
    assert lines[2:] == [
        "| cache | 2 | 1 | 0 | 1 | 0 | 0 |",
        "| ddp | 1 | 0 | 0 | 0 | 0 | 1 |",
        "| all | 3 | 1 | 0 | 1 | 0 | 1 |",
    ]
    assert faults(tries) == tries[1:]


def test_damages_change_the_content_and_are_the_same_for_a_seed() -> None:
    array = io.BytesIO()
    np.save(array, np.arange(24, dtype=np.float16).reshape(1, 2, 3, 4))
    kinds = {
        "any": (damages, b"some content of a file" * 9),
        "json": (json_damages, json.dumps({"a": 1, "b": {"c": 2.5}}).encode()),
        "table": (table_damages, b"path,label\na.png,0\nb.png,good\n"),
        "features": (lambda d, r: feature_damages(d, r, ".npy"), array.getvalue()),
    }
    for kind, (damage, data) in kinds.items():
        for seed in range(60):
            found = damage(data, np.random.default_rng(seed))
            assert found == damage(data, np.random.default_rng(seed))
            assert found[1] != data, (kind, found[0])
