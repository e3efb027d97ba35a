"""Machines: what may vanish, and what runs on the head."""

from __future__ import annotations

from collections.abc import Iterator

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.launcher import is_spot, started_with
from raypipe.cluster_files.view import HEAD, Hit, View


def _spot_head(view: View) -> Iterator[Hit]:
    for place, config, head in view.node_configs():
        if head and is_spot(config):
            key = next(
                (k for k in ("InstanceMarketOptions", "scheduling") if k in config), "azure_arm_parameters"
            )
            yield view.hit(*place, key)
    types = iter(view.file.node_types)
    for group, head in view.groups():
        if next(types).spot and head:
            yield Hit(group.source, (*group.place, "template", "spec", "nodeSelector"))


def _kept_spot(view: View) -> Iterator[Hit]:
    provider = view.config.get("provider")
    kept = isinstance(provider, dict) and provider.get("cache_stopped_nodes", True)
    if view.kind == "aws" and kept and any(is_spot(config) for _, config, _ in view.node_configs()):
        yield view.hit("provider", "cache_stopped_nodes")


def _head_works(view: View) -> Iterator[Hit]:
    if view.kind == "kuberay":
        for group, head in view.groups():
            if head and str(group.part("rayStartParams").value.get("num-cpus")) != "0":
                yield Hit(group.source, (*group.place, "rayStartParams", "num-cpus"))
        return
    starts = view.starts(HEAD)
    said = [started_with([s.text]).get("num-cpus") for s in starts]
    if "0" in said:
        return
    if view.kind == "local":
        yield from (s.hit() for s in starts)
    for name, declared, head in view.node_types():
        resources = declared.get("resources")
        cpus = resources.get("CPU") if isinstance(resources, dict) else None
        if head and cpus != 0:
            yield view.hit("available_node_types", name, "resources")


RULES = (
    Rule(
        "spot-head",
        Severity.FAIL,
        "the head can be taken away, and every job with it",
        "the head on demand, workers on spot",
        _spot_head,
    ),
    Rule(
        "kept-spot",
        Severity.WARN,
        "stopped nodes are kept, which spot nodes cannot be; their disks go on costing",
        "provider.cache_stopped_nodes: false",
        _kept_spot,
    ),
    Rule(
        "head-works",
        Severity.WARN,
        "tasks run on the head; one that takes its memory ends every job",
        'resources: {CPU: 0} of the head; local: --num-cpus=0; Kubernetes: rayStartParams num-cpus: "0"',
        _head_works,
    ),
)
