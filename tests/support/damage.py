"""Ways in which files rot, each from a seed."""

from __future__ import annotations

import random

KINDS = ("scattered", "hole", "cut", "dropped", "doubled", "swapped", "page", "burst", "bit")


def pictures_of(data: bytes, suffix: str) -> tuple[int, int]:
    """Where the bytes of the pictures lie: after the header, before an index at the end."""
    if suffix in (".mp4", ".mov"):
        begin = data.index(b"mdat") + 4
        end = data.find(b"moov", begin) - 4
        return begin, end if end > 0 else len(data)
    return 400, len(data) - 60


def damaged(data: bytes, suffix: str, kind: str, seed: int) -> bytes:
    """The file with one kind of damage among its pictures.

    ``scattered``: 2,000 random bytes (a twentieth of a small file). ``hole``: zeros over an eighth. ``cut``:
    the end is missing. ``dropped``, ``doubled``: a range of up to a twentieth is missing, or there twice.
    ``swapped``: two ranges of 4,096 bytes change places. ``page``: 4,096 zeros. ``burst``: 200 random
    bytes in one place. ``bit``: one bit is flipped.
    """
    dice, whole = random.Random(f"{kind} {seed}"), bytearray(data)
    begin, end = pictures_of(data, suffix)
    span = end - begin
    if kind == "scattered":
        for place in dice.sample(range(begin, end), min(2000, span // 20)):
            whole[place] = dice.randrange(256)
    elif kind == "hole":
        place = dice.randrange(begin, end - span // 8)
        whole[place : place + span // 8] = bytes(span // 8)
    elif kind == "cut":
        del whole[begin + int(span * dice.uniform(0.05, 0.97)) :]
    elif kind in ("dropped", "doubled"):
        length = dice.randrange(50, span // 20)
        place = dice.randrange(begin, end - length)
        whole[place : place + length] = b"" if kind == "dropped" else 2 * whole[place : place + length]
    elif kind == "swapped":
        one, other = (dice.randrange(begin, end - 4096) for _ in range(2))
        whole[one : one + 4096], whole[other : other + 4096] = (
            data[other : other + 4096],
            data[one : one + 4096],
        )
    elif kind == "page":
        place = dice.randrange(begin, end - 4096)
        whole[place : place + 4096] = bytes(4096)
    elif kind == "burst":
        place = dice.randrange(begin, end - 200)
        whole[place : place + 200] = dice.randbytes(200)
    elif kind == "bit":
        whole[dice.randrange(begin, end)] ^= 1 << dice.randrange(8)
    else:
        raise ValueError(kind)
    return bytes(whole)
