"""A cluster's file as the rules see it: commands, images, environment, machines; whichever kind of file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from raypipe.cluster_files.kubernetes import cluster_part, groups
from raypipe.cluster_files.places import Document, Place
from raypipe.cluster_files.read import ClusterFile
from raypipe.cluster_files.types import Part

HEAD, WORKER, BOTH = "head", "worker", "both"
COMMANDS = {  # the lists of commands of a `ray up` file, and on which nodes they run
    "initialization_commands": BOTH,
    "setup_commands": BOTH,
    "head_setup_commands": HEAD,
    "worker_setup_commands": WORKER,
    "head_start_ray_commands": HEAD,
    "worker_start_ray_commands": WORKER,
}
RUN_OPTIONS = {"run_options": BOTH, "head_run_options": HEAD, "worker_run_options": WORKER}
ASSIGNED = re.compile(r"""(?:^|[\s;&|('"])([A-Za-z_]\w*)=("[^"]*"|'[^']*'|[^\s;&|)'"]*)""")


class Hit(NamedTuple):
    """A place where a rule found something; `file` where it is not the file that was named."""

    source: Document
    place: Place
    said: str = ""
    file: str = ""


class Text(NamedTuple):
    """A command or an option of `docker run`, and on which nodes it is used."""

    source: Document
    place: Place
    text: str
    nodes: str

    def hit(self, said: str = "") -> Hit:
        return Hit(self.source, self.place, said)


@dataclass(frozen=True)
class View:
    """What rules look at.

    Attributes:
        file: the file as read.
        config: a `ray up` file's document with Ray's defaults filled in; {} for Kubernetes.
        ray_version: of this machine, which has to be the cluster's too.
    """

    file: ClusterFile
    config: dict[str, Any]
    ray_version: str

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def kind(self) -> str:
        return self.file.kind

    @property
    def source(self) -> Document:
        """A `ray up` file's one document."""
        return self.file.sources[0]

    def hit(self, *place: str | int, said: str = "") -> Hit:
        """A hit in a `ray up` file."""
        return Hit(self.source, place, said)

    # -- `ray up` files ------------------------------------------------------------------------------------

    def node_types(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Name, declaration and whether it is the head, of each machine type of a cloud."""
        types = self.config.get("available_node_types")
        for name, declared in types.items() if isinstance(types, dict) else ():
            if isinstance(declared, dict):
                yield str(name), declared, name == self.config.get("head_node_type")

    def node_configs(self) -> Iterator[tuple[Place, dict[str, Any], bool]]:
        for name, declared, head in self.node_types():
            config = declared.get("node_config")
            yield (
                ("available_node_types", name, "node_config"),
                config if isinstance(config, dict) else {},
                head,
            )

    @property
    def docker(self) -> dict[str, Any]:
        """The docker section where containers are used, else {}."""
        docker = self.config.get("docker")
        return docker if isinstance(docker, dict) and docker.get("container_name") else {}

    def run_options(self) -> Iterator[Text]:
        """Options of `docker run`."""
        for key, nodes in RUN_OPTIONS.items():
            yield from self._texts(("docker", key), self.docker.get(key), nodes)
        for name, declared, _ in self.node_types():
            docker = declared.get("docker")
            options = docker.get("worker_run_options") if isinstance(docker, dict) else None
            yield from self._texts(
                ("available_node_types", name, "docker", "worker_run_options"), options, WORKER
            )

    def starts(self, nodes: str) -> list[Text]:
        """The commands with `ray start` for the head or for workers."""
        key = f"{nodes}_start_ray_commands"
        return [t for t in self._texts((key,), self.config.get(key), nodes) if "ray start" in t.text]

    def _texts(self, place: Place, values: Any, nodes: str) -> Iterator[Text]:
        for i, value in enumerate(values if isinstance(values, list) else []):
            if isinstance(value, str):
                yield Text(self.source, (*place, i), value, nodes)

    # -- Kubernetes ----------------------------------------------------------------------------------------

    def clusters(self) -> Iterator[Part]:
        """The specs of the RayClusters in the file, those inside RayJobs and RayServices too."""
        if self.kind == "kuberay":
            for source in self.file.sources:
                part = cluster_part(self.path, source)
                if part is not None and part.value:
                    yield part

    def groups(self) -> Iterator[tuple[Part, bool]]:
        """The groups of pods, each with whether it is the head."""
        for cluster in self.clusters():
            yield from groups(cluster)

    def pods(self) -> Iterator[Part]:
        """The specs of all pods: those of the groups, and that which submits a RayJob."""
        for group, _ in self.groups():
            yield group.part("template").part("spec")
        for source in self.file.sources if self.kind == "kuberay" else ():
            if source.value.get("kind") == "RayJob":
                spec = Part.of(self.path, source).part("spec")
                if spec.value.get("submitterPodTemplate"):
                    yield spec.part("submitterPodTemplate").part("spec")

    def containers(self) -> Iterator[tuple[Part, Part]]:
        """Pod spec and container, init containers too."""
        for pod in self.pods():
            for key in ("initContainers", "containers"):
                for container in pod.parts(key):
                    yield pod, container

    # -- both ----------------------------------------------------------------------------------------------

    def commands(self) -> Iterator[Text]:
        """Everything that a shell on a node, or in a container, is given."""
        for key, nodes in COMMANDS.items():
            yield from self._texts((key,), self.config.get(key), nodes)
        for name, declared, head in self.node_types():
            place: Place = ("available_node_types", name)
            for key in ("initialization_commands", "worker_setup_commands"):
                yield from self._texts((*place, key), declared.get(key), HEAD if head else WORKER)
            config = declared.get("node_config")
            user_data = config.get("UserData") if isinstance(config, dict) else None
            if isinstance(user_data, str):
                yield Text(
                    self.source, (*place, "node_config", "UserData"), user_data, HEAD if head else WORKER
                )
        for _, container in self.containers():
            for key in ("command", "args"):
                value = container.value.get(key)
                if isinstance(value, list):
                    text = " ".join(str(v) for v in value)
                    yield Text(container.source, (*container.place, key), text, BOTH)
        for source in self.file.sources if self.kind == "kuberay" else ():
            if source.value.get("kind") == "RayJob":
                spec = Part.of(self.path, source).part("spec").value
                for key in ("entrypoint", "runtimeEnvYAML"):
                    if isinstance(spec.get(key), str):
                        yield Text(source, ("spec", key), spec[key], BOTH)

    def images(self) -> Iterator[Text]:
        """The container images."""
        if self.docker:
            for key, nodes in (("image", BOTH), ("head_image", HEAD), ("worker_image", WORKER)):
                if isinstance(self.docker.get(key), str) and self.docker[key]:
                    yield Text(self.source, ("docker", key), self.docker[key], nodes)
            for name, declared, _ in self.node_types():
                docker = declared.get("docker")
                image = docker.get("worker_image") if isinstance(docker, dict) else None
                if isinstance(image, str):
                    yield Text(
                        self.source, ("available_node_types", name, "docker", "worker_image"), image, WORKER
                    )
        for _, container in self.containers():
            image = container.value.get("image")
            yield Text(container.source, (*container.place, "image"), str(image or ""), BOTH)

    def environment(self) -> Iterator[tuple[str, str, Text]]:
        """Variables that commands, `docker run` and containers set: name, value, where."""
        for text in [*self.commands(), *self.run_options()]:
            for name, value in ASSIGNED.findall(text.text):
                yield name, value.strip("\"'"), text
        for _, container in self.containers():
            for item in container.parts("env"):
                value = item.value.get("value")
                if value is not None:
                    name = str(item.value.get("name", ""))
                    yield name, str(value), Text(item.source, (*item.place, "value"), str(value), BOTH)


def strings(source: Document) -> Iterator[tuple[Place, str]]:
    """All texts of a document with their places; a mapping's keys are not among them."""
    todo: list[tuple[Place, Any]] = [((), source.value)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            todo += reversed([((*place, str(k)), v) for k, v in value.items()])
        elif isinstance(value, list):
            todo += reversed([((*place, i), v) for i, v in enumerate(value)])
