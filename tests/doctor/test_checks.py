"""Each planted problem is found by its check, with a fix; a machine that is well raises no alarm."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from raypipe.doctor import registry
from raypipe.doctor.checks import Asked, Check, Finding, Level, carried_out, ok
from raypipe.doctor.hardware import SHARED
from raypipe.doctor.host import Disk, Host
from raypipe.doctor.registry import MACHINE, NAMED, examine
from raypipe.errors import ServiceError
from raypipe.redaction import redact
from tests.doctor.described import CARD, GIB, TMP, Described, node

SLOW = (
    "decoders",
    "decode child",
)  # they look at the real machine, and are planted in tests/cli/test_doctor.py
QUICK = tuple(check for check in (*MACHINE, *NAMED) if check.name not in SLOW)
Plant = Callable[[Described], object]
NOTHING = Asked()


def looked(machine: Host, asked: Asked = NOTHING) -> list[Finding]:
    return carried_out(QUICK, machine, asked)


def alarms(machine: Host, asked: Asked = NOTHING) -> list[Finding]:
    return [finding for finding in looked(machine, asked) if finding.level is not Level.OK]


def test_there_are_enough_checks():
    names = [check.name for check in (*MACHINE, *NAMED)]
    assert len(names) == len(set(names)) >= 32


def test_a_machine_that_is_well_raises_no_alarm():
    assert alarms(Described()) == []


def bare(m: Described) -> None:
    """No GPU, no Ray, no token, nothing of a container."""
    m.cards, m.programs, m.versions["torch"] = [], {}, "2.13.0+cpu"
    m.files = {"torch/version.py": "cuda: Optional[str] = None\n"}
    m.modes = {SHARED: 0o1777}


def in_container(m: Described) -> None:
    m.files |= {
        "/sys/fs/cgroup/cpu.max": "800000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{32 * GIB}\n",
        "/sys/fs/cgroup/pids.max": "max\n",
    }


def old_cgroup(m: Described) -> None:
    m.files |= {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }


def on_cluster(m: Described) -> None:
    m.runs_ray("https://head:8265")
    m.environ["RAY_ADDRESS"] = "https://head:8265"


def head_here(m: Described) -> None:
    m.runs_ray()
    m.ports |= {("127.0.0.1", port) for port in (6379, 8265)}


def on_kubernetes(m: Described) -> None:
    """Ray does not look at the disks of pods: it says one byte, all of it free."""
    pod = {**node("10.0.0.1"), "disk": {"/": {"total": 1, "used": 0, "free": 1, "percent": 0.0}}}
    m.runs_ray("https://head:8265", nodes=[pod])
    m.environ["RAY_ADDRESS"] = "https://head:8265"


def behind_proxy(m: Described) -> None:
    m.environ |= {"http_proxy": "http://proxy:3128", "no_proxy": "localhost,127.0.0.1"}


@pytest.mark.parametrize(
    "plant", [bare, in_container, old_cgroup, on_cluster, on_kubernetes, head_here, behind_proxy]
)
def test_other_machines_that_are_well_raise_none_either(plant):
    machine = Described()
    plant(machine)
    assert alarms(machine) == []


def file(path: str, text: str) -> Plant:
    return lambda m: m.files.update({path: text})


def env(**values: str) -> Plant:
    return lambda m: m.environ.update(values)


def full(folder: str, **values: int) -> Plant:
    return lambda m: m.disks.update({folder: replace(m.disks[""], **values)})


def ray_at(base: str, **more) -> Plant:
    def plant(m: Described) -> None:
        m.runs_ray(base, **more)
        m.environ["RAY_ADDRESS"] = base

    return plant


def dashboard(status: int) -> Plant:
    def plant(m: Described) -> None:
        m.runs_ray(open=status)
        m.ports.add(("127.0.0.1", 8265))

    return plant


def card(**values: str) -> Plant:
    names = dict(zip(("name", "total", "used", "driver", "capability"), CARD.split(", "), strict=True))
    return lambda m: setattr(m, "cards", [", ".join((names | values).values())])


def no_driver(m: Described) -> None:
    m.cards, m.modes["/dev/nvidiactl"] = [], 0o666


def key(name: str, value: object) -> Plant:
    return lambda m: setattr(m, name, value)


PLANTED: dict[str, tuple[Plant, str, str, str]] = {  # what is planted -> check, level, word of the fix
    "an old Python": (key("version_of_python", (3, 9)), "python", "fail", "3.11"),
    "a package that is too old": (
        lambda m: m.versions.update(pyarrow="1.0"),
        "packages",
        "fail",
        "make setup",
    ),
    "a package that is not there": (lambda m: m.versions.pop("av"), "packages", "fail", "make setup"),
    "an untested version": (lambda m: m.versions.update(av="19.0"), "packages", "warn", "make setup"),
    "raypipe not installed": (key("needs", None), "packages", "warn", "make setup"),
    "two decoders of one name": (
        lambda m: m.brings.update(av=["av", "pyav"]),
        "import names",
        "fail",
        "pip uninstall av pyav",
    ),
    "torch for CPUs beside a GPU": (
        file("torch/version.py", "cuda: Optional[str] = None\n"),
        "torch and driver",
        "fail",
        "torch for CUDA",
    ),
    "a driver too old": (card(driver="470.82"), "torch and driver", "fail", "newer driver"),
    "no torch": (lambda m: m.versions.pop("torch"), "torch and driver", "fail", "make setup"),
    "no compiler beside a GPU": (lambda m: m.programs.pop("g++"), "compiler", "warn", "apt-get install g++"),
    "extensions in a closed folder": (
        lambda m: (m.environ.update(TORCH_EXTENSIONS_DIR="/ext"), m.closed.add("/ext")),
        "torch extensions",
        "fail",
        "TORCH_EXTENSIONS_DIR",
    ),
    "the hub online": (env(HF_HUB_OFFLINE="0"), "hub", "warn", "unset"),
    "file names in ASCII": (key("coded", ("ascii", "utf-8")), "locale", "fail", "C.UTF-8"),
    "a GPU without its driver": (no_driver, "GPU", "fail", "driver"),
    "GPUs hidden": (env(CUDA_VISIBLE_DEVICES=""), "GPU", "warn", "CUDA_VISIBLE_DEVICES"),
    "a GPU without bf16": (card(name="Tesla V100", capability="7.0"), "bf16", "warn", "fp32"),
    "two kinds of GPUs": (
        lambda m: m.cards.append("NVIDIA H100, 81559, 0, 570.86, 9.0"),
        "bf16",
        "warn",
        "one kind",
    ),
    "a GPU in use": (card(used="40000"), "GPU memory", "warn", "nvidia-smi"),
    "one core": (key("cores", 1), "CPUs", "warn", "two or more"),
    "a CPU quota": (file("/sys/fs/cgroup/cpu.max", "150000 100000"), "CPUs", "warn", "--num-cpus"),
    "few cores for the GPUs": (lambda m: m.cards.extend([CARD] * 7), "CPUs", "warn", "for each GPU"),
    "little memory": (key("bytes", 2 * GIB), "memory", "fail", "4 GiB"),
    "a memory limit": (file("/sys/fs/cgroup/memory.max", str(6 * GIB)), "memory", "warn", "8 GiB"),
    "few addresses": (lambda m: m.limits.update(AS=GIB), "memory", "fail", "ulimit -v"),
    "docker's shared memory": (
        lambda m: m.disks.update({SHARED: Disk(64 << 20, 64 << 20, 0, 0)}),
        "shared memory",
        "fail",
        "--shm-size",
    ),
    "shared memory in use": (
        lambda m: m.disks.update({SHARED: Disk(32 * GIB, GIB, 0, 0)}),
        "shared memory",
        "warn",
        "--shm-size",
    ),
    "no shared memory": (lambda m: m.modes.pop(SHARED), "shared memory", "warn", TMP),
    "a full disk": (full("/work", free=GIB // 2), "disk", "fail", "free space"),
    "a disk soon full": (full("/work", free=10 * GIB), "disk", "warn", "free space"),
    "a closed cache": (lambda m: m.closed.add("/home/me/.cache/raypipe"), "cache", "fail", "RAYPIPE_CACHE"),
    "no room for the cache": (full("/cache", free=0), "cache", "fail", "RAYPIPE_CACHE"),
    "a closed TMPDIR": (
        lambda m: (m.environ.update(TMPDIR="/t"), m.closed.add("/t")),
        "temporary files",
        "fail",
        "TMPDIR",
    ),
    "no room in TMPDIR": (full(TMP, free=2 * GIB), "temporary files", "warn", "TMPDIR"),
    "Ray's disk over 95 %": (full(f"{TMP}/ray", free=20 * GIB), "Ray's disk", "fail", "RAY_TMPDIR"),
    "Ray's disk, where RAY_TMPDIR puts it": (
        lambda m: (m.environ.update(RAY_TMPDIR="/big/"), full("/big/ray", free=20 * GIB)(m)),
        "Ray's disk",
        "fail",
        "RAY_TMPDIR",
    ),
    "no inodes": (full("/home/me", inodes_free=500), "inodes", "fail", "df -i"),
    "few inodes": (full("/work", inodes_free=50_000), "inodes", "warn", "df -i"),
    "few open files": (lambda m: m.limits.update(NOFILE=256), "open files", "fail", "ulimit -n"),
    "rather few open files": (lambda m: m.limits.update(NOFILE=1024), "open files", "warn", "ulimit -n"),
    "few processes": (file("/sys/fs/cgroup/pids.max", "512"), "processes", "fail", "--pids-limit"),
    "a clock of 1970": (key("time", 1000.0), "clock", "fail", "timedatectl"),
    "a token that others read": (
        lambda m: m.modes.update({"/home/me/.ray/auth_token": 0o644}),
        "Ray token",
        "fail",
        "chmod 600",
    ),
    "an empty token": (file("/home/me/.ray/auth_token", " \n"), "Ray token", "fail", "(umask 077; ray get-"),
    "a token that is a folder": (
        lambda m: (env(RAY_AUTH_TOKEN_PATH="/t")(m), m.modes.update({"/t": 0o1777})),
        "Ray token",
        "fail",
        "RAY_AUTH_TOKEN_PATH",
    ),
    "a token where no file can be": (
        lambda m: (env(RAY_AUTH_TOKEN_PATH="/f/x")(m), m.closed.add("/f")),
        "Ray token",
        "fail",
        "RAY_AUTH_TOKEN_PATH",
    ),
    "a token in a variable": (env(RAY_AUTH_TOKEN="s3cret"), "Ray token", "warn", "unset"),
    "a token's folder that others write": (
        lambda m: m.modes.update({"/home/me/.ray": 0o777}),
        "Ray's folder",
        "fail",
        "chmod 700",
    ),
    "a token's folder that others read": (
        lambda m: m.modes.update({"/home/me/.ray": 0o755}),
        "Ray's folder",
        "warn",
        "chmod 700",
    ),
    "no authentication": (env(RAY_AUTH_MODE="disabled"), "Ray authentication", "fail", "RAY_AUTH_MODE"),
    "a dashboard without a token": (dashboard(200), "Ray here", "fail", "RAY_AUTH_MODE=token"),
    "something else at Ray's port": (
        lambda m: m.ports.add(("127.0.0.1", 6379)),
        "Ray here",
        "warn",
        "--port",
    ),
    "a dashboard open to all": (
        file("/proc/net/tcp", "h\n 0: 00000000:2049 00000000:0000 0A\n"),
        "open ports",
        "fail",
        "--dashboard-host",
    ),
    "a cluster that is gone": (env(RAY_ADDRESS="http://head:8265"), "RAY_ADDRESS", "fail", "cluster up"),
    "a port of nobody": (env(RAY_ADDRESS="ray://head:10001"), "RAY_ADDRESS", "fail", "cluster up"),
    "a cluster without a token": (ray_at("http://head:8265", open=200), "RAY_ADDRESS", "fail", "token"),
    "another Ray there": (
        ray_at("http://head:8265", version="2.50.0"),
        "RAY_ADDRESS",
        "fail",
        "one Ray version",
    ),
    "another token there": (
        lambda m: (ray_at("http://head:8265")(m), m.files.update({"/home/me/.ray/auth_token": "other"})),
        "RAY_ADDRESS",
        "fail",
        "cluster's token",
    ),
    "another clock there": (
        ray_at("http://head:8265", date=time.time() - 900),
        "RAY_ADDRESS",
        "fail",
        "clocks",
    ),
    "a node with a full disk": (
        ray_at("http://head:8265", nodes=[node("10.0.0.1"), node("10.0.0.2", full=97)]),
        "nodes",
        "warn",
        "free space",
    ),
    "a node without memory": (
        ray_at("http://head:8265", nodes=[node("10.0.0.1", memory=99)]),
        "nodes",
        "warn",
        "",
    ),
    "a dead node": (
        ray_at("http://head:8265", nodes=[node("10.0.0.1"), node("10.0.0.2", state="DEAD")]),
        "nodes",
        "warn",
        "ray status",
    ),
    "sessions left over": (key("sessions", {"session_a": 9 * GIB}), "Ray's leftovers", "warn", "rm -r"),
    "a proxy for everything": (env(HTTPS_PROXY="x", http_proxy="http://p:1"), "proxies", "fail", "no_proxy"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(what):
    plant, check, level, fix = PLANTED[what]
    machine = Described()
    if what == "no room for the cache":
        machine.environ["RAYPIPE_CACHE"] = "/cache"
    plant(machine)
    found = alarms(machine)
    assert [(f.check, str(f.level)) for f in found] == [(check, level)], found
    assert fix in found[0].fix
    assert "s3cret" not in found[0].found + found[0].fix
    assert redact(found[0].fix) == found[0].fix  # as it is shown


def test_every_check_of_the_machine_has_something_planted():
    planted = {check for _, check, _, _ in PLANTED.values()}
    assert planted == {check.name for check in MACHINE} - set(SLOW)


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on():
    def broken(host, asked):
        yield ok("first", "well")
        raise ZeroDivisionError("oh\nmore")

    checks = (Check("broken", broken), Check("fine", lambda h, a: iter([ok("fine", "well")])))
    found = carried_out(checks, Described(), Asked())
    assert [(f.check, str(f.level)) for f in found] == [("first", "ok"), ("broken", "fail"), ("fine", "ok")]
    assert found[1].found == "ZeroDivisionError: oh"
    assert found[1].fix


def test_what_is_raised_on_purpose_is_said_in_its_own_words():
    def broken(host, asked):
        raise ServiceError("cannot write there", "free space")
        yield

    found = carried_out((Check("store", broken),), Described(), Asked())
    assert [(f.found, f.fix) for f in found] == [("cannot write there", "free space")]


def test_checks_run_side_by_side():
    both = threading.Barrier(2, timeout=20)

    def meet(host, asked):
        both.wait()
        yield ok("met", "")

    assert len(carried_out((Check("a", meet), Check("b", meet)), Described(), Asked())) == 2


def test_nothing_outside_is_touched_unless_it_is_named():
    class Offline(Described):
        def fetch(self, url, headers=None, most=0):
            assert url.startswith("http://127.0.0.1:"), url
            return super().fetch(url, headers)

        def listens(self, port, host="127.0.0.1"):
            assert host == "127.0.0.1", host
            return super().listens(port, host)

    assert [f for f in looked(Offline()) if "AssertionError" in f.found] == []


def test_real_questions_of_a_host(tmp_path, monkeypatch):
    host = Host()
    assert host.mode(str(tmp_path / "none")) is None
    assert host.read(str(tmp_path)) is None
    (tmp_path / "session_1").mkdir()
    (tmp_path / "session_1" / "log").write_bytes(b"x" * 10_000)
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_1")
    assert list(host.sizes(str(tmp_path), "session_")) == ["session_1"]
    assert host.sizes(str(tmp_path), "session_")["session_1"] >= 10_000
    assert host.disk(str(tmp_path / "a/b/c")).total > 0
    assert host.writable(str(tmp_path / "a/b"))
    assert not host.writable("/proc/1/none")
    assert host.run(["/bin/echo", "x"]) == "x\n"
    assert host.run(["/bin/false"]) is None
    assert host.fetch("file:///etc/passwd") is None
    assert not host.listens(1)
    assert host.givers(["av"])["av"] == ["av"]
    assert "cuda" in (host.module_file("torch", "version.py") or "")
    assert registry.examine  # the whole of it runs in tests/cli/test_doctor.py
    assert examine(Asked(), machine=False, host=host) == []
