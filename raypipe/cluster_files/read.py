"""Reads the file of a cluster, of `ray up` or of KubeRay, and says which machines it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raypipe.cluster_files.kubernetes import KINDS, kuberay_types
from raypipe.cluster_files.launcher import launcher_types
from raypipe.cluster_files.places import Document, read_documents
from raypipe.cluster_files.types import NodeType
from raypipe.errors import RequestError
from raypipe.settings import expanded

__all__ = ["ClusterFile", "NodeType", "read_cluster"]

START = "start from cluster.yaml, cluster/on_premise.yaml or cluster/kuberay/raycluster.yaml"


@dataclass(frozen=True)
class ClusterFile:
    """A cluster's file, read.

    Attributes:
        path: as it was given.
        kind: the provider's type of a `ray up` file ("aws", "local", ...), or "kuberay".
        node_types: the machines; none where a RayJob names a cluster that is there already, or a `ray up`
            file leaves the machines to Ray's defaults.
        documents: the plain data, a `ray up` file's one document or the Kubernetes objects.
        sources: the same documents with the lines of their values.
        policies: of an "aws" file, the IAM policies in `aws/` or `cluster/aws/` beside it: path and document.
    """

    path: str
    kind: str
    node_types: tuple[NodeType, ...]
    documents: tuple[dict[str, Any], ...]
    sources: tuple[Document, ...] = field(default=(), repr=False)
    policies: tuple[tuple[str, Document], ...] = field(default=(), repr=False)

    @property
    def most_workers(self) -> int | None:
        """Of all types together; None where only the types have limits."""
        limit = self.documents[0].get("max_workers")
        return limit if isinstance(limit, int) and self.kind != "kuberay" else None


def read_cluster(path: str) -> ClusterFile:
    """Reads a `ray up` file or a file of Kubernetes objects with a RayCluster, RayJob or RayService in it.

    Raises:
        RequestError: missing or not yaml, a key that is there twice, neither kind of file, or a part that is
            not of its kind's form; with the line.
    """
    sources = read_documents(path)
    if not sources:
        raise RequestError(f"{path} is empty", START)
    for i, source in enumerate(sources, 1):
        if not isinstance(source.value, dict):
            raise RequestError(f"{path}, line {source.line(())}: document {i} is not a mapping", START)
    documents = tuple(s.value for s in sources)
    if any("apiVersion" in d or "kind" in d for d in documents):
        if not any(d.get("kind") in KINDS for d in documents):
            raise RequestError(f"{path} holds no cluster", f"one object is to be a {', '.join(KINDS)}")
        types = tuple(t for s in sources for t in kuberay_types(path, s))
        return ClusterFile(path, "kuberay", types, documents, sources)
    if len(sources) > 1:
        raise RequestError(
            f"{path}, line {sources[1].line(())}: a `ray up` file is one document", "take out the `---`"
        )
    if "provider" not in documents[0]:
        raise RequestError(
            f"{path} is no cluster's file: neither `provider:` (ray up) nor `kind:` (KubeRay) is in it", START
        )
    kind, found = launcher_types(path, sources[0])
    policies = tuple(_policies(path)) if kind == "aws" else ()
    return ClusterFile(path, kind, found, documents, sources, policies)


def _policies(path: str) -> Iterator[tuple[str, Document]]:
    here = expanded(path).parent
    for file in sorted([*here.glob("aws/*.json"), *here.glob("cluster/aws/*.json")]):
        for source in read_documents(file):  # JSON is yaml
            if isinstance(source.value, dict) and "Statement" in source.value:
                yield str(file), source
