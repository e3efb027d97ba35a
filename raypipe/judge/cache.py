"""Verdicts that runs share: a folder, local or on S3, in which verdicts lie under what they are about."""

from __future__ import annotations

from collections.abc import Sequence

from raypipe.judge.index import VerdictIndex
from raypipe.judge.log import SEAL_ROWS, segment_name
from raypipe.records import VERDICT_SCHEMA, Verdict, fingerprint
from raypipe.settings import JudgeSettings, local
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger


class VerdictCache:
    """The folder of one judge's verdicts: whoever writes there is trusted to have asked that judge.

    Args:
        settings: the judge, and with it the folder; other judges may share it.

    Raises:
        ServiceError: from every method: the disk or the service refused.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        judge = fingerprint(settings.name, settings.model, settings.temperature)
        self._ledger = Ledger(Store(local(settings.cache or "")), judge, VERDICT_SCHEMA)
        self._index = VerdictIndex([self._ledger])

    def find(self, keys: Sequence[str]) -> dict[str, list[Verdict]]:
        """Verdicts by key, as the cache had them when this was made."""
        return self._index.find(keys)

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Adds what was paid for."""
        for start in range(0, len(verdicts), SEAL_ROWS):
            rows = list(verdicts[start : start + SEAL_ROWS])
            self._ledger.append(segment_name(rows), rows)
