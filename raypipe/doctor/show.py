"""What doctor found, as text for a terminal: tables of data for 100 columns, the machine for 80."""

from __future__ import annotations

import textwrap
from typing import Any

WIDTH, MACHINE_WIDTH = 100, 80
LAYOUT = "docs/from_video_llava.md shows the layout"
STATES = {"no annotations": "no annotation file", "not needed": "not there, not needed"}


def data_text(result: dict[str, Any]) -> str:
    """The table of datasets, and below it what is wrong with each and where it is to be had."""
    rows = result["datasets"]
    width = max(len(r["name"]) for r in rows)
    lines = [f"data root {result['data_root']}", ""]
    lines.append(f"  {'dataset':<{width}}  {'records':>9}  {'bad':>6}  {'media':>9}  {'missing':>17}  state")
    for row in rows:
        counts = [f"{row['records']:>9,}", f"{row['bad']:>6,}", f"{row['media']:>9,}", f"{_gone(row):>17}"]
        if row["state"] in ("no annotations", "not needed", "unreadable"):
            counts = [f"{'-':>9}", f"{'-':>6}", f"{'-':>9}", f"{'-':>17}"]
        lines.append(f"  {row['name']:<{width}}  {'  '.join(counts)}  {_state(row)}")
    for row in rows:
        if row["state"] not in ("ok", "not needed"):
            lines += ["", *_details(row)]
    wrong = [r["name"] for r in rows if r["state"] in ("over budget", "no annotations", "unreadable")]
    there = sum(1 for r in rows if r["state"] in ("ok", "within budget"))
    told = f"{there} of {there + len(wrong)} datasets are ready"
    return "\n".join([*lines, "", told + (f"; not ready: {', '.join(wrong)}" if wrong else "")])


def eval_text(result: dict[str, Any]) -> str:
    """The table of benchmarks, and below it what is wrong with each and where it is to be had."""
    rows = result["benchmarks"]
    names = {id(r): f"{r['name']} {r['split']}".strip() for r in rows}
    width = max(len(n) for n in names.values())
    lines = [f"eval root {result['eval_root']}", ""]
    lines.append(f"  {'benchmark':<{width}}  {'questions':>9}  {'media':>7}  {'missing':>17}  state")
    for row in rows:
        counts = [
            f"{row['questions']:>9,}",
            f"{row['media']:>7,}",
            f"{_part(row['missing'], row['media']):>17}",
        ]
        if not row["questions"]:
            counts = [f"{'-':>9}", f"{'-':>7}", f"{'-':>17}"]
        lines.append(f"  {names[id(row)]:<{width}}  {'  '.join(counts)}  {_how_whole(row)}")
    for row in rows:
        if row["state"] == "incomplete":
            lines += ["", *_lacks(row, names[id(row)])]
    there = [r for r in rows if r["state"] != "not there"]
    whole = sum(r["state"] == "complete" for r in there)
    if there:
        lines += ["", f"{whole} of {len(there)} benchmarks that are there are complete"]
    else:
        lines += ["", f"no benchmark has its data below {result['eval_root']}", f"  {LAYOUT}"]
    absent: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] == "not there":
            absent.setdefault(row["source"], []).append(names[id(row)])
    for source, those in absent.items():
        lines += _wrapped(f"{', '.join(those)}: {source}", "not there: ")
    return "\n".join(lines)


def _how_whole(row: dict[str, Any]) -> str:
    return f"{row['state']}, media packed in the annotations" if row["packed"] else row["state"]


def _lacks(row: dict[str, Any], name: str) -> list[str]:
    lines = [f"  {name}"]
    for file in row["files_missing"]:
        lines += _wrapped(file, "    missing  ")
    if row["note"]:
        lines += _wrapped(row["note"], "    error    ")
    if row["missing"]:  # the questions have been read
        first = ", ".join(row["examples"]) + (", ..." if row["missing"] > len(row["examples"]) else "")
        lines += _wrapped(
            f"{row['missing']:,} of {row['media']:,} media (answers can be scored without): {first}",
            "    missing  ",
        )
    return [
        *lines,
        *_wrapped(row["remedy"] or row["source"], f"    {'try' if row['remedy'] else 'fetch':<7}  "),
    ]


def machine_text(findings: list[dict[str, str]]) -> str:
    """One line a finding, its fix below it where there is one."""
    width = max(len(f["check"]) for f in findings)
    lines = []
    for finding in findings:
        head = f"  {finding['level']:<4}  {finding['check']:<{width}}  "
        lines += _wrapped(finding["found"], head, MACHINE_WIDTH)
        if finding["fix"]:
            lines += _wrapped(finding["fix"], f"  {'':<4}  {'':<{width}}  fix: ", MACHINE_WIDTH)
    counts = {level: sum(1 for f in findings if f["level"] == level) for level in ("fail", "warn")}
    if not any(counts.values()):
        return "\n".join([*lines, "", "all is well"])
    told = [f"{n} {'failed' if level == 'fail' else 'to look at'}" for level, n in counts.items() if n]
    return "\n".join([*lines, "", ", ".join(told)])


def _gone(row: dict[str, Any]) -> str:
    return _part(row["missing"] + row["empty"], row["media"])


def _part(gone: int, of: int) -> str:
    return f"{gone:,} ({100 * gone / of:.1f} %)" if gone else "0"


def _state(row: dict[str, Any]) -> str:
    if row["state"] in ("within budget", "over budget"):
        return f"{row['state'].partition(' ')[0]} its budget of {100 * row['error_budget']:g} %"
    return STATES.get(row["state"], row["state"])


def _details(row: dict[str, Any]) -> list[str]:
    if row["note"]:
        lines = _wrapped(row["note"], f"  {row['name']}: ")
    else:
        told = (
            f"{row['lost']:,} of {row['records']:,} records would be quarantined ({100 * row['share']:.1f} %)"
        )
        absent = [name for name, there in row["folders"].items() if not there]
        told += f"; nothing in {', '.join(absent)}" if absent else ""
        lines = _wrapped(told, f"  {row['name']}: ")
        for example in row["examples"]:
            hint = f": {example['hint']}" if example["hint"] else ""
            lines += _wrapped(f"{example['name']}{hint}", f"    {example['what']:<7}  ")
    return [*lines, *_wrapped(row["fetch"], "    fetch    ")] if row["fetch"] else lines


def _wrapped(text: str, head: str, width: int = WIDTH) -> list[str]:
    """The text behind its head; further lines stand under its beginning."""
    indent = min(len(head), 30)
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]
