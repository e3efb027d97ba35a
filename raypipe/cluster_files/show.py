"""What a check found, as text for a terminal of 100 columns."""

from __future__ import annotations

import os
import textwrap
from typing import Any

from raypipe.cluster_files.findings import DEFAULT
from raypipe.errors import printable

WIDTH = 100


def text(result: dict[str, Any]) -> str:
    """Each kind of weakness with its places and its fix, the worst first; then what is still to be edited."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["findings"]:
        kinds.setdefault((row["severity"], row["rule"]), []).append(row)
    rows = result["findings"]
    width = max(
        [len(row["rule"]) for row in rows] + [len(_where(row, result["file"])) for row in rows], default=0
    )
    lines = []
    for (severity, rule), found in sorted(kinds.items(), key=lambda item: item[0][0]):
        lines += ["", *_kind(severity, rule, found, result["file"], width)]
    if lines:
        lines.append("")
    return "\n".join(map(printable, [_summary(result), *lines, *_to_edit(result)])).rstrip()


def _kind(severity: str, rule: str, rows: list[dict[str, Any]], path: str, width: int) -> list[str]:
    lines, head, told = [], f"  {severity:<4}  {rule:<{width}}  ", ""
    for row in rows:
        if row["said"] != told:
            lines += _wrapped(row["said"], head)
            told, head = row["said"], " " * len(head)
        if row["place"] or row["file"] != path:
            place = row["place"].removesuffix(DEFAULT) or "the file"
            lines += _wrapped(place, f"        {_where(row, path):<{width}}  ")
    fixes = dict.fromkeys(row["fix"] for row in rows if row["fix"])
    return [*lines, *(line for fix in fixes for line in _wrapped(fix, f"        {'fix':<{width}}  "))]


def _where(row: dict[str, Any], path: str) -> str:
    if row["place"].endswith(DEFAULT):
        return "Ray's default"
    other = os.path.relpath(row["file"], os.path.dirname(path) or ".") + " " if row["file"] != path else ""
    return f"{other}line {row['line']}"


def _summary(result: dict[str, Any]) -> str:
    kind = "KubeRay" if result["kind"] == "kuberay" else f"ray up, {result['kind']}"
    if not result["findings"]:
        return f"{result['file']} ({kind}): no weakness, {result['rules']} rules"
    fails = _count(result["fails"], "weakness", "weaknesses")
    return f"{result['file']} ({kind}): {fails}, {_count(result['warnings'], 'warning', 'warnings')}"


def _to_edit(result: dict[str, Any]) -> list[str]:
    rows = result["to_edit"]
    if not rows:
        return []
    lines = [f"before the first start, edit {_count(len(rows), 'value', 'values')}:"]
    width = max(len(_where(row, result["file"])) for row in rows)
    for row in rows:
        more = f" and {_count(row['more'], 'place', 'places')} more" if row["more"] else ""
        where = f"  {_where(row, result['file']):<{width}}  "
        lines += _wrapped(f"{row['value']}  ({row['place']}{more})", where)
    return lines


def _count(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"


def _wrapped(said: str, head: str) -> list[str]:
    return textwrap.wrap(
        said,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
