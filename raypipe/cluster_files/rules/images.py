"""What runs on the nodes is what was tried: pinned images, pinned packages, one version of Ray."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import yaml

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.view import HEAD, Hit, Text, View

MOVING = re.compile(r"^(?:.*[-_.])?(?:latest|nightly|master|main|dev)(?:[-_.].*)?$")
RAY_IMAGE = re.compile(r"(?:^|/)ray(?:-ml|-llm)?:(\d+\.\d+\.\d+(?:rc\d+)?)|[-:]ray-?(\d+\.\d+\.\d+)")
RAY_PACKAGE = re.compile(r"\bray(?:\[[^\]]*\])?==([\w.]+)|/ray-(\d+\.\d+\.\d+(?:\.\w+)?)-cp\d")
PIP = re.compile(r"\bpip3?\s+install\s+([^;&|\n]*)")
PINNED_BY = ("-c", "--constraint", "-r", "--requirement", "--require-hashes")
WITH_VALUE = (
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "-t",
    "--target",
    "--prefix",
    "--root",
)


def _tag(image: str) -> str | None:
    """The tag; None where a digest pins the image."""
    if "@sha256:" in image:
        return None
    last = image.rsplit("/", 1)[-1]
    return last.partition(":")[2]


def _unpinned(view: View) -> Iterator[Hit]:
    for image in view.images():
        tag = _tag(image.text)
        if tag is not None and (not tag or MOVING.match(tag)):
            yield image.hit(f"{image.text or 'an image without a name'} is not the same tomorrow")


def _ray_version(view: View) -> Iterator[Hit]:
    for image in view.images():
        for found in RAY_IMAGE.findall(image.text):
            version = found[0] or found[1]
            if version != view.ray_version:
                yield image.hit(f"the image has Ray {version}, this machine {view.ray_version}")
    for text in view.commands():
        for found in RAY_PACKAGE.findall(text.text):
            version = found[0] or found[1]
            if version != view.ray_version:
                yield text.hit(f"Ray {version} is installed, this machine has {view.ray_version}")
    for cluster in view.clusters():
        version = cluster.value.get("rayVersion")
        if version is not None and str(version) != view.ray_version:
            place = (*cluster.place, "rayVersion")
            yield Hit(cluster.source, place, f"rayVersion is {version}, this machine has {view.ray_version}")


def _differ(view: View) -> Iterator[Hit]:
    images = [i for i in view.images() if i.place[0] == "docker"]
    for group, _ in view.groups():  # the first container runs Ray
        place = (*group.place, "template", "spec", "containers", 0, "image")
        images += [i for i in view.images() if i.source is group.source and i.place == place]
    first = next((i for i in images if i.nodes == HEAD), images[0] if images else None)
    for image in images:
        if first and image.text != first.text:
            yield image.hit(f"{image.text} here, {first.text} elsewhere")


def _words(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        return arguments.split()


def _loose(word: str) -> bool:
    """A package that pip may take in any version."""
    if "git+" in word:
        return _moving_ref(word)
    if " @ " in word:
        return "latest" in word
    return "==" not in word and not word.startswith(("-", ".", "~", "/", "$")) and "/" not in word


def _moving_ref(word: str) -> bool:
    """A repository of which pip takes what its branch is at that time."""
    path = word.partition("git+")[2].partition("#")[0].partition("://")[2].partition("/")[2]
    ref = path.rpartition("@")[2] if "@" in path else ""
    return not ref or bool(MOVING.match(ref))


def _shown(word: str) -> str:
    """A package's name; of an address its last part, since there may be a password before it."""
    if "git+" not in word:
        return word.split(" @ ")[0]
    name, _, address = word.partition("git+")
    return name.split(" @ ")[0].strip() or address.rstrip("/").rpartition("/")[2]


def _runtime_env(text: Text) -> list[str]:
    """The packages of a RayJob's runtimeEnvYAML that pip may take in any version."""
    try:
        held = yaml.safe_load(text.text)
    except yaml.YAMLError:
        return []
    pip = held.get("pip") if isinstance(held, dict) else None
    pip = pip.get("packages") if isinstance(pip, dict) else pip
    words = [w for w in pip if isinstance(w, str)] if isinstance(pip, list) else []
    return (
        [] if any(w.split()[0] in PINNED_BY for w in words if w.strip()) else [w for w in words if _loose(w)]
    )


def _pip(view: View) -> Iterator[Hit]:
    for text in view.commands():
        if text.place[-1] == "runtimeEnvYAML":
            loose = _runtime_env(text)
            if loose:
                yield text.hit(f"pip may install any version of {', '.join(loose)}")
            continue
        for arguments in PIP.findall(text.text):
            words = _words(arguments)
            pinned = any(w.split("=")[0] in PINNED_BY for w in words)  # which says nothing of a repository
            values = {i + 1 for i, w in enumerate(words) if w in WITH_VALUE}
            loose = [w for i, w in enumerate(words) if i not in values and _loose(w)]
            loose = [w for w in loose if "git+" in w or not pinned]
            if loose:
                yield text.hit(f"pip may install any version of {', '.join(map(_shown, loose))}")


RULES = (
    Rule(
        "image-unpinned",
        Severity.FAIL,
        "the image moves",
        "a tag with the version (rayproject/ray:X.Y.Z-py311-gpu), or a digest",
        _unpinned,
    ),
    Rule(
        "ray-version",
        Severity.FAIL,
        "another version of Ray than this machine's; they do not speak to each other",
        "the version of constraints.txt, everywhere",
        _ray_version,
    ),
    Rule("images-differ", Severity.WARN, "nodes run different images", "one image for all nodes", _differ),
    Rule(
        "pip-unpinned",
        Severity.WARN,
        "pip may install any version",
        "pip install -c constraints.txt ..., name==version, or git+https://...@COMMIT",
        _pip,
    ),
)
