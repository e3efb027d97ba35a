"""The machines of a `ray up` file."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from raypipe.cluster_files.places import Document
from raypipe.cluster_files.types import NodeType, Part

WITH_GPU = re.compile(r"(p\d|g\d|gr\d|Standard_N)")  # the clouds' names of machine types with GPUs


def launcher_types(path: str, source: Document) -> tuple[str, tuple[NodeType, ...]]:
    """The provider's type, and the machines; none where the file leaves them to Ray's defaults.

    Raises:
        RequestError: a part of the file does not have the form Ray wants, with the line.
    """
    top = Part.of(path, source)
    kind = top.part("provider").take("type", str, "")
    if not kind:
        raise top.fault(("provider",), "names no type")
    if kind == "local":
        return kind, _local(top)
    declared = top.part("available_node_types")
    if not declared.value:
        return kind, ()  # Ray has machines of its own for such a file
    head = top.take("head_node_type", str, "")
    if head not in declared.value:
        raise top.fault(("head_node_type",), f"'{head}' is not in available_node_types")
    limit = top.take("max_workers", int, 2)  # Ray's default
    return kind, tuple(_cloud(declared.part(n), str(n), n == head, limit) for n in declared.value)


def _cloud(part: Part, name: str, head: bool, limit: int) -> NodeType:
    config, resources = part.part("node_config"), part.part("resources")
    instance = _instance(config)
    most = 1 if head else min(part.take("max_workers", int, limit), limit)
    gpus = _number(resources, "GPU")
    if gpus is None and instance and not WITH_GPU.match(instance) and "guestAccelerators" not in config.value:
        gpus = 0.0
    return NodeType(
        name=name,
        cpus=_number(resources, "CPU"),
        gpus=gpus,
        memory_bytes=resources.take("memory", int, 0) or None,
        min_nodes=1 if head else part.take("min_workers", int, 0),
        max_nodes=most,
        instance=instance,
        spot=is_spot(config.value),
        head=head,
    )


def _number(part: Part, key: str) -> float | None:
    try:
        return float(part.take(key, int, 0)) if part.value.get(key) is not None else None
    except OverflowError:
        raise part.fault((*part.place, key), "is larger than any machine's") from None


def _instance(config: Part) -> str | None:
    arm = config.part("azure_arm_parameters")
    for held, key in ((config, "InstanceType"), (config, "machineType"), (arm, "vmSize")):
        if key in held.value:
            return held.take(key, str, "")
    return None


def is_spot(config: dict[str, Any]) -> bool:
    """Does a node_config (aws, gcp, azure) ask for a machine that can be taken away?"""
    market = config.get("InstanceMarketOptions")
    if isinstance(market, dict) and market.get("MarketType") == "spot":
        return True
    scheduling = config.get("scheduling")
    for held in scheduling if isinstance(scheduling, list) else [scheduling]:
        if isinstance(held, dict) and (held.get("preemptible") or held.get("provisioningModel") == "SPOT"):
            return True
    arm = config.get("azure_arm_parameters")
    return isinstance(arm, dict) and str(arm.get("priority", "")).lower() in ("spot", "low")


def _local(top: Part) -> tuple[NodeType, ...]:
    """Machines that are there already; `ray start` may say what of them Ray is to use, or else `metadata`."""
    provider = top.part("provider")
    workers = len(provider.take("worker_ips", list, []))
    if "coordinator_address" in provider.value:
        workers = top.take("max_workers", int, 0)
    else:
        provider.take("head_ip", str, "")
    most = min(top.take("max_workers", int, workers), workers)
    least = min(top.take("min_workers", int, workers), most)
    kinds = [("head", "head_start_ray_commands", 1, 1)]
    kinds += [("worker", "worker_start_ray_commands", least, most)] if workers else []
    found = []
    for name, key, low, high in kinds:
        said = started_with(top.take(key, list, []))
        told = top.part("metadata").part(name)  # for us; Ray asks each machine itself
        memory = said.get("memory")
        found.append(
            NodeType(
                name=name,
                cpus=_said(said["num-cpus"]) if "num-cpus" in said else _number(told, "cpus"),
                gpus=_said(said["num-gpus"]) if "num-gpus" in said else _number(told, "gpus"),
                memory_bytes=int(memory) if memory and memory.isdecimal() else None,
                min_nodes=low,
                max_nodes=high,
                instance=None,
                spot=False,
                head=name == "head",
            )
        )
    return tuple(found)


def _said(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None  # $(nproc) and the like: known on the machine only
    return value if math.isfinite(value) else None


def started_with(commands: list[Any]) -> dict[str, str]:
    """The options of `ray start` among shell commands: name without dashes -> value ("" for a flag)."""
    options: dict[str, str] = {}
    for command in commands:
        if not isinstance(command, str) or "ray start" not in command:
            continue
        try:
            words = shlex.split(command.partition("ray start")[2])
        except ValueError:
            words = [
                w.strip("\"'") for w in command.partition("ray start")[2].split()
            ]  # bash -c "ray start ..."
        for word, after in zip(words, [*words, ""][1:], strict=True):
            if word.startswith("--"):
                name, sep, value = word[2:].partition("=")
                options[name] = value if sep else "" if after.startswith("--") else after
    return options
