"""Read what squeue, sacct and sinfo print. Pure: text in, values out.

Text, not JSON: the text is the same from Slurm 20.11 to 26.05, the JSON of no two versions is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache

from nexa_sdk.retry import Bounds
from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks

__all__ = ["SACCT_FIELDS", "SQUEUE_FORMAT", "Partition", "merge", "read_bounds", "read_partitions", "read_sacct", "read_squeue"]

Tasks = dict[str, dict[int, TaskStatus]]

# The free text is last: it alone may hold a bar.
SQUEUE_FORMAT = "%F|%K|%T|%S|%e|%N|%r"
SACCT_FIELDS = "JobID,State,ExitCode,Start,End,NodeList,Reason"

# Asked once for each of ten thousand rows, sets are faster than a state's properties.
_TERMINAL = frozenset(state for state in State if state.is_terminal)
_ENDS = _TERMINAL | {State.REQUEUED}  # of an execution


def read_squeue(text: str) -> Tasks:
    """Read ``squeue -h -r -t all -o SQUEUE_FORMAT``."""
    found: Tasks = {}
    job, tasks = "", dict[int, TaskStatus]()
    for line in text.splitlines():
        row_job, _, rest = line.partition("|")
        task, _, words = rest.partition("|")
        status = _queued(words)
        if status is None or not task.isdecimal():  # a collapsed row; -r leaves none, on no version
            continue
        if row_job != job:
            job, tasks = row_job, found.setdefault(row_job, {})
        tasks[int(task)] = status
    return found


# Of ten thousand rows most say the same as another: what waits waits for one thing, and much ends at once.
@lru_cache(maxsize=16384)
def _queued(words: str) -> TaskStatus | None:
    fields = words.split("|", 4)
    if len(fields) < 5:
        return None
    state_text, start, end, node, reason = fields
    state = _state(state_text)
    return TaskStatus(
        state,
        0 if state is State.COMPLETED else None,  # that is what it means; of the others only accounting and records tell
        start=_time(start) if state is not State.PENDING else None,  # else the expected start
        end=_time(end) if state in _TERMINAL else None,  # else the limit
        node=node,
        reason=_reason(state, state_text, reason),
    )


@dataclass(frozen=True)
class Accounted:
    """What sacct says of one job.

    Attributes
    ----------
    explicit : dict
        The last row of each task that has rows of its own.
    earlier : dict
        Its rows before that, the oldest first: executions before it was requeued.
    collapsed : dict
        Tasks in rows that name several.
    """

    explicit: dict[int, TaskStatus] = field(default_factory=dict)
    earlier: dict[int, list[TaskStatus]] = field(default_factory=dict)
    collapsed: dict[int, TaskStatus] = field(default_factory=dict)


_COLLAPSED = re.compile(r"\[([\d,:%-]+)\]?")  # 20.11 cuts it, and so leaves out the bracket


def read_sacct(text: str) -> dict[str, Accounted]:
    """Read ``sacct -n -P -X -D --format=SACCT_FIELDS``."""
    found: dict[str, Accounted] = {}
    job, accounted = "", Accounted()
    for line in text.splitlines():
        name, _, words = line.partition("|")
        row_job, _, task = name.partition("_")
        several = None if task.isdecimal() else _COLLAPSED.fullmatch(task)
        status = _accounted(words)
        if status is None or not (several or task.isdecimal()):  # for some seconds a row may have its raw id
            continue
        if row_job != job:
            job, accounted = row_job, found.setdefault(row_job, Accounted())
        if several:
            accounted.collapsed.update(dict.fromkeys(parse_tasks(several[1].rstrip(",-")), status))
            continue
        number = int(task)
        if number in accounted.explicit:
            accounted.earlier.setdefault(number, []).append(accounted.explicit[number])
        accounted.explicit[number] = status
    return found


@lru_cache(maxsize=16384)
def _accounted(words: str) -> TaskStatus | None:
    fields = words.split("|", 5)
    if len(fields) < 6:
        return None
    state_text, code, start, end, node, reason = fields
    state = _state(state_text)
    return TaskStatus(
        state,
        _exit_code(state, code),
        _time(start),
        _time(end) if state in _ENDS else None,
        "" if node == "None assigned" else node,
        _reason(state, state_text, reason),
    )


def merge(asked: Iterable[str], queued: Tasks, accounted: dict[str, Accounted]) -> Tasks:
    """Join both answers: what the controller knows alive is so, what ended is as accounted.

    A task that only accounting knows, and as not ended, is left out: its row is late or was lost.
    Up to 23.11 a collapsed row goes on naming tasks that have left it: it counts only for tasks
    that have no row of their own.
    """
    return {job: _merge(queued.get(job, {}), accounted.get(job, Accounted())) for job in asked}


def _merge(live: dict[int, TaskStatus], known: Accounted) -> dict[int, TaskStatus]:
    tasks = {
        task: status
        for task, status in known.collapsed.items()
        if status.state in _TERMINAL and (task not in known.explicit or known.explicit[task].state is State.REQUEUED)
    }
    tasks.update(live)
    for task, row in known.explicit.items():
        now = live.get(task)
        before: Sequence[TaskStatus] = known.earlier.get(task, ())
        if row.state is State.REQUEUED or (now is not None and _is_before(row, now)):
            before = (*before, row)
        elif row.state in _TERMINAL and (now is None or now.state in _TERMINAL):
            tasks[task] = row
        if before and task in tasks:
            tasks[task] = replace(tasks[task], earlier=tuple(each for each in before if each.state in _ENDS))
    return tasks


def _is_before(row: TaskStatus, now: TaskStatus) -> bool:
    """Whether what accounting has is an execution before the one that the controller tells of.

    The row of the present one may be some seconds late, and the controller's answer is a moment older.
    """
    if row.state not in _TERMINAL:
        return False
    if now.state is State.PENDING:
        return row.state in (State.NODE_FAIL, State.PREEMPTED)
    return row.end is not None and now.start is not None and now.start >= row.end and now.start != row.start


_state = lru_cache(maxsize=256)(State.read)


@lru_cache(maxsize=16384)
def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() and text != "0" else None


# 53: slurmd could not open the log (22.05). 125: the step ran out of memory.
_NO_SIGNALS = (53, 125)


@lru_cache(maxsize=1024)
def _exit_code(state: State, text: str) -> int | None:
    code, _, signal = text.partition(":")
    if state not in _TERMINAL or not code.isdecimal():
        return None
    if signal.isdecimal() and int(signal):
        return 128 + int(signal) if int(signal) not in _NO_SIGNALS else None
    # A limit or a cancel leaves 0:0, which is no exit code of the program's.
    return int(code) if state in (State.COMPLETED, State.FAILED) else None


_TELLING = ("JobLaunchFailure", "DependencyNeverSatisfied")  # of why something ended


@lru_cache(maxsize=1024)
def _reason(state: State, state_text: str, reason: str) -> str:
    by = re.fullmatch(r"CANCELLED by (\S+)", state_text.strip())
    if by:
        return f"cancelled by uid {by[1]}"
    # What has ended still carries why it once waited (BeginTime), or an exit code's name.
    return "" if reason == "None" or (state in _ENDS and reason not in _TELLING) else reason


@dataclass(frozen=True)
class Partition:
    """A partition, as sinfo tells of it.

    `limit` is None where there is none; `gpus` maps a type of GPU to the most that a node has.
    """

    name: str
    is_default: bool
    is_up: bool
    limit: timedelta | None
    nodes: int
    gpus: dict[str, int]


_GPU = re.compile(r"gpu(?::([A-Za-z][\w.-]*))?:(\d+)")


def read_partitions(text: str) -> dict[str, Partition]:
    """Read ``sinfo -h -o '%P|%a|%l|%D|%G'``: a line for each partition and kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5:
            continue
        name, up, limit, nodes, gres = fields
        before = found.get(name.rstrip("*"))
        gpus = dict(before.gpus) if before else {}
        for kind, count in _GPU.findall(gres):
            gpus[kind or "gpu"] = max(gpus.get(kind or "gpu", 0), int(count))
        found[name.rstrip("*")] = Partition(
            name.rstrip("*"),
            name.endswith("*"),
            up == "up",
            read_limit(limit),
            int(nodes) + (before.nodes if before else 0),
            gpus,
        )
    return found


def read_bounds(text: str, config: Mapping[str, str], *, partition: str | None, cpus: int) -> Bounds:
    """Read ``sinfo -h -o '%P|%l|%L|%m|%D'`` and Slurm's configuration: what a trial gets, and the most that there is.

    Parameters
    ----------
    partition : str, optional
        As the job has it; unless given, the default.
    cpus : int
        Of a trial on one node.
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    names = partition.split(",") if partition else [row[0].rstrip("*") for row in rows if row[0].endswith("*")]
    chosen = [row for row in rows if row[0].rstrip("*") in names]
    if not chosen:
        return Bounds()
    limits = [read_limit(row[1]) for row in chosen]
    defaults = [read_limit(row[2]) for row in chosen]
    memories = [int(match[0]) for row in chosen if (match := re.match(r"[0-9]+", row[3])) and int(match[0]) > 1]  # 1: not configured
    return Bounds(
        memory=_default_memory(config, cpus),
        most_memory=f"{max(memories)}M" if memories else None,
        time=min((length for length in defaults if length is not None), default=None),
        most_time=None if None in limits else max(limit for limit in limits if limit is not None),
        nodes=sum(int(row[4]) for row in chosen) if len(names) == 1 else None,
    )


def _default_memory(config: Mapping[str, str], cpus: int) -> str | None:
    of_node, of_cpu = config.get("DefMemPerNode", ""), config.get("DefMemPerCPU", "")
    if of_node.isdecimal() and int(of_node):
        return f"{of_node}M"
    return f"{int(of_cpu) * cpus}M" if of_cpu.isdecimal() and int(of_cpu) else None


def read_limit(text: str) -> timedelta | None:
    """Read a time limit as sinfo prints it: ``infinite``, ``1-00:00:00``, ``2:00:00``, ``30:00``."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    hours, minutes, seconds = ([0, 0, 0] + [int(part) for part in parts])[-3:]
    return timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds)
