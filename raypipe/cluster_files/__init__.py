"""Files that describe a cluster: what `ray up` and KubeRay read, and what is weak in them."""

from raypipe.cluster_files.read import ClusterFile, NodeType, read_cluster

__all__ = ["ClusterFile", "NodeType", "read_cluster"]
