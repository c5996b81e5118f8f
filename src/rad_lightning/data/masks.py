"""Masks before anything is trained: whether they fit their images, from the headers of the files,
and their hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rad_lightning.data.images import BadImage, image_size
from rad_lightning.data.layouts.common import threaded
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.data.splits import Roles, file_hashes


def mask_faults(table: SampleTable) -> Mapping[str, str]:
    """What is wrong with the mask of an image, by the image's path. Masks whose image cannot be
    read are not looked at: that is said of the image."""
    masked = [s for s in table.samples if s.mask_path is not None]

    def fault(sample: Sample) -> str | None:
        mask = table.absolute_mask(sample)
        assert mask is not None
        try:
            wanted = image_size(table.absolute(sample))
        except BadImage:
            return None
        try:
            found = image_size(mask)
        except BadImage as error:
            return str(error)
        if found == wanted:
            return None
        sizes = "{}x{} but its image is {}x{}".format(*found, *wanted)
        return f"{mask}: the mask is {sizes} (height x width)"

    reasons = zip(masked, threaded(fault, masked), strict=True)
    return {sample.path: reason for sample, reason in reasons if reason}


def with_masks(table: SampleTable) -> SampleTable:
    """The table with the faults and the hashes of all its masks."""
    faults = mask_faults(table)
    whole = [s for s in table.samples if s.mask_path is not None and s.path not in faults]

    def hashed(sample: Sample) -> str | None:
        try:
            return file_hashes([table.root / str(sample.mask_path)])[0]
        except OSError:  # its image cannot be read either
            return None

    hashes = zip(whole, threaded(hashed, whole), strict=True)
    found = {sample.path: known for sample, known in hashes if known}
    return replace(table, mask_faults=faults, mask_hashes=found)


def with_tested_masks(table: SampleTable, roles: Sequence[str]) -> SampleTable:
    """The table with the masks that would be tested with alone, and a note where one has a fault:
    pixel metrics of the others would be those of another test set, and are left out."""
    tested = {s.path for s, role in zip(table.samples, roles, strict=True) if role in Roles.TESTED}
    faults = {path: why for path, why in table.mask_faults.items() if path in tested}
    hashes = {path: known for path, known in table.mask_hashes.items() if path in tested}
    table = replace(table, mask_faults=faults, mask_hashes=hashes)
    if not faults:
        return table
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    note = f"no pixel metrics: {next(iter(faults.values()))}{more}"
    return replace(table, notes=(*table.notes, note))
