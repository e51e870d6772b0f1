"""Bring the code to a cluster: the specification's function, thin over :meth:`nexa_sdk.cluster.Cluster.sync`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.syncing import Synced

__all__ = ["sync_repository"]


def sync_repository(
    destination: str, *, cluster: str | None = None, path: str | os.PathLike[str] = ".", **options: Any
) -> Synced | pd.DataFrame:
    """Make a folder of a cluster what this repository is.

    Parameters
    ----------
    destination : str
        A folder of the cluster, or ``"ssh://user@host:port/folder"`` with the cluster in it; the folder
        is relative to the home there if it begins with ``/~/``.
    cluster : str, optional
        What ``Cluster(…)`` takes; unless given, that of the destination, else ``$NEXA_CLUSTER``.
    path : path
        The repository, or a folder in it.
    **options
        Those of :meth:`nexa_sdk.cluster.Cluster.sync`.

    Raises
    ------
    InvalidInput
    ClusterError
    """
    from nexa_sdk.cluster import Cluster

    if destination.startswith("ssh://"):
        host, slash, folder = destination.removeprefix("ssh://").partition("/")
        if cluster is not None:
            raise InvalidInput(f"{destination!r} names a cluster, and so does cluster={cluster!r}; leave one of them out")
        if not slash or not folder:
            raise InvalidInput(f"{destination!r} names no folder; write ssh://host/~/project, or ssh://host/whole/path")
        cluster, destination = f"ssh://{host}", folder if folder.startswith("~") else f"/{folder}"
    cluster = cluster or os.environ.get("NEXA_CLUSTER")
    if not cluster:
        raise InvalidInput(f"destination={destination!r}: on which cluster? Give cluster=, or ssh://host{destination}")
    synced: Synced | pd.DataFrame = Cluster(cluster).sync(path, destination, **options)
    return synced
