"""The structure of KubeRay's objects: the fields, their types, which of them are needed.

Written from the API references of KubeRay 1.6 and Kubernetes 1.28. A newer operator may know fields that are
not here; an unknown field is a warning only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raypipe.cluster_files.findings import At, Finding, Severity
from raypipe.cluster_files.kubernetes import KINDS, quantity
from raypipe.cluster_files.places import Document, Place
from raypipe.cluster_files.read import ClusterFile
from raypipe.errors import nearest

WRONG, UNKNOWN = ("kube-structure", Severity.FAIL), ("kube-unknown", Severity.WARN)

TEXT, NUMBER, TRUTH, TEXTS, AMOUNT, ANY = (
    "a text",
    "a whole number",
    "true or false",
    "texts",
    "an amount",
    "anything",
)
API = "ray.io/v1"
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")

RESOURCES = {"limits": AMOUNT, "requests": AMOUNT, "claims": ANY}
CONTAINER = {
    "name!": TEXT,
    "image": TEXT,
    "resources": RESOURCES,
    "env": [{"name!": TEXT, "value": TEXT, "valueFrom": ANY}],
    "ports": [{"name": TEXT, "containerPort!": NUMBER, "hostPort": NUMBER, "hostIP": TEXT, "protocol": TEXT}],
    "command": [TEXT],
    "args": [TEXT],
    "volumeMounts": [
        dict.fromkeys(("name!", "mountPath!", "subPath", "subPathExpr", "mountPropagation"), TEXT)
        | {"readOnly": TRUTH, "recursiveReadOnly": TEXT}
    ],
}
CONTAINER |= dict.fromkeys(("imagePullPolicy", "workingDir", "terminationMessagePath", "restartPolicy"), TEXT)
CONTAINER |= dict.fromkeys(("stdin", "stdinOnce", "tty"), TRUTH)
CONTAINER |= dict.fromkeys(
    (
        "envFrom",
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "securityContext",
        "volumeDevices",
    ),
    ANY,
)
CONTAINER |= dict.fromkeys(("resizePolicy", "terminationMessagePolicy"), ANY)
POD = {"containers!": [CONTAINER], "initContainers": [CONTAINER], "volumes": ANY, "nodeSelector": TEXTS}
POD |= dict.fromkeys(
    ("restartPolicy", "serviceAccountName", "serviceAccount", "priorityClassName", "nodeName"), TEXT
)
POD |= dict.fromkeys(
    ("schedulerName", "hostname", "subdomain", "dnsPolicy", "runtimeClassName", "preemptionPolicy"), TEXT
)
POD |= dict.fromkeys(
    ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace", "setHostnameAsFQDN"), TRUTH
)
POD |= dict.fromkeys(("automountServiceAccountToken", "enableServiceLinks"), TRUTH)
POD |= dict.fromkeys(("terminationGracePeriodSeconds", "activeDeadlineSeconds", "priority"), NUMBER)
POD |= dict.fromkeys(
    ("securityContext", "affinity", "tolerations", "topologySpreadConstraints", "imagePullSecrets"), ANY
)
POD |= dict.fromkeys(("hostAliases", "dnsConfig", "readinessGates", "overhead", "os", "schedulingGates"), ANY)
POD |= dict.fromkeys(("ephemeralContainers", "resourceClaims", "resources"), ANY)
TEMPLATE = {"metadata": ANY, "spec!": POD}
GROUP = {"rayStartParams": TEXTS, "template!": TEMPLATE, "resources": TEXTS, "labels": TEXTS}
HEAD = GROUP | {"serviceType": TEXT, "headService": ANY, "enableIngress": TRUTH}
WORKERS = GROUP | {"groupName!": TEXT, "suspend": TRUTH, "scaleStrategy": ANY}
WORKERS |= dict.fromkeys(
    ("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), NUMBER
)
CLUSTER = {
    "rayVersion": TEXT,
    "enableInTreeAutoscaling": TRUTH,
    "autoscalerOptions": {
        **dict.fromkeys(("image", "imagePullPolicy", "upscalingMode", "version"), TEXT),
        **dict.fromkeys(("env", "envFrom", "volumeMounts", "securityContext"), ANY),
        "resources": RESOURCES,
        "idleTimeoutSeconds": NUMBER,
    },
    "authOptions": {"mode": TEXT, "secretName": TEXT, "enableK8sTokenAuth": TRUTH},
    "headGroupSpec!": HEAD,
    "workerGroupSpecs": [WORKERS],
    "headServiceAnnotations": TEXTS,
    "suspend": TRUTH,
    "managedBy": TEXT,
    "gcsFaultToleranceOptions": ANY,
    "networkIsolation": ANY,
    "upgradeStrategy": ANY,
}
JOB = {
    "rayClusterSpec": CLUSTER,
    "entrypoint": TEXT,
    "submissionMode": TEXT,
    "runtimeEnvYAML": TEXT,
    "metadata": TEXTS,
    "clusterSelector": TEXTS,
    "submitterPodTemplate": TEMPLATE,
    "submitterConfig": {"backoffLimit": NUMBER},
    "entrypointNumCpus": ANY,
    "entrypointNumGpus": ANY,
    "shutdownAfterJobFinishes": TRUTH,
    "suspend": TRUTH,
    "deletionStrategy": ANY,
}
JOB |= dict.fromkeys(("jobId", "entrypointResources", "managedBy", "schedule"), TEXT)
JOB |= dict.fromkeys(
    ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "preRunningDeadlineSeconds"), NUMBER
)
SERVICE = {"rayClusterConfig!": CLUSTER, "serveConfigV2": TEXT, "serveService": ANY, "upgradeStrategy": ANY}
SERVICE |= {"excludeHeadPodFromServeSvc": TRUTH, "suspend": TRUTH, "rayClusterDeletionDelaySeconds": NUMBER}
SPECS: dict[str, Any] = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}


def kube_findings(file: ClusterFile) -> list[Finding]:
    """Fields of KubeRay's objects that are missing, unknown or of another type."""
    found = []
    for source in file.sources:
        for (rule, severity), place, said, fix in _object(source):
            found.append(At(file.path, source, place).finding(rule, severity, said, fix))
    return found


Fault = tuple[tuple[str, Severity], Place, str, str]


def _object(source: Document) -> Iterator[Fault]:
    value = source.value
    kind, api = value.get("kind"), value.get("apiVersion")
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str):
            yield WRONG, (key,), f"{key} is missing", f"{key}: ..., as every Kubernetes object has"
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    name = metadata.get("name", metadata.get("generateName"))
    if not isinstance(name, str):
        yield WRONG, ("metadata", "name"), "metadata.name is missing", "metadata: {name: ...}"
    elif not re.fullmatch(r"[a-z0-9][-a-z0-9.]*", name):
        yield (
            WRONG,
            ("metadata", "name"),
            f"'{name}' is no Kubernetes name",
            "small letters, digits and dashes",
        )
    if kind not in KINDS:
        return
    if api != API:
        yield WRONG, ("apiVersion",), f"apiVersion is {api}", f"apiVersion: {API}"
    spec = value.get("spec")
    if not isinstance(spec, dict):
        yield WRONG, ("spec",), "spec is missing", "spec: ..."
        return
    yield from _shape(spec, SPECS[kind], ("spec",))
    if kind == "RayJob":
        yield from _job(spec)
    yield from _sizes(
        spec if kind == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or {}
    )


def _shape(value: Any, shape: Any, place: Place) -> Iterator[Fault]:
    if shape == ANY or value is None:
        return
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield WRONG, place, "is not a list", "write a list"
            return
        for i, inner in enumerate(value):
            yield from _shape(inner, shape[0], (*place, i))
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield WRONG, place, "is not a mapping", "write key: value"
            return
        known = {k.rstrip("!"): s for k, s in shape.items()}
        for key in shape:
            if key.endswith("!") and value.get(key.rstrip("!")) in (None, {}, []):
                yield (
                    WRONG,
                    (*place, key.rstrip("!")),
                    f"{key.rstrip('!')} is missing",
                    f"{key.rstrip('!')}: ...",
                )
        for key, inner in value.items():
            if key not in known:
                yield UNKNOWN, (*place, str(key)), f"{key} is no field there", nearest(str(key), known)
            else:
                yield from _shape(inner, known[key], (*place, str(key)))
    else:
        yield from _value(value, shape, place)


def _value(value: Any, kind: str, place: Place) -> Iterator[Fault]:
    whole = isinstance(value, int) and not isinstance(value, bool)
    right = {TEXT: isinstance(value, str), NUMBER: whole, TRUTH: isinstance(value, bool)}
    if kind in right:
        if not right[kind]:
            fix = f'"{value}"' if kind == TEXT and not isinstance(value, (dict, list)) else kind
            yield WRONG, place, f"{value!r} is not {kind}"[:200], fix
    elif not isinstance(value, dict):
        yield WRONG, place, "is not a mapping", "write key: value"
    else:
        for key, inner in value.items():
            if kind == TEXTS and not isinstance(inner, str):
                yield WRONG, (*place, str(key)), f"{inner!r} is not a text"[:200], f'{key}: "{inner}"'
            if kind == AMOUNT and quantity(inner) is None:
                yield WRONG, (*place, str(key)), f"{inner!r} is no amount"[:200], "4, 500m or 16Gi"


def _job(spec: dict[str, Any]) -> Iterator[Fault]:
    if not spec.get("rayClusterSpec") and not spec.get("clusterSelector"):
        yield (
            WRONG,
            ("spec",),
            "names no cluster",
            "rayClusterSpec: ..., or clusterSelector of a cluster that runs",
        )
    mode = spec.get("submissionMode", MODES[0])
    if mode not in MODES:
        yield WRONG, ("spec", "submissionMode"), f"'{mode}' is no mode", nearest(str(mode), MODES)
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield WRONG, ("spec", "entrypoint"), "entrypoint is missing", "entrypoint: python jobs/finetune.py"


def _sizes(cluster: Any) -> Iterator[Fault]:
    """Groups whose numbers do not go together, and two groups of one name."""
    groups = cluster.get("workerGroupSpecs") if isinstance(cluster, dict) else None
    seen: set[str] = set()
    for group in groups if isinstance(groups, list) else []:
        if not isinstance(group, dict):
            continue
        name = str(group.get("groupName"))
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield (
                WRONG,
                ("spec",),
                f"group {name}: minReplicas {least} is more than maxReplicas {most}",
                "min <= max",
            )
        if name in seen:
            yield WRONG, ("spec",), f"two groups are called {name}", "a name of its own for each"
        seen.add(name)
