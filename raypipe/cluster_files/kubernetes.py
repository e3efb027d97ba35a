"""The machines of KubeRay's objects: RayCluster, RayJob, RayService."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from raypipe.cluster_files.places import Document
from raypipe.cluster_files.types import NodeType, Part

KINDS = ("RayCluster", "RayJob", "RayService")
SPOT = {  # node labels by which the clouds and Karpenter mark machines that can be taken away
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "spot",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
INSTANCE = "node.kubernetes.io/instance-type"
UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
UNITS |= {"E": 1e18, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}


def quantity(text: object) -> float | None:
    """A Kubernetes quantity as a number; None where it is none.

    >>> quantity("500m"), quantity("2Gi"), quantity(3), quantity("1e3"), quantity("much")
    (0.5, 2147483648.0, 3.0, 1000.0, None)
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?([A-Za-z]*)", str(text).strip(), re.IGNORECASE)
    if not found or isinstance(text, bool) or found[3] not in UNITS:
        return None
    value = float(found[1] + (found[2] or "")) * UNITS[found[3]]
    return value if math.isfinite(value) else None


def cluster_part(path: str, source: Document) -> Part | None:
    """The cluster's spec inside a RayCluster, RayJob or RayService; None for other objects.

    Raises:
        RequestError: the spec is not a mapping.
    """
    top = Part.of(path, source)
    kind = top.value.get("kind")
    if kind not in KINDS:
        return None
    spec = top.part("spec")
    if kind == "RayCluster":
        return spec
    return spec.part("rayClusterSpec" if kind == "RayJob" else "rayClusterConfig")


def groups(cluster: Part) -> Iterator[tuple[Part, bool]]:
    """The groups of pods of a cluster's spec, each with whether it is the head.

    Raises:
        RequestError: a group is not a mapping.
    """
    if cluster.value.get("headGroupSpec") is not None:
        yield cluster.part("headGroupSpec"), True
    for group in cluster.parts("workerGroupSpecs"):
        yield group, False


def kuberay_types(path: str, source: Document) -> list[NodeType]:
    """The machines of one Kubernetes object.

    Raises:
        RequestError: a part does not have the form KubeRay wants, with the line.
    """
    cluster = cluster_part(path, source)
    if cluster is None:
        return []
    grows = cluster.take("enableInTreeAutoscaling", bool, False)
    return [_group(group, head, grows) for group, head in groups(cluster)]


def _group(group: Part, head: bool, grows: bool) -> NodeType:
    pod = group.part("template").part("spec")
    containers = pod.parts("containers")
    if not containers:
        raise group.fault((*group.place, "template", "spec", "containers"), "is empty: a pod has a container")
    limits = containers[0].part("resources").part("limits").value  # the first container runs Ray
    requests = containers[0].part("resources").part("requests").value
    params = group.part("rayStartParams").value
    hosts = group.take("numOfHosts", int, 1)
    replicas = group.take("replicas", int, group.take("minReplicas", int, 0))
    least, most = replicas, replicas
    if grows:
        least, most = group.take("minReplicas", int, 0), group.take("maxReplicas", int, 2**31 - 1)
    cpu = params.get("num-cpus", limits.get("cpu", requests.get("cpu")))
    gpu = params.get("num-gpus", next((v for k, v in limits.items() if str(k).endswith("/gpu")), 0))
    memory = quantity(params.get("memory", limits.get("memory")))
    selector = pod.part("nodeSelector").value
    return NodeType(
        name="head" if head else group.take("groupName", str, "worker"),
        cpus=quantity(cpu),
        gpus=quantity(gpu),
        memory_bytes=int(memory) if memory else None,
        min_nodes=1 if head else least * hosts,
        max_nodes=1 if head else most * hosts,
        instance=_text(selector.get(INSTANCE)),
        spot=any(str(selector.get(k, "")).lower() == v for k, v in SPOT.items()),
        head=head,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
