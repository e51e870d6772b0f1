"""What a cluster has and who waits for it, as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.scheduling.base import Scheduler

__all__ = ["free_lines", "nodes_table", "partition_lines", "queue_table"]

_TOKEN = re.compile(r"(.+-[0-9a-f]{8})-\d+(-keeper)?")


class Where(Protocol):
    """What is needed of a cluster."""

    @property
    def scheduler(self) -> Scheduler: ...


def nodes_table(cluster: Where) -> pd.DataFrame:
    """Tabulate the nodes; see :meth:`nexa_sdk.Cluster.nodes`."""
    import pandas as pd

    from nexa_sdk.scheduling.capacity import Node

    table = pd.DataFrame(cluster.scheduler.nodes(), columns=list(Node._fields)).rename(columns={"name": "node"}).set_index("node")
    return table.astype({"mem": "Int64", "mem_free": "Int64"})


def free_lines(nodes: pd.DataFrame) -> list[str]:
    """Say what of some nodes is free, in a few words each: cores, and GPUs of each type."""
    found = [f"{nodes['cpus_free'].sum():,} of {nodes['cpus'].sum():,} cores free"]
    for kind in dict.fromkeys(nodes["gpu_type"][nodes["gpus"] > 0]):
        of_kind = nodes[nodes["gpu_type"] == kind]
        name = f"{kind} GPUs" if kind else "GPUs"
        found.append(f"{of_kind['gpus_free'].sum():,} of {of_kind['gpus'].sum():,} {name} free")
    return found


def partition_lines(cluster: Where) -> dict[str, str]:
    """Say of each partition what is free, and how long a job may run; of a cluster without them, under an empty name."""
    from nexa_sdk.walltime import format_walltime

    nodes = nodes_table(cluster)
    if not nodes["partitions"].any():
        return {"": " · ".join(free_lines(nodes))}
    of = nodes["partitions"].str.split(",")
    found = {}
    for name, limit in cluster.scheduler.partitions().items():
        words = free_lines(nodes[of.map(lambda names, name=name: name in names)])
        found[name] = " · ".join([*words, *([f"at most {format_walltime(limit)}"] if limit is not None else [])])
    return found


def queue_table(cluster: Where, *, everyone: bool) -> pd.DataFrame:
    """Tabulate the queue; see :meth:`nexa_sdk.Cluster.queue`."""
    import pandas as pd

    from nexa_sdk.scheduling.capacity import QueuedJob

    found = cluster.scheduler.queue(everyone=everyone)
    table = pd.DataFrame(found, columns=list(QueuedJob._fields))
    matches = [_TOKEN.fullmatch(job.name) for job in found]
    table.insert(1, "run", [match[1] if match else "" for match in matches])
    return table.set_index("job")
