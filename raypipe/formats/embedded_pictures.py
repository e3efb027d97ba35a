"""Pictures that lie as base64 text in the rows of a table, and the files that they become.

Several rows may be about one picture, which is then one file. Some releases write it in the first of these
rows only, and that row's number in place of it in the others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from raypipe.errors import RequestError
from raypipe.store.files import Store

SIGNATURES = {"iVBOR": ".png", "R0lG": ".gif", "UklG": ".webp"}  # how base64 of these begins; else a JPEG


class Embedded(NamedTuple):
    """A row's picture: where the row is, the number that all rows about the picture share, and its text."""

    where: str
    number: int
    text: str


def picture_name(folder: str, number: int, text: str) -> str:
    """Where a picture is written, below the eval root; its suffix says what it is."""
    suffix = next((s for start, s in SIGNATURES.items() if text.startswith(start)), ".jpg")
    return f"{folder}/{number}{suffix}"


def write_pictures(eval_root: Path, folder: str, table: Path, rows: Iterable[Embedded]) -> int:
    """Writes each picture once, below ``folder``; one that is there with its size is left alone.

    Args:
        table: where the rows are from, for messages.

    Returns:
        How many were written.

    Raises:
        RequestError: a damaged row, text that is not base64, or one number with different pictures; the
            pictures before it are written.
        ServiceError: the disk refused.
    """
    store = Store(str(eval_root))
    digests: dict[int, bytes] = {}
    written = 0
    for where, number, text in rows:
        digest = hashlib.sha256(text.encode()).digest()
        if number in digests:
            if digest != digests[number] and text not in ("", str(number)):
                raise RequestError(f"{table}, {where}: another picture than other rows about {number} have")
            continue
        digests[number] = digest
        if not text:
            raise RequestError(f"{table}, {where}: no picture")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(f"{table}, {where}: the picture is not base64 text") from None
        name = picture_name(folder, number, text)
        if not store.exists(name) or store.size(name) != len(data):
            store.replace(name, data)
            written += 1
    return written
