"""What is wrong with a medium, as an exception with a typed reason."""

from __future__ import annotations

from raypipe.records import Reason


class MediumError(Exception):
    """A medium that cannot be stored as good, with the typed reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
