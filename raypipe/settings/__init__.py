"""Settings: yaml + ``key=value`` overrides -> frozen, closed objects; one module a verb."""

from raypipe.settings.base import Settings, build, expanded, how, how_fields, identity, load, local, read_yaml
from raypipe.settings.data import DatasetSettings, DecodeLimits, DrawnData, Rendition, Sampling
from raypipe.settings.evaluation import EvaluateSettings
from raypipe.settings.judge import JudgeSettings, Price
from raypipe.settings.served import ServedSettings
from raypipe.settings.stage import (
    Cache,
    Checkpoints,
    Lora,
    Optimizer,
    Part,
    Schedule,
    Sharding,
    StageSettings,
    Start,
    StartParts,
    Validation,
    Workers,
    located,
)
from raypipe.settings.tune import Axis, TuneSettings

__all__ = [
    "Axis",
    "Cache",
    "Checkpoints",
    "DatasetSettings",
    "DecodeLimits",
    "DrawnData",
    "EvaluateSettings",
    "JudgeSettings",
    "Lora",
    "Optimizer",
    "Part",
    "Price",
    "Rendition",
    "Sampling",
    "Schedule",
    "ServedSettings",
    "Settings",
    "Sharding",
    "StageSettings",
    "Start",
    "StartParts",
    "TuneSettings",
    "Validation",
    "Workers",
    "build",
    "expanded",
    "how",
    "how_fields",
    "identity",
    "load",
    "local",
    "located",
    "read_yaml",
]
