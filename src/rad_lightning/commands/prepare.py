"""``prepare``: look at a dataset before training on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from rad_lightning.common.errors import UserError
from rad_lightning.common.names import printed
from rad_lightning.common.progress import Progress
from rad_lightning.config import DataConfig, NoiseConfig, PrepareConfig, digest
from rad_lightning.data.archive import unpack
from rad_lightning.data.dataset import Dataset, categories, open_dataset
from rad_lightning.data.images import decoding, image_size, load_image, load_mask
from rad_lightning.data.leftovers import left_out, looks_like
from rad_lightning.data.splits import Roles

HASH_SIDE = 16  # a difference hash of 16 x 16 bits
HASHED = 256  # pixels of a side are enough for it
NEAR_BITS = 10  # of 256: two shots of one scene; unrelated images differ in about half
SHOWN = 10  # lines of each list; the rest is counted


def prepare(cfg: PrepareConfig) -> list[Dataset]:
    """Print counts per role and defect type, what is not read, unreadable files, bad masks, images
    that look like something else, and duplicates.

    Raises:
        UserError: an archive or dataset that cannot be read.
    """
    progress = Progress(quiet=not cfg.progress)
    if cfg.archive is not None:
        if cfg.data.root is None:
            raise UserError("archive=FILE needs the folder to unpack into: data.root=DIR")
        progress.say(f"unpacked  {unpack(Path(cfg.archive), Path(cfg.data.root))}")
    found = []
    for data in _every_category(cfg.data):
        dataset = open_dataset(data, NoiseConfig(), cfg.seed, Path(cfg.cache.dir))
        _report(dataset, progress)
        found.append(dataset)
    return found


def _every_category(cfg: DataConfig) -> list[DataConfig]:
    """The requested category, or all that there are; of the embedded set the usual one."""
    if cfg.category is not None or cfg.name == "synthetic":
        return [cfg]
    return [replace(cfg, category=name) for name in categories(cfg)]


def _report(data: Dataset, progress: Progress) -> None:
    table = data.table
    title = f"{table.name}/{table.category} at {table.root}"
    progress.console.print(_counts(data, title))
    for note in (*table.notes, *left_out(table)):
        progress.say(f"note: {note}")
    hashes, faults, odd = _look(data, progress)
    _list(progress, "unreadable or misfitting files", faults)
    if odd:
        _list(progress, "images that look like something else", odd)
    _list(progress, "identical files", _identical(data))
    _list(progress, "near-duplicates of training images in the test set", _near(data, hashes))
    groups = len({s.group for s in table.samples})
    progress.say(f"physical parts: {groups} for {len(table)} images")
    progress.say(f"fingerprint of images and roles: {digest(data.identity(), 16)}\n")


def _counts(data: Dataset, title: str) -> Table:
    """Images per role (columns) and defect type (rows)."""
    roles = [r for r in Roles.ALL if r in data.roles]
    kinds = sorted({s.defect_type for s in data.table.samples}, key=lambda k: (k != "good", k))
    shown = Table(title=title, title_justify="left")
    shown.add_column("defect type")
    for role in roles:
        shown.add_column(role, justify="right")
    pairs = [(s.defect_type, r) for s, r in zip(data.table.samples, data.roles, strict=True)]
    for kind in kinds:
        shown.add_row(kind, *(str(pairs.count((kind, role))) for role in roles))
    shown.add_section()
    shown.add_row("all", *(str(data.roles.count(role)) for role in roles))
    return shown


def _look(
    data: Dataset, progress: Progress
) -> tuple[list[np.ndarray | None], list[str], list[str]]:
    """Decode every image and mask: a difference hash per image, a line per fault, and a line for
    each image that looks like something else."""
    table = data.table
    faults: list[str] = []
    odd: list[str] = []

    def look(index: int) -> tuple[np.ndarray, str | None] | UserError:
        sample = table.samples[index]
        try:
            file, mask = table.absolute(sample), table.absolute_mask(sample)
            least = (HASHED, HASHED)
            with decoding(file, least=least):
                image = load_image(file, white=table.white, least=least)
                found = difference_hash(image), looks_like(file, image)
                del image  # a mask may be as large
            if mask:
                with decoding(mask):
                    load_mask(mask, image_size(file))
            return found
        except UserError as error:
            return error

    hashes: list[np.ndarray | None] = []
    with ThreadPoolExecutor() as pool, progress.bar("images", len(table)) as bar:
        for sample, result in zip(table.samples, pool.map(look, range(len(table))), strict=True):
            bar.advance()
            if isinstance(result, UserError):
                faults.append(str(result))
                hashes.append(None)
                continue
            hashes.append(result[0])
            if result[1]:
                odd.append(f"{sample.path}: {result[1]}")
    return hashes, faults, odd


def difference_hash(image: np.ndarray) -> np.ndarray:
    """256 bits, set where a coarse grey cell is brighter than its left neighbour.

    Hardly moved by exposure or compression, so it finds further shots of one scene.
    """
    grey = (
        Image.fromarray(image).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    )
    cells = np.asarray(grey, dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1])


def _identical(data: Dataset) -> list[str]:
    """A line per content that several files share; those across roles come first."""
    same: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(data.hashes):
        same[key].append(index)
    lines = []
    for rows in same.values():
        if len(rows) > 1:
            named = ", ".join(f"{data.table.samples[i].path} ({data.roles[i]})" for i in rows)
            lines.append((len({data.roles[i] for i in rows}) == 1, named))
    return [line for _, line in sorted(lines)]


def _near(data: Dataset, hashes: Sequence[np.ndarray | None]) -> list[str]:
    """A line per test image whose difference hash nearly equals that of a training image."""
    train = [(i, h) for i in data.rows(*Roles.TRAINED) if (h := hashes[i]) is not None]
    if not train:
        return []
    known = np.stack([h for _, h in train])
    lines = []
    for i in data.rows(*Roles.TESTED):
        if (mine := hashes[i]) is None:
            continue
        bits = np.bitwise_count(known ^ mine).sum(1)
        nearest = int(bits.argmin())
        other = train[nearest][0]
        if bits[nearest] <= NEAR_BITS and data.hashes[i] != data.hashes[other]:
            samples = data.table.samples
            lines.append(f"{samples[i].path} ~ {samples[other].path} ({bits[nearest]} of 256 bits)")
    return lines


def _list(progress: Progress, name: str, lines: Sequence[str]) -> None:
    progress.say(f"{name}: {len(lines) or 'none'}")
    for line in lines[:SHOWN]:
        progress.say(f"    {printed(line)}")
    if len(lines) > SHOWN:
        progress.say(f"    and {len(lines) - SHOWN} more")
