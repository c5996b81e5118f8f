"""The sweeper behind ``-m`` and every experiment: ``rad_lightning.sweep`` as a Hydra plugin.

It takes the place of Hydra's basic sweeper and works with every launcher. Hydra loads plugins from
the namespace package ``hydra_plugins`` alone, so this file lies there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rad_lightning.common.errors import UserError
from rad_lightning.config import TrainConfig, quoted, to_typed
from rad_lightning.launchers import divided

ALL = "data.category=all"


class PlannedSweeper(BasicSweeper):  # type: ignore[misc]  # Hydra has no types
    """Runs the cartesian product of the overrides; a finished cell is never run again."""

    def __init__(self, max_batch_size: int | None = None, params: Any = None) -> None:
        super().__init__(max_batch_size, params)
        self.categories: dict[tuple[str, ...], list[str | None]] = {}

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, launch what is to go, report; raises what ``sweep.run.run_sweep`` raises."""
        # Here: torch and Lightning take seconds that a mistyped override need not wait for.
        from rad_lightning.sweep.run import run_sweep

        assert self.config is not None
        batch = self.cells(arguments)
        experiment = self.config.hydra.runtime.choices.get("experiment")
        run_sweep(
            list(self.composed(batch)),
            self.launch,
            command=shlex.join(["python", "-m", "rad_lightning", *sys.argv[1:]]),
            title=experiment,
        )

    def cells(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of every cell: the experiment's, then the command line's."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        batches: list[list[list[str]]] = self.split_arguments(overrides, None)
        return [cell for overrides in batches[0] for cell in self.each_category(overrides)]

    def each_category(self, overrides: list[str]) -> Iterator[list[str]]:
        """``data.category=all``: one cell for every category of the dataset."""
        if ALL not in overrides:
            yield overrides
            return
        from rad_lightning.data.dataset import categories

        at, known = overrides.index(ALL), tuple(o for o in overrides if o.startswith("data"))
        if known not in self.categories:
            data: Any = OmegaConf.to_object(self.compose(overrides).data)
            self.categories[known] = categories(data)
        for name in self.categories[known]:
            category = f"data.category={'null' if name is None else quoted(name)}"
            yield [*overrides[:at], category, *overrides[at + 1 :]]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one cell, without Hydra's own part."""
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        cfg: DictConfig = loader.load_sweep_config(self.config, list(overrides))
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return cfg

    def composed(
        self, batch: Sequence[Sequence[str]]
    ) -> Iterator[tuple[Sequence[str], TrainConfig | UserError]]:
        """Each cell's typed config, or the fault in its values."""
        for overrides in batch:
            try:
                yield overrides, to_typed(self.compose(overrides))
            except UserError as error:
                yield overrides, error

    def launch(self, batch: Sequence[Sequence[str]]) -> list[BaseException | None]:
        """Run the cells with the chosen launcher; what each raised, if it did."""
        assert self.launcher is not None
        try:
            with divided(self.launcher, len(batch)):
                answers = self.launcher.launch(batch, initial_job_idx=0)
        except UserError:
            raise
        except Exception as error:  # joblib, submitit: one killed process ends their wait for all
            return [error] * len(batch)
        return [a._return_value if a.status == JobStatus.FAILED else None for a in answers]
