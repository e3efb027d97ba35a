"""Ray's own check of a `ray up` file, and EC2's of what the file hands through. Nothing is contacted."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import io
import json
import logging
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from raypipe.cluster_files.findings import At, Finding, Severity
from raypipe.cluster_files.places import Place
from raypipe.cluster_files.read import ClusterFile
from raypipe.errors import nearest

RAY, EC2, WORD = "ray-schema", "ec2-model", "ec2-word"
NOT_EC2 = ("SubnetIds",)  # Ray's own word; it picks one of them and takes the key away
CHOSEN_BY_RAY = {"MinCount": 1, "MaxCount": 1}
RUN_INSTANCES = "compare with cluster.yaml; docs.aws.amazon.com: RunInstances of the EC2 API"
COMPARE = (
    "compare with cluster.yaml or cluster/on_premise.yaml; docs.ray.io: Cluster YAML configuration options"
)


def ray_version() -> str:
    """The version of Ray on this machine."""
    return importlib.metadata.version("ray")


def with_defaults(file: ClusterFile) -> dict[str, Any]:
    """A `ray up` file's document with Ray's defaults for what it leaves out; as it is where Ray has none."""
    from ray.autoscaler._private.util import fillout_defaults

    document = copy.deepcopy(file.documents[0])
    try:
        with _quiet(io.StringIO()):
            return fillout_defaults(document)
    except Exception:
        return document  # Ray's own check says what it is


def ray_findings(file: ClusterFile) -> list[Finding]:
    """What Ray says of a `ray up` file before it starts anything."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    at, said = At(file.path, file.sources[0], ()), io.StringIO()
    try:
        with _quiet(said):
            validate_config(prepare_config(copy.deepcopy(file.documents[0])))
    except jsonschema.ValidationError as fault:
        unknown = re.search(r"'([^']+)' (?:was|were) unexpected", fault.message)
        place: Place = tuple(p if isinstance(p, int) else str(p) for p in fault.absolute_path)
        fix = COMPARE
        if unknown:
            place = (*place, unknown[1])
            fix = nearest(unknown[1], fault.schema.get("properties", {}))
        text = f"Ray: {' '.join(fault.message.split())[:300]}"
        return [at._replace(place=place).finding(RAY, Severity.FAIL, text, fix)]
    except Exception as fault:  # Ray raises what it happens on: KeyError, AssertionError, its own
        text = " ".join(str(fault).split()) or _last_line(said.getvalue()) or type(fault).__name__
        place, fix = _cause(file.documents[0])
        return [at._replace(place=place).finding(RAY, Severity.FAIL, f"Ray: {text[:300]}", fix)]
    return []


def _cause(document: dict[str, Any]) -> tuple[Place, str]:
    """Where to look, and for what, when Ray names neither a place nor a remedy."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    provider = document.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    if isinstance(kind, str) and kind not in _NODE_PROVIDERS:
        return ("provider", "type"), nearest(kind, _NODE_PROVIDERS, shown=4)
    for key, value in document.items():  # `key:` with nothing behind it takes Ray's default away
        if value is None:
            return (str(key),), f"give {key} a value, or take the line out"
        for inner, held in value.items() if key == "file_mounts" and isinstance(value, dict) else ():
            if held is None:
                return (
                    str(key),
                    str(inner),
                ), f"say which file or folder of this machine {inner} is, or take it out"
    return (), COMPARE


@contextlib.contextmanager
def _quiet(said: io.StringIO) -> Iterator[None]:
    """Ray tells its steps on stdout and in its log; both belong to `ray up`."""
    log = logging.getLogger("ray.autoscaler._private")
    before, log.disabled = log.level, True
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        log.disabled = False
        log.setLevel(before)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def ec2_findings(file: ClusterFile) -> list[Finding]:
    """What EC2's own model says of the node_configs: unknown keys, wrong types, values of no kind.

    Ray's check does not look into a node_config; without this a misspelt key is found when the node starts.
    """
    if file.kind != "aws":
        return []
    from botocore.validate import ParamValidator

    shape = _run_instances()
    found = []
    types = file.documents[0].get("available_node_types")
    for name, declared in types.items() if isinstance(types, dict) else ():
        config = declared.get("node_config") if isinstance(declared, dict) else None
        if not isinstance(config, dict):
            continue
        asked = {k: v for k, v in config.items() if k not in NOT_EC2} | CHOSEN_BY_RAY
        place: Place = ("available_node_types", str(name), "node_config")
        at = At(file.path, file.sources[0], place)
        report = ParamValidator().validate(asked, shape)
        for line in report.generate_report().splitlines() if report.has_errors() else []:
            found.append(_ec2_finding(at, line))
        for inside, said, fix in _enums(asked, shape, ()):
            found.append(at._replace(place=(*place, *inside)).finding(WORD, Severity.WARN, said, fix))
    return found


@cache
def _run_instances() -> Any:
    from botocore.loaders import create_loader
    from botocore.model import ServiceModel

    model = create_loader().load_service_model("ec2", "service-2")
    return ServiceModel(model, "ec2").operation_model("RunInstances").input_shape


def _ec2_finding(at: At, line: str) -> Finding:
    """A line of botocore's report, with the place it speaks of."""
    unknown = re.search(r'Unknown parameter in (\S+?): "([^"]+)", must be one of: (.*)', line)
    named = re.search(r"for parameter (\S+?),|parameter in (\S+?):", line)
    inside = re.findall(r"[^.\[\]]+", (named[1] or named[2]) if named else "")
    place = (*at.place, *(int(s) if s.isdecimal() else s for s in inside if s != "input"))
    if unknown:
        fix = nearest(unknown[2], unknown[3].split(", "))
        said = f"EC2 knows no {unknown[2]}"
        return at._replace(place=(*place, unknown[2])).finding(EC2, Severity.FAIL, said, fix)
    said, _, fix = line.partition(", valid ")
    return at._replace(place=place).finding(EC2, Severity.FAIL, f"EC2: {said[:300]}", fix or RUN_INSTANCES)


def _enums(value: Any, shape: Any, place: Place) -> Iterator[tuple[Place, str, str]]:
    """Texts that are none of the words this botocore knows there; EC2 may have newer machine types."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, inner in value.items():
            if key in shape.members:
                yield from _enums(inner, shape.members[key], (*place, str(key)))
    elif shape.type_name == "list" and isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _enums(inner, shape.member, (*place, i))
    elif shape.type_name == "string" and isinstance(value, str):
        words = getattr(shape, "enum", [])
        if words and value not in words:
            yield (
                place,
                f"{json.dumps(value)} is none of the words EC2 knows there",
                nearest(value, words, shown=4),
            )
