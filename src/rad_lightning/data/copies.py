"""The same image under several names: one physical part, and no unseen test image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rad_lightning.data.samples import SampleTable
from rad_lightning.data.splits import Roles


def join_copies(table: SampleTable, hashes: Sequence[str]) -> SampleTable:
    """The table with images of equal sha256 and label in one group, and all that their groups hold:
    no split separates them. A note says how many there are.

    Where the data set's own split has them on both sides, or they have both labels, that stands:
    ``leaked`` counts them.
    """
    parent = {sample.group: sample.group for sample in table.samples}

    def first(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    seen: dict[tuple[str, str, int], str] = {}
    copies = 0
    for sample, sha256 in zip(table.samples, hashes, strict=True):
        key = (sha256, sample.split, sample.label)
        if key in seen:
            copies += 1
            one, other = sorted((first(seen[key]), first(sample.group)))
            parent[other] = one
        seen.setdefault(key, sample.group)
    if not copies:
        return table
    note = f"{copies} images are byte for byte another one: copies count as one part"
    samples = tuple(replace(sample, group=first(sample.group)) for sample in table.samples)
    return replace(table, samples=samples, notes=(*table.notes, note))


def leaked(hashes: Sequence[str], roles: Sequence[str]) -> tuple[str, ...]:
    """A note with the number of test images that are trained on too, or nothing."""
    trained = {h for h, role in zip(hashes, roles, strict=True) if role in Roles.TRAINED}
    both = sum(h in trained for h, r in zip(hashes, roles, strict=True) if r in Roles.TESTED)
    if not both:
        return ()
    return (f"{both} test images are byte for byte training images: their scores mean little",)
