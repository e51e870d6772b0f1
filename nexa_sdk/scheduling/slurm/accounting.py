"""Read what squeue, sacct and sinfo print. Pure: text in, values out.

Text, not JSON: the text is the same from Slurm 20.11 to 26.05, the JSON of no two versions is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks

__all__ = ["SACCT_FIELDS", "SQUEUE_FORMAT", "Partition", "merge", "read_partitions", "read_sacct", "read_squeue"]

Tasks = dict[str, dict[int, TaskStatus]]

# The free text is last: it alone may hold a bar.
SQUEUE_FORMAT = "%F|%K|%T|%S|%e|%N|%r"
SACCT_FIELDS = "JobID,State,ExitCode,Start,End,NodeList,Reason"


def read_squeue(text: str) -> Tasks:
    """Read ``squeue -h -r -t all -o SQUEUE_FORMAT``."""
    found: Tasks = {}
    for line in text.splitlines():
        fields = line.split("|", 6)
        if len(fields) < 7:
            continue
        job, task, state_text, start, end, node, reason = fields
        if not task.isdecimal():  # a collapsed row; -r leaves none, on no version
            continue
        state = State.read(state_text)
        found.setdefault(job, {})[int(task)] = TaskStatus(
            state,
            start=_time(start) if state is not State.PENDING else None,  # else the expected start
            end=_time(end) if state.is_terminal else None,  # else the limit
            node=node,
            reason=_reason(state, state_text, reason),
        )
    return found


@dataclass(frozen=True)
class Accounted:
    """What sacct says of one job: tasks with rows of their own, and those in collapsed rows."""

    explicit: dict[int, TaskStatus]
    collapsed: dict[int, TaskStatus]


_JOB_ID = re.compile(r"(\d+)_(?:(\d+)|\[([\d,:%-]+)\]?)")


def read_sacct(text: str) -> dict[str, Accounted]:
    """Read ``sacct -n -P -X --format=SACCT_FIELDS``.

    Up to 23.11 a collapsed row goes on to name tasks that have left it: it counts only for tasks
    without a row of their own.
    """
    found: dict[str, Accounted] = {}
    for line in text.splitlines():
        fields = line.split("|", 6)
        match = _JOB_ID.fullmatch(fields[0])
        if len(fields) < 7 or not match:
            continue
        _, state_text, code, start, end, node, reason = fields
        state = State.read(state_text)
        status = TaskStatus(
            state,
            exit_code=_exit_code(state, code),
            start=_time(start),
            end=_time(end) if state.is_terminal else None,
            node="" if node == "None assigned" else node,
            reason=_reason(state, state_text, reason),
        )
        job = found.setdefault(match[1], Accounted({}, {}))
        if match[2] is not None:
            job.explicit[int(match[2])] = status
        else:
            job.collapsed.update(dict.fromkeys(parse_tasks(match[3].rstrip(",-")), status))
    return found


def merge(asked: Iterable[str], queued: Tasks, accounted: dict[str, Accounted]) -> Tasks:
    """Join both answers: what the controller knows alive is so, what ended is as accounted.

    A task that only accounting knows, and as not ended, is left out: its row is late or was lost.
    """
    merged: Tasks = {}
    for job in asked:
        live = queued.get(job, {})
        known = accounted.get(job, Accounted({}, {}))
        tasks = {task: status for task, status in known.collapsed.items() if status.state.is_terminal}
        tasks.update({task: status for task, status in live.items() if status.state.is_terminal})
        tasks.update({task: status for task, status in known.explicit.items() if status.state.is_terminal})
        tasks.update({task: status for task, status in live.items() if not status.state.is_terminal})
        merged[job] = tasks
    return merged


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() and text != "0" else None


def _exit_code(state: State, text: str) -> int | None:
    code, _, signal = text.partition(":")
    if not state.is_terminal or not code.isdecimal():
        return None
    if signal.isdecimal() and int(signal):
        return 128 + int(signal)
    # A limit or a cancel leaves 0:0, which is no exit code of the program's.
    return int(code) if state in (State.COMPLETED, State.FAILED) else None


def _reason(state: State, state_text: str, reason: str) -> str:
    by = re.fullmatch(r"CANCELLED by (\S+)", state_text.strip())
    if by:
        return f"cancelled by uid {by[1]}"
    # What has ended still carries why it once waited (BeginTime), or an exit code's name.
    return "" if reason == "None" or (state.is_terminal and reason != "JobLaunchFailure") else reason


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


def read_limit(text: str) -> timedelta | None:
    """Read a time limit as sinfo prints it: ``infinite``, ``1-00:00:00``, ``2:00:00``, ``30:00``."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    hours, minutes, seconds = ([0, 0, 0] + [int(part) for part in parts])[-3:]
    return timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds)
