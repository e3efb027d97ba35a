"""Ray's face: how raypipe connects, what it asks of the machine."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypipe.errors import RaypipeError, RequestError, ServiceError

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


@contextlib.contextmanager
def connected(*, quiet: bool = False, dashboard: bool = True) -> Iterator[None]:
    """A connection to Ray: the cluster this process is already in, the one RAY_ADDRESS names, or a local one.

    A local cluster listens on loopback only and asks for the token that Ray writes for this user;
    it ends with the block. A cluster that was there before is left as it was.

    Args:
        quiet: keep the log lines of Ray and of its workers out of this terminal.

    Raises:
        ServiceError: Ray cannot be reached or started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    local = "RAY_ADDRESS" not in os.environ
    if local and "ray" not in sys.modules:  # Ray reads its authentication mode once, when it is imported
        _turn_on_authentication()
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, object] = {"log_to_driver": not quiet}
    if quiet:
        options["logging_level"] = logging.ERROR
    if local:
        options |= {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    else:
        options["address"] = os.environ["RAY_ADDRESS"]
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)  # type: ignore[arg-type]
    except (ConnectionError, OSError, RuntimeError, ValueError) as fault:
        remedy = (
            "check RAY_ADDRESS and the token"
            if not local
            else "see the log under /tmp/ray/session_latest/logs"
        )
        raise ServiceError(
            f"cannot connect to Ray: {str(fault).strip().splitlines()[0][:200]}", remedy
        ) from fault
    _quiet_progress_bars()
    if stop is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray put its own there, which ends the process with another code
    try:
        yield
    finally:
        ray.shutdown()


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


def require(cpus: float, gpus: float, what: str) -> None:
    """Refuses what the cluster can never schedule, instead of waiting for it for ever."""
    import ray

    have = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > have.get(name, 0) and not _autoscales():
            raise RequestError(
                f"{what} needs {wanted:g} {name}s, the cluster has {have.get(name, 0):g}",
                "lower the number of workers or actors, or what each takes, or run on a larger cluster",
            )


def all_cpus() -> float | None:
    """CPUs of the cluster; None where nodes may still be added."""
    import ray

    return None if _autoscales() else float(ray.cluster_resources().get("CPU", 0))


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
        remedy = "the same command continues; its worker's log is in /tmp/ray/session_latest/logs"
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
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    with contextlib.suppress(OSError):  # Ray itself writes it readable for all
        file.chmod(0o600)
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(secrets.token_hex(32))


def _autoscales() -> bool:
    """Whether nodes may still be added (then a request that does not fit now may fit later)."""
    return os.path.exists(os.path.expanduser("~/ray_bootstrap_config.yaml"))


def _quiet_progress_bars() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
