"""Doors to the outside: the dashboard, Ray's ports, SSH, public addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.launcher import started_with
from raypipe.cluster_files.types import Part
from raypipe.cluster_files.view import HEAD, Hit, View

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS = {
    6379: "the GCS",
    8265: "the dashboard",
    10001: "Ray Client",
    8076: "the object manager",
    52365: "the agent",
}
WORKER_PORTS = range(10002, 20000)
WIDE = {4: 16, 6: 48}  # a prefix shorter than this is more than one organisation
EVERYWHERE = re.compile(
    r"--(?:ip|host|bind|address)[= ](?:0\.0\.0\.0|::)(?!\d)|--bind_all\b"
    r"|\bTCP[46]?-L(?:ISTEN)?:(?!\S*bind=(?:127\.|localhost|\[?::1))\S+"  # socat
    r"|\bhttp\.server\b(?!.*(?:--bind|-b)[= ](?:127\.|localhost|::1))"
)


def _dashboard(view: View) -> Iterator[Hit]:
    for start in view.starts(HEAD):
        host = started_with([start.text]).get("dashboard-host")
        if host is not None and host not in LOOPBACK:
            yield start.hit(f"the dashboard listens on {host}")


def _openings(view: View) -> Iterator[tuple[Hit, range, str, bool]]:
    """Each network that a security group lets in: place, ports, network, and whether that is wide."""
    provider = view.config.get("provider")
    group = provider.get("security_group") if isinstance(provider, dict) else None
    allowed = group.get("IpPermissions") if isinstance(group, dict) else None
    for i, opening in enumerate(allowed if isinstance(allowed, list) else []):
        if isinstance(opening, dict):
            hit = view.hit("provider", "security_group", "IpPermissions", i)
            for network in _networks(opening):
                yield hit, _ports(opening), str(network), network.prefixlen < WIDE[network.version]


def _ports(opening: dict[str, Any]) -> range:
    low, high = opening.get("FromPort"), opening.get("ToPort")
    if (
        str(opening.get("IpProtocol")) == "-1"
        or not isinstance(low, int)
        or not isinstance(high, int)
        or low < 0
    ):
        return range(65536)
    return range(low, high + 1)


def _networks(opening: dict[str, Any]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for key, field in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
        held = opening.get(key)
        for entry in held if isinstance(held, list) else []:
            try:
                yield ipaddress.ip_network(str(entry.get(field)), strict=False)
            except (ValueError, AttributeError):
                continue  # EC2 says so itself


def _ssh(view: View) -> Iterator[Hit]:
    for hit, ports, network, wide in _openings(view):
        if 22 in ports and wide:
            yield hit._replace(said=f"SSH is open to {network}")
    provider = view.config.get("provider")
    if view.kind == "azure" and isinstance(provider, dict) and not provider.get("use_internal_ips"):
        yield view.hit("provider", said="Ray's Azure template opens SSH to every address")


def _ports_open(view: View) -> Iterator[Hit]:
    for hit, ports, network, wide in _openings(view):
        named = [f"{p} ({what})" for p, what in PORTS.items() if p in ports]
        if not named and any(p in WORKER_PORTS for p in (ports.start, ports.stop - 1)):
            named = ["the workers' ports"]
        if named or (wide and ports != range(22, 23)):
            yield hit._replace(said=f"{', '.join(named) or 'a port beside SSH'} open to {network}")


def _group_by_ray(view: View) -> Iterator[Hit]:
    if view.kind != "aws":
        return
    for place, config, _ in view.node_configs():
        if not any(config.get(k) for k in ("SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate")):
            yield view.hit(*place)


def _public_address(view: View) -> Iterator[Hit]:
    for place, config, head in view.node_configs():
        interfaces = config.get("NetworkInterfaces") or config.get("networkInterfaces")
        for i, held in enumerate(interfaces if isinstance(interfaces, list) else []):
            if not isinstance(held, dict) or head:
                continue
            if held.get("AssociatePublicIpAddress") or held.get("accessConfigs"):
                key = "NetworkInterfaces" if "NetworkInterfaces" in config else "networkInterfaces"
                yield view.hit(*place, key, i)
        if view.kind == "gcp" and not interfaces:
            yield view.hit(*place, said="Ray gives the machine a public address")


def _client(view: View) -> Iterator[Hit]:
    for start in view.starts(HEAD):
        if started_with([start.text]).get("ray-client-server-port"):
            yield start.hit()
    for group, head in view.groups():
        if head and "ray-client-server-port" in group.part("rayStartParams").value:
            yield Hit(group.source, (*group.place, "rayStartParams", "ray-client-server-port"))
        for container in group.part("template").part("spec").parts("containers") if head else ():
            for port in container.parts("ports"):
                if port.value.get("containerPort") == 10001:
                    yield Hit(port.source, port.place)


def _everywhere(view: View) -> Iterator[Hit]:
    for text in view.commands():
        found = EVERYWHERE.search(text.text)
        if found:
            yield text.hit(f"something is started that listens everywhere: {found[0]}")


def _exposed(view: View) -> Iterator[Hit]:
    if view.kind != "kuberay":
        return
    for group, head in view.groups():
        if head and group.value.get("serviceType") in ("NodePort", "LoadBalancer"):
            yield Hit(
                group.source, (*group.place, "serviceType"), f"the head is a {group.value['serviceType']}"
            )
        if head and group.value.get("enableIngress") is True:
            yield Hit(group.source, (*group.place, "enableIngress"), "the head gets an ingress")
        if head and group.value.get("headService"):
            spec = group.part("headService").part("spec")
            if spec.value.get("type") in ("NodePort", "LoadBalancer"):
                yield Hit(group.source, (*spec.place, "type"), f"the head is a {spec.value['type']}")
    for _, container in view.containers():
        for port in container.parts("ports"):
            if port.value.get("hostPort"):
                yield Hit(port.source, port.place, f"port {port.value['hostPort']} of the machine leads in")
    for source in view.file.sources:
        kind, spec = source.value.get("kind"), Part.of(view.path, source)
        if kind in ("Ingress", "Route", "HTTPRoute", "Gateway", "VirtualService"):
            yield Hit(source, ("kind",), f"a {kind} leads in from outside")
        if kind == "Service" and spec.part("spec").value.get("type") in ("NodePort", "LoadBalancer"):
            yield Hit(source, ("spec", "type"), f"a {spec.part('spec').value['type']} leads in from outside")


RULES = (
    Rule(
        "dashboard-public",
        Severity.FAIL,
        "the dashboard listens outside the machine; who reaches it runs code on the cluster",
        "--dashboard-host=127.0.0.1, and reach it with: ray dashboard FILE",
        _dashboard,
    ),
    Rule(
        "port-open",
        Severity.FAIL,
        "a port of Ray's is open to the outside",
        "take the rule out; ray dashboard and ray attach go through SSH",
        _ports_open,
    ),
    Rule(
        "ssh-open",
        Severity.FAIL,
        "SSH is open to the world",
        "your own address only (a.b.c.d/32); on azure provider.use_internal_ips: true",
        _ssh,
    ),
    Rule(
        "group-by-ray",
        Severity.FAIL,
        "Ray makes the security group, and opens its port 22 to 0.0.0.0/0 whatever IpPermissions says",
        "SecurityGroupIds: [a group of your own that lets in SSH from your address, and itself]",
        _group_by_ray,
    ),
    Rule(
        "public-address",
        Severity.WARN,
        "a worker has a public address",
        "a private subnet with a NAT for workers, or provider.use_internal_ips: true; nobody calls a worker",
        _public_address,
    ),
    Rule(
        "ray-client",
        Severity.WARN,
        "the port of Ray Client is asked for",
        "take it out and submit jobs: raypipe submit",
        _client,
    ),
    Rule(
        "listens-everywhere",
        Severity.WARN,
        "something listens on all addresses",
        "bind it to 127.0.0.1 and use an SSH tunnel",
        _everywhere,
    ),
    Rule(
        "exposed-service",
        Severity.FAIL,
        "the cluster is reachable from outside Kubernetes",
        "ClusterIP only, and reach it with: kubectl port-forward",
        _exposed,
    ),
)
