"""Settings of a model that is served behind an endpoint."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field

from raypipe.settings.base import Settings, how
from raypipe.settings.judge import without_secrets


class ServedSettings(Settings):
    """An OpenAI-compatible endpoint that serves the model. The key is named by path, never given.

    ``concurrency`` and ``requests_per_minute`` are those of one actor; one is enough.
    """

    model_config = pydantic.ConfigDict(hide_input_in_errors=True)

    base_url: str = how()
    key_file: str | None = how(None)
    key_env: str = how("OPENAI_API_KEY")
    concurrency: int = how(16, ge=1)
    requests_per_minute: int | None = how(None, ge=1)
    timeout_s: float = how(120.0, gt=0)
    tries: int = how(5, ge=1)
    system: str = ""  # a system message before each question
    detail: Literal["low", "high"] | None = None  # of a picture; None: the endpoint decides
    max_image_bytes: int = Field(4 << 20, ge=1 << 10)  # a larger frame is made smaller until it fits

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, given: Any) -> Any:
        return without_secrets(given)
