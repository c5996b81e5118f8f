"""What a person has said of the images, in the dataset of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.splits import Roles
from rad_lightning.data.verdicts import Verdict, read_verdicts


def with_verdicts(data: Dataset, file: Path) -> Dataset:
    """``data`` with the verdicts in ``file``, which replace what a manifest says of the same
    images; those that leave it open count as none.

    Raises:
        UserError: ``file`` cannot be read, or names an image that is not in the data set.
    """
    reviews = read_verdicts(file)
    present = frozenset(data.hashes)
    for review in reviews:
        if review.sha256 not in present:
            raise UserError(
                f"{file}: {review.path or 'an image'} is not in {data.table.root}: no image there "
                f"has the sha256 {review.sha256[:12]}...; remove the line"
            )
    found = {**data.reviews, **{review.sha256: review.verdict for review in reviews}}
    return replace(data, reviews={k: v for k, v in found.items() if v != Verdict.UNSURE})


def trained_with_verdicts(data: Dataset) -> Dataset:
    """``data`` as a training uses it, with notes of what the verdicts about other images than
    those trained on do: a test image must not become a training image, but it is not tested on as
    normal where a person has called it mislabelled."""
    used = {data.hashes[i] for i in range(len(data.roles)) if data.verdict(i)}
    wrong = data.wrongly_tested()
    notes = []
    if wrong:
        images = "images are" if len(wrong) > 1 else "image is"
        notes.append(f"{len(wrong)} test {images} mislabelled by the verdicts: not tested on")
    if rest := len(data.reviews.keys() - used - {data.hashes[i] for i in wrong}):
        verdicts = "verdicts are" if rest > 1 else "verdict is"
        notes.append(f"{rest} {verdicts} about images not trained on: not used")
    roles = tuple(Roles.UNUSED if i in wrong else role for i, role in enumerate(data.roles))
    table = replace(data.table, notes=(*data.table.notes, *notes))
    return replace(data, table=table, roles=roles)
