"""Whether masks fit their images, before anything is trained: from the headers of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rad_lightning.data.images import BadImage, image_size
from rad_lightning.data.layouts.common import threaded
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.data.splits import Roles


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


def with_tested_masks(table: SampleTable, roles: Sequence[str]) -> SampleTable:
    """The table with the faults of the masks that would be tested with, and a note of them: pixel
    metrics of the others would be those of another test set, and are left out."""
    tested = {s.path for s, role in zip(table.samples, roles, strict=True) if role in Roles.TESTED}
    faults = {path: why for path, why in table.mask_faults.items() if path in tested}
    if not faults:
        return replace(table, mask_faults={})
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    note = f"no pixel metrics: {next(iter(faults.values()))}{more}"
    return replace(table, mask_faults=faults, notes=(*table.notes, note))
