"""Between Hydra and the dataclasses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with OmegaConf
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
DEEPEST = 16  # levels of nesting in a YAML file; ours have four


@dataclass
class PlannedSweeperConfig:
    """Hydra's node for our sweeper: the settings of its basic one."""

    _target_: str = "hydra_plugins.rad_lightning_sweeper.PlannedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


@cache  # Hydra's store holds for the whole process
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
    """The checked settings of a run out of plain values, as its ``result.json`` has them. They are
    data: what looks like an interpolation in them is text, and nothing is resolved.

    Raises:
        UserError: not the settings of a run of this version.
    """
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), _escaped(content))
        typed: TrainConfig = to_typed(cfg)
    except UserError:
        raise
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"settings of another version: {reason}") from error
    return typed


def to_yaml(typed: Any) -> str:
    """A checked config as the YAML that would give it again."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(dataclasses.asdict(typed))))


def from_yaml(text: str) -> TrainConfig:
    """The checked settings of a run out of what ``to_yaml`` wrote, or somebody else. They are data,
    as in ``from_plain``.

    Raises:
        UserError: not the settings of a run of this version.
    """
    try:
        _refuse_bombs(text)
        content = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join((str(error).splitlines() or [type(error).__name__])[:1])
        raise UserError(f"not the settings of a run of this version ({reason})") from error
    return from_plain(_unescaped(content))


def _refuse_bombs(text: str) -> None:
    """Raise ``ValueError`` at YAML that no run writes: a few aliases can stand for gigabytes, and
    deep nesting takes hours to read."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("it has aliases, or is nested too deeply")


def _each_string(content: Any, change: Callable[[str], str]) -> Any:
    """``content`` with ``change`` of every string in it; keys stay."""
    if isinstance(content, dict):
        return {key: _each_string(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [_each_string(value, change) for value in content]
    return change(content) if isinstance(content, str) else content


def _escaped(content: Any) -> Any:
    """So that OmegaConf takes every string as it is: it reads two backslashes before ``${`` as one,
    and one as a sign that no interpolation follows."""
    escape = partial(re.sub, r"(\\*)\$\{", r"\1\1\\${")
    return _each_string(content, escape)


def _unescaped(content: Any) -> Any:
    """Undoes ``_escaped``; an interpolation that was not escaped stays as it is, as text."""
    plain = partial(re.sub, r"(?<!\\)((?:\\\\)*)\\\$\{", lambda m: m[1][::2] + "${")
    return _each_string(content, plain)
