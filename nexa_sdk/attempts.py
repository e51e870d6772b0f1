"""Attempts: what became of each trial, from all that knows of it.

The scheduler tells of what it remembers, the records in the run's folder of what it forgot or can't
tell, and the journal of what ended before and of what was cancelled from here.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from nexa_sdk.errors import ClusterError, JournalError, RunNotFound
from nexa_sdk.keepers import Keepers, Orders
from nexa_sdk.scheduling.base import ArrayHandle, TaskStatus
from nexa_sdk.states import State
from nexa_sdk.submission import SETTLING
from nexa_sdk.task_records import TaskRecords, complete, judge, slot_status
from nexa_sdk.tasks import parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.records import ArrayRecord
    from nexa_sdk.run_budget import RunBudget
    from nexa_sdk.scheduling.base import Scheduler
    from nexa_sdk.scheduling.watcher import Watcher
    from nexa_sdk.transports.base import Transport

__all__ = ["Attempt", "Attempts"]

LATE = 15.0  # seconds that accounting may be late
ARRIVING = 90.0  # seconds that a submission may be under way: its time limit, and the look-up after it

Statuses = dict[tuple[int, int], TaskStatus]  # by task and slot


class Attempt(NamedTuple):  # a run may have 10⁵ of them, made anew at each look
    """One execution of a trial.

    Attributes
    ----------
    trial, number : int
        Which trial, and which of its attempts, counted from 1.
    array : ArrayRecord
        The array that carried it: its options are this attempt's resources, where they are others than planned.
    task : int
        The task of the array.
    slot : int or None
        Its place among the trials of a packed task.
    status : TaskStatus
    """

    trial: int
    number: int
    array: ArrayRecord
    task: int
    slot: int | None
    status: TaskStatus

    @property
    def job_id(self) -> str | None:
        """Where the scheduler ran it."""
        return self.array.job_id

    @property
    def job(self) -> str:
        """Its task, as ``squeue -j`` takes it."""
        return f"{self.array.job_id}_{self.task}"

    @property
    def name(self) -> str:
        """What the files of this attempt are called."""
        return self.job if self.slot is None else f"{self.job}-{self.slot}"


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
        The last attempt of each trial, by trial. One that a keeper is to run again is PENDING there.
    keepers : Keepers, optional
        What looks after the arrays, where something was ordered at the launch.
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
        explain: Callable[[ArrayRecord, TaskStatus | None], Callable[[int], str]],
        job: Callable[[], Job],
        budget: Callable[[], RunBudget],
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
        self._explain = explain  # why trials of an array never began, from how the run's first trial stands
        self._job = job
        self._budget = budget
        self._orders_read = False
        self.keepers: Keepers | None = None
        self._lock = threading.Lock()
        self._records = TaskRecords(folder, transport)

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
            arrays, statuses = self._ask(max_age)
            if (keepers := self._find_keepers(arrays)) is not None:
                while keepers.adopt(arrays, statuses):
                    arrays, statuses = self._ask(max_age)
            self.arrays = arrays
            self._arrange(arrays, statuses)
            if keepers is not None:
                self.last = keepers.overlay(self.last, self.all)
            self._close(arrays, statuses)
            self._budget().warn()
            return list(self.last)

    def _find_keepers(self, arrays: Sequence[ArrayRecord]) -> Keepers | None:
        """Find what was ordered at the launch; looked for once."""
        if not self._orders_read and not self._job().is_kept:
            self._orders_read = True
        if not self._orders_read:
            content = self._transport.read(f"{self._folder}/keeper.json")
            self._orders_read = bool(content) or arrays[0].outcome == "submitted"  # else it may be being laid down
            if content:
                self.keepers = Keepers(
                    self._run,
                    self._folder,
                    Orders.read(content),
                    scheduler=self._scheduler,
                    transport=self._transport,
                    journal=self._journal,
                    job=self._job(),
                )
        return self.keepers

    def _ask(self, max_age: float) -> tuple[list[ArrayRecord], dict[str, Statuses]]:
        """Ask what there is of all arrays."""
        arrays = [self._adopt(array) for array in self._journal.arrays(self._run)]
        if not arrays:
            raise RunNotFound(f"the journal {self._journal.path} no longer knows the run {self._run}; was it removed?")
        open_ones = [array for array in arrays if array.final is None and array.job_id is not None]
        self.handles = tuple(ArrayHandle(str(array.job_id), self._folder, array.size, array.token, array.tasks) for array in open_ones)
        answer = self._watcher.ask(self.handles, max_age=max_age)
        cancels = self._journal.cancels([array.token for array in open_ones]) if open_ones else {}
        statuses: dict[str, Statuses] = {}
        first: TaskStatus | None = None
        for array in arrays:
            places = array.places()
            if array.final is not None:
                statuses[array.token] = {
                    (task, slot): TaskStatus.read(final) for (task, slot, _), final in zip(places, array.final, strict=True)
                }
            elif array.job_id is not None:
                cancelled = {task for text in cancels.get(array.token, []) for task in parse_tasks(text)}
                told = self._statuses(array, answer[array.job_id], cancelled)
                told = self._budget().explain(array, told, cancelled)
                statuses[array.token] = self._explained(array, told, cancelled, first)
            else:
                statuses[array.token] = dict.fromkeys(((task, slot) for task, slot, _ in places), _not_submitted(array))
            if places[0][2] == 0:
                first = statuses[array.token][places[0][:2]]
        return arrays, statuses

    # ---- submissions that nobody saw confirmed -------------------------------------------------

    def _adopt(self, array: ArrayRecord) -> ArrayRecord:
        """Look up a submission that nobody saw confirmed, and adopt what is found."""
        if array.outcome == "submitted" and array.final is None and array.sends > 1:
            return self._follow_claim(array)
        if array.outcome not in ("intent", "unknown"):
            return array
        try:
            job_id = self._scheduler.find(array.token, self._folder, nodes=array.nodes)
        except ClusterError as error:
            if array.nodes is None or not error.may_pass:
                raise
            return replace(array, words=str(error))  # the other machines may answer
        if job_id is None:
            return self._give_up(array)
        return self._note(array, "submitted", job_id=job_id)

    def _give_up(self, array: ArrayRecord) -> ArrayRecord:
        """Settle a submission that provably never arrived; one that may yet, or may have, stays unknown."""
        now, memory = time.time(), self._scheduler.memory
        if now - array.at < ARRIVING or (memory is not None and now - array.at > memory):
            return array
        try:
            verdict = self._scheduler.void(array.token, self._folder, array.sends, nodes=array.nodes)
        except ClusterError:  # it is being submitted just now, or its folder is out of reach
            return array
        if verdict.job_id is not None:
            return self._note(array, "submitted", job_id=verdict.job_id)
        if not verdict.is_certain and verdict.age < SETTLING:  # and the queue was asked just now
            return array
        return self._note(array, "void", words="its launch was cut short before it arrived; run.resume() sends it")

    def _follow_claim(self, array: ArrayRecord) -> ArrayRecord:
        """Follow the job that carries the trials of an array that was sent twice, should both have arrived."""
        claim = self._transport.read(f"{self._folder}/submitted/{array.token}.claim").decode().strip()
        if not re.fullmatch(r"(.+-)?[0-9]+", claim) or claim == array.job_id:
            return array
        return self._note(array, "submitted", job_id=claim)

    def _note(self, array: ArrayRecord, outcome: str, *, job_id: str | None = None, words: str = "") -> ArrayRecord:
        self._write(lambda: self._journal.settle(array.token, outcome, job_id=job_id, words=words))
        return replace(array, outcome=outcome, job_id=job_id, words=words)

    def _write(self, write: Callable[[], None]) -> None:
        """Write to the journal what can be found out again; where it can't be written, states are right all the same."""
        try:
            write()
        except JournalError as error:
            warnings.warn(f"{error}. What is shown of {self._run} is right, and will be asked for again", stacklevel=5)

    # ---- states --------------------------------------------------------------------------------

    def _statuses(self, array: ArrayRecord, answer: Mapping[int, TaskStatus], cancelled: set[int]) -> Statuses:
        """Complete what the scheduler says with the records in the run's folder and our own cancels."""
        tasks = self._task_statuses(array, answer, cancelled)
        if array.pack == 1:
            return {(task, 0): status for task, status in tasks.items()}
        begun = [f"{array.job_id}_{task}" for task, status in tasks.items() if status.state is not State.PENDING]
        slots = self._records.of_slots(begun)
        found: Statuses = {}
        for task, slot, _ in array.places():
            record = slots.get(f"{array.job_id}_{task}", {}).get(slot)
            found[task, slot] = slot_status(tasks[task], record, was_cancelled=task in cancelled)
        return found

    def _explained(self, array: ArrayRecord, told: Statuses, cancelled: set[int], first: TaskStatus | None) -> Statuses:
        """Say of what Slurm cancelled because it could never run what had gone wrong before."""
        if not any(_never_began(status) for status in told.values()):
            return told
        explain = self._explain(array, first)
        for task, slot, trial in array.places():
            status = told[task, slot]
            if _never_began(status) and task not in cancelled and (words := explain(trial)):
                told[task, slot] = replace(status, state=State.CANCELLED, reason=words)
        return told

    def _task_statuses(self, array: ArrayRecord, answer: Mapping[int, TaskStatus], cancelled: set[int]) -> dict[int, TaskStatus]:
        tasks = parse_tasks(array.tasks)
        # Slurm shows exit codes above 128 in two ways, and without accounting none at all.
        unclear = [task for task in tasks if task not in answer or _lacks_exit_code(answer[task])]
        records = self._records.of_tasks([f"{array.job_id}_{task}" for task in unclear]) if unclear else {}
        going = [task for task, status in answer.items() if not status.state.is_terminal]
        self._records.forget([f"{array.job_id}_{task}" for task in going])  # requeued: another record will come
        found = {task: answer[task] for task in tasks if task in answer}
        for task in unclear:
            status, record = answer.get(task), records.get(f"{array.job_id}_{task}")
            found[task] = judge(record, was_cancelled=task in cancelled) if status is None else complete(status, record, self._folder)
        return found

    def _arrange(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Statuses]) -> None:
        everything: list[Attempt] = []
        last: dict[int, Attempt] = {}
        for array in arrays:
            known = statuses[array.token]
            is_packed, is_unsent = array.pack > 1, array.outcome in ("rejected", "void")
            for task, slot, trial in array.places():
                before = last.get(trial)
                if is_unsent and before is not None:  # a retry that never went out is no attempt
                    continue
                status = known[task, slot]
                number = before.number if before is not None else 0
                for execution in (*status.earlier, status):
                    number += 1
                    last[trial] = Attempt(trial, number, array, task, slot if is_packed else None, execution)
                    everything.append(last[trial])
        self.all = everything
        self.last = [last[trial] for trial in sorted(last)]

    def _close(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Statuses]) -> None:
        """Write down the arrays that have ended, and take their secrets away."""
        ended = [
            array
            for array in arrays
            if array.final is None and array.job_id is not None and all(_is_settled(status) for status in statuses[array.token].values())
        ]
        for array in ended:
            known = statuses[array.token]
            final = [known[task, slot].written() for task, slot, _ in array.places()]
            self._write(lambda array=array, final=final: self._journal.finish(array.token, final))  # type: ignore[misc]
            if self._has_secrets() and not (self.keepers is not None and self.keepers.has_secrets_of(array.token)):
                self._transport.at(array.nodes).remove([f"{self._folder}/secrets/{array.token}"])
        if ended:
            self._watcher.forget([str(array.job_id) for array in ended])


def _is_settled(status: TaskStatus) -> bool:
    """Whether nothing more will be known of a task: accounting is some seconds late with exit codes."""
    is_late = _lacks_exit_code(status) and status.exit_code is None
    return status.state.is_terminal and not (is_late and status.end is not None and time.time() - status.end < LATE)


def _never_began(status: TaskStatus) -> bool:
    """Whether a task was cancelled, but by nobody in particular, before it began; or went without a trace."""
    is_gone = status.state in (State.CANCELLED, State.UNKNOWN)
    has_begun = status.node or status.start not in (None, status.end)  # sacct has the end as a start, at times
    return is_gone and not has_begun and not status.reason.startswith(("cancelled by", "not begun"))


def _lacks_exit_code(status: TaskStatus) -> bool:
    return status.state is State.FAILED or (status.state is State.COMPLETED and status.exit_code is None)


def _not_submitted(array: ArrayRecord) -> TaskStatus:
    if array.outcome in ("rejected", "void"):
        return TaskStatus(State.CANCELLED, reason=f"never submitted: {array.words}")
    if array.outcome == "waiting":
        return TaskStatus(State.PENDING, reason="its array is submitted when there is room")
    return TaskStatus(State.UNKNOWN, reason=array.words or "its submission was never confirmed")
