"""Containers that can leave their box."""

from __future__ import annotations

import re
from collections.abc import Iterator

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.types import Part
from raypipe.cluster_files.view import Hit, View

SOCKETS = re.compile(r"(?:docker|containerd|crio|podman)\.sock\b")
MOUNT = re.compile(r"(?:-v|--volume)[= ]\"?([^\s:\"]+):|--mount[= ]\S*?(?:source|src)=([^\s,\"]+)")
HOST_PARTS = (
    "/etc",
    "/root",
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/usr",
    "/var",
    "/var/run",
    "/run",
    "/var/lib",
    "/home",
)
HOST_SPACE = re.compile(r"--(?:pid|ipc|uts|userns|cgroupns)[= ]host\b")
POWERS = ("ALL", "SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "NET_ADMIN", "DAC_READ_SEARCH", "BPF")
CAPABILITY = re.compile(r"--cap-add[= ]\"?(?:CAP_)?(\w+)", re.IGNORECASE)
UNCONFINED = re.compile(r"--security-opt[= ]\"?(?:seccomp|apparmor|label)[=:](?:unconfined|disable)")
ROOT = re.compile(r"(?:--user|-u)[= ]\"?(?:root|0)(?::\S*)?(?=\s|\"|$)")


def _privileged(view: View) -> Iterator[Hit]:
    for option in view.run_options():
        if re.search(r"--privileged(?:=true)?(?:\s|$)", option.text):
            yield option.hit()
    for _, container in view.containers():
        if container.part("securityContext").value.get("privileged") is True:
            yield Hit(container.source, (*container.place, "securityContext", "privileged"))


def _host_paths(view: View) -> Iterator[tuple[Hit, str]]:
    for option in view.run_options():
        for found in MOUNT.findall(option.text):
            yield option.hit(), found[0] or found[1]
    for pod in view.pods():
        for volume in pod.parts("volumes"):
            path = volume.part("hostPath").value.get("path")
            if path is not None:
                yield Hit(volume.source, (*volume.place, "hostPath")), str(path)


def _socket(view: View) -> Iterator[Hit]:
    for hit, path in _host_paths(view):
        if SOCKETS.search(path):
            yield hit


def _host_mount(view: View) -> Iterator[Hit]:
    for hit, path in _host_paths(view):
        if SOCKETS.search(path):
            continue
        bare = path.rstrip("/") or "/"
        hidden = bare.startswith(("~/.", "$HOME/."))
        if view.kind == "kuberay" or bare in ("/", "~", "$HOME") or bare in HOST_PARTS or hidden:
            yield hit._replace(said=f"{path} of the machine is inside the container")


def _host_space(view: View) -> Iterator[Hit]:
    for option in view.run_options():
        found = HOST_SPACE.search(option.text)
        if found:
            yield option.hit(found[0])
    for pod in view.pods():
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.value.get(key) is True:
                yield Hit(pod.source, (*pod.place, key), f"{key}: true")


def _host_network(view: View) -> Iterator[Hit]:
    for option in view.run_options():
        if re.search(r"--net(?:work)?[= ]host\b", option.text):
            yield option.hit()


def _powers(view: View) -> Iterator[Hit]:
    for option in view.run_options():
        for found in CAPABILITY.findall(option.text):
            if found.upper() in POWERS:
                yield option.hit(f"the container may {found.upper()}")
        found = UNCONFINED.search(option.text)
        if found:
            yield option.hit(found[0])
    for _, container in view.containers():
        given = container.part("securityContext").part("capabilities").take("add", list, [])
        for name in given:
            if str(name).upper().removeprefix("CAP_") in POWERS:
                place = (*container.place, "securityContext", "capabilities", "add")
                yield Hit(container.source, place, f"the container may {name}")
    for pod in view.pods():
        for held in [pod, *pod.parts("containers"), *pod.parts("initContainers")]:
            profile = held.part("securityContext").part("seccompProfile").value.get("type")
            if profile == "Unconfined":
                yield Hit(held.source, (*held.place, "securityContext", "seccompProfile"), "seccomp is off")


def _root(view: View) -> Iterator[Hit]:
    for option in view.run_options():
        if ROOT.search(option.text):
            yield option.hit()
    for pod, container in view.containers():
        user, barred = _both(pod, container, "runAsUser"), _both(pod, container, "runAsNonRoot")
        if user == 0:
            yield Hit(container.source, (*container.place, "securityContext", "runAsUser"), "runAsUser: 0")
        elif barred is not True:
            yield Hit(
                container.source,
                (*container.place, "securityContext"),
                "nothing bars it from running as root",
            )


def _both(pod: Part, container: Part, key: str) -> object:
    own = container.part("securityContext").value.get(key)
    return pod.part("securityContext").value.get(key) if own is None else own


def _escalation(view: View) -> Iterator[Hit]:
    for _, container in view.containers():
        context = container.part("securityContext").value
        if context.get("allowPrivilegeEscalation") is not False and context.get("privileged") is not True:
            yield Hit(container.source, (*container.place, "securityContext"))


def _limits(view: View) -> Iterator[Hit]:
    for _, container in view.containers():
        limits = container.part("resources").part("limits").value
        if "memory" not in limits:
            yield Hit(container.source, (*container.place, "resources"))


def _wandering(view: View) -> Iterator[Hit]:
    for group, head in view.groups():
        pod = group.part("template").part("spec")
        if not head and pod.value.get("automountServiceAccountToken") is not False:
            yield Hit(pod.source, pod.place)


RULES = (
    Rule(
        "privileged",
        Severity.FAIL,
        "the container is as mighty as root on its machine",
        "take it out; GPUs and shared memory need none of it",
        _privileged,
    ),
    Rule(
        "container-socket",
        Severity.FAIL,
        "the container steers the machine's containers, and so the machine",
        "take the mount out",
        _socket,
    ),
    Rule(
        "host-mount",
        Severity.FAIL,
        "a part of the machine is inside the container",
        "mount one folder made for it (/mnt/raypipe); on Kubernetes a PersistentVolumeClaim",
        _host_mount,
    ),
    Rule(
        "host-namespace",
        Severity.FAIL,
        "the container sees what else runs on the machine",
        "take it out; for shared memory use --shm-size, on Kubernetes an emptyDir with medium: Memory",
        _host_space,
    ),
    Rule(
        "host-network",
        Severity.WARN,
        "the container is in the machine's network; Ray's launcher does that by itself, to all of them",
        "take it out; what closes ports is the security group or the firewall",
        _host_network,
    ),
    Rule("extra-powers", Severity.FAIL, "the container is less confined", "take it out", _powers),
    Rule(
        "runs-as-root",
        Severity.FAIL,
        "the container runs as root",
        "the image's own user; on Kubernetes securityContext: {runAsNonRoot: true, runAsUser: 1000}",
        _root,
    ),
    Rule(
        "may-escalate",
        Severity.WARN,
        "a process in the container may gain rights",
        "securityContext: {allowPrivilegeEscalation: false}",
        _escalation,
    ),
    Rule(
        "no-limits",
        Severity.WARN,
        "no memory limit: Ray takes all of the machine's for its own, and is killed for it",
        "resources.limits: {cpu: ..., memory: ...}",
        _limits,
    ),
    Rule(
        "service-account-token",
        Severity.WARN,
        "workers hold a key to the Kubernetes API",
        "automountServiceAccountToken: false",
        _wandering,
    ),
)
