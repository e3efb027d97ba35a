"""Who may give the cluster work: token authentication, and SSH that knows whom it speaks to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.view import BOTH, HEAD, WORKER, Hit, View

MODE = "RAY_AUTH_MODE"
TOKEN = f"{MODE}=token before ray start and in docker.run_options; on Kubernetes authOptions: {{mode: token}}"
CHMOD = re.compile(
    r"chmod\s[^;&|\n]*(?:auth_token|\.ray/\*)|chmod\s+(?:-\w*R\w*|--recursive)\s[^;&|\n]*\.ray\b[^;&|\n]*"
)
OWNER_ONLY = re.compile(r"chmod\s+(?:-\S+\s+)*(?:0?[4-7]00|go=|go-rwx|u=rw,go=|u=r,go=)\s")
NO_HOST_KEY = re.compile(
    r"StrictHostKeyChecking[= ]\"?(?:no|off|accept-new)\b|UserKnownHostsFile[= ]/dev/null", re.I
)


def _modes(view: View, nodes: str) -> set[str]:
    return {v for name, v, text in view.environment() if name == MODE and text.nodes in (BOTH, nodes)}


def _no_token(view: View, nodes: str) -> Iterator[Hit]:
    if view.kind != "kuberay":
        if "token" not in _modes(view, nodes):
            yield from (start.hit() for start in view.starts(nodes))
        return
    for group, head in view.groups():
        if head != (nodes == HEAD):
            continue
        cluster = next(c for c in view.clusters() if c.source is group.source)
        mode = cluster.part("authOptions").value.get("mode")
        containers = group.part("template").part("spec").parts("containers")
        own = {
            str(e.value.get("value"))
            for c in containers
            for e in c.parts("env")
            if e.value.get("name") == MODE
        }
        if mode != "token" and "token" not in own:
            yield Hit(group.source, group.place)


def _no_token_head(view: View) -> Iterator[Hit]:
    return _no_token(view, HEAD)


def _no_token_worker(view: View) -> Iterator[Hit]:
    return _no_token(view, WORKER)


def _no_token_docker(view: View) -> Iterator[Hit]:
    if view.docker and not any(f"{MODE}=token" in option.text for option in view.run_options()):
        yield view.hit("docker", "run_options")


def _token_elsewhere(view: View) -> Iterator[Hit]:
    for nodes in (HEAD, WORKER):
        if "token" in _modes(view, nodes):
            for start in view.starts(nodes):
                if f"{MODE}=" not in start.text:
                    yield start.hit()


def _disabled(view: View) -> Iterator[Hit]:
    for name, value, text in view.environment():
        if name == MODE and value.lower() not in ("token", "k8s") and not value.startswith("$"):
            yield text.hit(f"{MODE}={value}")
    for cluster in view.clusters():
        if cluster.part("authOptions").value.get("mode") not in (None, "token"):
            mode = cluster.part("authOptions").value["mode"]
            yield Hit(cluster.source, (*cluster.place, "authOptions", "mode"), f"authOptions.mode: {mode}")


def _mounts(view: View) -> dict[str, str]:
    mounts = view.config.get("file_mounts")
    return {str(k): str(v) for k, v in mounts.items()} if isinstance(mounts, dict) else {}


def _not_mounted(view: View) -> Iterator[Hit]:
    if view.kind == "kuberay" or "token" not in _modes(view, HEAD) | _modes(view, WORKER):
        return
    given = any(name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN") for name, _, _ in view.environment())
    if not given and not any(remote.endswith("auth_token") for remote in _mounts(view)):
        yield view.hit("file_mounts")


def _mode_bits(view: View) -> Iterator[Hit]:
    modes = [(c, OWNER_ONLY.match(said)) for c in view.commands() for said in CHMOD.findall(c.text)]
    for remote in _mounts(view):
        if remote.endswith("auth_token"):
            yield from (command.hit() for command, good in modes if not good)  # a good one beside it or not
            if not modes:
                yield view.hit("file_mounts", remote)


def _host_keys(view: View) -> Iterator[Hit]:
    for text in view.commands():
        if NO_HOST_KEY.search(text.text):
            yield text.hit()
    auth = view.config.get("auth")
    if isinstance(auth, dict) and NO_HOST_KEY.search(str(auth.get("ssh_proxy_command", ""))):
        yield view.hit("auth", "ssh_proxy_command")


def _ssh_root(view: View) -> Iterator[Hit]:
    auth = view.config.get("auth")
    if isinstance(auth, dict) and auth.get("ssh_user") == "root":
        yield view.hit("auth", "ssh_user")


RULES = (
    Rule(
        "no-token-head",
        Severity.FAIL,
        "the head asks nobody for a token; who reaches it runs code on the cluster",
        TOKEN,
        _no_token_head,
    ),
    Rule(
        "no-token-worker",
        Severity.FAIL,
        "workers ask nobody for a token",
        TOKEN,
        _no_token_worker,
    ),
    Rule(
        "no-token-docker",
        Severity.WARN,
        "what runs in the container beside ray start (ray exec, ray attach) does not show the token",
        "docker.run_options: [-e RAY_AUTH_MODE=token]",
        _no_token_docker,
    ),
    Rule(
        "token-elsewhere",
        Severity.WARN,
        "ray start asks for the token only as long as something else in the file sets it",
        f"{MODE}=token before ray start too",
        _token_elsewhere,
    ),
    Rule("auth-disabled", Severity.FAIL, "authentication is turned off", "RAY_AUTH_MODE=token", _disabled),
    Rule(
        "token-not-mounted",
        Severity.FAIL,
        "the nodes ask for a token and have none; Ray does not start",
        'file_mounts: {"~/.ray/auth_token": "~/.ray/auth_token"}',
        _not_mounted,
    ),
    Rule(
        "token-readable",
        Severity.WARN,
        "the token may be readable for others on the node (ray get-auth-token writes it so)",
        "setup_commands: chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token",
        _mode_bits,
    ),
    Rule(
        "host-key-unchecked",
        Severity.FAIL,
        "SSH is told not to check whom it speaks to",
        "take the option out; put the host's key into known_hosts",
        _host_keys,
    ),
    Rule(
        "ssh-as-root",
        Severity.WARN,
        "Ray's commands run as root",
        "auth.ssh_user: a user of its own",
        _ssh_root,
    ),
)
