"""Files of clusters are read with the place of what is wrong, and say which machines they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.cluster_files import NodeType, read_cluster
from raypipe.cluster_files.kubernetes import quantity
from raypipe.cluster_files.places import MAX_NODES, read_documents
from raypipe.errors import RequestError

REPO = Path(__file__).parents[2]

AWS = """\
cluster_name: a
max_workers: 3
provider: {type: aws, region: us-west-2}
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {InstanceType: m6i.large}
  gpu:
    min_workers: 1
    max_workers: 9
    resources: {CPU: 96, GPU: 8, memory: 1000}
    node_config: {InstanceType: p4d.24xlarge, InstanceMarketOptions: {MarketType: spot}}
  found_by_ray:
    resources: {}
    node_config: {InstanceType: g5.xlarge}
head_node_type: head
"""

LOCAL = """\
cluster_name: a
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2, 10.0.0.3]}
head_start_ray_commands: [ray stop, ray start --head --num-cpus=0 --num-gpus 0]
worker_start_ray_commands: [ray stop, "ray start --address=a:6379 --num-cpus=$(nproc) --num-gpus=8"]
"""

KUBERAY = """\
apiVersion: v1
kind: Service
metadata: {name: judge}
---
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: a}
spec:
  enableInTreeAutoscaling: true
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template:
      spec:
        containers:
          - name: ray
            resources: {limits: {cpu: "4", memory: 16Gi}}
  workerGroupSpecs:
    - groupName: gpu
      replicas: 0
      minReplicas: 1
      maxReplicas: 2
      numOfHosts: 2
      template:
        spec:
          nodeSelector: {node.kubernetes.io/instance-type: p5.48xlarge, karpenter.sh/capacity-type: spot}
          containers:
            - name: ray
              resources: {limits: {cpu: 1500m, nvidia.com/gpu: 8}}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_machines_of_a_cloud(tmp_path: Path) -> None:
    found = read_cluster(write(tmp_path, AWS))
    assert found.kind == "aws"
    assert found.documents[0]["cluster_name"] == "a"
    assert found.node_types == (
        NodeType("head", 0.0, 0.0, None, 1, 1, "m6i.large", False, True),
        NodeType("gpu", 96.0, 8.0, 1000, 1, 3, "p4d.24xlarge", True, False),
        NodeType("found_by_ray", None, None, None, 0, 3, "g5.xlarge", False, False),
    )


def test_machines_that_are_there_already(tmp_path: Path) -> None:
    found = read_cluster(write(tmp_path, LOCAL))
    assert found.kind == "local"
    head, worker = found.node_types
    assert (head.cpus, head.gpus, head.min_nodes, head.max_nodes, head.head) == (0.0, 0.0, 1, 1, True)
    assert (worker.cpus, worker.gpus, worker.min_nodes, worker.max_nodes) == (None, 8.0, 2, 2)


def test_what_ray_is_not_told_of_a_machine_may_be_told_to_us(tmp_path: Path) -> None:
    text = LOCAL.replace("--num-gpus=8", "") + "metadata: {worker: {cpus: 96, gpus: 4}}\n"
    _, worker = read_cluster(write(tmp_path, text)).node_types
    assert (worker.cpus, worker.gpus) == (None, 4.0)  # --num-cpus=$(nproc) goes before
    _, worker = read_cluster(write(tmp_path, text.replace("--num-cpus=$(nproc)", ""))).node_types
    assert (worker.cpus, worker.gpus) == (96.0, 4.0)


def test_machines_of_kuberay_stand_among_other_objects(tmp_path: Path) -> None:
    found = read_cluster(write(tmp_path, KUBERAY))
    assert found.kind == "kuberay"
    assert [d["kind"] for d in found.documents] == ["Service", "RayCluster"]
    assert found.node_types == (
        NodeType("head", 0.0, 0.0, 16 * 2**30, 1, 1, None, False, True),
        NodeType("gpu", 1.5, 8.0, None, 2, 4, "p5.48xlarge", True, False),
    )


def test_without_the_autoscaler_there_are_as_many_as_replicas(tmp_path: Path) -> None:
    text = KUBERAY.replace("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false")
    gpu = read_cluster(write(tmp_path, text.replace("replicas: 0", "replicas: 3"))).node_types[1]
    assert (gpu.min_nodes, gpu.max_nodes) == (6, 6)


@pytest.mark.parametrize(
    ("outside", "cluster"), [("RayJob", "rayClusterSpec"), ("RayService", "rayClusterConfig")]
)
def test_the_cluster_inside_another_object(tmp_path: Path, outside: str, cluster: str) -> None:
    text = KUBERAY.replace("kind: RayCluster", f"kind: {outside}").replace("  enable", "  inside:\n   enable")
    body, _, spec = text.partition("  inside:\n")
    indented = "\n".join("  " + line if line.startswith("  ") else line for line in spec.splitlines())
    path = write(tmp_path, f"{body}  {cluster}:\n{indented.replace('     enable', '    enable')}\n")
    assert [t.name for t in read_cluster(path).node_types] == ["head", "gpu"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a\n", "line 1: document 1 is not a mapping"),
        ("a: 1\n", "no cluster's file"),
        ("a: [\n", "line 2: not valid yaml"),
        ("a: 1\nb: 2\na: 3\n", "line 3: not valid yaml: 'a' is there twice"),
        ("[a]: 1\n", "line 1: not valid yaml: a key is a list or a mapping"),
        ("a: !!python/object/apply:os.system [id]\n", "line 1: not valid yaml"),
        ("a: 2001-99-99\n", "not valid yaml"),
        ("a: &x [*x]\n", "valid yaml"),
        ("provider: aws\n", "line 1: provider is not a mapping"),
        ("provider: {}\n", "line 1: provider names no type"),
        ("provider: {type: aws}\n---\nprovider: {type: aws}\n", "line 3: a `ray up` file is one document"),
        (
            AWS.replace("available_node_types:", "available_node_types: []\nx:"),
            "line 4: available_node_types is not",
        ),
        (AWS.replace("head_node_type: head", "head_node_type: had"), "line 16: head_node_type 'had'"),
        (
            AWS.replace("CPU: 96", "CPU: many"),
            "line 11: available_node_types.gpu.resources.CPU is not a whole",
        ),
        (
            AWS.replace("min_workers: 1", "min_workers: true"),
            "line 9: available_node_types.gpu.min_workers is",
        ),
        ("kind: Service\n", "holds no cluster"),
        (KUBERAY.replace("containers:", "containers: []\n        x:"), "containers is empty"),
        (
            KUBERAY.replace("workerGroupSpecs:", "workerGroupSpecs: [1]\n  x:"),
            "line 17: spec.workerGroupSpecs[0]",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RequestError) as refused:
        read_cluster(path)
    assert said in refused.value.message
    assert path in refused.value.message
    assert len(refused.value.render().splitlines()) <= 8


def test_a_file_may_leave_the_machines_to_ray(tmp_path: Path) -> None:
    assert (
        read_cluster(
            write(tmp_path, "cluster_name: a\nprovider: {type: aws, region: us-west-2}\n")
        ).node_types
        == ()
    )


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_cluster(str(tmp_path / "none.yaml"))


def test_what_is_larger_than_any_clusters_file_is_not_read_on() -> None:
    with pytest.raises(RequestError, match="larger than"):
        read_cluster("/dev/zero")


def test_a_deep_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not valid yaml"):
        read_cluster(write(tmp_path, "a: " + "[" * 20_000 + "]" * 20_000))


def test_a_few_aliases_do_not_make_a_giant(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RequestError, match=f"more than {MAX_NODES:,} values"):
        read_cluster(write(tmp_path, "\n".join(["a0: &a0 [1]", *levels])))


def test_lines_of_values(tmp_path: Path) -> None:
    text = "a: &a\n  b: [1,\n    2]\nc:\n  <<: *a\n  d: >-\n    long\n    text\n"
    (document,) = read_documents(write(tmp_path, text))
    assert document.value["c"] == {"b": [1, 2], "d": "long text"}
    places = [("a",), ("a", "b"), ("a", "b", 1), ("c", "d"), ("c", "b"), ("c", "not there"), ("none",)]
    assert [document.line(p) for p in places] == [1, 2, 3, 6, 2, 4, 1]


def test_the_shipped_file() -> None:
    found = read_cluster(str(REPO / "cluster.yaml"))
    assert found.kind == "aws"
    assert [t.cpus for t in found.node_types if t.head] == [0.0]
    assert max(t.gpus or 0 for t in found.node_types) == 8


def test_what_has_another_form_is_answered_with_the_next_step(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("provider: {type: aws}\nhead_node_type: 3\navailable_node_types: {h: {}}\n")
    with pytest.raises(RequestError, match="line 2: head_node_type is not a text") as fault:
        read_cluster(str(file))
    assert "cluster.yaml" in fault.value.remedy


def test_ray_start_with_no_options_is_a_worker_of_any_size(tmp_path: Path) -> None:
    text = LOCAL.replace('"ray start --address=a:6379 --num-cpus=$(nproc) --num-gpus=8"', "ray start")
    _, worker = read_cluster(write(tmp_path, text)).node_types
    assert (worker.cpus, worker.gpus, worker.max_nodes) == (None, None, 2)


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "inf", "nan"])
def test_a_number_that_no_machine_has_is_none(tmp_path: Path, number: str) -> None:
    text = KUBERAY.replace('"0"', f'"{number}"').replace("memory: 16Gi", f'memory: "{number}"')
    head, _ = read_cluster(write(tmp_path, text)).node_types
    assert (head.cpus, head.memory_bytes) == (None, None)
    _, worker = read_cluster(write(tmp_path, LOCAL.replace("gpus=8", f"gpus={number}"))).node_types
    assert worker.gpus is None
    with pytest.raises(RequestError, match=r"resources\.CPU is larger than any machine's"):
        read_cluster(write(tmp_path, AWS.replace("CPU: 96", f"CPU: {'9' * 400}")))


def test_units_of_kubernetes() -> None:
    found = {text: quantity(text) for text in ("2E", "1Ei", "1E3", "2u", "2n", "1e")}
    assert found == {"2E": 2e18, "1Ei": 2.0**60, "1E3": 1000.0, "2u": 2e-6, "2n": 2e-9, "1e": None}
