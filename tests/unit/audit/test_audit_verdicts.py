from pathlib import Path

import torch

from rad_lightning.audit.ranking import POSSIBLE, SUSPECT, TRUSTED
from rad_lightning.audit.verdicts import believed, given, left_out
from rad_lightning.data.verdicts import Review, Verdict, write_verdicts
from rad_lightning.robust.review import Reviewed

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def said(**verdicts: str) -> dict[str, Review]:
    """``said(a="good")``: about the image with the sha256 of that letter."""
    return {
        64 * name: Review(name, 64 * name, Verdict(verdict), None, None, "")
        for name, verdict in verdicts.items()
    }


def test_a_person_decides_and_else_the_ranking_does() -> None:
    ranked = [("a", A, SUSPECT), ("b", B, SUSPECT), ("c", C, POSSIBLE), ("d", D, TRUSTED)]
    assert left_out(ranked, {}) == {"a", "b"}
    assert left_out(ranked, said(a="good", b="unsure", d="mislabelled")) == {"b", "d"}
    assert left_out(ranked, said(c="unsure", d="good")) == {"a", "b"}


def test_others_are_compared_with_what_a_person_calls_good() -> None:
    trusted = torch.tensor([False, False, True, True, True])
    no, good, mislabelled, part = Reviewed
    assert believed(trusted, torch.zeros(5)).equal(trusted)
    found = believed(trusted, torch.tensor([good, no, no, mislabelled, part]))
    assert found.tolist() == [True, False, True, False, False]
    # Somebody who calls all of them mislabelled leaves nothing to compare with.
    none = torch.tensor([no, no, mislabelled, mislabelled, mislabelled])
    assert believed(trusted, none).equal(trusted)


def test_verdicts_are_by_image(tmp_path: Path) -> None:
    file = tmp_path / "v.csv"
    write_verdicts(file, said(a="good", b="unsure").values())
    assert given(None) == {}
    assert given(str(file)) == said(a="good", b="unsure")
