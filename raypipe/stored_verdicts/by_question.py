"""Verdicts of the Video-ChatGPT family: ``{key: [verdict, judged]}`` in one file, or one ``<key>.json`` each.

``verdict`` is what the judge said (``{"pred": "yes", "score": 4}``), ``judged`` what it was asked about
(``{"q", "a", "pred"}``). Either may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.eval_root import Row, read_json


def stored_verdicts(files: Sequence[Path]) -> Iterator[tuple[Path, str, Any]]:
    """File, question id and record of each verdict in ``results.json`` files or in folders of ``<id>.json``.

    Raises:
        RequestError: a damaged file, one that is not keyed by id, or a folder without a verdict.
    """
    for path in files:
        if path.is_dir():
            singles = sorted(path.glob("*.json"))
            if not singles:
                raise RequestError(
                    f"no verdict in {path}", "the judge leaves one <question id>.json for each"
                )
            for single in singles:
                yield single, single.name.removesuffix(".json"), read_json(single)
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} does not hold verdicts by question id")
        for row_id, record in content.items():
            yield path, row_id, record


def verdict_parts(record: Any) -> tuple[Row, Row]:
    """The judge's own words and what it was asked; empty where a record has no such part."""
    parts: list[Row] = [part for part in record if isinstance(part, dict)] if isinstance(record, list) else []
    verdict, judged = (*parts, {}, {})[:2]
    return verdict, judged


def differing(judged: Row, **ours: str) -> str | None:
    """The first field of what was judged that is there and differs, white space around it aside."""
    for key, text in ours.items():
        theirs = judged.get(key)
        if theirs is not None and str(theirs).strip() != text.strip():
            return key
    return None
