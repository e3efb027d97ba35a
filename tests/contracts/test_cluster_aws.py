"""cluster.yaml against AWS's interface, by moto: what Ray's launcher makes of it before the first SSH."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
REGION = "us-west-2"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """cluster.yaml, edited as its comments say, in an account that has what docs/cluster.md creates."""
    import boto3
    from moto import mock_aws

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        from ray.autoscaler._private.aws import config as aws_config
        from ray.autoscaler._private.aws import utils

        for cached in (aws_config._get_subnets_or_die, utils.resource_cache, utils.client_cache):
            cached.cache_clear()
        ec2, iam = boto3.client("ec2", region_name=REGION), boto3.client("iam", region_name=REGION)
        group = ec2.create_security_group(GroupName="raypipe", Description="raypipe")["GroupId"]
        trust = (REPO / "cluster/aws/trust.json").read_text()
        for name, policy in (("raypipe-head", "head_policy.json"), ("raypipe-worker", "worker_policy.json")):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
            document = (REPO / "cluster/aws" / policy).read_text()
            iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        ec2.create_key_pair(KeyName="raypipe")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        raw = yaml.safe_load((REPO / "cluster.yaml").read_text())
        for declared in raw["available_node_types"].values():
            declared["node_config"] |= {"ImageId": image, "SecurityGroupIds": [group]}
        yield raw


def bootstrapped(raw: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(raw))
    validate_config(prepared)
    return bootstrap_aws(prepared)


def openings() -> list[str]:
    """Every network that any security group of the account lets in, the default group's aside."""
    import boto3

    groups = boto3.client("ec2", region_name=REGION).describe_security_groups()["SecurityGroups"]
    return [r["CidrIp"] for g in groups for p in g["IpPermissions"] for r in p["IpRanges"]]


def test_the_launcher_opens_nothing_and_makes_no_role(config: dict[str, Any]) -> None:
    import boto3

    bootstrapped(config)
    assert openings() == []
    roles = boto3.client("iam", region_name=REGION).list_roles()["Roles"]
    assert {r["RoleName"] for r in roles} == {"raypipe-head", "raypipe-worker"}


def test_without_a_group_of_ones_own_ray_opens_ssh_to_the_world(config: dict[str, Any]) -> None:
    """Why the file names a group: rules under provider.security_group only add to an open port 22."""
    for declared in config["available_node_types"].values():
        del declared["node_config"]["SecurityGroupIds"]
    mine = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    config["provider"]["security_group"] = {"GroupName": "another", "IpPermissions": [mine]}
    bootstrapped(config)
    assert set(openings()) == {"0.0.0.0/0", "203.0.113.7/32"}


@pytest.mark.parametrize(
    ("name", "profile", "disk"), [("head", "head", 200), ("gpu", "worker", 500), ("cpu", "worker", 200)]
)
def test_a_node_starts_as_it_is_written(config: dict[str, Any], name: str, profile: str, disk: int) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND

    ready = bootstrapped(config)
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "head" if name == "head" else "worker"}
    provider.create_node(ready["available_node_types"][name]["node_config"], tags, 1)
    client = boto3.client("ec2", region_name=REGION)
    (node,) = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    assert node["InstanceType"] == config["available_node_types"][name]["node_config"]["InstanceType"]
    assert node["IamInstanceProfile"]["Arn"].endswith(f"/raypipe-{profile}")
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert {"Key": "ray-cluster-name", "Value": "raypipe"} in node["Tags"]  # head_policy.json goes by it
    assert node["Placement"]["AvailabilityZone"] == config["provider"]["availability_zone"]
    (volume,) = client.describe_volumes()["Volumes"]
    assert (volume["Encrypted"], volume["Size"]) == (True, disk)
    provider.terminate_nodes([node["InstanceId"]])
    (node,) = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    assert node["State"]["Name"] in ("shutting-down", "terminated")


def actions(policy: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for statement in json.loads((REPO / "cluster/aws" / policy).read_text())["Statement"]:
        named = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in named:
            found.setdefault(action.partition(":")[0], []).append(action)
    return found


def test_workers_may_touch_one_prefix_of_one_bucket_and_nothing_else() -> None:
    assert set(actions("worker_policy.json")) == {"s3"}
    statements = json.loads((REPO / "cluster/aws/worker_policy.json").read_text())["Statement"]
    assert {s["Resource"] for s in statements} == {
        "arn:aws:s3:::edit-this-bucket",
        "arn:aws:s3:::edit-this-bucket/raypipe/*",
    }
    # Of the bucket itself the names only. With a condition on the prefix S3 would answer 403 for an object
    # that is not there, and to the question whether the bucket is.
    assert [s["Action"] for s in statements if s["Resource"].endswith("bucket")] == ["s3:ListBucket"]


def test_the_head_may_start_and_end_nodes_of_its_own_cluster(config: dict[str, Any]) -> None:
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
    text = (REPO / "cluster/aws/head_policy.json").read_text()
    assert text.count(f'ray-cluster-name": "{config["cluster_name"]}"') == 2
    assert ":role/raypipe-worker" in text
