"""A stage that runs inside another Ray program can be stopped, and is then gone with all its workers.

Ray Train has this for Ctrl-C alone, and there only for the main thread of a driver. A trial of a search
that is stopped in any other way leaves its worker group, with its CPUs and GPUs, to a cleaner that needs
the dashboard.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

ABORT_S = 60.0


class Stop:
    """Asks a running stage to end; used by one ``train()``."""

    def __init__(self) -> None:
        self._asked, self._lock = threading.Event(), threading.Lock()
        self._controller: Any = None

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def now(self) -> None:
        """Ends the worker group and its controller; returns when they have been told, or at once."""
        with self._lock:
            self._asked.set()
            controller = self._controller
        if controller is not None:
            _abort(controller)

    def takes(self, controller: Any) -> None:
        """Ray Train's controller has been started."""
        with self._lock:
            self._controller = controller
            asked = self._asked.is_set()
        if asked:
            _abort(controller)

    def over(self) -> None:
        """The controller has ended. It is let go: while somebody holds its handle its process stays."""
        with self._lock:
            self._controller = None


def free_orphans() -> None:
    """Removes the placement groups that actors of this job made which have died since.

    Ray removes a group with the job that made it, not with the actor. One of a worker group whose controller
    was killed keeps its CPUs and GPUs until then, or until Ray Train's cleaner sees it, with the dashboard.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = Group.FromString(data)
        if group.creator_job_id.hex() != job or group.is_detached or group.state == Group.REMOVED:
            continue
        if group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil():  # nil: the driver
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def trainer_that_stops(stop: Stop) -> Any:
    """A TorchTrainer whose controller is known to ``stop``."""
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.constants import (
        DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE as QUIET,
    )
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    class Stoppable(TorchTrainer):
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            """As in Ray 2.60, which keeps the controller to itself.

            The address goes with it: what watches over the controller asks the cluster whether it lives, and
            without an address it would ask the one that this machine's last ``ray start`` left a note of.
            """
            here = ray.get_runtime_context()
            more = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": QUIET, "RAY_ADDRESS": here.gcs_address}
            node = here.get_node_id()
            controller = (
                ray.remote(TrainController)
                .options(
                    num_cpus=0,
                    label_selector={ray._raylet.RAY_NODE_ID_KEY: node},
                    runtime_env={"env_vars": more | get_env_vars_to_propagate()},
                )
                .remote(**arguments)
            )
            stop.takes(controller)
            try:
                ray.get(controller.run.remote())
                return ray.get(controller.get_result.remote())
            finally:
                stop.over()

    return Stoppable


def _abort(controller: Any) -> None:
    """As Ctrl-C does: the worker group, its placement group and the cleaner go before the controller."""
    import ray

    try:
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    except ray.exceptions.GetTimeoutError:
        ray.kill(controller)
    except ray.exceptions.RayError:
        with contextlib.suppress(Exception):
            ray.kill(controller)  # it is gone already: that is how an abort ends
