"""Checks of Ray on this machine: the token and who can read it, what listens, what earlier sessions left."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

from raypipe.doctor.checks import Asked, Check, Finding, fail, ok, warn
from raypipe.doctor.hardware import GIB, ray_folder
from raypipe.doctor.host import Answer, Host

GCS, CLIENT, DASHBOARD = 6379, 10001, 8265
PROTECTED = "/api/jobs/"  # of the dashboard: answers nobody without the token
LISTENS = "0A"  # a state in /proc/net/tcp
LEFT_GIB, LEFT_SESSIONS = 5.0, 500
SKEW_S = 60.0
SUMMARY = 64 << 20  # bytes; of a node it is some 10 kB, with many workers 100
FULL, LEAST_DISK = 95.0, 10 * GIB  # percent; bytes
DANGER = "whoever has it can run code on your cluster"
ADDRESSES = "export RAY_ADDRESS=http://HOST:8265 to submit jobs, HOST:6379 to join the cluster; or unset it"
ELSEWHERE = "export RAY_AUTH_TOKEN_PATH=FILE, which may be new, in a folder of yours"


def token_file(host: Host) -> str:
    named = host.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    return f"{host.home()}{named[1:]}" if named.startswith("~/") else named


def token(host: Host, _: Asked) -> Iterator[Finding]:
    file = token_file(host)
    if host.environ.get("RAY_AUTH_TOKEN"):
        yield warn(
            "Ray token",
            "it is in the variable RAY_AUTH_TOKEN, which every child process and crash report shows",
            f"write it to {file} (chmod 600) and unset the variable",
        )
        return
    mode = host.mode(file)
    if mode is None and host.writable(os.path.dirname(file)):
        yield ok("Ray token", f"none yet; raypipe makes {file}, closed to others")
    elif mode is None:
        yield fail("Ray token", f"{file} is not there and cannot be made", ELSEWHERE)
    elif not host.plain(file):
        yield fail("Ray token", f"{file} is no plain file", ELSEWHERE)
    elif mode & 0o077:
        yield fail("Ray token", f"{file} has mode {mode:04o}", f"chmod 600 {shlex.quote(file)} ({DANGER})")
    elif not (host.read(file) or "").strip():
        yield fail("Ray token", f"{file} is empty or cannot be read", _new_token(host, file))
    else:
        yield ok("Ray token", f"{file}, closed to others")


def _new_token(host: Host, file: str) -> str:
    if host.environ.get("RAY_AUTH_TOKEN_PATH"):  # Ray's command writes to its own place and no other
        return f"rm {shlex.quote(file)}, and raypipe makes a new one; a running cluster's is copied there"
    return f"rm {shlex.quote(file)}; (umask 077; ray get-auth-token --generate)"


def token_folder(host: Host, _: Asked) -> Iterator[Finding]:
    if host.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # in a folder of the user's choice, which may hold other things
    folder = f"{host.home()}/.ray"
    mode = host.mode(folder)
    if mode is None or not mode & 0o077:
        yield ok("Ray's folder", "none yet" if mode is None else f"{folder} is closed to others")
    elif mode & 0o022:
        yield fail(
            "Ray's folder",
            f"{folder} has mode {mode:04o}: others can replace the token",
            f"chmod 700 {folder}",
        )
    else:
        yield warn("Ray's folder", f"{folder} has mode {mode:04o}", f"chmod 700 {folder}")


def auth_mode(host: Host, _: Asked) -> Iterator[Finding]:
    mode = host.environ.get("RAY_AUTH_MODE")
    if mode is None or mode == "token":
        yield ok("Ray authentication", "by token" if mode else "by token: raypipe turns it on")
    else:
        fix = "unset RAY_AUTH_MODE, or export RAY_AUTH_MODE=token on every node: nobody is asked who they are"
        yield fail("Ray authentication", f"RAY_AUTH_MODE={mode}: jobs are taken from anybody", fix)


def running(host: Host, _: Asked) -> Iterator[Finding]:
    """A Ray that runs here, or something else on its ports."""
    answer = host.fetch(f"http://127.0.0.1:{DASHBOARD}{PROTECTED}") if host.listens(DASHBOARD) else None
    if answer is not None:
        yield from _closed("Ray here", f"the dashboard at port {DASHBOARD}", answer)
        return
    taken = [str(port) for port in (GCS, CLIENT, DASHBOARD) if host.listens(port)]
    if taken:
        said = f"port {' and '.join(taken)} of Ray's is taken by something that is no dashboard"
        yield warn("Ray here", said, "end it, or give ray start other ports (--port, --dashboard-port)")
    else:
        yield ok("Ray here", "none runs, and its ports are free")


def open_ports(host: Host, asked: Asked) -> Iterator[Finding]:
    """A dashboard that listens on more than loopback is one firewall rule from the internet."""
    found = False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (host.read(table) or "").splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == LISTENS:
                where, _, port = words[1].partition(":")
                found |= int(port, 16) == DASHBOARD and not set(where) - {"0"}
    if found:
        fix = "ray start --dashboard-host=127.0.0.1, and reach it by ray dashboard or ssh -L"
        yield fail("open ports", f"the dashboard (port {DASHBOARD}) listens on every address", fix)
    else:
        yield ok("open ports", "no dashboard listens beyond this machine")


def address(host: Host, _: Asked) -> Iterator[Finding]:
    """The cluster that RAY_ADDRESS names: there, asking for the token, of our version, with our clock."""
    named = host.environ.get("RAY_ADDRESS")
    if not named:
        yield ok("RAY_ADDRESS", "not set: commands start a Ray of their own here")
        return
    if named in ("auto", "local"):
        yield ok("RAY_ADDRESS", f"{named}: a Ray on this machine")
        return
    parts = _parts(named)
    if parts is None:
        yield fail("RAY_ADDRESS", f"'{named}' is no address", ADDRESSES)
        return
    if parts.username or parts.password:
        fix = "give the bare address; the token is read from RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        yield fail("RAY_ADDRESS", f"{named} holds credentials, which commands and logs show", fix)
        return
    if parts.scheme not in ("http", "https"):
        place, port = parts.hostname or "", parts.port or (CLIENT if parts.scheme == "ray" else GCS)
        if host.listens(port, place):
            yield ok("RAY_ADDRESS", f"{place}:{port} takes connections")
        else:
            yield fail(
                "RAY_ADDRESS", f"nobody listens at {place}:{port}", "is the cluster up, and this the head?"
            )
        return
    answer = host.fetch(named.rstrip("/") + PROTECTED)
    if answer is None:
        fix = "is the cluster up, and the tunnel open? ray dashboard FILE opens one"
        yield fail("RAY_ADDRESS", f"{named} does not answer", fix)
        return
    yield from _closed("RAY_ADDRESS", named, answer)
    if answer.date is not None and abs(answer.date - host.now()) > SKEW_S:
        skew = answer.date - host.now()
        fix = "set the clocks (timedatectl set-ntp true on both): leases and signed requests go by them"
        yield fail("RAY_ADDRESS", f"the clock of the head is {skew:+.0f} s from ours", fix)
    yield from _version(host, named)


def _parts(named: str) -> SplitResult | None:
    """An address as Ray takes it, in its parts; None where it is none."""
    try:
        parts = urlsplit(named if "://" in named else f"tcp://{named}")
        port = parts.port
    except ValueError:
        return None
    known = parts.scheme in ("http", "https") or (parts.scheme in ("tcp", "ray") and not parts.path)
    return parts if known and parts.hostname and port != 0 else None


def nodes(host: Host, _: Asked) -> Iterator[Finding]:
    """The nodes of the cluster that RAY_ADDRESS names, as its dashboard shows them: alive, disks, memory."""
    named = host.environ.get("RAY_ADDRESS", "")
    if not named.startswith(("http://", "https://")) or _parts(named) is None:
        return
    answer = host.fetch(named.rstrip("/") + "/nodes?view=summary", _bearer(host), SUMMARY)
    if answer is None or answer.status != 200:
        return  # RAY_ADDRESS says so
    if answer.cut:
        said = f"what the dashboard says of them is longer than {SUMMARY >> 20} MiB; none was looked at"
        yield warn("nodes", said, "look at them in the dashboard, or with ray status")
        return
    rows = json.loads(answer.body)["data"]["summary"]
    alive = [row for row in rows if row.get("raylet", {}).get("state") == "ALIVE"]
    short = [said for row in alive for said in _short(row)]
    if short:
        yield warn("nodes", "; ".join(short[:4]), "free space there, or give Ray another disk: --temp-dir")
    elif alive:
        yield ok("nodes", f"{len(alive)} alive, with room on their disks")
    if len(rows) > len(alive):
        gone = ", ".join(str(row.get("ip", "?")) for row in rows if row not in alive)
        yield warn("nodes", f"dead: {gone}", "ray status says why; the autoscaler replaces nodes of its own")


def _short(row: dict[str, Any]) -> Iterator[str]:
    """What a node is short of: disks over 95 % full or with less than 10 GiB, memory over 95 %."""
    for place, disk in (row.get("disk") or {}).items():
        if disk["total"] < GIB:  # in a pod Ray says 1 byte, for it does not look
            continue
        if disk["percent"] > FULL or disk["free"] < LEAST_DISK:
            free = f"{disk['free'] / GIB:.1f} GiB free in {place}"
            yield f"{row.get('ip')}: {free} ({disk['percent']:.0f} % full)"
    memory: list[float] = list(row.get("mem") or [])
    if len(memory) > 2 and memory[2] > FULL:
        yield f"{row.get('ip')}: {memory[2]:.0f} % of the memory is in use"


def leftovers(host: Host, _: Asked) -> Iterator[Finding]:
    folder = ray_folder(host)
    left = host.sizes(folder, "session_")
    size = sum(left.values())
    if size > LEFT_GIB * GIB or len(left) > LEFT_SESSIONS:
        said = f"{len(left)} sessions in {folder} hold {size / GIB:.1f} GiB"
        yield warn("Ray's leftovers", said, f"when no Ray runs here: rm -r {folder}/session_*")
    else:
        yield ok("Ray's leftovers", f"{size / GIB:.1f} GiB of earlier sessions in {folder}")


def proxies(host: Host, _: Asked) -> Iterator[Finding]:
    """A proxy that takes requests to this machine breaks Ray's own, and hears the token."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy", "GRPC_PROXY"):
        if host.environ.get(name):
            spared = host.environ.get("no_proxy", host.environ.get("NO_PROXY", ""))
            places = {part.strip().lower() for part in spared.split(",")}
            if "*" not in places and not places & {"127.0.0.1", "127.0.0.0/8"}:
                fix = "export no_proxy=127.0.0.1,localhost,<the addresses of the nodes>"
                yield fail("proxies", f"{name} is set, and no_proxy does not spare 127.0.0.1", fix)
                return
            yield ok("proxies", f"{name} is set, and 127.0.0.1 is spared")
            return
    yield ok("proxies", "none")


def _closed(name: str, what: str, answer: Answer) -> Iterator[Finding]:
    if answer.status in (401, 403):
        yield ok(name, f"{what} asks for the token")
    elif answer.status == 200:
        fix = "ray stop, and start it with RAY_AUTH_MODE=token"
        yield fail(name, f"{what} answers without a token: anybody who reaches it can run code", fix)
    else:
        yield warn(
            name, f"{what} answers {answer.status}", "is it a Ray dashboard? name its address in RAY_ADDRESS"
        )


def _bearer(host: Host) -> dict[str, str]:
    secret = host.environ.get("RAY_AUTH_TOKEN") or (host.read(token_file(host)) or "").strip()
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def _version(host: Host, named: str) -> Iterator[Finding]:
    answer = host.fetch(named.rstrip("/") + "/api/version", _bearer(host))
    if answer is None or answer.status != 200:
        status = "does not answer" if answer is None else f"answers {answer.status}"
        fix = f"the cluster's token belongs in {token_file(host)}: copy it from where the cluster was started"
        yield fail("RAY_ADDRESS", f"{named} {status} to our token", fix)
        return
    try:
        theirs = str(json.loads(answer.body)["ray_version"])
    except (ValueError, KeyError, TypeError):
        theirs = ""
    ours = host.version("ray") or ""
    if theirs != ours:
        fix = "use one Ray version on every machine: constraints.txt names it"
        yield fail(
            "RAY_ADDRESS", f"the cluster runs Ray {theirs or 'of an unknown version'}, here is {ours}", fix
        )
    elif re.match(r"\d", theirs):
        yield ok("RAY_ADDRESS", f"{named} takes our token and runs Ray {theirs}, as here")


CHECKS = (
    Check("Ray token", token),
    Check("Ray's folder", token_folder),
    Check("Ray authentication", auth_mode),
    Check("Ray here", running),
    Check("open ports", open_ports),
    Check("RAY_ADDRESS", address),
    Check("nodes", nodes),
    Check("Ray's leftovers", leftovers),
    Check("proxies", proxies),
)
