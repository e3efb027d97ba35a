"""The doctor verb."""

from __future__ import annotations

from typing import Any

from raypipe.doctor import show
from raypipe.doctor.checks import Asked, Finding, Level
from raypipe.doctor.data import check_data_root, dataset_yamls
from raypipe.doctor.eval_root import check_eval_root
from raypipe.doctor.registry import examine
from raypipe.redaction import redact_all
from raypipe.terminal import Step


def doctor(
    data_root: str | None,
    datasets: str | None,
    out: str | None,
    eval_root: str | None = None,
    judge: str | None = None,
) -> tuple[int, dict[str, Any], str]:
    """Looks at a data root or an eval root, or else at this machine; and at a store and a judge where named.

    Returns:
        the exit code (0, 3 where data are missing, 5 where the machine or the store fails), the result as
        data, and as text.

    Raises:
        RequestError: no such data root or eval root, or no dataset yamls.
    """
    result: dict[str, Any] = {"ok": True}
    texts, code = [], 0
    if data_root is not None:
        with Step("look at the data") as step:
            found = redact_all(check_data_root(data_root, dataset_yamls(datasets), step.note))
        result |= found
        texts.append(show.data_text(found))
        code = 0 if found["ok"] else 3
    if eval_root is not None:
        with Step("look at the benchmarks") as step:
            found = redact_all(check_eval_root(eval_root, step.note))
        result |= {**found, "ok": result["ok"] and found["ok"]}
        texts.append(show.eval_text(found))
        code = code if found["ok"] else 3
    roots = [root for root in (data_root, eval_root) if root is not None]
    findings: list[Finding] = []
    if not roots or out is not None or judge is not None:
        with Step("look at the machine") as step:
            findings = examine(Asked(out, judge, tuple(roots)), machine=not roots)
            step.note(f"{len(findings)} findings")
    if findings:
        rows = [f.row() for f in findings]
        result["findings"] = rows
        texts.append(show.machine_text(rows))
        if any(f.level is Level.FAIL for f in findings):
            result["ok"], code = False, 5
    return code, result, "\n\n".join(texts)
