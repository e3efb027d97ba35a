"""Text without what is secret, for everything that is kept: logs, reports."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"
LEAST_CHARACTERS = 8  # of a value that is hidden by itself; a shorter one would blacken ordinary words

# Logs go through these whole: none may read a stretch of text again and again where it does not match.
_ADDRESSES = re.compile(
    r"(?<=://)[^/\s]+@"
    # A key of AWS may hold slashes; behind a port, or in the address of an access point, they begin a path.
    r"|(?<=://)(?!arn:)[^/\s:@'\"]{1,128}:(?!\d{1,5}/)[^\s'\"]{1,256}@"
    r"|(?<=[?&])(?=[^=&?\s]*?(?:key|token|secret|sig|credential))[^=&?\s]*+=[^&\s]*",
    re.I,
)
KEYS = (  # what keys look like by themselves; an upload is searched for the same
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{20,}|A[KS]IA[0-9A-Z]{16}\b|AIza[\w-]{35}|nvapi-[\w-]{20,}|xox[a-z]-[\w-]{10,}"
    r"|eyJ[\w-]{8,1000}\.eyJ[\w-]{8,}\.[\w-]*)"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.|\n)*?(?:-----END|\Z)"
)
_SHAPES = re.compile(KEYS + r"|(?:(?<=Bearer )|(?i:(?<=authorization: basic )))[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNED = re.compile(
    r"(?i)((?:api[-_]?key|password|passwd|secret(?:_access)?(?:_key)?|(?:access|auth|session)[-_]?token)['\"]?\s*[=:]\s*['\"]?)"
    r"[^\s'\",;&}]{8,}"
)
_USERS = re.compile(  # curl -u name:password; ids in numbers are docker's
    r"(?<!\S)(-[uU]\s{0,8}|-\w{1,16}[uU]\s{1,8}|--(?:proxy-)?user(?:\s{1,8}|=))"
    r"(?!\d{1,10}:\d{1,10}(?!\S))"
    r"(?:'[^':\n]{1,256}:[^'\n]*'?|\"[^\":\n]{1,256}:[^\"\n]*\"?"
    r"|[^\s:'\"]{1,256}:(?!//)\S*)"
)
_NAMES = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_(?!FILE|PATH|ID$))", re.I)
_known: set[str] = set()


def hide(value: str) -> None:
    """From now on this process takes the value out of all that goes through ``redact``."""
    if len(value) >= LEAST_CHARACTERS:
        _known.add(value)


def hide_of_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Hides the values of variables whose names say that they are secret, and Ray's token."""
    for name, value in environ.items():
        if _NAMES.search(name) and not name.upper().endswith(("_FILE", "_PATH")):
            hide(value)
    token = environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    with contextlib.suppress(OSError, UnicodeDecodeError, RuntimeError):
        hide(Path(token).expanduser().read_text(encoding="utf-8").strip())


def redact(text: str) -> str:
    """Text without credentials: in addresses, in shapes that keys have, and those that were hidden.

    >>> redact("https://me:secret@judge.example/v1?api_key=abc")
    'https://***@judge.example/v1?***'
    """
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _ADDRESSES.sub(lambda found: f"{HIDDEN}@" if found[0].endswith("@") else HIDDEN, text)
    text = _USERS.sub(rf"\g<1>{HIDDEN}", text)
    return _ASSIGNED.sub(rf"\g<1>{HIDDEN}", _SHAPES.sub(HIDDEN, text))


def redact_all(value: Any) -> Any:
    """A result without credentials: ``redact`` of every text in its lists and dictionaries."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_all(item) for name, item in value.items()}
    return [redact_all(item) for item in value] if isinstance(value, list | tuple) else value
