"""Secrets that lie in the file, or travel to nodes that have no use for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.view import Hit, View, strings

SHAPES = {  # what secrets of well-known makers look like
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,})"),
    "an API key": re.compile(
        r"\bsk-[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{30,}|\bxox[abpr]-[A-Za-z0-9-]{10,}"
    ),
    "a signed token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\."),
    "a password": re.compile(r"\b(?:docker|podman)\s+login\b[^;&|]*\s-p[= ]?[^\s$]|\bsshpass\s+-p\s*[^\s$]"),
    "a key": re.compile(r"Authorization:\s*(?:Bearer|Basic|token)\s+[A-Za-z0-9._~+/-]{8}", re.IGNORECASE),
    "a secret of AWS": re.compile(r"\bconfigure\s+set\s+\S*(?:secret_access_key|session_token)\s+[^\s$]"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s@$]+@"),
}
NAME = re.compile(
    r"(?:^|[_.-]|(?<=[a-z]))"
    r"(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|credentials?)s?$",
    re.IGNORECASE,
)
OPTION = re.compile(r"--([a-z-]*(?:password|token|secret|api-key))[= ](\"[^\"]*\"|'[^']*'|[^\s;&|]+)")
NO_SECRET = (
    "",
    "token",
    "required",
    "optional",
    "none",
    "null",
    "true",
    "false",
    "disabled",
    "read",
    "write",
)
SENSITIVE = (
    ".aws",
    ".ssh",
    ".config",
    ".netrc",
    ".docker",
    ".kube",
    ".gnupg",
    ".git-credentials",
    ".huggingface",
)


def literal(name: str, value: str) -> bool:
    """Is this the name of a secret with the secret itself as value, not a path, an address or a variable?"""
    value = value.strip("\"'")
    if not NAME.search(name) or value.lower() in NO_SECRET or value.startswith(("~", "/", "./", "../", "$")):
        return False
    return not (
        "://" in value or "$(" in value or "${" in value or value.endswith((".pem", ".key", ".json", ".txt"))
    )


def _in_file(view: View) -> Iterator[Hit]:
    for source in view.file.sources:
        if source.value.get("kind") == "Secret":
            for key in ("data", "stringData"):
                if source.value.get(key):
                    yield Hit(source, (key,), "a Kubernetes Secret is written out")
            continue
        for place, text in strings(source):
            for what, shape in SHAPES.items():
                if shape.search(text):
                    yield Hit(source, place, f"{what} is written out")
            key = next((str(step) for step in reversed(place) if isinstance(step, str)), "")
            if literal(key, text):
                yield Hit(source, place, f"{key} is written out")
            for name, value in OPTION.findall(text):
                if literal(name, value):
                    yield Hit(source, place, f"--{name} is written out")
    for name, value, where in view.environment():
        if literal(name, value):
            yield where.hit(f"{name} is written out")


def _mounts(view: View) -> Iterator[tuple[str, str]]:
    mounts = view.config.get("file_mounts")
    for remote, local in mounts.items() if isinstance(mounts, dict) else ():
        yield str(remote), str(local)


def _keys_sent(view: View) -> Iterator[Hit]:
    for remote, local in _mounts(view):
        path = os.path.normpath(local.replace("$HOME", "~"))
        first = path.removeprefix("~/").split("/")[0] if path.startswith("~/") else ""
        if path in ("~", "/") or first in SENSITIVE:
            yield view.hit("file_mounts", remote, said=f"{local} goes to every node")


def _all_sent(view: View) -> Iterator[Hit]:
    if view.config.get("rsync_exclude") or view.config.get("rsync_filter"):
        return
    for remote, local in _mounts(view):
        if os.path.normpath(local) in (".", "..") or local.endswith("/"):
            yield view.hit(
                "file_mounts", remote, said=f"all of {local} goes to every node, keys and data too"
            )


RULES = (
    Rule(
        "secret-in-file",
        Severity.FAIL,
        "a secret is written out; files like this are copied, committed and shown by ps",
        "name a file, a secretKeyRef or a role instead, and revoke this one",
        _in_file,
    ),
    Rule(
        "keys-sent",
        Severity.FAIL,
        "a folder of keys goes to every node",
        "give nodes a role (IamInstanceProfile, service account) instead of your keys",
        _keys_sent,
    ),
    Rule(
        "upload-unfiltered",
        Severity.WARN,
        "a folder goes to every node as it is",
        "rsync_filter: [.gitignore, .rayignore]",
        _all_sent,
    ),
)
