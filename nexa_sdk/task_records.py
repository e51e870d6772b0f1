"""What tasks write down of themselves in the run's folder, and what it says where the scheduler says nothing.

``tasks/<job>_<task>.started`` and ``.json`` are of a task, ``.trials`` of the trials of a packed one:
a JSON line when a trial begins, and one when it has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import PartlyUnreachable
from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.transports.base import Transport

__all__ = ["Record", "TaskRecords", "complete", "judge", "slot_status"]

Record = Mapping[str, Any]


class TaskRecords:
    """The records of a run's tasks; those that say how a task ended are read once."""

    def __init__(self, folder: str, transport: Transport) -> None:
        self._folder = f"{folder}/tasks"
        self._transport = transport
        self._ended: dict[str, Record] = {}

    def of_tasks(self, names: Sequence[str]) -> dict[str, Record]:
        """Return the records of tasks, by ``<job>_<task>``; those that left none are left out."""
        missing = [name for name in names if name not in self._ended]
        if missing:
            files = self._read([f"{name}.json" for name in missing])
            self._ended.update({name: json.loads(files[f"{name}.json"]) for name in missing if files.get(f"{name}.json")})
        found = {name: self._ended[name] for name in names if name in self._ended}
        begun = [name for name in names if name not in found]
        files = self._read([f"{name}.started" for name in begun]) if begun else {}
        return {**found, **{name.removesuffix(".started"): json.loads(content) for name, content in files.items() if content.strip()}}

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        try:
            return self._transport.read_many(self._folder, names)
        except PartlyUnreachable as error:  # of those the scheduler says why it knows no more
            return error.found

    def forget(self, names: Sequence[str]) -> None:
        """Forget how tasks ended: they run again, and will write anew."""
        for name in names if self._ended else ():
            self._ended.pop(name, None)

    def of_slots(self, names: Sequence[str]) -> dict[str, dict[int, Record]]:
        """Return the records of packed tasks' trials, by ``<job>_<task>`` and slot: the last line of each."""
        files = self._read([f"{name}.trials" for name in names])
        found: dict[str, dict[int, Record]] = {}
        for name, content in files.items():
            slots = found.setdefault(name.removesuffix(".trials"), {})
            for line in content.splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # half written, or cut by a full disk
                    continue
                slots[record["slot"]] = record
        return found


def complete(status: TaskStatus, record: Record | None, folder: str) -> TaskStatus:
    """Complete what the scheduler says of a task with its own record: exit codes above 128 it shows in two ways."""
    if record is not None and "stopped" in record and status.state is State.FAILED:
        return replace(status, state=State.CANCELLED, exit_code=None, reason=record["stopped"])
    if record is not None and "exit" in record and status.state in (State.COMPLETED, State.FAILED):
        return replace(status, exit_code=record["exit"], start=status.start or record["start"], end=status.end or record["end"])
    if status.state is State.FAILED and record is None and not status.reason:
        return replace(status, reason=f"it left no record: does its node see {folder}?")
    return status


def judge(record: Record | None, *, was_cancelled: bool) -> TaskStatus:
    """Judge a task that the scheduler no longer knows: by its own record, else by what we cancelled."""
    if record is not None and "stopped" in record:
        return TaskStatus(State.CANCELLED, None, record["start"], record.get("end"), record["node"], record["stopped"])
    if record is not None and "exit" in record:
        if was_cancelled and record["exit"]:
            state = State.CANCELLED
        else:
            state = State.COMPLETED if record["exit"] == 0 else State.FAILED
        code = record["exit"] if state is not State.CANCELLED else None
        return TaskStatus(state, code, record["start"], record["end"], record["node"], "from its own record")
    if was_cancelled:
        return TaskStatus(State.CANCELLED, start=record["start"] if record else None, node=record["node"] if record else "")
    if record is not None:
        return TaskStatus(State.UNKNOWN, start=record["start"], node=record["node"], reason="it began; the scheduler no longer knows it")
    return TaskStatus(State.UNKNOWN, reason="the scheduler does not know it; run.resume() looks for it")


def slot_status(task: TaskStatus, record: Record | None, *, was_cancelled: bool) -> TaskStatus:
    """Say what became of one trial of a packed task: by its own record, as far as that goes, else by its task."""
    if record is not None and "exit" in record:
        state = State.COMPLETED if record["exit"] == 0 else State.FAILED
        if record["exit"] and (was_cancelled or task.state in _ENDED_FROM_OUTSIDE) and record.get("ended_by_task"):
            state = task.state if task.state.is_terminal else State.CANCELLED
        code = record["exit"] if state in (State.COMPLETED, State.FAILED) else None
        return TaskStatus(state, code, record["start"], record["end"], record["node"])
    if record is not None and not task.state.is_terminal:
        return replace(task, start=record["start"], end=None, node=record["node"] or task.node, exit_code=None)
    if record is not None:
        state = State.FAILED if task.state is State.COMPLETED else task.state  # its task ended by itself, and it left no word
        return replace(task, state=state, start=record["start"], exit_code=None)
    if not task.state.is_terminal:
        waiting = "its turn in its task comes later" if task.state is State.RUNNING else task.reason
        return TaskStatus(State.PENDING if task.state is not State.UNKNOWN else task.state, node=task.node, reason=waiting)
    if task.state in (State.COMPLETED, State.FAILED):
        return replace(task, state=State.FAILED, start=None, end=None, reason=task.reason or "its task ended before it began")
    return replace(task, start=None, end=None, exit_code=None, reason=task.reason or "its task ended before it began")


_ENDED_FROM_OUTSIDE = frozenset({State.CANCELLED, State.TIMEOUT, State.OUT_OF_MEMORY, State.NODE_FAIL, State.PREEMPTED, State.DEADLINE})
