"""Judge a job by what Slurm says of its partitions. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nexa_sdk.errors import nearest
from nexa_sdk.scheduling.base import Check
from nexa_sdk.scheduling.slurm.accounting import Partition
from nexa_sdk.walltime import format_walltime

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["expected_start", "number_of_tasks", "resources", "run_folder"]


def resources(job: Job, table: dict[str, Partition]) -> list[Check]:
    """Check partition, walltime and GPUs."""
    names = job.partition.split(",") if job.partition else [name for name, part in table.items() if part.is_default]
    unknown = [name for name in names if name not in table]
    if unknown:
        return [Check("partition", "error", f"there is no partition {unknown[0]!r}; {nearest(unknown[0], table)}")]
    if not names:
        return [Check("partition", "warning", f"the cluster has no default; choose one of {', '.join(table)}")]
    chosen = [table[name] for name in names]
    found = [Check("partition", "ok", ", ".join(names) + ("" if job.partition else " (the default)"))]
    if not any(part.is_up for part in chosen):
        found.append(Check("partition", "warning", f"{', '.join(names)} is down: trials will wait"))
    nodes = sum(part.nodes for part in chosen)
    if job.nodes is not None and job.nodes > nodes:
        found.append(Check("nodes", "error", f"nodes={job.nodes}, but {', '.join(names)} has {nodes}"))
    return [*found, _walltime(job, chosen), *_gpus(job, chosen)]


def run_folder(folder: str, *, is_throw_away: bool) -> list[Check]:
    """Doubt a run's folder that other machines hardly see."""
    if is_throw_away or not folder.startswith(("/tmp/", "/var/tmp/", "/dev/shm/")):  # noqa: S108  nothing is written there
        return []
    words = (
        f"{folder} is this machine's own, most likely, and the nodes must see it; choose another with Cluster(…, runs='/a/shared/folder')"
    )
    return [Check("run folder", "warning", words)]


def number_of_tasks(tasks: int, array_size: int, *, pack: int = 1) -> Check:
    """Say how many tasks there are, and in how many arrays."""
    of_trials = f" of {pack} trials" if pack > 1 else ""
    arrays = -(-tasks // array_size)
    return Check("tasks", "ok", f"{tasks:,}{of_trials} in {arrays} array{'s' if arrays > 1 else ''} (MaxArraySize={array_size:,})")


def _walltime(job: Job, chosen: list[Partition]) -> Check:
    limits = [part.limit for part in chosen]
    longest = None if None in limits else max(limit for limit in limits if limit is not None)
    if job.time is None:
        return Check("walltime", "warning", "none given: the partition's default applies, often short; give time=")
    if longest is not None and (job.limit is None or job.limit > longest):
        return Check(
            "walltime",
            "error",
            f"{format_walltime(job.limit)} is over the partition's limit of {format_walltime(longest)}: trials would wait for ever",
        )
    return Check("walltime", "ok", format_walltime(job.limit) + (f" of at most {format_walltime(longest)}" if longest else ""))


def _gpus(job: Job, chosen: list[Partition]) -> list[Check]:
    if not job.gpu_count:
        return []
    kinds: dict[str, int] = {}
    for part in chosen:
        for kind, count in part.gpus.items():
            kinds[kind] = max(kinds.get(kind, 0), count)
    if not kinds:
        return [Check("GPUs", "error", f"partition {', '.join(part.name for part in chosen)} has none; choose another partition")]
    if job.gpu_type is not None and job.gpu_type not in kinds:
        return [Check("GPUs", "error", f"there is no GPU type {job.gpu_type!r} here; {nearest(job.gpu_type, kinds)}")]
    most = kinds[job.gpu_type] if job.gpu_type else max(kinds.values())
    if job.gpus_per_node is not None and job.gpus_per_node > most:
        return [Check("GPUs", "error", f"gpus_per_node={job.gpus_per_node}, but no node has more than {most}")]
    if job.gpus is not None and job.gpus > most * (job.nodes or sum(part.nodes for part in chosen)):
        return [Check("GPUs", "error", f"gpus={job.gpus}, but {job.nodes or 'all'} nodes have at most {most} each")]
    return [Check("GPUs", "ok", f"{job.gpu_count} of {job.gpu_type or ', '.join(kinds)} a trial")]


_START = re.compile(r"to start at (\S+?)(?: a)? using (\d+) processors on nodes (\S+)")


def expected_start(returncode: int, words: str) -> Check:
    """Read ``sbatch --test-only``, which answers on stderr."""
    if returncode == 0 and (match := _START.search(words)):
        return Check("expected start", "ok", f"{match[1].replace('T', ' ')} on {match[3]}, as the queue stands now")
    said = re.sub(r"^(sbatch|allocation failure): (error: )?", "", words.strip().splitlines()[-1] if words.strip() else "nothing")
    return Check("expected start", "error" if returncode else "unknown", f"sbatch --test-only says: {said}")
