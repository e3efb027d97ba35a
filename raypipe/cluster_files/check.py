"""`raypipe cluster check`: what is wrong in a cluster's file, what is weak, what is still to be edited."""

from __future__ import annotations

from typing import Any

from raypipe.cluster_files.findings import Finding, Severity
from raypipe.cluster_files.kube_schema import kube_findings
from raypipe.cluster_files.placeholders import placeholders
from raypipe.cluster_files.read import ClusterFile, read_cluster
from raypipe.cluster_files.rules import RULES
from raypipe.cluster_files.view import View


def check(path: str) -> tuple[int, dict[str, Any]]:
    """Checks a file for `ray up` or KubeRay. Contacts nothing, writes nothing.

    Returns:
        the exit code (0, or 2 where a finding is of severity "fail") and the result: what the file is, the
        findings in the order of their lines, the values that are still to be edited.

    Raises:
        RequestError: the file cannot be read as a cluster's.
    """
    file = read_cluster(path)
    found = findings(file)
    fails = sum(f.severity is Severity.FAIL for f in found)
    result = {
        "ok": fails == 0,
        "file": path,
        "kind": file.kind,
        "fails": fails,
        "warnings": len(found) - fails,
        "rules": len(RULES),
        "findings": [f.row() for f in found],
        "to_edit": [p.row() for p in placeholders(file)],
    }
    return (2 if fails else 0), result


def findings(file: ClusterFile) -> list[Finding]:
    """All findings of a file; a rule tells a place once, and what a yaml alias shares once."""
    from raypipe.cluster_files.ray_schema import ec2_findings, ray_findings, ray_version, with_defaults

    if file.kind == "kuberay":
        found, config = kube_findings(file), {}
    else:
        found, config = [*ray_findings(file), *ec2_findings(file)], with_defaults(file)
    view = View(file, config, ray_version())
    for rule in RULES:
        found += rule.findings(view)
    shared = {(f.rule, f.file, f.line, f.said): f for f in reversed(found)}
    once = {(f.rule, f.file, f.place): f for f in shared.values()}
    return sorted(once.values(), key=lambda f: (f.file != file.path, f.file, f.line, f.severity, f.rule))
