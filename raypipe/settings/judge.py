"""Settings of the judge verb."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field

from raypipe.settings.base import Settings, how
from raypipe.settings.faults import Unfit

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS = ("key", "api_key", "apikey", "token", "secret")


class Price(Settings):
    """Cost of a judge, in US dollars per million tokens."""

    prompt: float = Field(0.0, ge=0)
    reply: float = Field(0.0, ge=0)


class JudgeSettings(Settings):
    """An OpenAI-compatible endpoint that judges open answers. The key is named by path, never given."""

    model_config = pydantic.ConfigDict(hide_input_in_errors=True)
    role: ClassVar[str] = "judge"  # what it is called in messages
    group: ClassVar[str] = "judge"  # the settings' name

    name: str = "judge"
    base_url: str | None = None
    model: str = "gpt-3.5-turbo"
    key_file: str | None = how(None)
    key_env: str = how("OPENAI_API_KEY")
    temperature: float = Field(0.0, ge=0)
    concurrency: int = how(8, ge=1)
    requests_per_minute: int | None = how(None, ge=1)
    tokens_per_minute: int | None = how(None, ge=1)
    timeout_s: float = how(60.0, gt=0)
    tries: int = how(5, ge=1)
    max_reply_tokens: int = how(512, ge=1)
    price: Price = how(Price())
    prices: dict[str, Price] = how(default_factory=dict)  # by model; the entry of ``model`` beats ``price``
    max_usd: float | None = how(None, gt=0)  # for all starts of a run together
    cache: str | None = how(None)  # a folder of verdicts that runs share
    rubric_files: dict[str, str] = Field(default_factory=dict)  # a file in place of a rubric's own text
    pin: Literal["model", "fingerprint"] = how("model")  # what of a reply tells snapshots apart
    new_snapshot: Literal["stop", "judge_again"] = how("stop")

    def price_now(self) -> Price:
        """What the model costs."""
        return self.prices.get(self.model, self.price)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, given: Any) -> Any:
        return without_secrets(given)


def without_secrets(given: Any) -> Any:
    """Settings of an endpoint as they were given; keys are refused before they reach a file or a message.

    Raises:
        ValueError: there is a secret in them; what was given is not repeated.
    """
    if not isinstance(given, dict):
        return given
    if any(name in given for name in _KEYS):
        raise Unfit(
            "a key is never given as a setting, where process lists and files show it",
            "write it to a file (chmod 600) and set key_file, or export it and name the variable in key_env",
        )
    variable = given.get("key_env")
    if isinstance(variable, str) and not _VARIABLE.fullmatch(variable):
        raise Unfit("key_env is the name of a variable, not the key itself", "key_env=OPENAI_API_KEY")
    if _holds_credentials(given.get("base_url")):
        raise Unfit(
            "base_url holds a key or another credential",
            "write the key to a file (chmod 600) and set key_file",
        )
    return given


def _holds_credentials(url: Any) -> bool:
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.password or parts.username or parts.query)
    except ValueError:
        return False  # no address at all, which is said where it is used
