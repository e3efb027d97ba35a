"""Where the numbers of a report come from: versions, settings, seeds, commands, and what it cost."""

from __future__ import annotations

import platform
import sys
from typing import Any

import yaml

from raypipe import __version__
from raypipe.redaction import redact
from raypipe.report.collect import EvaluationRun, RunHeader, judge_of

TOKENS_PER_PRICE = 1_000_000


def evaluation_entry(run: EvaluationRun) -> dict[str, Any]:
    """What was evaluated, by whom it was judged, how it ended and what it took."""
    settings = run.header.settings
    asked = sum(len(rows) for rows in run.predictions.values())
    # A run that was taken up again still has the manifest of before, which may be of another checkpoint.
    facts = run.header.manifest.get("facts") or {} if run.header.complete else {}
    return {
        "label": run.label,
        "path": run.header.path,
        "complete": run.header.complete,
        "model": settings.get("model", ""),
        "model_base": settings.get("model_base"),
        "control": settings.get("control", "none"),
        "protocol": settings.get("protocol", ""),
        "limit": settings.get("limit"),
        "judge": judge_of(run),
        "questions": asked,
        "certificate": facts.get("certificate"),
        "cost": cost_of(run),
    }


def cost_of(run: EvaluationRun) -> dict[str, Any]:
    """Tokens and, at the prices in the settings, US dollars of the verdicts in this run.

    A verdict that an earlier run had paid for is counted here too: this is what judging the run takes.
    """
    judge = run.header.settings.get("judge") or {}
    price = (judge.get("prices") or {}).get(judge.get("model")) or judge.get("price") or {}
    prompt = sum(v.prompt_tokens or 0 for v in run.all_verdicts())
    reply = sum(v.reply_tokens or 0 for v in run.all_verdicts())
    usd = prompt * float(price.get("prompt", 0.0)) + reply * float(price.get("reply", 0.0))
    return {
        "new_tokens": sum(p.new_tokens or 0 for rows in run.predictions.values() for p in rows),
        "judge_calls": sum(1 for _ in run.all_verdicts()),
        "judge_prompt_tokens": prompt,
        "judge_reply_tokens": reply,
        "judge_usd": usd / TOKENS_PER_PRICE,
    }


def provenance(headers: list[RunHeader]) -> dict[str, Any]:
    """The software that made the report, and every run it was made of."""
    return {
        "report_software": {
            "raypipe": __version__,
            "python": platform.python_version(),
            "platform": f"{sys.platform}-{platform.machine()}",
        },
        "runs": [_run(header) for header in headers],
    }


def _run(header: RunHeader) -> dict[str, Any]:
    facts = header.manifest.get("facts") or {}
    file = f"{header.kind}.yaml"
    return {
        "label": header.label,
        "kind": header.kind,
        "path": header.path,
        "identity": header.identity,
        "complete": header.complete,
        "manifest_sha256": header.manifest_sha256,
        "software": {k: str(v) for k, v in (header.manifest.get("software") or {}).items()}
        or {"raypipe": header.raypipe},
        "seeds": _seeds(header.settings),
        "command": redact(str(facts.get("command") or f"raypipe {header.kind} {file}")),
        "settings_yaml": redact(
            yaml.safe_dump(header.settings, sort_keys=False, allow_unicode=True, default_flow_style=False)
        ),
    }


def _seeds(settings: dict[str, Any], where: str = "") -> dict[str, int]:
    """Every seed in the settings, by its dotted name."""
    found: dict[str, int] = {}
    for key, value in settings.items():
        name = f"{where}{key}"
        if isinstance(value, dict):
            found |= _seeds(value, f"{name}.")
        elif key == "seed" and isinstance(value, int):
            found[name] = value
    return found
