"""What a cluster's nodes and GPUs do at this moment."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from nexa_sdk.errors import ClusterError, CommandFailed
from nexa_sdk.monitoring.frames import frame
from nexa_sdk.monitoring.samples import SampleReader, Series
from nexa_sdk.monitoring.telemetry import agent_text
from nexa_sdk.scheduling.environment import for_trials
from nexa_sdk.scheduling.slurm.commands import SlurmScheduler

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from nexa_sdk.scheduling.base import Scheduler
    from nexa_sdk.transports.base import Transport

__all__ = ["Looks", "look_at_cluster", "look_at_machine", "utilization_now"]

MOST_JOBS = 256  # that are looked into at once: each takes a step of its own
ANSWER = 90.0  # seconds
MOST_LOOKS = 720  # that are kept: two hours at ten seconds each

# A step beside each running job: it sees that job's GPUs, and its own control group. The agent comes by stdin.
_STEPS = r"""
most=$1
folder=$(mktemp -d) || exit 73
trap 'rm -rf "$folder"' EXIT
cat > "$folder/agent.py" || exit 73
jobs=$(squeue --me -h -t RUNNING -r -o '%A %D %i') || exit 69
number=0
while read -r id nodes name; do
  [ -n "$id" ] || continue
  ((++number <= most)) || { echo "only $most of your running jobs are looked into" > "$folder/$number.err"; break; }
  echo "$name" > "$folder/$number.name"
  timeout 40 srun --jobid="$id" --overlap --immediate=20 --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --quiet \
    python3 -IS - once < "$folder/agent.py" > "$folder/$number.out" 2> "$folder/$number.err" &
  ((number % 16)) || wait
done <<< "$jobs"
wait
for ((k = 1; k <= number; k++)); do
  printf '\n>out %s\n' "$(cat "$folder/$k.name" 2> /dev/null)"
  cat "$folder/$k.out" 2> /dev/null
  printf '\n>err %s\n' "$(cat "$folder/$k.name" 2> /dev/null)"
  cat "$folder/$k.err" 2> /dev/null
done
exit 0
"""


class Where(Protocol):
    """What is needed of a cluster."""

    @property
    def prometheus(self) -> str | None: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def transport(self) -> Transport: ...


def utilization_now(cluster: Where) -> pd.DataFrame:
    """Tabulate what the nodes do; see :meth:`nexa_sdk.Cluster.utilization`."""
    series, complaints = look_at_cluster(cluster)
    table = frame(series)
    table.attrs.update(complaints=complaints)
    if complaints:
        warnings.warn("no answer of " + "; ".join(f"{name}: {words}" for name, words in complaints.items()), stacklevel=3)
    return table


def look_at_cluster(cluster: Where) -> tuple[list[Series], dict[str, str]]:
    """Take one sample of what its nodes and GPUs do, and name those that did not answer.

    Raises
    ------
    ClusterError
        When the cluster does not answer.
    """
    if cluster.prometheus is not None:
        from nexa_sdk.monitoring.prometheus import Prometheus

        return Prometheus(cluster.prometheus).now(), {}
    if isinstance(cluster.scheduler, SlurmScheduler):
        environment = for_trials({**cluster.transport.environment(), **cluster.scheduler.settings})
        return _look_into_jobs(cluster.transport, environment)
    return [look_at_machine(cluster.transport)], {}


class _Grown:
    """The numbers of looks, one after another."""

    def __init__(self, looks: list[Series]) -> None:
        self.looks = looks

    def values(self, name: str, begin: int = 0) -> NDArray[np.float32]:
        import numpy as np

        return np.concatenate([look.values(name) for look in self.looks[begin:]])

    def time(self, begin: int = 0) -> NDArray[np.float64]:
        import numpy as np

        return np.concatenate([look.time() for look in self.looks[begin:]])

    def covers(self, begin: int = 0) -> NDArray[np.float32]:
        import numpy as np

        return np.concatenate([look.covers() for look in self.looks[begin:]])

    def count(self) -> int:
        return len(self.looks)


class Looks:
    """Looks at a cluster again and again; the last ones are kept, as series that grow.

    Attributes
    ----------
    series : list of Series
        Of what was seen at the last looks.
    complaints : dict of str to str
        Who did not answer at the last one, and why.
    """

    def __init__(self, cluster: Where) -> None:
        self._cluster = cluster
        self._kept: dict[tuple[object, ...], Series] = {}
        self._number = 0
        self._seen: dict[tuple[object, ...], int] = {}
        self.complaints: dict[str, str] = {}

    @property
    def series(self) -> list[Series]:
        """What was seen."""
        return list(self._kept.values())

    def look(self) -> None:
        """Take a sample more of everybody.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        found, self.complaints = look_at_cluster(self._cluster)
        self._number += 1
        for one in found:
            key: tuple[object, ...] = (one.task, one.node, one.devices)
            self._seen[key] = self._number
            before = self._kept.get(key)
            looks = before.curves.looks if before is not None and isinstance(before.curves, _Grown) else []
            if before is None or len(looks) >= MOST_LOOKS:  # then the older half goes
                looks = looks[MOST_LOOKS // 2 :]
                self._kept[key] = replace(one, curves=_Grown(looks))
            looks.append(one)
        for known, number in list(self._seen.items()):
            if self._number - number > MOST_LOOKS:
                del self._seen[known], self._kept[known]


def look_at_machine(transport: Transport) -> Series:
    """Take one sample of the machine at the other end of a transport.

    Raises
    ------
    ClusterError
        When it does not answer, or has no python3.
    """
    python = sys.executable if transport.is_here else "python3"
    answer = transport.run([python, "-IS", "-", "once"], env=for_trials(transport.environment()), stdin=agent_text(), timeout=ANSWER)
    if answer.returncode:
        raise CommandFailed("python3", answer.returncode, answer.stderr)
    series = _read_answers("", answer.stdout)
    if not series:
        raise ClusterError(f"the agent wrote no sample, but {answer.stdout[:200]!r} {answer.stderr.strip()}")
    return series[-1]


def _look_into_jobs(transport: Transport, environment: Mapping[str, str]) -> tuple[list[Series], dict[str, str]]:
    answer = transport.run(
        ["bash", "-c", _STEPS, "nexa-utilization", str(MOST_JOBS)],
        env=environment,
        stdin=agent_text(),
        timeout=ANSWER * (1 + MOST_JOBS // 64),
    )
    if answer.returncode:
        raise CommandFailed("squeue", answer.returncode, answer.stderr)
    found: list[Series] = []
    complaints: dict[str, str] = {}
    for piece in answer.stdout.split("\n>")[1:]:
        head, _, content = piece.partition("\n")
        kind, _, job = head.partition(" ")
        if kind == "out":
            found += _read_answers(job, content)
        elif content.strip() and not any(one.task == job for one in found):
            complaints[job or "the others"] = re.sub(r"^(srun: )?error: ", "", content.strip().splitlines()[-1])
    return found, complaints


def _read_answers(job: str, content: str) -> list[Series]:
    """Read what the nodes of one job answered: a line each."""
    found = []
    for line in content.splitlines():
        try:
            sample = str(json.loads(line)["sample"])
        except (ValueError, TypeError, KeyError):  # words of a login's profile, say
            continue
        reader = SampleReader(job)
        reader.feed(f"{line}\n{sample}\n".encode())
        found += reader.series
    return found
