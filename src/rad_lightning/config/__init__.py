"""The configuration: one dataclass per group of ``conf/``, checked before anything runs."""

from rad_lightning.config.commands import (
    AuditConfig,
    DashboardsConfig,
    ExportConfig,
    PredictConfig,
    PrepareConfig,
    ReportConfig,
    TuneConfig,
    TuneRange,
)
from rad_lightning.config.compose import (
    SCHEMAS,
    conf_dir,
    from_plain,
    from_yaml,
    register_schemas,
    to_typed,
    to_yaml,
)
from rad_lightning.config.fields import digest, faults, number_fields
from rad_lightning.config.method import (
    L2Config,
    MemoryConfig,
    MetaConfig,
    MethodConfig,
    TrustConfig,
)
from rad_lightning.config.run import (
    VIEWS,
    BackboneConfig,
    DataConfig,
    EvaluationConfig,
    HeadConfig,
    NoiseConfig,
    TrainConfig,
    TrainerConfig,
)
from rad_lightning.config.text import as_written, quoted

__all__ = [
    "SCHEMAS",
    "VIEWS",
    "AuditConfig",
    "BackboneConfig",
    "DashboardsConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "HeadConfig",
    "L2Config",
    "MemoryConfig",
    "MetaConfig",
    "MethodConfig",
    "NoiseConfig",
    "PredictConfig",
    "PrepareConfig",
    "ReportConfig",
    "TrainConfig",
    "TrainerConfig",
    "TrustConfig",
    "TuneConfig",
    "TuneRange",
    "as_written",
    "conf_dir",
    "digest",
    "faults",
    "from_plain",
    "from_yaml",
    "number_fields",
    "quoted",
    "register_schemas",
    "to_typed",
    "to_yaml",
]
