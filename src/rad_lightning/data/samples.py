"""The sample table: what every dataset reader returns and every later step reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NORMAL, ANOMALOUS, UNLABELLED = 0, 1, -1
GOOD = "good"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset.

    ``path`` and ``mask_path`` are POSIX paths relative to the table's root, so that a table reads
    the same on every machine. ``split`` is the dataset's own split (``"train"``, ``"test"``) or
    ``""`` where it has none. ``group`` names the physical part: two images of one part share it,
    and no split may separate them. A missing mask of an anomalous image is ``None``.
    """

    path: str
    label: int
    defect_type: str
    group: str
    category: str
    split: str = ""
    mask_path: str | None = None


@dataclass(frozen=True)
class SampleTable:
    """All images of one category of one dataset, sorted by path.

    ``notes`` are things a user should know about the data (copies of a part, missing masks).
    ``synthetic``: where the images with synthetic anomalies lie, by their path.
    ``white``: the value of white in its 16-bit files. ``mask_faults``: what is wrong with masks, by
    the path of their image; no pixel metric is computed then. ``mask_hashes``: the sha256 of the
    others, likewise.
    """

    name: str
    category: str
    root: Path
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=())
    synthetic: Mapping[str, Path] = field(default_factory=dict)
    white: int = 65535
    mask_faults: Mapping[str, str] = field(default_factory=dict)
    mask_hashes: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def absolute(self, sample: Sample) -> Path:
        return self.synthetic.get(sample.path, self.root / sample.path)

    def absolute_mask(self, sample: Sample) -> Path | None:
        return None if sample.mask_path is None else self.root / sample.mask_path
