"""Between Hydra and the dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rad_lightning.common.errors import UserError
from rad_lightning.config.commands import (
    AuditConfig,
    DashboardsConfig,
    ExportConfig,
    PredictConfig,
    PrepareConfig,
    ReportConfig,
    TuneConfig,
)
from rad_lightning.config.fields import faults
from rad_lightning.config.method import MethodConfig
from rad_lightning.config.run import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    LoggerConfig,
    NoiseConfig,
    TrainConfig,
    TrainerConfig,
)

SCHEMAS: dict[str, type] = {  # what each command reads
    "train": TrainConfig,
    "tune": TuneConfig,
    "audit": AuditConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
    "dashboards": DashboardsConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}


@dataclass
class PlannedSweeperConfig:
    """Hydra's node for our sweeper: the settings of its basic one."""

    _target_: str = "hydra_plugins.rad_lightning_sweeper.PlannedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


def register_schemas() -> None:
    """Tell Hydra the types, so that unknown keys and wrong types fail while composing."""
    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema)
    store.store(group="hydra/sweeper", name="planned", node=PlannedSweeperConfig)
    for group, node in (
        ("data", DataConfig),
        ("noise", NoiseConfig),
        ("backbone", BackboneConfig),
        ("head", HeadConfig),
        ("method", MethodConfig),
        ("trainer", TrainerConfig),
        ("logger", LoggerConfig),
    ):
        store.store(group=group, name="schema", node=node)


def conf_dir() -> Path:
    """Where the YAML files are: inside the installed package, or the checkout's ``conf/``."""
    here = Path(__file__).resolve().parents[1]
    for candidate in (here / "conf", here.parents[1] / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise UserError(f"no conf/ folder beside {here}: reinstall the package")


def to_typed(cfg: Any) -> Any:
    """A composed Hydra config as its checked dataclass; ``UserError`` at the first fault."""
    typed = OmegaConf.to_object(cfg)
    for fault in faults(typed):
        raise UserError(fault)
    typed.check()  # type: ignore[union-attr]
    return typed


def from_plain(content: Any) -> TrainConfig:
    """The checked settings of a run out of the ``config`` block of its ``result.json``."""
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), content)
    except OmegaConfBaseException as error:
        raise UserError(f"settings of another version: {str(error).splitlines()[0]}") from error
    typed: TrainConfig = to_typed(cfg)
    return typed


def to_yaml(typed: Any) -> str:
    """A checked config as the YAML that would give it again."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(typed)))
