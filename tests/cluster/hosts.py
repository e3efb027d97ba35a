"""Hosts on one machine: each has its own processes, network, files of its user, and an sshd.

A host is a tree of Linux namespaces: process ids, mounts, network, shared memory and host name. What it
shares with the machine is read-only; /tmp, /run, /dev/shm and the home folders are its own. So Ray's
``ray stop`` on one host ends nothing elsewhere, a host can be ended as a whole, and a cable can be pulled.
The user of all hosts is an ordinary one.
The hosts hang on a bridge in the network of the first one; the machine's own network is not touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

NEEDED = ("unshare", "nsenter", "setpriv", "ip", "mount", "ssh", "ssh-keygen", "rsync", "sshd")
PACKAGES = ("util-linux", "iproute2", "openssh-client", "openssh-server", "rsync")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
SUBNET, BRIDGE = "10.77.0", "br0"
USER, UID, HOME = "raypipe", 4242, "/home/raypipe"
NAMESPACES = ("--pid", "--mount", "--net", "--ipc", "--uts")
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
KEY = f"{HOME}/.ssh/raypipe"
SHM = "700m"
START_S = 30.0
CLONE_NEWNET = 0x40000000

# Process 1 of a host: the parent of all that lose theirs. `ray stop` waits until the dead are buried.
INIT = """
import os, time
open("/run/host-is-up", "w").close()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
"""

SSHD = """
ListenAddress {address}
Port 22
HostKey /root/host_key
AuthorizedKeysFile .ssh/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
StrictModes no
PrintMotd no
AcceptEnv LANG
"""


class NoHosts(Exception):
    """This machine cannot be divided into hosts; the text says why."""


@dataclass
class Host:
    """One host. ``folder`` holds its files on the machine; ``pid`` is its first process there."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]
    pid: int
    environ: dict[str, str]

    @property
    def home(self) -> Path:
        """The home folder of its user, as the machine sees it."""
        return self.folder / HOME.lstrip("/")

    def entered(self, command: Sequence[str], root: bool = False) -> list[str]:
        """The command line that runs a command on this host."""
        given = [f"{k}={v}" for k, v in self.environ.items()]
        into = ["nsenter", "--target", str(self.pid), *NAMESPACES, f"--wd={ROOT}"]
        who = [] if root else ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        return [*into, "--", *who, "env", "-i", *given, *command]

    def run(
        self,
        *command: str,
        root: bool = False,
        timeout_s: float = 300,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, as the hosts' user or as root.

        Raises:
            AssertionError: it failed, and ``check``.
        """
        line = self.entered(command, root)
        ended = subprocess.run(
            line, capture_output=True, text=True, timeout=timeout_s, cwd="/", stdin=subprocess.DEVNULL
        )
        told = f"{ended.stdout[-6000:]}\n{ended.stderr[-6000:]}"
        assert not check or ended.returncode == 0, f"{self.name}: {shlex.join(command)[:400]}\n{told}"
        return ended

    def start(self, *command: str, root: bool = False, log: str) -> subprocess.Popen[bytes]:
        """Starts a command; its output goes into ``folder/log``."""
        with open(self.folder / log, "ab") as out:
            line = self.entered(command, root)
            return subprocess.Popen(line, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd="/")

    def said(self, log: str) -> str:
        return (self.folder / log).read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends all its processes at once, as a power cut does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(30)

    def processes(self) -> dict[int, str]:
        """The machine's ids of its living processes, with their command lines."""
        return {pid: line for pid, (space, line) in _spaces().items() if space == self._space}

    def __post_init__(self) -> None:
        self._space = os.readlink(f"/proc/{self.pid}/ns/pid")


class Network:
    """Hosts on a bridge. The first one, ``laptop``, holds the bridge and the user's side of things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.spaces: set[str] = set()
        self.laptop = self._new("laptop", f"{SUBNET}.1", {})
        self._ip("link", "add", BRIDGE, "type", "bridge")
        self._ip("addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        self._ip("link", "set", BRIDGE, "up")
        self.laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)

    def add(self, name: str, number: int, environ: Mapping[str, str]) -> Host:
        """A new host with an sshd that lets the laptop's user in.

        Args:
            number: the last part of its address.
            environ: what a login shell on it finds in its environment.
        """
        host = self._new(name, f"{SUBNET}.{number}", dict(environ))
        self._connect(host)
        host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/host_key", root=True)
        _write(host.home / ".ssh/authorized_keys", (self.laptop.home / ".ssh/raypipe.pub").read_text(), UID)
        _write(host.folder / "root/sshd_config", SSHD.format(address=host.address))
        self._serve(host)
        return host

    def boot(self, host: Host) -> Host:
        """A host that was killed, started again with what is on its disk."""
        again = self._start(host.name, host.address, host.folder, host.environ)
        self._connect(again)
        self._serve(again)
        return again

    def cut(self, host: Host) -> None:
        """Pulls the cable: its packets go nowhere, and nobody is told."""
        self._ip("link", "set", f"to-{host.name}", "nomaster")

    def join(self, host: Host) -> None:
        """Puts the cable back."""
        self._ip("link", "set", f"to-{host.name}", "master", BRIDGE)

    def ssh(self, host: Host, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in a login shell of a host, as the user at the laptop would."""
        given = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=5",
        )
        options = [word for option in given for word in ("-o", option)]
        remote = f"bash --login -c {shlex.quote(command)}"
        return self.laptop.run("ssh", "-i", KEY, *options, f"{USER}@{host.address}", remote, check=check)

    def leftovers(self) -> dict[int, str]:
        """Processes that live in a namespace of any host there ever was."""
        return {pid: line for pid, (space, line) in _spaces().items() if space in self.spaces}

    def close(self) -> None:
        for host in reversed(self.hosts.values()):
            host.kill()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is in the laptop's network meanwhile."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.laptop.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                if libc.setns(here, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(here)
            os.close(there)

    def _new(self, name: str, address: str, environ: dict[str, str]) -> Host:
        folder = self.folder / name
        base = {
            "HOME": HOME,
            "USER": USER,
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:{SBIN}",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
            **environ,
        }
        _furnish(folder, name, base)
        return self._start(name, address, folder, base)

    def _start(self, name: str, address: str, folder: Path, environ: dict[str, str]) -> Host:
        with open(folder / "init.log", "wb") as log:
            command = [
                *ENDS_WITH_US,
                "unshare",
                "--fork",
                "--kill-child=SIGKILL",
                "--mount-proc",
                *NAMESPACES,
            ]
            script = ["--propagation", "private", "sh", "-c", _init(name, folder)]
            process = subprocess.Popen([*command, *script], stdout=log, stderr=log, cwd="/")
        pid = _first_process(process, folder)
        self.hosts[name] = host = Host(name, address, folder, process, pid, environ)
        self.spaces.add(os.readlink(f"/proc/{pid}/ns/pid"))
        host.run("ip", "link", "set", "lo", "up", root=True)
        return host

    def _connect(self, host: Host) -> None:
        # A fixed hardware address: a host that comes back is the same one to its neighbours.
        hardware = f"02:00:0a:4d:00:{int(host.address.rpartition('.')[2]):02x}"
        peer = ["peer", "name", "eth0", "address", hardware, "netns", str(host.pid)]
        self._ip("link", "add", f"to-{host.name}", "type", "veth", *peer)
        self.join(host)
        self._ip("link", "set", f"to-{host.name}", "up")
        # Ray takes the address that a packet to the outside would have: it needs a way there, if a dead end.
        for words in (
            ["addr", "add", f"{host.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", self.laptop.address],
        ):
            host.run("ip", *words, root=True)

    def _serve(self, host: Host) -> None:
        daemon = shutil.which("sshd", path=SBIN) or "sshd"
        host.start(daemon, "-D", "-e", "-f", "/root/sshd_config", root=True, log="sshd.log")
        self._wait_for_ssh(host)

    def _ip(self, *words: str) -> None:
        """``ip`` in the laptop's network; it names processes as the machine does."""
        command = ["nsenter", f"--net=/proc/{self.laptop.pid}/ns/net", "ip", *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise NoHosts(f"ip {' '.join(words)}: {ended.stderr.strip()}")

    def _wait_for_ssh(self, host: Host) -> None:
        end = time.monotonic() + START_S
        while self.ssh(host, "true", check=False).returncode:
            if time.monotonic() > end:
                raise NoHosts(f"no sshd on {host.name}: {host.said('sshd.log')[-500:]}")
            time.sleep(0.1)


def why_not() -> str | None:
    """Why this machine has no hosts; None where it can."""
    if not sys.platform.startswith("linux"):
        return "hosts are namespaces of Linux"
    if os.geteuid():
        return "making hosts needs root"
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        return f"{', '.join(missing)} missing: apt-get install {' '.join(PACKAGES)}"
    command = ["unshare", "--fork", "--mount-proc", *NAMESPACES, "sh", "-c"]
    links = "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge"
    script = f"mount -t tmpfs tmpfs /dev/shm && {links}"
    tried = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"this machine allows no namespaces: {' '.join(tried.stderr.split())[-200:]}"
    return None


def _furnish(folder: Path, name: str, environ: Mapping[str, str]) -> None:
    """What a host has of its own: the homes, /tmp, a few files of /etc."""
    for part, mode in (("home", 0o755), ("root", 0o755), ("tmp", 0o1777), ("etc", 0o755)):
        (folder / part).mkdir(parents=True)
        (folder / part).chmod(mode)
    for part in (HOME.lstrip("/"), f"{HOME.lstrip('/')}/.ssh"):
        (folder / part).mkdir(mode=0o700)
        os.chown(folder / part, UID, UID)
    shell = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in environ.items())
    for file, text in ((".bashrc", shell), (".bash_profile", "source ~/.bashrc\n")):
        _write(folder / HOME.lstrip("/") / file, text, UID)
    for file, text in (
        # As an installed Debian has it: its own name is a loopback address. Nobody answers for other names.
        ("hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n"),
        ("resolv.conf", "nameserver 127.0.0.1\n"),
        ("passwd", f"{Path('/etc/passwd').read_text()}{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n"),
        ("group", f"{Path('/etc/group').read_text()}{USER}:x:{UID}:\n"),
        ("shadow", f"{USER}:*:20000:0:99999:7:::\nsshd:*:20000:0:99999:7:::\n"),
    ):
        _write(folder / "etc" / file, text)
        (folder / "etc" / file).chmod(0o600 if file == "shadow" else 0o644)


def _init(name: str, folder: Path) -> str:
    """The script of a host's first process: what it shows of the machine, then it waits for ever."""
    lines = ["set -e", f"hostname {shlex.quote(name)}", f"mount -t tmpfs -o size={SHM} tmpfs /dev/shm"]
    own = {"/home": folder / "home", "/root": folder / "root", "/tmp": folder / "tmp"}  # noqa: S108
    hidden = []
    for path in dict.fromkeys(os.path.realpath(p) for p in (ROOT, sys.prefix, sys.base_prefix)):
        for target, source in own.items():
            if path.startswith(f"{target}/"):  # it would vanish under what is laid over the target
                seen = source / os.path.relpath(path, target)
                hidden += [f"mkdir -p {shlex.quote(str(seen))}", _bind(path, str(seen))]
        if path not in ("/usr", "/usr/local"):
            lines += [_bind(path, path), f"mount -o remount,bind,ro {shlex.quote(path)}"]
    lines += hidden
    etc = [(folder / "etc" / file, f"/etc/{file}") for file in os.listdir(folder / "etc")]
    lines += [_bind(str(source), target) for source, target in etc if os.path.exists(target)]
    lines += [_bind(str(source), target) for target, source in own.items()]
    lines += ["mount -o remount,bind,ro /", "mount -t tmpfs tmpfs /run", "mkdir -p /run/sshd"]
    lines += ["cd /", f"exec {shlex.quote(sys.executable)} -I -S -c {shlex.quote(INIT)}"]
    return "\n".join(lines)


def _bind(source: str, target: str) -> str:
    return f"mount --rbind {shlex.quote(source)} {shlex.quote(target)}"


def _first_process(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The machine's id of a host's process 1, once its files are in place."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/root/run/host-is-up").exists():
                    return int(pid)
        time.sleep(0.02)
    process.kill()
    raise NoHosts(f"no host {folder.name}: {(folder / 'init.log').read_text()[-500:]}")


def _spaces() -> dict[int, tuple[str, str]]:
    """Of every living process: its namespace of process ids and its command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(folder.name)] = (os.readlink(folder / "ns/pid"), line)
    return found


def _write(file: Path, text: str, owner: int = 0) -> None:
    file.write_text(text)
    file.chmod(0o600)
    os.chown(file, owner, owner)
