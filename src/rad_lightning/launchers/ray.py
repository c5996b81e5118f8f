"""One cell of a sweep per Ray task, on this machine or on a cluster: ``hydra/launcher=ray``.

The public hydra-ray-launcher pins cloudpickle below 3 and brings boto3; this one needs Ray alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict

from rad_lightning.common.errors import UserError
from rad_lightning.common.processes import Terminated, signals_wait

STORE_BYTES = 100 * 2**20  # Ray would set a third of the memory aside; cells exchange no data


@dataclass
class RayLauncherConf:
    """``hydra.launcher.*`` of ``hydra/launcher=ray``."""

    _target_: str = "hydra_plugins.rad_lightning_ray.RayLauncher"
    address: str | None = None  # None: a Ray of our own; "auto" or HOST:PORT: a running cluster
    num_cpus: int | None = None  # slots of our own Ray; None: one per core
    cpus_per_cell: int = 1  # also the threads that a cell computes with
    gpus_per_cell: float | None = None  # 0.5: two cells share one; None: 1 where there are GPUs
    init: dict[str, Any] = field(default_factory=dict)  # more arguments of ray.init


class RayLauncher(Launcher):  # type: ignore[misc]
    """Runs the cells as Ray tasks, each in a process of its own, and waits for all of them."""

    def __init__(self, **settings: Any) -> None:
        plain: Any = OmegaConf.to_object(OmegaConf.create(settings))
        self.settings: dict[str, Any] = plain

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """One ``JobReturn`` per cell, in their order; a cell whose process died has failed."""
        ray = import_ray()
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        cells = [self.compose(o, initial_job_idx + i) for i, o in enumerate(job_overrides)]
        with connection(ray, self.settings):
            task = ray.remote(**resources(ray, self.settings))(run_cell)
            common = ray.put((self.hydra_context, self.task_function, Singleton.get_state()))
            threads, folder = self.settings["cpus_per_cell"], str(Path.cwd())
            tasks = [task.remote(common, cell, folder, threads) for cell in cells]
            try:
                returns = [outcome(ray, t) for t in tasks]
            except KeyboardInterrupt:
                for waiting in tasks:
                    ray.cancel(waiting, force=True)
                raise
        for result, overrides in zip(returns, job_overrides, strict=True):
            result.overrides = list(overrides)
        return returns

    def compose(self, overrides: Sequence[str], number: int) -> Any:
        """The cell's config, made here: a node of a cluster need not have the YAML files."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        return config


def import_ray() -> Any:
    """Ray, which takes a second to import and is not installed everywhere."""
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("hydra/launcher=ray needs Ray: pip install 'rad-lightning[ray]'") from error


@contextmanager
def connection(ray: Any, settings: dict[str, Any]) -> Iterator[None]:
    """A Ray for one sweep, ended with it; one that already runs in this process is left alone."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Short, for its sockets' names; our own, so that nothing stays behind.
    place = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=place, ignore_cleanup_errors=True
    ) as folder:
        chosen: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if settings["address"] is None:
            chosen |= {
                "address": "local",
                "num_cpus": settings["num_cpus"],
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",  # nothing for the network to find
                "object_store_memory": STORE_BYTES,
                "_temp_dir": folder,
            }
        else:
            chosen |= {"address": settings["address"]}
        try:
            with signals_wait():
                ray.init(**chosen | settings["init"])
        except SystemExit:  # Ray's own answer to SIGTERM while it starts
            raise Terminated from None
        except ConnectionError as error:
            raise UserError(
                f"hydra.launcher.address = {settings['address']}: no Ray cluster answers there"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def resources(ray: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The options of a cell's task. A process per cell: the next finds its GPU memory free.

    Raises:
        UserError: a cell asks for more than our own Ray has, and would never start.
    """
    there = ray.cluster_resources()
    cpus, gpus = settings["cpus_per_cell"], settings["gpus_per_cell"]
    if gpus is None:
        gpus = 1 if there.get("GPU") else 0
    for key, wanted, kind in (("cpus_per_cell", cpus, "CPU"), ("gpus_per_cell", gpus, "GPU")):
        most = int(there.get(kind, 0))
        if settings["address"] is None and wanted > most:
            raise UserError(f"hydra.launcher.{key} = {wanted:g}: use a value <= {most}")
    return {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "max_calls": 1}


def run_cell(common: tuple[Any, Any, Any], config: Any, folder: str, threads: int) -> JobReturn:
    """In the process of the task: what Hydra's own launcher does for a cell."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not imported yet
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder} is not there on {os.uname().nodename}: a cluster needs a shared folder"
        ) from error
    hydra_context, task_function, state = common
    setup_globals()
    Singleton.set_state(state)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def outcome(ray: Any, ref: Any) -> JobReturn:
    """What a finished task gave; failed if it gave nothing."""
    try:
        result: JobReturn = ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        result = JobReturn(status=JobStatus.FAILED)
        result.return_value = (
            cause
            if isinstance(cause, Exception)
            else UserError(f"its process died ({type(error).__name__}): killed, or out of memory")
        )
    return result
