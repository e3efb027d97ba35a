"""Made-up files of VQAv2, TextVQA and VizWiz, in the reference's layout."""

from __future__ import annotations

from tests.support.case import Case

CASES: dict[str, Case] = {}
