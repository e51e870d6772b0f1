"""Attempts: what became of each trial, from all that knows of it.

The scheduler tells of what it remembers, the records in the run's folder of what it forgot or can't
tell, and the journal of what ended before and of what was cancelled from here.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import RunNotFound
from nexa_sdk.scheduling.base import ArrayHandle, TaskStatus
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.journal import ArrayRecord, Journal
    from nexa_sdk.scheduling.base import Scheduler
    from nexa_sdk.scheduling.watcher import Watcher
    from nexa_sdk.transports.base import Transport

__all__ = ["Attempt", "Attempts"]

LATE = 15.0  # seconds that accounting may be late
ARRIVING = 90.0  # seconds that a submission may be under way: its time limit, and the look-up after it


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial.

    Attributes
    ----------
    trial, number : int
        Which trial, and which of its attempts, counted from 1.
    job_id, task
        Where the scheduler ran it: its log is ``logs/<job_id>_<task>.log``.
    status : TaskStatus
    """

    trial: int
    number: int
    job_id: str | None
    task: int
    status: TaskStatus

    @property
    def name(self) -> str:
        """What the files of this attempt are called."""
        return f"{self.job_id}_{self.task}"


class Attempts:
    """The attempts of a run's trials, as last known.

    Attributes
    ----------
    arrays : list of ArrayRecord
        The run's arrays, in the order in which they were submitted.
    handles : tuple of ArrayHandle
        Those that have not ended.
    all : list of Attempt
        Every attempt.
    last : list of Attempt
        The last attempt of each trial, by trial.
    """

    def __init__(
        self,
        run: str,
        folder: str,
        *,
        scheduler: Scheduler,
        watcher: Watcher,
        transport: Transport,
        journal: Journal,
        has_secrets: Callable[[], bool],
    ) -> None:
        self.arrays: list[ArrayRecord] = []
        self.handles: tuple[ArrayHandle, ...] = ()
        self.all: list[Attempt] = []
        self.last: list[Attempt] = []
        self._run = run
        self._folder = folder
        self._scheduler = scheduler
        self._watcher = watcher
        self._transport = transport
        self._journal = journal
        self._has_secrets = has_secrets
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}

    def refresh(self, *, max_age: float = 0.0) -> list[Attempt]:
        """Ask the cluster, and return the last attempt of each trial.

        Parameters
        ----------
        max_age : float
            Seconds that an earlier answer may be old.

        Raises
        ------
        ClusterError
            When the cluster does not answer. No state changes then.
        """
        with self._lock:
            arrays = [self._adopt(array) for array in self._journal.arrays(self._run)]
            if not arrays:
                raise RunNotFound(f"the journal {self._journal.path} no longer knows the run {self._run}; was it removed?")
            open_ones = [array for array in arrays if array.final is None and array.job_id is not None]
            self.handles = tuple(ArrayHandle(str(array.job_id), self._folder, array.size) for array in open_ones)
            answer = self._watcher.ask(self.handles, max_age=max_age)
            cancels = self._journal.cancels([array.token for array in open_ones])
            statuses: dict[str, dict[int, TaskStatus]] = {}
            for array in arrays:
                if array.final is not None:
                    statuses[array.token] = dict(zip(parse_tasks(array.tasks), map(_read_final, array.final), strict=True))
                elif array.job_id is not None:
                    statuses[array.token] = self._statuses(array, answer[array.job_id], cancels.get(array.token, []))
                else:
                    statuses[array.token] = dict.fromkeys(parse_tasks(array.tasks), _not_submitted(array))
            self.arrays = arrays
            self._arrange(arrays, statuses)
            self._close(arrays, statuses)
            return list(self.last)

    def _adopt(self, array: ArrayRecord) -> ArrayRecord:
        """Look up a submission that nobody saw confirmed, and adopt what is found."""
        if array.outcome not in ("intent", "unknown"):
            return array
        job_id = self._scheduler.find(array.token, self._folder)
        if job_id is None:
            return self._give_up(array)
        self._journal.settle(array.token, "submitted", job_id=job_id)
        return replace(array, outcome="submitted", job_id=job_id)

    def _give_up(self, array: ArrayRecord) -> ArrayRecord:
        """Settle a submission that provably never arrived; one that may yet, or may have, stays unknown."""
        age, memory = time.time() - array.at, self._scheduler.memory
        if age < ARRIVING or (memory is not None and age > memory):
            return array
        words = "its launch was cut short before it arrived"
        self._journal.settle(array.token, "rejected", words=words)
        return replace(array, outcome="rejected", words=words)

    def _statuses(self, array: ArrayRecord, answer: Mapping[int, TaskStatus], cancels: Sequence[str]) -> dict[int, TaskStatus]:
        """Complete what the scheduler says with the records in the run's folder and our own cancels."""
        tasks = parse_tasks(array.tasks)
        cancelled = {task for text in cancels for task in parse_tasks(text)}
        # Slurm shows exit codes above 128 in two ways, and without accounting none at all.
        unclear = [task for task in tasks if task not in answer or _lacks_exit_code(answer[task])]
        records = self._read_records([f"{array.job_id}_{task}" for task in unclear])
        found: dict[int, TaskStatus] = {}
        for task in tasks:
            status = answer.get(task)
            if status is not None and not status.state.is_terminal:
                self._records.pop(f"{array.job_id}_{task}", None)  # requeued: another record will come
            record = records.get(f"{array.job_id}_{task}")
            if status is None:
                status = _from_record(record, was_cancelled=task in cancelled)
            elif record is not None and "exit" in record and status.state in (State.COMPLETED, State.FAILED):
                status = replace(status, exit_code=record["exit"], start=status.start or record["start"], end=status.end or record["end"])
            elif status.state is State.FAILED and record is None and not status.reason:
                status = replace(status, reason=f"it left no record: does its node see {self._folder}?")
            found[task] = status
        return found

    def _read_records(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        missing = [name for name in names if name not in self._records]
        if missing:
            files = self._transport.read_many(f"{self._folder}/tasks", [f"{name}.json" for name in missing])
            for name in missing:
                if f"{name}.json" in files:
                    self._records[name] = json.loads(files[f"{name}.json"])
        found = {name: self._records[name] for name in names if name in self._records}
        begun = [name for name in names if name not in found]
        files = self._transport.read_many(f"{self._folder}/tasks", [f"{name}.started" for name in begun]) if begun else {}
        return {**found, **{name.removesuffix(".started"): json.loads(content) for name, content in files.items() if content.strip()}}

    def _arrange(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Mapping[int, TaskStatus]]) -> None:
        everything: list[Attempt] = []
        counts: Counter[int] = Counter()
        for array in arrays:
            for task, status in statuses[array.token].items():
                trial = array.first + task
                counts[trial] += 1
                everything.append(Attempt(trial, counts[trial], array.job_id, task, status))
        last = {attempt.trial: attempt for attempt in everything}
        self.all = everything
        self.last = [last[trial] for trial in sorted(last)]

    def _close(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Mapping[int, TaskStatus]]) -> None:
        """Write down the arrays that have ended, and take their secrets away."""
        ended = [
            array
            for array in arrays
            if array.final is None and array.job_id is not None and all(_is_settled(status) for status in statuses[array.token].values())
        ]
        for array in ended:
            self._journal.finish(array.token, [_write_final(status) for status in statuses[array.token].values()])
            if self._has_secrets():
                self._transport.remove([f"{self._folder}/secrets/{array.token}"])
        if ended:
            self._watcher.forget([str(array.job_id) for array in ended])


def _is_settled(status: TaskStatus) -> bool:
    """Whether nothing more will be known of a task: accounting is some seconds late with exit codes."""
    is_late = _lacks_exit_code(status) and status.exit_code is None
    return status.state.is_terminal and not (is_late and status.end is not None and time.time() - status.end < LATE)


def _lacks_exit_code(status: TaskStatus) -> bool:
    return status.state is State.FAILED or (status.state is State.COMPLETED and status.exit_code is None)


def _from_record(record: Mapping[str, Any] | None, *, was_cancelled: bool) -> TaskStatus:
    """Judge a task that the scheduler no longer knows: by its own record, else by what we cancelled."""
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
    return TaskStatus(State.UNKNOWN, reason="the scheduler does not know it")


def _not_submitted(array: ArrayRecord) -> TaskStatus:
    if array.outcome == "rejected":
        return TaskStatus(State.CANCELLED, reason=f"never submitted: {array.words}")
    return TaskStatus(State.UNKNOWN, reason=array.words or "its submission was never confirmed")


def _write_final(status: TaskStatus) -> list[Any]:
    return [status.state.value, status.exit_code, status.start, status.end, status.node, status.reason]


def _read_final(written: Sequence[Any]) -> TaskStatus:
    return TaskStatus(State(written[0]), *written[1:])
