"""The judge's endpoint as settings name it: its address, its key and how long it asks us to wait.

The key is read where it is used, from a file or an environment variable, and goes nowhere else: not
into settings, records, messages or the arguments of a Ray task.
"""

from __future__ import annotations

import email.utils
import ipaddress
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from raypipe.errors import RequestError
from raypipe.settings import JudgeSettings, local

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"  # sent to an endpoint on this machine, which needs none


def base_url_of(settings: JudgeSettings) -> str:
    """The endpoint's address; OpenAI's own where settings name none.

    Raises:
        RequestError: not an http address.
    """
    url = settings.base_url or OPENAI_URL
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise RequestError(f"{settings.group}.base_url is not an http address", f"write it like {OPENAI_URL}")
    return url


def host_of(settings: JudgeSettings) -> str:
    """The endpoint's host and port for messages, without credentials or path."""
    parts = urlsplit(base_url_of(settings))
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_key(settings: JudgeSettings) -> str:
    """The API key: from ``key_file`` when set, else from the variable ``key_env``.

    An endpoint on this machine needs none: without one it is sent ``NO_KEY``.

    Raises:
        RequestError: no key, an empty one, or one with characters that no key has.
    """
    if settings.key_file:
        path = Path(local(settings.key_file))
        try:
            return _checked(path.read_text(encoding="utf-8"), f"the file {path}", settings.role)
        except (OSError, UnicodeDecodeError) as fault:
            why = fault.strerror if isinstance(fault, OSError) else "not text"
            raise RequestError(
                f"cannot read the {settings.role}'s key from {path}: {why}", "set key_file"
            ) from None
    key = os.environ.get(settings.key_env)
    if key is None:
        if is_loopback(base_url_of(settings)):
            return NO_KEY
        raise RequestError(
            f"the {settings.role} at {host_of(settings)} needs a key and ${settings.key_env} is not set here",
            f"export {settings.key_env}=..., or set key_file to a file that every node can read",
        )
    return _checked(key, f"${settings.key_env}", settings.role)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the endpoint asks us to wait; None if it does not.

    RFC 9110, 10.2.3: seconds or a date. Of OpenAI and Azure also milliseconds, in a header of their own.
    """
    exact = headers.get("retry-after-ms", "").strip()
    if exact.isdecimal():
        return int(exact) / 1000
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(wait_s) else max(0.0, wait_s)


def _checked(text: str, where: str, role: str) -> str:
    key = text.strip()
    if not key:
        raise RequestError(f"the {role}'s key in {where} is empty", "write the key there, alone in one line")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RequestError(
            f"what {where} holds is not a key: it has spaces, line breaks or odd characters",
            "write the key there, alone in one line",
        )
    return key
