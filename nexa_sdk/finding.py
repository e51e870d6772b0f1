"""Find a run that this machine's journal does not know, from its folder on the cluster: it was launched on another laptop."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from nexa_sdk.errors import RunNotFound
from nexa_sdk.records import ArrayRecord, RunRecord, read_description

if TYPE_CHECKING:
    from nexa_sdk.cluster import Cluster

__all__ = ["find_on"]


def find_on(cluster: Cluster, run_id: str) -> RunRecord:
    """Take a run over into the journal.

    What of it was cancelled is known to the journal that cancelled it alone: where Slurm has forgotten
    it too, it is UNKNOWN here.

    Parameters
    ----------
    run_id : str
        Or the beginning of it, where it is clear.

    Raises
    ------
    RunNotFound
        There is no folder of that run, or it was not laid down whole.
    ClusterError
        When the cluster does not answer.
    """
    transport, runs = cluster.transport, cluster.runs_folder
    names = [name for name in transport.list(runs) if name.startswith(run_id)] if run_id else []
    if run_id not in names and len(names) != 1:
        what = f"may be any of {', '.join(sorted(names)[:5])}; give more of it" if names else f"has no folder in {runs}"
        raise RunNotFound(f"{run_id!r} {what} on {cluster.url}")
    folder = f"{runs.rstrip('/')}/{run_id if run_id in names else names[0]}"
    plan = transport.read(f"{folder}/plan.json")
    if not plan:
        raise RunNotFound(f"{folder} on {cluster.url} holds no plan.json: its launch was cut short before it arrived")
    try:
        written = json.loads(plan)
        run, total = written["id"], sum(count for _, _, count in written["arrays"])
        arrays = _arrays(cluster, folder, run)
    except RunNotFound:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise RunNotFound(
            f"{folder} on {cluster.url} can't be read ({error}): a full disk cut it short, or it is of a later nexa_sdk"
        ) from error
    record = RunRecord(run, cluster.url, folder, written.get("digest", ""), total, min(array.at for array in arrays))
    cluster.journal.begin(record, written, arrays)
    return record


def _arrays(cluster: Cluster, folder: str, run: str) -> list[ArrayRecord]:
    marks = cluster.transport.list(f"{folder}/submitted")
    described = re.compile(rf"({re.escape(run)}-\d+)\.json")
    tokens = sorted({match[1] for name in marks if (match := described.fullmatch(name))}, key=lambda token: int(token.rpartition("-")[2]))
    if not tokens:
        raise RunNotFound(f"{folder} on {cluster.url} does not say which arrays it has: it was launched by an older nexa_sdk")
    wanted = [name for token in tokens for name in (f"{token}.json", token, f"{token}.claim") if name in marks]
    files = cluster.transport.read_many(f"{folder}/submitted", wanted)
    found = []
    for token in tokens:
        job_id = (files.get(f"{token}.claim") or files.get(token) or b"").decode().strip() or None
        found.append(read_description(files[f"{token}.json"], run=run, job_id=job_id))
    return found
