"""The KubeRay files are cluster.yaml once more: the same machines, image, Ray, folder; and confined pods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.cluster_files import NodeType, read_cluster

REPO = Path(__file__).parents[2]
FILES = ("raycluster.yaml", "rayjob.yaml")
SHARED = "/home/ray/raypipe"
PLAIN = {  # what is set in the open: switches of Ray; a secret comes from a Secret
    "RAY_USAGE_STATS_ENABLED",
    "RAY_JOB_STOP_WAIT_TIME_S",
    "RAY_grpc_client_keepalive_time_ms",
    "RAY_grpc_client_keepalive_timeout_ms",
}


def loaded(name: str) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all((REPO / "cluster/kuberay" / name).read_text(encoding="utf-8")) if d]


def cluster_of(name: str) -> dict[str, Any]:
    spec = next(d for d in loaded(name) if d["kind"].startswith("Ray"))["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> Iterator[dict[str, Any]]:
    cluster = cluster_of(name)
    yield from (g["template"]["spec"] for g in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])
    for document in loaded(name):
        if "submitterPodTemplate" in document["spec"]:
            yield document["spec"]["submitterPodTemplate"]["spec"]


def by_name(path: Path) -> dict[str, NodeType]:
    return {t.name: t for t in read_cluster(str(path)).node_types}


@pytest.mark.parametrize("name", FILES)
def test_the_same_machines(name: str) -> None:
    here, there = by_name(REPO / "cluster/kuberay" / name), by_name(REPO / "cluster.yaml")
    assert set(here) == set(there)
    for kind, mine in here.items():
        theirs = there[kind]
        assert (mine.cpus, mine.gpus, mine.instance) == (theirs.cpus, theirs.gpus, theirs.instance)
        assert (mine.min_nodes, mine.max_nodes, mine.head) == (
            theirs.min_nodes,
            theirs.max_nodes,
            theirs.head,
        )
        assert not mine.spot


@pytest.mark.parametrize("name", FILES)
def test_the_same_ray_in_an_image_made_from_the_same(name: str) -> None:
    image = yaml.safe_load((REPO / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["image"]
    dockerfile = (REPO / "cluster/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)$", dockerfile, re.MULTILINE) == [image]
    pinned = re.search(r"^ray==(.+)$", (REPO / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster_of(name)["rayVersion"] == pinned[1]
    images = {c["image"] for pod in pods(name) for c in pod["containers"]}
    (one,) = images
    assert one.endswith(f"-ray{pinned[1]}")
    assert one in dockerfile


def test_the_dockerfile_copies_what_is_there_and_no_data() -> None:
    copies = re.findall(
        r"^COPY --chown=ray:users (.+) /home/ray/raypipe_source\S*$",
        (REPO / "cluster/Dockerfile").read_text(encoding="utf-8"),
        re.M,
    )
    names = [n for line in copies for n in line.split()]
    assert {"raypipe", "pyproject.toml", "constraints.txt", "jobs"} <= set(names)
    assert all((REPO / n).exists() for n in names)
    entrypoint = next(d for d in loaded("rayjob.yaml"))["spec"]["entrypoint"]
    script = re.search(r"/home/ray/raypipe_source/(\S+)", entrypoint)
    assert script is not None
    assert (REPO / script[1]).exists()


@pytest.mark.parametrize("name", FILES)
def test_the_shared_folder_is_where_the_jobs_look(name: str) -> None:
    claim = next(d for d in loaded("namespace.yaml") if d["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = cluster_of(name)
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes[mounts[SHARED]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"  # noqa: S108
        assert volumes[mounts[f"{SHARED}/secrets"]]["secret"]["optional"] is True
    options = yaml.safe_load((REPO / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["run_options"]
    assert any(o.endswith(f":{SHARED}") for o in options)


@pytest.mark.parametrize("name", FILES)
def test_pods_pass_the_restricted_standard_that_their_namespace_demands(name: str) -> None:
    namespace = next(d for d in loaded("namespace.yaml") if d["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {d["metadata"]["namespace"] for d in loaded(name)} == {namespace["metadata"]["name"]}
    allowed = {
        "persistentVolumeClaim",
        "secret",
        "emptyDir",
        "configMap",
        "projected",
        "downwardAPI",
        "csi",
        "ephemeral",
    }
    for pod in pods(name):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] != 0
        assert context["seccompProfile"]["type"] == "RuntimeDefault"
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= allowed
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert not any("hostPort" in p for p in container.get("ports", []))
            assert all("value" not in e or e["name"] in PLAIN for e in container.get("env", []))
    assert cluster_of(name)["autoscalerOptions"]["securityContext"] == own


def test_only_the_namespace_and_the_operator_come_in() -> None:
    policy = next(d for d in loaded("namespace.yaml") if d["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    (rule,) = policy["spec"]["ingress"]
    assert [sorted(peer) for peer in rule["from"]] == [["podSelector"], ["namespaceSelector", "podSelector"]]
    assert rule["from"][1]["podSelector"]["matchLabels"]


@pytest.mark.parametrize("name", FILES)
def test_requests_fit_beside_kubernetes_and_gpus_ask_for_what_they_are(name: str) -> None:
    cluster = cluster_of(name)
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert int(resources["requests"]["cpu"]) < int(resources["limits"]["cpu"])
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert resources["requests"].get("nvidia.com/gpu") == resources["limits"].get("nvidia.com/gpu")


def test_a_job_ends_by_itself_and_its_cluster_with_it() -> None:
    spec = loaded("rayjob.yaml")[0]["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["backoffLimit"] > 0  # a lost head costs no run: the same command continues it
