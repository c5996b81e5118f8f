"""PatchCore, PaDiM, FastFlow and CFLOW of anomalib beside our methods, on the same training sets.

    pip install 'rad-lightning[bench]'          # or all of it: make peers DATA='data=mvtec ...'
    python benchmarks/peers.py data=mvtec data.root=DIR data.category=bottle,pill \\
        backbone.weights=FILE peer=plain,robust,padim,patchcore noise.ratio=0,0.3 seed=0,1,2

Settings are those of ``python -m rad_lightning``, each with the values of a sweep, besides
``peer=`` and a peer's own, for example ``patchcore.coreset_sampling_ratio=0.01`` or
``fastflow.epochs=15`` (``peer_models.py`` has all). ``peer=`` also takes our methods, which run
with their defaults. Where none are given: ``noise=replace``, ``logger=csv``,
``output=outputs/peers``, ``plain``, ``robust`` and every peer.

Same images, noise manifests, input size, normalisation, backbone weights and threads
(``trainer.threads``) for all; the last epoch of the peers, no test label in any choice; on the CPU.
Each cell leaves a run folder with ``result.json``, ``scores.csv`` and ``manifest.csv``:
``python -m rad_lightning report sweep=DIR`` tabulates them. A finished cell is never run again.
What each has cost (CPU seconds of fitting and of scoring an image, peak memory of the process)
stands in ``result.json`` and in the table printed at the end. Reading images counts for our
methods, which compute their features anew for it (``cache.enabled=false``), and not for the peers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from peer_cells import Decoded, PeerJob, open_cell, run_cell
from peer_cost import forget_peak
from peer_models import PEERS, check_installed
from peer_table import show

from rad_lightning.cli import one_line
from rad_lightning.common.errors import BusyError, CellsFailedError, UserError
from rad_lightning.common.machine import lack
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import FAILURE
from rad_lightning.config import (
    TrainConfig,
    as_written,
    conf_dir,
    faults,
    register_schemas,
    to_typed,
)
from rad_lightning.report import write_report
from rad_lightning.sweep.jobs import write_failure
from rad_lightning.training.job import Job, Shared, open_job
from rad_lightning.training.run import run_job

USUAL = {
    "noise": "replace",
    "logger": "csv",
    "output": "outputs/peers",
    "peer": ",".join(("plain", "robust", *PEERS)),
}
OURS = ("method", "head")  # groups of settings that no peer reads
ON_THE_CPU = ("trainer.accelerator=cpu", "cache.enabled=false")


def cells(arguments: Sequence[str]) -> Iterator[tuple[TrainConfig, str, Any]]:
    """Each cell's settings, the name of its peer and the peer's settings; those of a cell of ours
    are ``None``."""
    given = {key_of(a) for a in arguments}
    written = [f"{k}={v}" for k, v in USUAL.items() if k not in given] + list(arguments)
    written = [as_written(a, TrainConfig, sweeps=True) for a in written]
    parsed = OverridesParser.create().parse_overrides(written)
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for overrides in BasicSweeper.split_arguments(parsed, None)[0]:
            yield one_cell(overrides)


def one_cell(overrides: Sequence[str]) -> tuple[TrainConfig, str, Any]:
    """The settings of one cell out of ``key=value``.

    Raises:
        UserError: an unknown peer, or a value that it does not take.
    """
    own = [o for o in overrides if key_of(o).split(".")[0] in ("peer", *PEERS)]
    ours = [o for o in overrides if o not in own]
    for key in map(key_of, ours):
        if key.split(".")[0] in OURS:
            raise UserError(f"{key}: no peer reads it; a peer's own settings are PEER.KEY=VALUE")
    name = next(o.partition("=")[2] for o in own if key_of(o) == "peer")
    if name in our_methods():
        return to_typed(compose("train", [*ours, f"method={name}", *ON_THE_CPU])), name, None
    if name not in PEERS:
        known = ", ".join((*PEERS, *our_methods()))
        raise UserError(f"peer={name}: choose from {known}")
    mine = [o.removeprefix(f"{name}.") for o in own if o.startswith(f"{name}.")]
    schema = OmegaConf.structured(PEERS[name].settings)
    settings: Any = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.from_dotlist(mine)))
    for fault in faults(settings, f"{name}."):
        raise UserError(fault)
    return to_typed(compose("train", ours)), name, settings


def our_methods() -> list[str]:
    """What ``method=`` takes."""
    return sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def run(arguments: Sequence[str]) -> None:
    """Bring every cell to its result, then print and report.

    Raises:
        UserError: wrong settings, or no cell whose data can be read.
        CellsFailedError: at the end, when cells have no result; the others are done.
    """
    todo = list(cells(arguments))  # a wrong value ends it before anything runs
    if any(name in PEERS for _, name, _ in todo):
        check_installed()
    progress, shared, decoded = Progress(), Shared(), Decoded()
    finished: list[Job] = []
    failed: list[Exception] = []
    for number, (cfg, name, settings) in enumerate(todo, 1):
        try:
            job = open_cell(cfg, name, settings, shared) if settings else open_job(cfg, shared)
            progress.say(f"{number:4} of {len(todo)}  {job.run.path.name}")
            attempt(job, decoded)
            finished.append(job)
        except Exception as error:
            progress.say(f"      failed  {reason_of(error)}")
            failed.append(error)
    if finished:
        show([job.run.read_result() for job in finished])
        progress.say(f"      report  {write_report(finished[0].run.path.parent)}")
    elif all(isinstance(error, UserError) for error in failed):
        raise failed[0]
    if failed:
        reason = reason_of(failed[0])
        raise CellsFailedError(f"{len(failed)} of {len(todo)} cells failed: {reason}")


def attempt(job: Job, decoded: Decoded) -> None:
    """Run one cell unless it is done; where it fails, the reason is written down and raised."""
    try:
        with job.run.alone():
            if job.run.done and job.cfg.resume:
                return
            forget_peak()
            if isinstance(job, PeerJob):
                run_cell(job, decoded, Progress(quiet=True))
            else:
                run_job(job, Progress(quiet=True))
                (job.run.path / FAILURE).unlink(missing_ok=True)
    except BusyError:
        raise  # its other process says how it ends
    except Exception as error:
        write_failure(job, error)
        raise


def reason_of(error: Exception) -> str:
    return " ".join((lack(error) or str(error)).split()) or type(error).__name__


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 cells failed, 2 wrong input; both with one line on stderr."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        run(arguments)
    except CellsFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
