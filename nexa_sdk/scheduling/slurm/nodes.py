"""Read what sinfo and squeue print of nodes and of the queue. Pure: text in, values out; the same from 20.11 to 26.05."""

from __future__ import annotations

import re

from nexa_sdk.scheduling.capacity import Node, QueuedJob

__all__ = ["QUEUE_FORMAT", "SINFO_FIELDS", "read_nodes", "read_queue"]

# A suffix after the colon ends each field: without one, long names would run into each other, and be cut.
SINFO_FIELDS = "NodeList:|,Partition:|,StateLong:|,CPUsState:|,Memory:|,AllocMem:|,Gres:|,GresUsed:|"
QUEUE_FORMAT = "%i|%u|%P|%T|%D|%M|%l|%R|%j"

_GPUS = re.compile(r"(?:^|,)gpu(?::([A-Za-z][\w.-]*))?:(\d+)")
_TAKES_NO_JOBS = ("down", "drain", "fail", "maint", "power", "reboot", "unknown", "planned", "inval", "no_respond", "*")


def read_nodes(text: str) -> list[Node]:
    """Read ``sinfo -h -N -O`` with :data:`SINFO_FIELDS`: a line for each node in each of its partitions."""
    found: dict[str, Node] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 8:
            continue
        name, partition, state, cpus, memory, allocated, gres, used = fields[:8]
        partition = partition.rstrip("*")
        if name in found:
            found[name] = found[name]._replace(partitions=f"{found[name].partitions},{partition}")
            continue
        _, idle, _, total = (int(number) if number.isdecimal() else 0 for number in cpus.split("/"))
        kinds = _GPUS.findall(gres)
        gpus, busy = sum(int(count) for _, count in kinds), sum(int(count) for _, count in _GPUS.findall(used))
        is_open = not any(word in state for word in _TAKES_NO_JOBS)
        mem = int(memory) if memory.isdecimal() else None
        taken = int(allocated) if allocated.isdecimal() else None
        found[name] = Node(
            name,
            partition,
            state.rstrip("*~#!%$@^-"),
            total,
            idle if is_open else 0,
            gpus,
            max(0, gpus - busy) if is_open else 0,
            ",".join(dict.fromkeys(kind for kind, _ in kinds if kind)),
            mem,
            (max(0, mem - taken) if is_open else 0) if mem is not None and taken is not None else None,
        )
    return list(found.values())


def read_queue(text: str) -> list[QueuedJob]:
    """Read ``squeue -h -o`` with :data:`QUEUE_FORMAT`; a name may hold what parts the fields."""
    found = []
    for line in text.splitlines():
        fields = line.split("|", 8)
        if len(fields) == 9:
            job, user, partition, state, nodes, elapsed, limit, reason, name = fields
            found.append(QueuedJob(job, name, user, partition, state, int(nodes) if nodes.isdecimal() else 0, elapsed, limit, reason))
    return found
