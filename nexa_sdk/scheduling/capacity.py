"""What a cluster has, and who waits for it: values that every scheduler can tell."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Node", "QueuedJob"]


class Node(NamedTuple):
    """A machine of a cluster.

    Attributes
    ----------
    name : str
    partitions : str
        Their names, with commas between them.
    state : str
        As ``sinfo`` has it: idle, mixed, allocated, down, drained, …
    cpus, cpus_free, gpus, gpus_free : int
        None is free of a node that takes no jobs.
    gpu_type : str
        As jobs ask for it; empty where that is not said.
    mem, mem_free : int or None
        In MiB; free is what no job has asked for. None where it is not known.
    """

    name: str
    partitions: str
    state: str
    cpus: int
    cpus_free: int
    gpus: int
    gpus_free: int
    gpu_type: str
    mem: int | None
    mem_free: int | None

    @classmethod
    def machine(cls, name: str, *, cpus: int, cpus_free: int, gpus: int, gpus_free: int) -> Node:
        """Return a machine without a scheduler of its own."""
        is_idle, is_full = (cpus_free, gpus_free) == (cpus, gpus), not cpus_free
        return cls(name, "", "idle" if is_idle else "allocated" if is_full else "mixed", cpus, cpus_free, gpus, gpus_free, "", None, None)


class QueuedJob(NamedTuple):
    """A job that waits or runs; what waits of an array is one.

    Attributes
    ----------
    job, name, user, partition : str
    state : str
    nodes : int
    elapsed, limit : str
        As ``squeue`` writes them: ``1-02:03:04``.
    reason : str
        Why it waits, or where it runs.
    """

    job: str
    name: str
    user: str
    partition: str
    state: str
    nodes: int
    elapsed: str
    limit: str
    reason: str
