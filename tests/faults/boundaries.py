"""Disks that fill up and settings beyond bounds, for the fault harness and the tests."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HANG = 300  # seconds
# Of all that a training writes: from nothing at all to nearly everything, in KiB.
SIZES = (4, 12, 24, 40, 64, 96, 160, 256, 400, 640, 1000)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: ``right``, ``refused`` (in one line), ``traceback``, ``hang``."""

    kind: str
    code: int
    told: str  # on stderr


def outcome(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run ``python -m rad_lightning`` in ``folder``; a crash counts as a traceback."""
    line = [sys.executable, "-m", "rad_lightning", *arguments]
    try:
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=HANG)
    except subprocess.TimeoutExpired:
        return Outcome("hang", -1, "")
    told = done.stderr.strip()
    if done.returncode == 0:
        return Outcome("right", 0, told)
    one = told.count("\n") == 0 and told.startswith("error: ") and done.returncode in (1, 2)
    return Outcome("refused" if one else "traceback", done.returncode, told)


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of its own at ``folder``, with room for ``kib`` KiB.

    Raises:
        OSError: nobody but root may mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise OSError(f"{folder}: no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def beyond_bounds(count: int, seed: int = 0) -> Iterator[list[str]]:
    """Combinations of settings, many impossible: each trains or is refused in one line."""
    rng = random.Random(seed)
    choices = {
        "head.hidden": ("1", "16", "500000000", "9" * 30),
        "head.blocks": ("1", "2", "10000000"),
        "head.channels": ("2", "8", "100000"),
        "head.top_fraction": ("1e-30", "1"),
        "head.clamp": ("1e-30", "10"),
        "head.jitter": ("0", "10"),
        "head.local_pool": ("1", "3", "101", "100000001"),
        "head.position_dims": ("0", "4", "1024", "4000000"),
        "head.scales": ("[0.001]", "[4]", "[1,0.5]"),
        "head": ("patch", "pooled"),
        "head.center": ("position",),
        "head.score": ("latent",),
        "method": ("plain", "robust", "rad", "maml", "trimmed", "loe_soft", "lof_memory", "irp"),
        "method.lr": ("1e-30", "1e6", "1e30"),
        "method.keep": ("last", "best"),
        "method.holdout": ("0", "0.5"),
        "method.steps": ("1", "3"),
        "method.batch_size": ("1", "8", "100000000000"),
        "method.grad_clip": ("0", "1e30"),
        "method.weight_decay": ("1e30", "0.1"),
        "method.schedule": ("constant", "cosine"),
        "method.meta.tasks": ("1", "8"),
        "method.meta.images": ("1", "1000"),
        "method.meta.inner_lr": ("1e30", "1e-30"),
        "method.meta.adapted_blocks": ("1", "50"),
        "method.meta.deploy_samples": ("1",),
        "method.trust.folds": ("2", "20"),
        "method.trust.rate": ("0", "0.9"),
        "method.trust.temperature": ("1e-30", "1e30"),
        "method.trust.reach": ("1e-30", "1e30"),
        "method.trust.memories": ("1", "1000"),
        "method.latent.rate": ("0", "0.9"),
        "method.latent.margin": ("-1e30", "1e30"),
        "method.memory.coreset": ("1e-9", "1"),
        "method.memory.neighbours": ("1", "100000"),
        "method.memory.share": ("1e-9", "1"),
        "method.l2.lambda_0": ("1e30",),
        "method.l2.momentum": ("0", "0.999"),
        "head.views": ("[rot90]", "[hflip,vflip]"),
        "noise": ("replace", "add", "pool_fraction"),
        "noise.ratio": ("0.1", "0.5", "1"),
        "evaluation.robust_z": ("1e-30", "1e6", "1e308"),
        "evaluation.threshold": ("quantile", "robust"),
        "evaluation.quantile": ("1e-30", "1"),
        "evaluation.train_images": ("0", "1"),
        "data.test_fraction": ("1e-9", "0.9"),
        "data.size": ("[32,32]", "[64,33]", "[64,64]"),
        "data.fit": ("pad",),
        "backbone.out_indices": ("[0]", "[4]", "[0,4]", "[7]"),
        "backbone.batch_size": ("1", "100000000"),
        "seed": ("4294967295", "1"),
    }
    for _ in range(count):
        keys = rng.sample(sorted(choices), rng.randint(1, 4))
        # A group before its members: it would put its own values over theirs.
        yield [f"{key}={rng.choice(choices[key])}" for key in sorted(keys)]
