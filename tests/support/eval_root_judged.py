"""Made-up files of LLaVA-Bench, MM-Vet and the generative aspects, in the reference's layout."""

from __future__ import annotations

from tests.support.case import Case

CASES: dict[str, Case] = {}
