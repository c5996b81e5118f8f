"""Who may be trained on: a role for every sample, and the manifest that records it."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal
from zlib import crc32

import numpy as np

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import write_text
from rad_lightning.common.tables import plain, text_lines, to_csv
from rad_lightning.data.samples import ANOMALOUS, NORMAL, UNLABELLED, Sample, SampleTable
from rad_lightning.data.verdicts import Verdict


class Roles:
    """What a sample does in a run.

    The pool holds anomalies that noise may be drawn from. A drawn one is ``INJECTED``: trained on
    as if normal; ``SHARED``, if it is tested on as well (``noise.overlap``).
    """

    TRAIN = "train"
    INJECTED = "injected"
    SHARED = "injected+test"
    POOL = "pool"
    TEST = "test"
    UNUSED = "unused"
    UNREADABLE = "unreadable"
    ALL = (TRAIN, INJECTED, SHARED, POOL, TEST, UNUSED, UNREADABLE)
    TRAINED = (TRAIN, INJECTED, SHARED)
    TESTED = (TEST, SHARED)
    # Only in a manifest: training images that a person has judged.
    REVIEWED_ANOMALY = "reviewed_anomaly"
    REVIEWED_GOOD = "reviewed_good"
    REVIEWED: ClassVar = {REVIEWED_ANOMALY: Verdict.MISLABELLED, REVIEWED_GOOD: Verdict.GOOD}
    RECORDED = (*ALL, *REVIEWED)

    @classmethod
    def recorded(cls, role: str, verdict: Verdict | None) -> str:
        """The role of an image in the manifest; ``verdict``: what a person said of it."""
        known = {v: r for r, v in cls.REVIEWED.items()}
        return known.get(verdict, role) if verdict and role in cls.REVIEWABLE else role

    REVIEWABLE = (TRAIN, INJECTED)  # a verdict must not use what is tested on


def split_table(
    table: SampleTable,
    *,
    scheme: Literal["group", "published"],
    seed: int,
    test_fraction: float = 0.2,
    pool_fraction: float = 0.0,
    pool_normals: Literal["drop", "train"] = "drop",
) -> tuple[str, ...]:
    """A role for every sample, aligned with ``table.samples`` and the same for any row order.

    ``scheme="group"`` keeps all images of a physical part on one side of the test set.
    ``scheme="published"`` treats every image as a part of its own, as many papers do; this leaks
    where one part has several images.

    A dataset's own split is kept: its train anomalies are the noise pool, or, where it has none,
    ``pool_fraction`` of the test anomalies of every defect type is set aside for it. Without an
    own split, groups with an anomaly are divided between pool and test by ``pool_fraction``, and
    ``test_fraction`` of the images in other groups is tested on. Normal images in a pool group
    are unused, or trained on with ``pool_normals="train"``.

    Raises:
        UserError: an option out of range; an own split that is incomplete or takes a group apart;
            nothing left to train on, or no anomaly left to test on.
    """
    _check_options(scheme, seed, test_fraction, pool_fraction, pool_normals)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in table.samples:
        groups[sample.group if scheme == "group" else sample.path].append(sample)
    # sorted, so that neither the order of the rows nor of the groups can reach the random stream
    ordered = {key: sorted(groups[key], key=lambda s: s.path) for key in sorted(groups)}
    stream = np.random.default_rng([crc32(b"split"), seed])
    if any(sample.split for sample in table.samples):
        roles = _own_split(table, ordered, stream, pool_fraction)
    else:
        roles = _new_split(ordered, stream, test_fraction, pool_fraction, pool_normals)
    _check_roles(table, roles, pool_normals)
    return tuple(roles[sample.path] for sample in table.samples)


def _own_split(
    table: SampleTable,
    groups: dict[str, list[Sample]],
    stream: np.random.Generator,
    pool_fraction: float,
) -> dict[str, str]:
    loose = [sample.path for sample in table.samples if not sample.split]
    if loose:
        raise UserError(f"{loose[0]} has no split but other images have; give all of them or none")
    torn = [key for key, members in groups.items() if len({s.split for s in members}) > 1]
    if torn:
        raise UserError(
            f"the dataset's own split has group {torn[0]} in both train and test; mend the split "
            "or take it as it is with scheme=published"
        )
    in_train = {s.path for s in table.samples if s.split == "train"}
    train_anomalies = {s.path for s in table.samples if s.path in in_train and s.label == ANOMALOUS}
    spare = Roles.POOL if pool_fraction > 0 else Roles.UNUSED
    roles = {path: spare if path in train_anomalies else Roles.TRAIN for path in in_train}
    test_groups = {key: members for key, members in groups.items() if members[0].split == "test"}
    from_test = 0.0 if train_anomalies else pool_fraction
    pool = _pool_groups(test_groups, stream, from_test)
    for key, members in test_groups.items():
        roles |= _group_roles(members, key in pool, "drop")
    return roles


def _new_split(
    groups: dict[str, list[Sample]],
    stream: np.random.Generator,
    test_fraction: float,
    pool_fraction: float,
    pool_normals: str,
) -> dict[str, str]:
    pool = _pool_groups(groups, stream, pool_fraction)
    roles: dict[str, str] = {}
    calm: dict[int, dict[str, int]] = {NORMAL: {}, UNLABELLED: {}}
    for key, members in groups.items():
        labels = {sample.label for sample in members}
        if ANOMALOUS in labels:
            roles |= _group_roles(members, key in pool, pool_normals)
        else:
            calm[max(labels)][key] = len(members)
    for sizes in calm.values():
        tested = _draw(sizes, test_fraction, stream)
        for key in sizes:
            role = Roles.TEST if key in tested else Roles.TRAIN
            roles |= {sample.path: role for sample in groups[key]}
    return roles


def _group_roles(members: list[Sample], in_pool: bool, pool_normals: str) -> dict[str, str]:
    """Roles in a group with an anomaly, or in any group that the own split tests on."""
    if not in_pool:
        return {sample.path: Roles.TEST for sample in members}
    rest = Roles.TRAIN if pool_normals == "train" else Roles.UNUSED
    return {s.path: Roles.POOL if s.label == ANOMALOUS else rest for s in members}


def _pool_groups(
    groups: dict[str, list[Sample]], stream: np.random.Generator, fraction: float
) -> set[str]:
    """The anomalous groups to set aside: ``fraction`` of the anomalies of every defect type."""
    strata: dict[str, dict[str, int]] = defaultdict(dict)
    for key, members in groups.items():
        kinds = Counter(s.defect_type for s in members if s.label == ANOMALOUS)
        if kinds:
            main = min(kinds, key=lambda kind: (-kinds[kind], kind))
            strata[main][key] = kinds.total()
    return {key for main in sorted(strata) for key in _draw(strata[main], fraction, stream)}


def _draw(sizes: dict[str, int], fraction: float, stream: np.random.Generator) -> set[str]:
    """Whole groups with a share of the images as near ``fraction`` as their order allows.

    The groups are shuffled and a first part is taken, so a larger fraction contains a smaller
    one. The stream moves on by the same amount whatever the fraction.
    """
    keys = list(sizes)
    shuffled = [keys[i] for i in stream.permutation(len(keys))]
    wanted = fraction * sum(sizes.values())
    totals = [0, *accumulate(sizes[key] for key in shuffled)]
    count = min(range(len(totals)), key=lambda i: (abs(totals[i] - wanted), i))
    return set(shuffled[:count])


def _check_options(
    scheme: str, seed: int, test_fraction: float, pool_fraction: float, pool_normals: str
) -> None:
    _one_of("scheme", scheme, ("group", "published"))
    _one_of("pool_normals", pool_normals, ("drop", "train"))
    for name, value in (("test_fraction", test_fraction), ("pool_fraction", pool_fraction)):
        if not 0 <= value < 1:
            raise UserError(f"{name}={value} is not valid: use a value >= 0 and < 1")
    if seed < 0:
        raise UserError(f"seed={seed} is not valid: use a whole number >= 0")


def _one_of(name: str, value: str, accepted: Collection[str]) -> None:
    if value not in accepted:
        raise UserError(f"{name}={value} is not valid: choose one of {', '.join(accepted)}")


def _check_roles(table: SampleTable, roles: dict[str, str], pool_normals: str) -> None:
    if Roles.TRAIN not in roles.values():
        hint = (
            "raise pool_fraction above 0"
            if pool_normals == "train"
            else "set pool_normals=train with a pool_fraction above 0"
        )
        raise UserError(
            f"{table.name}/{table.category}: no image is left to train on; if every physical part "
            f"has a defect, as in KolektorSDD, {hint}"
        )
    anomalies = [roles[s.path] for s in table.samples if s.label == ANOMALOUS]
    if anomalies and Roles.TEST not in anomalies and Roles.POOL in anomalies:
        raise UserError(
            f"{table.name}/{table.category}: no anomalous image is left to test on; "
            "lower pool_fraction"
        )


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of a run, as recorded; the path is relative to the dataset's root."""

    path: str
    sha256: str
    category: str
    label: int
    defect_type: str
    group: str
    role: str


HEADER = tuple(field.name for field in fields(ManifestRow))


def manifest_rows(
    table: SampleTable,
    roles: Sequence[str],
    hashes: Sequence[str],
    reviews: Mapping[str, Verdict] | None = None,
) -> list[ManifestRow]:
    """Rows sorted by path; ``roles`` and ``hashes`` are aligned with ``table.samples``, and
    ``reviews`` says by hash what a person found."""
    found = reviews or {}
    rows = [
        ManifestRow(
            s.path, sha256, s.category, s.label, s.defect_type, s.group,
            Roles.recorded(role, found.get(sha256)),
        )
        for s, role, sha256 in zip(table.samples, roles, hashes, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.path)


def write_manifest(
    path: Path,
    table: SampleTable,
    roles: Sequence[str],
    hashes: Sequence[str],
    reviews: Mapping[str, Verdict] | None = None,
) -> None:
    """Write the manifest, whole or not at all, with the same bytes on every machine."""
    rows = manifest_rows(table, roles, hashes, reviews)
    write_text(path, to_csv(HEADER, map(astuple, rows)))


def read_manifest(path: Path, roles: Collection[str] = Roles.RECORDED) -> list[ManifestRow]:
    """Read a manifest whose roles are among ``roles``.

    Raises:
        UserError: no such file, no CSV in UTF-8, another header, a wrong value or a path twice;
            with the line.
    """
    if not path.is_file():
        raise UserError(f"manifest {path} is not a file; expected a CSV {','.join(HEADER)}")
    rows: dict[str, ManifestRow] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(text_lines(file))
            if (header := next(reader, [])) != list(HEADER):
                columns = ",".join(HEADER)
                raise UserError(f"{path}:1: expected the columns {columns}, found {header}")
            for values in reader:
                row = _manifest_row(f"{path}:{reader.line_num}", values, roles)
                if row.path in rows:
                    raise UserError(f"{path}:{reader.line_num}: {row.path} is named twice")
                rows[row.path] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    return list(rows.values())


def _manifest_row(where: str, values: list[str], roles: Collection[str]) -> ManifestRow:
    if len(values) != len(HEADER):
        raise UserError(f"{where}: expected {len(HEADER)} values, found {len(values)}")
    image, sha256, category, label, defect_type, group, role = map(plain, values)
    if label not in {"0", "1", "-1"}:
        raise UserError(f"{where}: label {label!r} is not known: use 0, 1 or -1")
    if role not in roles:
        raise UserError(f"{where}: role {role!r} is not known: choose one of {', '.join(roles)}")
    return ManifestRow(image, sha256, category, int(label), defect_type, group, role)


def file_hashes(paths: Iterable[Path], workers: int = 8) -> list[str]:
    """SHA-256 of every file in hexadecimal, in order, read by ``workers`` threads."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
