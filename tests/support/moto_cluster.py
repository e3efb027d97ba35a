"""cluster.yaml in an account of moto's: what docs/cluster.md creates is there, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
REGION = "us-west-2"


@contextmanager
def account() -> Iterator[dict[str, Any]]:
    """cluster.yaml, edited as its comments say, in an account with the group, roles and key it names."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws import utils

    with mock_aws():
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
