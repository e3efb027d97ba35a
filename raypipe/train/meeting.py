"""How the ranks find each other: each listens at the address that Ray knows its node by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class Meeting(TorchConfig):
    """Ray's settings of the process group, with the interface of each node's address for gloo.

    Gloo asks for the address of its own host's name. Where /etc/hosts says 127.0.1.1, as on a newly
    installed Debian or Ubuntu, or nothing, each rank would tell the others to call at 127.0.0.1.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _AtNodeAddress


class _AtNodeAddress(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(listen_at_node_address)
        super().on_start(worker_group, backend_config)


def listen_at_node_address() -> None:
    """Names gloo's interface to this process, unless GLOO_SOCKET_IFNAME does so already."""
    import ray

    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """The network interface that has an address; None where none has, as behind an address translation."""
    for name, held in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in held):
            return name
    return None
