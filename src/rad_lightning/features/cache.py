"""Features on disk: computed once per image, shared by every run and every process.

A store is a folder for one backbone and one ``FeatureSpec``; an image's features are one file named
after the sha256 of the image file. Files appear whole (written aside, then renamed), so a killed
run loses nothing and leaves nothing broken, and readers need no lock. A file whose content is not
what was written (a failing disk, a copy under another name) is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import write_text
from rad_lightning.common.locks import held
from rad_lightning.common.machine import reason_of
from rad_lightning.common.progress import Progress
from rad_lightning.common.threads import cores, torch_threads
from rad_lightning.config import digest
from rad_lightning.data.images import BadImage
from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.features.entries import entry_path, read_entry, whole_entries, write_entry
from rad_lightning.features.extract import (
    Box,
    FeatureSpec,
    extract,
    load_placed,
    valid_positions,
)

VERSION = 3  # raise it when the same settings would give other features, or other files
Placed = tuple[np.ndarray, Box]  # an image on its canvas (H, W, 3), and where it lies there
MOST_LOADERS = 8  # threads that decode images
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class FeatureSet:
    """Features of some images, read on demand.

    ``entries`` are, by the number of their image, memory-mapped files, or arrays when the cache is
    off; ``unreadable`` maps the number of an image without features to the reason.
    """

    entries: Mapping[int, Path | np.ndarray]
    unreadable: Mapping[int, str]
    computed: int  # how many images went through the backbone for this set

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(n, V, C, H, W)`` float32 of the images at ``indices``."""
        return torch.stack([self._entry(i) for i in indices]).float()

    def shape(self) -> tuple[int, ...]:
        """``(V, C, H, W)``."""
        return tuple(self._entry(next(iter(self.entries))).shape)

    def numbered(self, numbers: Sequence[int]) -> FeatureSet:
        """The same features, those of image ``i`` under ``numbers[i]``."""
        return replace(
            self,
            entries={numbers[i]: entry for i, entry in self.entries.items()},
            unreadable={numbers[i]: reason for i, reason in self.unreadable.items()},
        )

    def _entry(self, index: int) -> Tensor:
        if index in self.unreadable:
            raise KeyError(f"image {index} is unreadable: {self.unreadable[index]}")
        entry = self.entries[index]
        return read_entry(entry) if isinstance(entry, Path) else torch.from_numpy(entry)


def compute_features(
    paths: Sequence[Path],
    hashes: Sequence[str],
    backbone: FrozenBackbone,
    spec: FeatureSpec,
    *,
    cache_dir: Path | None,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> FeatureSet:
    """The features of ``paths``, from the cache where they are there.

    Args:
        hashes: sha256 of each file; equal files are computed once.
        cache_dir: ``None`` keeps the features in memory; one that is read-only gives what it has,
            and the others are kept in memory with a note.

    Raises:
        UserError: a feature that is not a finite half-precision number, or a file that is no longer
            the one that was hashed.
    """
    kept: dict[str, np.ndarray] = {}
    unreadable: dict[str, str] = {}
    store = None if cache_dir is None else cache_dir / "features" / _store_name(backbone, spec)
    file_of = dict(zip(hashes, paths, strict=True))
    computed = 0

    def missing(among: Iterable[str]) -> list[str]:
        if store is None:
            return list(among)
        there = {file.stem for file in whole_entries(entry_path(store, h) for h in among)}
        return [h for h in among if h not in there]

    if todo := missing(file_of):
        backbone.to(device)
        with ExitStack() as stack:
            # With a store, other processes wait at the lock and then find nothing missing.
            writable = store is not None and _locked(stack, store, backbone, spec, progress)
            todo = missing(todo)
            with progress.bar("features", len(todo)) as bar:
                for key, result in _computed(todo, file_of, backbone, spec, batch_size, device):
                    bar.advance()
                    if isinstance(result, BadImage):
                        unreadable[key] = result.reason
                        continue
                    computed += 1
                    if store is None or not writable:
                        kept[key] = result
                    else:
                        write_entry(entry_path(store, key), result)

    entries = {
        i: kept[h] if store is None or h in kept else entry_path(store, h)
        for i, h in enumerate(hashes)
        if h not in unreadable
    }
    bad = {i: f"{paths[i]}: {unreadable[h]}" for i, h in enumerate(hashes) if h in unreadable}
    return FeatureSet(entries, bad, computed)


def _computed(
    keys: list[str],
    file_of: dict[str, Path],
    backbone: FrozenBackbone,
    spec: FeatureSpec,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[str, np.ndarray | BadImage]]:
    """The features of each key's file, batch by batch; the next batch decodes meanwhile."""

    def decode(key: str) -> Placed | BadImage:
        try:
            return load_hashed(file_of[key], key, spec)
        except BadImage as error:
            return error

    if not keys:
        return
    chunks = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    with ThreadPoolExecutor(min(MOST_LOADERS, cores())) as pool:
        ahead = [pool.submit(decode, k) for k in chunks[0]]
        for number, chunk in enumerate(chunks):
            images = {k: f.result() for k, f in zip(chunk, ahead, strict=True)}
            ahead = [pool.submit(decode, k) for c in chunks[number + 1 : number + 2] for k in c]
            bad = {k: v for k, v in images.items() if isinstance(v, BadImage)}
            yield from bad.items()
            good = {k: v for k, v in images.items() if not isinstance(v, BadImage)}
            if not good:
                continue
            features, missing = _extracted(list(good.values()), backbone, spec, device)
            for key, array, padding in zip(good, features, missing, strict=True):
                _refuse_overflow(array, padding, file_of[key], backbone)
                yield key, array


def load_hashed(file: Path, sha256: str, spec: FeatureSpec) -> Placed:
    """The image in a file on its canvas, decoded from the very bytes that have this hash.

    Raises:
        BadImage: it cannot be read.
        UserError: it is another file by now; its features must not be kept under the old hash.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadImage(file, error.strerror or str(error)) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{file}: changed while it was being read; run the same command again")
    canvas, box, _ = load_placed(file, spec.size, spec.fit, spec.white, content, preview=1)
    return canvas, box


def _extracted(
    placed: list[Placed], backbone: FrozenBackbone, spec: FeatureSpec, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Features of images on their canvas, ``(n, V, C, H, W)`` in half precision, and where they are
    to be missing: padding, ``(n, 1, 1, H, W)`` bool."""
    batch = torch.from_numpy(np.stack([p[0] for p in placed])).permute(0, 3, 1, 2)
    try:
        with torch_threads(cores()):
            found = extract(backbone, batch.float().to(device), [p[1] for p in placed], spec)
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"{backbone.name} cannot read images of {spec.size[0]} x {spec.size[1]} at "
            f"head.scales {list(spec.scales)}: {str(error).splitlines()[0]}"
        ) from error
    grid = (found.shape[-2], found.shape[-1])
    padding = ~valid_positions(torch.tensor([p[1] for p in placed]), spec.size, grid)
    padding &= spec.form == "patch" and spec.fit == "pad"
    return found.numpy(), padding[:, None, None].numpy()


def _refuse_overflow(
    array: np.ndarray, padding: np.ndarray, file: Path, backbone: FrozenBackbone
) -> None:
    if not (np.isfinite(array) | padding).all():
        raise UserError(
            f"{file}: {backbone.name} gives features beyond half precision (65504); choose another "
            "backbone or out_indices"
        )


def _store_key(backbone: FrozenBackbone, spec: FeatureSpec) -> dict[str, Any]:
    return {"version": VERSION, "weights": backbone.fingerprint(), **asdict(spec)}


def _store_name(backbone: FrozenBackbone, spec: FeatureSpec) -> str:
    return digest(_store_key(backbone, spec), 16)


def _locked(
    stack: ExitStack, store: Path, backbone: FrozenBackbone, spec: FeatureSpec, progress: Progress
) -> bool:
    """Hold the store's lock until ``stack`` closes, and say in the store what it is of.

    Returns:
        Whether it can be written to; where it is read-only, a note says so.
    """
    try:
        if not (store / "about.json").is_file():
            about = {"backbone": backbone.description, **_store_key(backbone, spec)}
            write_text(store / "about.json", json.dumps(about, indent=2) + "\n")
        stack.enter_context(held(store / ".lock"))
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        progress.say(
            f"        note  {store}: {reason_of(error)}; new features are kept in memory alone"
        )
        return False
    return True
