"""Made-up files of MMBench, SEED-Bench and MME, in the reference's layout."""

from __future__ import annotations

from tests.support.case import Case

CASES: dict[str, Case] = {}
