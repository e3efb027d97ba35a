"""What the cloud's machines may do and how they keep what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.places import Document, Place
from raypipe.cluster_files.view import Hit, View

MIGHTY = re.compile(r"FullAccess|Administrator|PowerUser|^ray-autoscaler-v1$", re.IGNORECASE)


def _metadata(view: View) -> Iterator[Hit]:
    if view.kind != "aws":
        return
    for place, config, _ in view.node_configs():
        options = config.get("MetadataOptions")
        held = options if isinstance(options, dict) else {}
        if (
            held.get("HttpTokens") != "required"
            and held.get("HttpEndpoint") != "disabled"
            and not _template(config)
        ):
            yield view.hit(*place, *(("MetadataOptions",) if options else ()))


def _disks(view: View) -> Iterator[Hit]:
    if view.kind != "aws":
        return
    for place, config, _ in view.node_configs():
        disks = config.get("BlockDeviceMappings")
        if not disks and not _template(config):
            yield view.hit(*place, said="the disk is the image's, encrypted only where the account says so")
        for i, disk in enumerate(disks if isinstance(disks, list) else []):
            ebs = disk.get("Ebs") if isinstance(disk, dict) else None
            if isinstance(ebs, dict) and ebs.get("Encrypted") is not True:
                yield view.hit(*place, "BlockDeviceMappings", i)


def _template(config: dict[str, Any]) -> bool:
    return bool(config.get("LaunchTemplate"))


def _role_by_ray(view: View) -> Iterator[Hit]:
    provider = view.config.get("provider")
    named = isinstance(provider, dict) and provider.get("msi_name") and provider.get("msi_resource_group")
    if view.kind == "azure" and not named:
        yield view.hit(
            "provider", said="Ray makes an identity that is Contributor of the whole resource group"
        )
    for place, config, head in view.node_configs():
        if head and view.kind == "aws" and "IamInstanceProfile" not in config and not _template(config):
            yield view.hit(*place, said="Ray makes a role with AmazonEC2FullAccess and AmazonS3FullAccess")
        if head and view.kind == "gcp" and not config.get("serviceAccounts"):
            yield view.hit(
                *place, said="Ray makes a service account with compute.admin and storage.objectAdmin"
            )


def _mighty_role(view: View) -> Iterator[Hit]:
    yield from _mighty_account(view)
    for place, config, _ in view.node_configs():
        profile = config.get("IamInstanceProfile")
        for key in ("Name", "Arn"):
            name = str(profile.get(key, "")).rsplit("/", 1)[-1] if isinstance(profile, dict) else ""
            if MIGHTY.search(name):
                yield view.hit(
                    *place, "IamInstanceProfile", said=f"the role {name} by its name may do anything"
                )
    for source, path, place, statement in _statements(view):
        for action in _list(statement.get("Action")):
            if action == "*" or action.endswith(":*"):
                yield Hit(source, (*place, "Action"), f"allows {action}", path)
        if "NotAction" in statement:
            yield Hit(source, (*place, "NotAction"), "allows everything but a few actions", path)
        passes = any(a.lower() == "iam:passrole" for a in _list(statement.get("Action")))
        if any(r == "*" or r.endswith(":role/*") for r in _list(statement.get("Resource"))) and passes:
            yield Hit(source, (*place, "Resource"), "may hand on any role of the account", path)
        wide = [
            r for r in _list(statement.get("Resource")) if r in ("*", "arn:aws:s3:::*", "arn:aws:s3:::*/*")
        ]
        if wide and any(a.lower().startswith("s3:") for a in _list(statement.get("Action"))):
            yield Hit(source, (*place, "Resource"), f"reaches every bucket ({wide[0]})", path)


def _mighty_account(view: View) -> Iterator[Hit]:
    """Kubernetes roles beside the cluster that may do anything."""
    for source in view.file.sources if view.kind == "kuberay" else ():
        kind, value = source.value.get("kind"), source.value
        reference = value.get("roleRef") if kind in ("ClusterRoleBinding", "RoleBinding") else None
        if isinstance(reference, dict) and reference.get("name") in ("cluster-admin", "admin"):
            yield Hit(source, ("roleRef",), f"gives the role {reference['name']}")
        rules = value.get("rules")
        for i, rule in enumerate(
            rules if kind in ("Role", "ClusterRole") and isinstance(rules, list) else []
        ):
            if (
                isinstance(rule, dict)
                and "*" in _list(rule.get("verbs"))
                and "*" in _list(rule.get("resources"))
            ):
                yield Hit(source, ("rules", i), "may do anything with everything")


def _statements(view: View) -> Iterator[tuple[Document, str, Place, dict[str, Any]]]:
    """The allowing statements of the policies that lie beside the file: document, path, place, statement."""
    for file, source in view.file.policies:
        held = source.value.get("Statement")
        for i, statement in enumerate(held if isinstance(held, list) else [held]):
            if isinstance(statement, dict) and statement.get("Effect") == "Allow":
                place: Place = ("Statement", i) if isinstance(held, list) else ("Statement",)
                yield source, file, place, statement


def _list(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [] if value is None else [str(value)]


RULES = (
    Rule(
        "metadata-v1",
        Severity.FAIL,
        "who can make the machine fetch an address gets the keys of its role (IMDSv1)",
        "MetadataOptions: {HttpTokens: required, HttpPutResponseHopLimit: 1}",
        _metadata,
    ),
    Rule(
        "disk-unencrypted", Severity.FAIL, "the disk is not encrypted", "Ebs: {..., Encrypted: true}", _disks
    ),
    Rule(
        "role-by-ray",
        Severity.FAIL,
        "Ray makes a role that may do far more than start nodes",
        "a role of your own: cluster/aws/head_policy.json (aws), serviceAccounts (gcp), msi_name (azure)",
        _role_by_ray,
    ),
    Rule(
        "role-wide",
        Severity.FAIL,
        "a role that may do far more than it needs",
        "the actions it needs, on what it needs them for; for AWS see cluster/aws/",
        _mighty_role,
    ),
)
