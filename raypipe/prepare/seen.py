"""Which contents were met before: an exact set of 12-byte names that takes about 20 bytes for each."""

from __future__ import annotations

NAME_BYTES = 12
_EMPTY = bytes(NAME_BYTES)


class Seen:
    """Counts how often each name was met. A Python set would take five times the memory."""

    def __init__(self, slots: int = 1 << 10) -> None:
        self._slots = slots  # a power of two
        self._table = bytearray(NAME_BYTES * slots)
        self._used = 0
        self._again: dict[bytes, int] = {}  # few names come twice

    def __len__(self) -> int:
        return self._used

    def count(self, name: bytes) -> int:
        """Takes note of a name; returns how often it has come, 1 for the first time."""
        if name == _EMPTY:  # what marks a free slot cannot be a name in one
            self._again[name] = self._again.get(name, 0) + 1
            return self._again[name]
        if self._add(name):
            if 3 * self._used > 2 * self._slots:
                self._grow()
            return 1
        self._again[name] = self._again.get(name, 1) + 1
        return self._again[name]

    def _add(self, name: bytes) -> bool:
        table, last = self._table, self._slots - 1
        slot = int.from_bytes(name[:8], "little") & last
        while True:
            at = slot * NAME_BYTES
            held = table[at : at + NAME_BYTES]
            if held == name:
                return False
            if held == _EMPTY:
                table[at : at + NAME_BYTES] = name
                self._used += 1
                return True
            slot = (slot + 1) & last

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(NAME_BYTES * self._slots)
        self._used = 0
        for at in range(0, len(old), NAME_BYTES):
            name = bytes(old[at : at + NAME_BYTES])
            if name != _EMPTY:
                self._add(name)
