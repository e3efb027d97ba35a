"""Machines: what may vanish, and what runs on the head."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.launcher import is_spot, started_with
from raypipe.cluster_files.places import Place
from raypipe.cluster_files.view import HEAD, Hit, View

EFS = re.compile(r"\bfs-[0-9a-f]+\.efs\.([a-z0-9-]+)\.amazonaws\.com")


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


def _left_out(view: View) -> Iterator[Hit]:
    provider = view.config.get("provider")
    if view.kind != "local" or not isinstance(provider, dict) or not provider.get("worker_ips"):
        return
    for start in view.starts(HEAD):
        if "RAY_enable_autoscaler_v2=0" not in start.text:
            yield start.hit()


def _elsewhere(view: View) -> Iterator[Hit]:
    provider = view.config.get("provider")
    region = str(provider.get("region", "")) if isinstance(provider, dict) else ""
    if view.kind != "aws" or not isinstance(provider, dict) or not region:
        return
    for zone in str(provider.get("availability_zone") or region).split(","):
        if not zone.strip().startswith(region):
            yield view.hit("provider", "availability_zone", said=f"{zone.strip()} is no zone of {region}")
    for text in view.commands():
        for found in EFS.findall(text.text):
            if found != region:
                yield text.hit(f"the file system is in {found}, the machines are in {region}")


def _counts(view: View) -> Iterator[Hit]:
    if view.kind == "kuberay":
        return  # its own structure check counts replicas
    held: list[tuple[Place, dict[str, Any], bool]] = [((), view.config, False)]
    held += [(("available_node_types", name), declared, head) for name, declared, head in view.node_types()]
    for place, part, head in held:
        least, most = (part.get(key) for key in ("min_workers", "max_workers"))
        for key, count in (("min_workers", least), ("max_workers", most)):
            if place and isinstance(count, int) and count < 0:  # Ray's own check looks at the one at the top
                yield view.hit(*place, key, said=f"{key} is {count}, less than none")
        if isinstance(least, int) and isinstance(most, int) and least > max(0, most) and not head:
            yield view.hit(*place, "min_workers", said=f"at least {least} nodes, and at most {most}")


RULES = (
    Rule(
        "node-counts",
        Severity.FAIL,
        "a number of nodes that cannot be",
        "0 <= min_workers <= max_workers",
        _counts,
    ),
    Rule(
        "machine-left-out",
        Severity.WARN,
        "the newer autoscaler counts the head among worker_ips, and starts one machine less",
        "RAY_enable_autoscaler_v2=0 before ray start of the head",
        _left_out,
    ),
    Rule(
        "zone-elsewhere",
        Severity.FAIL,
        "zone and region do not go together",
        "edit provider.region, provider.availability_zone and the address of the file system together",
        _elsewhere,
    ),
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
