"""cluster.yaml against AWS's interface, by moto: what Ray's launcher makes of it before the first SSH."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.moto_cluster import REGION, bootstrapped

REPO = Path(__file__).parents[2]


def openings() -> list[str]:
    """Every network that any security group of the account lets in, the default group's aside."""
    import boto3

    groups = boto3.client("ec2", region_name=REGION).describe_security_groups()["SecurityGroups"]
    return [r["CidrIp"] for g in groups for p in g["IpPermissions"] for r in p["IpRanges"]]


def test_the_launcher_opens_nothing_and_makes_no_role(moto_cluster: dict[str, Any]) -> None:
    import boto3

    bootstrapped(moto_cluster)
    assert openings() == []
    roles = boto3.client("iam", region_name=REGION).list_roles()["Roles"]
    assert {r["RoleName"] for r in roles} == {"raypipe-head", "raypipe-worker"}


def test_without_a_group_of_ones_own_ray_opens_ssh_to_the_world(moto_cluster: dict[str, Any]) -> None:
    """Why the file names a group: rules under provider.security_group only add to an open port 22."""
    for declared in moto_cluster["available_node_types"].values():
        del declared["node_config"]["SecurityGroupIds"]
    mine = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    moto_cluster["provider"]["security_group"] = {"GroupName": "another", "IpPermissions": [mine]}
    bootstrapped(moto_cluster)
    assert set(openings()) == {"0.0.0.0/0", "203.0.113.7/32"}


@pytest.mark.parametrize(
    ("name", "profile", "disk"), [("head", "head", 200), ("gpu", "worker", 500), ("cpu", "worker", 200)]
)
def test_a_node_starts_as_it_is_written(
    moto_cluster: dict[str, Any], name: str, profile: str, disk: int
) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND

    ready = bootstrapped(moto_cluster)
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "head" if name == "head" else "worker"}
    provider.create_node(ready["available_node_types"][name]["node_config"], tags, 1)
    client = boto3.client("ec2", region_name=REGION)
    (node,) = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    assert node["InstanceType"] == moto_cluster["available_node_types"][name]["node_config"]["InstanceType"]
    assert node["IamInstanceProfile"]["Arn"].endswith(f"/raypipe-{profile}")
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert {"Key": "ray-cluster-name", "Value": "raypipe"} in node["Tags"]  # head_policy.json goes by it
    assert node["Placement"]["AvailabilityZone"] == moto_cluster["provider"]["availability_zone"]
    (volume,) = client.describe_volumes()["Volumes"]
    assert (volume["Encrypted"], volume["Size"]) == (True, disk)
    provider.terminate_nodes([node["InstanceId"]])
    (node,) = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    assert node["State"]["Name"] in ("shutting-down", "terminated")


def actions(policy: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for statement in json.loads((REPO / "cluster/aws" / policy).read_text(encoding="utf-8"))["Statement"]:
        named = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in named:
            found.setdefault(action.partition(":")[0], []).append(action)
    return found


def test_workers_may_touch_one_prefix_of_one_bucket_and_nothing_else() -> None:
    assert set(actions("worker_policy.json")) == {"s3"}
    statements = json.loads((REPO / "cluster/aws/worker_policy.json").read_text(encoding="utf-8"))[
        "Statement"
    ]
    assert {s["Resource"] for s in statements} == {
        "arn:aws:s3:::edit-this-bucket",
        "arn:aws:s3:::edit-this-bucket/raypipe/*",
    }
    # Of the bucket itself the names only. With a condition on the prefix S3 would answer 403 for an object
    # that is not there, and to the question whether the bucket is.
    assert [s["Action"] for s in statements if s["Resource"].endswith("bucket")] == ["s3:ListBucket"]


def test_the_head_may_start_and_end_nodes_of_its_own_cluster(moto_cluster: dict[str, Any]) -> None:
    held = actions("head_policy.json")
    assert set(held) == {"s3", "ec2", "iam"}
    assert held["iam"] == ["iam:PassRole"]
    assert held["s3"] == actions("worker_policy.json")["s3"]
    assert set(held["ec2"]) == {
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:TerminateInstances",
    }
    text = (REPO / "cluster/aws/head_policy.json").read_text(encoding="utf-8")
    assert text.count(f'ray-cluster-name": "{moto_cluster["cluster_name"]}"') == 2
    assert ":role/raypipe-worker" in text
