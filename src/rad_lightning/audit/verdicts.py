"""What a person said about images, beside what the ranking says: the person's word counts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from rad_lightning.audit.ranking import SUSPECT
from rad_lightning.data.verdicts import Review, Verdict, read_verdicts
from rad_lightning.robust.review import Reviewed, bad

Verdicts = dict[str, Review]  # by the sha256 of the image


def given(file: str | None) -> Verdicts:
    """The reviews in ``file``, none without one; ``UserError`` where it cannot be read."""
    return {r.sha256: r for r in read_verdicts(Path(file))} if file else {}


def spoken(sha256: str, verdicts: Verdicts) -> str:
    """What a person said of an image; empty where nobody has judged it."""
    return str(verdicts[sha256].verdict) if sha256 in verdicts else ""


def believed(trusted: Tensor, reviewed: Tensor) -> Tensor:
    """The images ``(N,)`` bool to compare others with: ``trusted``, as a person has corrected it by
    ``reviewed`` ``(N,)``, see ``Reviewed``. As they were where that leaves none."""
    kept = (trusted | (reviewed == Reviewed.GOOD)) & ~bad(reviewed)
    return kept if kept.any() else trusted


def left_out(lines: Iterable[tuple[str, str, str]], verdicts: Verdicts) -> frozenset[str]:
    """The paths to train without: mislabelled by a person's verdict or else suspects.

    Args:
        lines: path, sha256 and the ranking's verdict of each image.
    """
    found = set()
    for path, sha256, verdict in lines:
        review = verdicts.get(sha256)
        said = review.verdict if review else Verdict.UNSURE
        if said == Verdict.MISLABELLED or (said == Verdict.UNSURE and verdict == SUSPECT):
            found.add(path)
    return frozenset(found)
