"""What tells that a frame may be wrong: the decoder's own words, and the form of its input.

The decoders of libav hide most damage: they log a line, fill the hole and return a frame. So every line that
they log while a frame and all that it depends on is decoded counts as evidence against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from av import logging

T = TypeVar("T")

# As strict as files of good encoders allow (docs/decisions/0005 names the corpus).
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode+careful+compliant+aggressive"}
# dav1d checks the padding of every tile only so.
STRICT_AV1 = {**STRICT, "strict": "strict"}

_HARMLESS = re.compile(r"max_analyze_duration|Could not find codec parameters|deprecated pixel format")
_SUSPICIOUS = re.compile(
    r"invalid|corrupt|damag|missing|truncat|error|undecodable|over-?read|discard|broken|illegal|fail"
    r"|conceal|mismatch|garbage|prematurely|unavailable|out of range|without|end of file|not enough|bad ",
    re.IGNORECASE,
)


class Watch:
    """Hears what libav logs in this thread while it is entered."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str, str]] = []

    def __enter__(self) -> Watch:
        self._before = logging.get_level(), logging.get_skip_repeated()
        # A line that repeats the last one heard, be it of another file, would be swallowed.
        logging.set_skip_repeated(False)
        logging.set_level(logging.WARNING)
        self._capture = logging.Capture()
        self._lines = self._capture.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._capture.__exit__(*exc)
        logging.set_level(self._before[0])
        logging.set_skip_repeated(self._before[1])

    def around(self, source: Iterator[T]) -> Iterator[T]:
        """The same items; hears only while the source works, not while its user does."""
        while True:
            with self:
                item = next(source, None)
            if item is None:
                return
            yield item

    def forget(self) -> None:
        self._lines.clear()

    def fault(self, only: str = "") -> str | None:
        """The first line that speaks of damage since it was last entered or asked.

        Args:
            only: the name of the one part of libav that matters; all of them where empty.
        """
        if not self._lines:
            return None
        lines = list(self._lines)
        self._lines.clear()
        for level, name, line in lines:
            if (only and name != only) or _HARMLESS.search(line):
                continue
            if level <= logging.ERROR or _SUSPICIOUS.search(line):
                return f"{name}: {line.strip()[:160]}"
        return None


def too_large(line: str) -> bool:
    """Whether a decoder refused a picture for its size."""
    return "max pixel count" in line or "frame size limit" in line.lower()


def illegal_nal(data: bytes, prefix: int, padding: int = 8) -> str | None:
    """Why a packet of length-prefixed NAL units cannot be whole, or None.

    The units must fill the packet exactly. Inside a unit no two zero bytes are followed by 0, 1 or 2: an
    encoder puts a 3 between, so that a hole of zeros or a foreign start code shows.

    Args:
        padding: zeros that may follow the end of a unit; some writers leave them.
    """
    place, size = 0, len(data)
    while place < size:
        begin = place + prefix
        place = begin + int.from_bytes(data[place:begin], "big")
        if begin >= size or not begin < place <= size:
            return "NAL units do not fill the packet"
        end = place
        while end > max(begin, place - padding) and data[end - 1] == 0:
            end -= 1
        zeros = data.find(b"\0\0", begin, end)
        while zeros >= 0:
            if zeros + 2 < end and data[zeros + 2] < 3:
                return "a start code inside a NAL unit"
            zeros = data.find(b"\0\0", zeros + 1, end)
    return None


def illegal_gif(data: bytes) -> str | None:
    """Why a packet of a GIF cannot be whole, or None: its blocks must follow each other up to its end."""
    place, size = 0, len(data)
    if data[:4] == b"GIF8":
        place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    pictures = 0
    while place < size and data[place] != 0x3B:
        if data[place] == 0x2C and place + 10 < size:
            flags = data[place + 9]
            place += 10 + (3 << (flags & 7) + 1 if flags & 128 else 0) + 1
            pictures += 1
        elif data[place] == 0x21:
            place += 2
        else:
            return "a block of an unknown kind"
        while place < size and data[place]:
            place += data[place] + 1
        place += 1
    return None if pictures == 1 and size - 1 <= place <= size else "the blocks of the picture do not fill it"
