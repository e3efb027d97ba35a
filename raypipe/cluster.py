"""Ray's face: how raypipe connects, what it asks of the machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from raypipe.capacity import Machine, Machines, Need, machines_of, refuse_impossible
from raypipe.cluster_files.read import read_cluster
from raypipe.errors import RaypipeError, RequestError, ServiceError
from raypipe.shared import Answer, Look, look, refuse_unshared

ASK_S = 60.0  # for all nodes together to say what they see
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
KNOCK_S = 20.0  # for the head to take a connection
_NODE_REMEDY = "install raypipe and its environment there as on the head, or take the node out"

# Set before Ray starts, so that its processes inherit them; a cluster that runs already keeps its own.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the controller commits at most one report per check
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}

# A local cluster needs no other machine. Ray takes loopback alone where it expects no other machine, as on
# Windows and macOS; read once, when Ray is imported.
_ON_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Without a dashboard Ray notes the usual port as its address, and what watches over a training would ask
# whoever listens there, perhaps another cluster, whether its controller lives. Nobody listens on port 0.
_NO_DASHBOARD = ("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:0")


@contextlib.contextmanager
def connected(*, quiet: bool = False, dashboard: bool = True) -> Iterator[None]:
    """A connection to Ray: the cluster this process is already in, the one RAY_ADDRESS names, or a local one.

    A local cluster listens on loopback only, asks for the token that Ray writes for this user, and keeps its
    session's folder to that user; it ends with the block. A cluster that was there before is left as it was.

    Args:
        quiet: keep the log lines of Ray and of its workers out of this terminal.

    Raises:
        RequestError: RAY_ADDRESS is the address of a dashboard; RAY_AUTH_TOKEN_PATH cannot be a file.
        ServiceError: Ray cannot be reached or started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = _named_address()
    local = address is None
    if local and "ray" not in sys.modules:  # Ray reads its authentication mode once, when it is imported
        _turn_on_authentication()
        os.environ.setdefault(*_ON_LOOPBACK)
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _refuse_silent(address)
    # Without an address Ray would join what the last `ray start` of this machine has left a note of.
    options: dict[str, object] = {"log_to_driver": not quiet, "address": address or "local"}
    if quiet:
        options["logging_level"] = logging.ERROR
    if local:
        options |= {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        with _inherited(*_NO_DASHBOARD) if local and not dashboard else contextlib.nullcontext():
            context = ray.init(**options)  # type: ignore[arg-type]
    except (ConnectionError, OSError, RuntimeError, ValueError) as fault:
        raise not_connected(fault, address) from fault
    if local:
        _close_session_folder(context.address_info.get("session_dir"))
    _quiet_progress_bars()
    if stop is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray put its own there, which ends the process with another code
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _inherited(name: str, value: str) -> Iterator[None]:
    """A variable for the processes that start meanwhile, and theirs; not for what this process does later."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _named_address() -> str | None:
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith(("http://", "https://")):
        raise RequestError(
            f"RAY_ADDRESS is {address}, a dashboard: it takes jobs, and this would join the cluster",
            "raypipe submit in place of raypipe; or unset RAY_ADDRESS to work on this machine alone",
        )
    return None if address in (None, "", "local") else address


def _refuse_silent(address: str) -> None:
    """Ray itself would ask a port where nobody listens again and again, for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return  # "auto", or another protocol
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as fault:
        raise not_connected(ConnectionError(f"nobody answers at {address}: {fault}"), address) from fault


def not_connected(fault: Exception, address: str | None) -> ServiceError:
    """Why there is no connection, of what Ray says in many lines.

    Args:
        address: of the cluster; None where a local one was to start.
    """
    said = str(fault).strip()
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", said)
    if len(versions) == 2:
        (ray, python), (our_ray, our_python) = versions
        return ServiceError(
            f"the cluster at {address} has Ray {ray} on Python {python}, and this is Ray {our_ray} on Python "
            f"{our_python}; they must be the same",
            "install what the cluster has, or work with the cluster's own: raypipe submit VERB ...",
        )
    remedy = f"see the log under {_logs()}"
    if address is not None:
        remedy = "check RAY_ADDRESS (unset it to work on this machine) and the token (RAY_AUTH_TOKEN_PATH)"
    return ServiceError(f"cannot connect to Ray: {(said.splitlines() or [''])[0][:200]}", remedy)


def _logs() -> str:
    """Where Ray's processes of this machine write their logs."""
    above = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray does
    return f"{above.rstrip('/')}/ray/session_latest/logs"


def facts() -> dict[str, Any]:
    """What the cluster is that this process is connected to, for the record of a start."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    have = ray.cluster_resources()
    return {
        "address": ray.get_runtime_context().gcs_address,
        "nodes": len(nodes),
        "cpus": have.get("CPU", 0.0),
        "gpus": have.get("GPU", 0.0),
    }


def require(what: str, *needs: Need) -> None:
    """Refuses what the cluster can never schedule, instead of waiting for it for ever.

    Args:
        needs: all that must run at the same time.

    Raises:
        RequestError: with what is asked for and what there is.
    """
    refuse_impossible(what, needs, machines())


def machines() -> Machines:
    """The nodes of the cluster; where nodes are added by need, all that its file allows."""
    import ray

    there = [
        Machine(_called(node), node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    if not _on_head():  # a search's trial, for one: whether nodes may be added is known on the head alone
        return Machines(tuple(there), may_grow=True, known=False)
    return machines_allowed(there) if _autoscales() else Machines(tuple(there))


def machines_allowed(there: Sequence[Machine]) -> Machines:
    """All that a cluster to which nodes are added may ever have.

    Args:
        there: what it has now.
    """
    file = _bootstrap_file()
    if not file.exists():  # KubeRay's autoscaler, which runs beside the head
        return Machines(tuple(there), may_grow=True, known=False)
    try:
        found = read_cluster(str(file))
    except RaypipeError:
        return Machines(tuple(there), may_grow=True, known=False)
    allowed = machines_of(found.node_types, found.most_workers)
    # Machines may have joined by hand, the file be older than the cluster, or tell the smallest of several.
    foreseen = allowed.cpus >= sum(m.cpus for m in there) and all(
        any(kind.cpus >= m.cpus and kind.gpus >= m.gpus for kind in allowed.all) for m in there
    )
    return allowed if foreseen else Machines(tuple(there), may_grow=True, known=False)


def all_cpus() -> float | None:
    """CPUs of the cluster; None where nodes may still be added."""
    import ray

    return None if not _on_head() or _autoscales() else float(ray.cluster_resources().get("CPU", 0))


def require_shared(writes: Iterable[str], reads: Iterable[str] = ()) -> None:
    """Refuses local paths that are not the same on all nodes that work; costs nothing with one node.

    Args:
        writes: folders that workers write into.
        reads: files and folders that workers read.

    Raises:
        RequestError: names the nodes and the path.
        ServiceError: a node does not answer.
    """
    import ray

    if not ray.is_initialized():
        return
    own = ray.get_runtime_context().get_node_id()
    others = {
        node["NodeID"]: _called(node)
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and any(node["Resources"].get(r) for r in ("CPU", "GPU"))
    }
    if others:
        refuse_unshared(writes, reads, lambda looks: _ask(others, looks))


def _ask(nodes: Mapping[str, str], looks: Sequence[Look]) -> dict[str, list[Answer]]:
    """What each node sees; one that is gone meanwhile, or takes no work any more, is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(looks)
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ASK_S)
    found = {}
    for node, answer in asked.items():
        try:
            found[nodes[node]] = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            raise ServiceError(
                f"the node {nodes[node]} did not answer in {ASK_S:.0f} s whether it shares {looks[0].path}",
                "see ray status, and the log of that node's raylet; then run the same command again",
            ) from None
        except ray.exceptions.TaskUnschedulableError:
            continue  # it is being drained: idle, or taken away by the cloud
        except ray.exceptions.RayError as fault:
            if any(n["NodeID"] == node and n["Alive"] for n in ray.nodes()):
                said = " ".join(str(fault).split())[:300]
                raise ServiceError(f"the node {nodes[node]} cannot work: {said}", _NODE_REMEDY) from fault
    return found


def _called(node: Mapping[str, Any]) -> str:
    """A node as messages name it."""
    host, address = str(node["NodeManagerHostname"]), str(node["NodeManagerAddress"])
    return host if host == address else f"{host} ({address})"


@contextlib.contextmanager
def unwrapped(what: str) -> Iterator[None]:
    """Takes what went wrong in a Ray worker out of the layers that Ray wraps it in.

    Raises:
        RaypipeError: the worker's own error, or one that names its cause.
    """
    try:
        yield
    except RaypipeError:
        raise
    except Exception as fault:
        chain = _causes(fault)
        ours = next((c for c in chain if isinstance(c, RaypipeError)), None)
        if ours is not None:
            raise ours from fault
        cause = chain[-1]
        text = " ".join(str(cause).split())[:300]
        remedy = f"the same command continues; its worker's log is in {_logs()} on its node"
        raise RaypipeError(f"{what}: a worker failed: {type(cause).__name__}: {text}", remedy) from fault


def _causes(fault: BaseException) -> list[BaseException]:
    """A fault and what it stands for, outermost first: Ray keeps causes in fields of several names."""
    chain: list[BaseException] = [fault]
    for item in chain:
        failures = getattr(item, "worker_failures", None)
        inner = list(failures.values()) if isinstance(failures, dict) else []
        held = ("training_failed_error", "controller_failure", "cause", "__cause__")
        inner += [getattr(item, name, None) for name in held]
        chain += [c for c in inner if isinstance(c, BaseException) and c not in chain]
    return chain


def _turn_on_authentication() -> None:
    """Token authentication for the cluster about to start; Ray's own token file, made 0600 if missing."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    place = named or "~/.ray/auth_token"
    try:
        _close_or_make(Path(place).expanduser())
    except (OSError, RuntimeError) as fault:  # RuntimeError: ~ of nobody
        said = f"Ray's token cannot be in {place} ({getattr(fault, 'strerror', None) or fault})"
        if named:
            remedy = "name a file in a folder of yours, there or to be made; unset it for ~/.ray/auth_token"
            raise RequestError(f"RAY_AUTH_TOKEN_PATH: {said}", remedy) from None
        raise ServiceError(said, "export RAY_AUTH_TOKEN_PATH=FILE, which may be new") from None


def _close_or_make(file: Path) -> None:
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(secrets.token_hex(32))
    elif not file.is_file():  # a folder that others need would be closed to them
        raise OSError("that is no plain file")
    else:
        with contextlib.suppress(OSError):  # Ray itself writes it readable for all
            file.chmod(0o600)


def _close_session_folder(folder: str | None) -> None:
    """Ray makes the folder of its logs and sockets writable for every user of the machine."""
    if folder:
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)


def _on_head() -> bool:
    import ray

    own = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == own and HEAD in node["Resources"] for node in ray.nodes())


def _autoscales() -> bool:
    """On the head: whether nodes may still be added (then a request that does not fit now may fit later)."""
    if _bootstrap_file().exists():
        return not _all_joined()
    # With KubeRay's autoscaler the head starts without one of its own.
    return "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")


def _all_joined() -> bool:
    """Whether the cluster is of machines of one's own, which its file names, and all of them are there."""
    import ray

    try:
        provider = yaml.safe_load(_bootstrap_file().read_text(encoding="utf-8"))["provider"]
        named = 1 + len(provider["worker_ips"]) if provider["type"] == "local" else None
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return False
    return named is not None and sum(node["Alive"] for node in ray.nodes()) >= named


def _bootstrap_file() -> Path:
    """Where ``ray up`` leaves the cluster's file on the head."""
    return Path(os.path.expanduser("~/ray_bootstrap_config.yaml"))  # without a home folder: none there


def _quiet_progress_bars() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
