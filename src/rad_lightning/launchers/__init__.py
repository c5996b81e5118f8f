"""Where the cells of a sweep run (``hydra/launcher=...``), and what each of those needs."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

from rad_lightning.common.environ import forget_ranks, variable
from rad_lightning.common.errors import UserError
from rad_lightning.common.processes import prepare_worker

# Launcher -> (what it is called, its package, the extra that brings it).
NEEDS = {
    "ray": ("Ray", "ray", "ray"),
    "slurm": ("submitit", "hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("submitit", "hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_local": ("submitit", "hydra_plugins.hydra_submitit_launcher", "slurm"),
}


def prepare_process() -> None:
    """Call it in a cell: a launcher's process ends with its command, and says so at SIGTERM; one of
    the joblib launcher may start processes of its own (DDP), among which a cell alone is the first.

    joblib's loky leaves its own start method behind there, which a spawned child does not know.
    """
    forget_ranks()
    prepare_worker()
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method("spawn", force=True)


def divided(launcher: object, cells: int) -> AbstractContextManager[None]:
    """Inside, processes start with their share of the cores, where all ``cells`` run at once on
    this machine: under submitit_local. joblib, Ray and Slurm divide them themselves."""
    if getattr(launcher, "_EXECUTOR", None) != "local" or "OMP_NUM_THREADS" in os.environ:
        return nullcontext()
    from rad_lightning.common.threads import cores  # late: torch takes seconds

    return variable("OMP_NUM_THREADS", str(max(1, cores() // cells)))


def lacking(name: str) -> str | None:
    """What the launcher ``name`` needs and does not find, in one line."""
    if name not in NEEDS:
        return None
    called, package, extra = NEEDS[name]
    chosen = f"hydra/launcher={name.replace('submitit_slurm', 'slurm')}"
    try:
        installed = find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is not there either
        installed = False
    if not installed:
        return f"{chosen} needs {called}: pip install 'rad-lightning[{extra}]'"
    if name.endswith("slurm") and shutil.which("srun") is None:
        return f"{chosen} needs Slurm: there is no srun on this machine"
    return None


def check_asked(settings: list[str]) -> None:
    """Raise ``UserError`` where a ``hydra/launcher=NAME`` of a command line cannot work."""
    for setting in settings:
        chosen = re.fullmatch(r"\+*hydra/launcher=(\w+)", setting)
        if chosen and (lack := lacking(chosen.group(1))):
            raise UserError(lack)
