"""Secrets that lie in the file, or travel to nodes that have no use for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.places import Place
from raypipe.cluster_files.view import Hit, View, strings

WORD = r"[A-Za-z0-9+/=_-]{16,512}"
KEPT_IN = (  # the name of a file that holds a secret
    r"(?:\.netrc|\.pgpass|(?:token|secret|passwd|password|credential|[_./]key)s?(?:\.(?:txt|json|env))?)(?![\w.])"
)
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
    "a secret": re.compile(
        rf"\b(?:echo|printf)\b[^;&|\n$]{{0,400}}?[\s\"']{WORD}[\"']?\s*(?:>>?|\|\s*(?:sudo\s+)?tee\b)"
        rf"[^;&|\n]{{0,200}}?{KEPT_IN}"
        rf"|\b(?:cat|tee)\b[^;&|\n]{{0,200}}?{KEPT_IN}[^;&|\n]{{0,200}}<<<\s*[\"']?{WORD}",
        re.IGNORECASE,
    ),
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
NAMED_SO = (  # of a file or folder, wherever it lies
    *(
        ".env",
        ".env.*",
        "secrets",
        ".secrets",
        "credentials",
        "credentials.json",
        "application_default_*.json",
    ),
    *("*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*_key", "*_token", "*.token", "id_rsa", "id_ed25519"),
    *(".netrc", ".pypirc", ".npmrc", ".boto", ".htpasswd", ".git-credentials", "kubeconfig"),
)
CLUSTERS_OWN = "auth_token"  # which every node is to have


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


def _mounts(view: View) -> Iterator[tuple[Place, str]]:
    """What travels from this machine, each with its place in the file."""
    mounts, synced = view.config.get("file_mounts"), view.config.get("cluster_synced_files")
    for remote, local in mounts.items() if isinstance(mounts, dict) else ():
        yield ("file_mounts", str(remote)), str(local)
    for number, local in enumerate(synced if isinstance(synced, list) else ()):
        yield ("cluster_synced_files", number), str(local)


def _keys_sent(view: View) -> Iterator[Hit]:
    for place, local in _mounts(view):
        path = os.path.normpath(local.replace("$HOME", "~"))
        first = path.removeprefix("~/").split("/")[0] if path.startswith("~/") else ""
        steps = [step for step in path.split("/") if step != CLUSTERS_OWN]
        named = any(fnmatch(step, shape) for step in steps for shape in NAMED_SO)
        if path in ("~", "/") or first in SENSITIVE or named:
            yield view.hit(*place, said=f"{local} goes to every node")


def _all_sent(view: View) -> Iterator[Hit]:
    """rsync_exclude names single patterns; what keeps data, keys and runs here is a file like .rayignore."""
    filters = view.config.get("rsync_filter")
    if any(str(name).endswith("ignore") for name in (filters if isinstance(filters, list) else ())):
        return
    for place, local in _mounts(view):
        if os.path.normpath(local) in (".", "..") or local.endswith("/"):
            yield view.hit(*place, said=f"all of {local} goes to every node, keys and data too")


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
        "keys go to every node",
        "give nodes a role (IamInstanceProfile, service account) instead of your keys; what a job needs "
        "lies on storage that they share, mode 0600",
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
