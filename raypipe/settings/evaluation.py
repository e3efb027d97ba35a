"""Settings of the evaluate and judge verbs."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field

from raypipe.settings.base import Settings, how
from raypipe.settings.data import DecodeLimits, Rendition, Sampling


class Price(Settings):
    """Cost of the judge, in US dollars per million tokens."""

    prompt: float = 0.0
    reply: float = 0.0


class JudgeSettings(Settings):
    """An OpenAI-compatible endpoint that judges open answers. The key is named by path, never given."""

    name: str = "judge"
    base_url: str | None = None
    model: str = "gpt-3.5-turbo"
    key_file: str | None = how(None)
    key_env: str = how("OPENAI_API_KEY")
    temperature: float = 0.0
    concurrency: int = how(8, ge=1)
    timeout_s: float = how(60.0, gt=0)
    tries: int = how(5, ge=1)
    price: Price = how(Price())


class EvaluateSettings(Settings):
    """One batch evaluation of one model over many benchmarks."""

    model: str
    model_base: str | None = None
    benchmarks: list[str] | Literal["all"] = "all"
    splits: dict[str, str] = Field(default_factory=dict)  # of several question sets: {"mmbench": "cn"}
    eval_root: str
    out: str = how()
    protocol: Literal["corrected", "reference"] = "corrected"
    control: Literal["none", "repeat_frame"] = "none"
    sampling: Sampling | None = None  # None: as the model was trained
    rendition: Rendition | None = None
    max_new_tokens: int | None = Field(None, ge=1)  # None: as the benchmark says
    limit: int | None = Field(None, ge=1)  # the first N questions of each benchmark
    precision: Literal["bf16", "fp32"] = "bf16"
    media_per_unit: int = Field(16, ge=1)
    batch: int = how(16, ge=1)
    actors: int = how(1, ge=1)
    actor_cpus: float = how(1, ge=0)
    actor_gpus: float = how(0, ge=0)
    judge: JudgeSettings | None = how(None)
    coverage_floor: float = how(0.99, ge=0, le=1)
    limits: DecodeLimits = how(DecodeLimits())

    @pydantic.field_validator("benchmarks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """``a,b`` on the command line is a list."""
        return [b.strip() for b in value.split(",")] if isinstance(value, str) and value != "all" else value
