"""A machine that is described and not looked at: well in every respect, until a test plants something."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raypipe.doctor.hardware import SHARED
from raypipe.doctor.host import MOST, Answer, Disk, Host

GIB = 1 << 30
TMP = "/tmp"  # noqa: S108 - a name, of the described machine
RAY = "2.60.0"
DASHBOARD = "http://127.0.0.1:8265/api/jobs/"
REQUIRES = ["av>=15", "pyarrow>=20", "ray[default]>=2.60,<2.61", "dev-tool; extra == 'dev'"]
CARD = "NVIDIA A100-SXM4-80GB, 81920, 0, 570.86, 8.0"


class Described(Host):
    """The clean machine: eight cores, 64 GiB, one A100, Ray not running, a token of mode 0600."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}  # type: ignore[assignment]
        self.version_of_python = (3, 11)
        self.files = {
            "/home/me/.ray/auth_token": "secret",
            "/constraints.txt": "av==18.1.0\n",
            "/proc/net/tcp": "  sl  local_address\n   0: 0100007F:2049 00000000:0000 0A\n",
            "torch/version.py": "__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\n",
        }
        self.modes = {"/home/me/.ray": 0o700, "/home/me/.ray/auth_token": 0o600, SHARED: 0o1777}
        self.disks = {
            "": Disk(500 * GIB, 300 * GIB, 10**7, 9 * 10**6),
            SHARED: Disk(32 * GIB, 32 * GIB, 0, 0),
        }
        self.closed: set[str] = set()  # folders that cannot be written
        self.sessions: dict[str, int] = {}
        self.cores, self.bytes = 8, 64 * GIB
        self.limits: dict[str, int | None] = {"NOFILE": 65536, "NPROC": None, "AS": None}
        self.coded = ("utf-8", "utf-8")
        self.time: float | None = None
        self.programs = {name: f"/usr/bin/{name}" for name in ("nvidia-smi", "g++", "ninja")}
        self.cards = [CARD]
        self.versions = {"av": "18.1.0", "pyarrow": "26.0.1", "ray": RAY, "torch": "2.13.0+cu128"}
        self.needs: list[str] | None = REQUIRES
        self.brings: dict[str, list[str]] = {"av": ["av"], "torch": ["torch"]}
        self.ports: set[tuple[str, int]] = set()
        self.answers: dict[str, Answer] = {}  # by address; one that wants the token is under "token ADDRESS"

    def python(self) -> tuple[tuple[int, int], str]:
        return self.version_of_python, "{}.{}".format(*self.version_of_python)

    def home(self) -> str:
        return "/home/me"

    def here(self) -> str:
        return "/work"

    def read(self, path: str) -> str | None:
        name = "/constraints.txt" if path.endswith("/constraints.txt") else path
        return self.files.get(name)

    def mode(self, path: str) -> int | None:
        return self.modes.get(path)

    def plain(self, path: str) -> bool:
        return path in self.files

    def disk(self, path: str) -> Disk | None:
        return self.disks.get(path, self.disks[""])

    def writable(self, path: str) -> bool:
        return path not in self.closed

    def sizes(self, folder: str, prefix: str, most: int = 0) -> dict[str, int]:
        return {name: size for name, size in self.sessions.items() if name.startswith(prefix)}

    def cpus(self) -> int:
        return self.cores

    def memory(self) -> int:
        return self.bytes

    def limit(self, name: str) -> int | None:
        return self.limits[name]

    def encodings(self) -> tuple[str, str]:
        return self.coded

    def now(self) -> float:
        return super().now() if self.time is None else self.time

    def which(self, program: str) -> str | None:
        return self.programs.get(program)

    def run(self, command: Sequence[str]) -> str | None:
        return "\n".join(self.cards) if "nvidia-smi" in command[0] else None

    def version(self, package: str) -> str | None:
        return self.versions.get(package)

    def requires(self, package: str) -> list[str] | None:
        return self.needs

    def givers(self, modules: Sequence[str]) -> dict[str, list[str]]:
        return {module: self.brings.get(module, []) for module in modules}

    def module_file(self, module: str, file: str) -> str | None:
        return self.files.get(f"{module}/{file}")

    def listens(self, port: int, host: str = "127.0.0.1") -> bool:
        return (host, port) in self.ports

    def fetch(self, url: str, headers: Mapping[str, str] | None = None, most: int = MOST) -> Answer | None:
        opened = headers and headers.get("Authorization") == "Bearer secret"
        answer = self.answers.get(f"token {url}" if opened else url, self.answers.get(url))
        if answer is None or len(answer.body) <= most:
            return answer
        return replace(answer, body=answer.body[:most], cut=True)

    def runs_ray(self, base: str = "http://127.0.0.1:8265", version: str = RAY, **more: Any) -> None:
        """A Ray at an address, closed by the token of this machine."""
        answer = Answer(200, json.dumps({"ray_version": version}), more.get("date"))
        self.answers[f"{base}/api/jobs/"] = Answer(more.get("open", 401), "", more.get("date"))
        self.answers[f"token {base}/api/version"] = answer
        self.answers[f"{base}/api/version"] = Answer(401, "", None)
        body = {"data": {"summary": more.get("nodes", [node("10.0.0.1"), node("10.0.0.2")])}}
        self.answers[f"token {base}/nodes?view=summary"] = Answer(200, json.dumps(body), None)


def node(ip: str, *, state: str = "ALIVE", full: float = 20.0, memory: float = 30.0) -> dict[str, Any]:
    """A node as Ray's dashboard shows it."""
    disk = {"total": 1000 * GIB, "used": 0, "free": int(1000 * GIB * (1 - full / 100)), "percent": full}
    return {"ip": ip, "disk": {"/": disk}, "mem": [64 * GIB, 32 * GIB, memory, 0], "raylet": {"state": state}}
