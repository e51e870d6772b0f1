"""Ask after arrays: one squeue for all of them, and one sacct for what only accounting can tell.

What accounting has said of a task that ended is remembered, so that the tenth look at a run of ten
thousand does not read ten thousand rows again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nexa_sdk.errors import CommandFailed
from nexa_sdk.scheduling.base import ArrayHandle, TaskStatus
from nexa_sdk.scheduling.slurm import accounting, one_question
from nexa_sdk.scheduling.slurm.accounting import Accounted
from nexa_sdk.scheduling.slurm.one_question import Answered
from nexa_sdk.states import State
from nexa_sdk.transports.base import Completed

__all__ = ["Poller"]

AGE = 30.0  # seconds after which accounting is asked for a whole array again: a requeue shows itself nowhere else
FEW = 100  # tasks that are asked for by name; more than these cost as much as all of them
KEPT = 600.0  # seconds that is remembered what nobody asks for any more


@dataclass
class _Memory:
    """What accounting said of one job."""

    rows: Accounted = field(default_factory=Accounted)
    again: set[int] = field(default_factory=set)  # tasks that went on after their row had ended
    begun: set[int] = field(default_factory=set)  # tasks that were seen running
    asked: float = float("-inf")  # for the whole of it
    missing: int = 0  # tasks that nobody knew then: one that is cancelled while it waits leaves no trace
    wanted: float = 0.0

    def lacks(self, live: Mapping[int, TaskStatus]) -> list[int]:
        """Name the tasks that the controller knows as ended or requeued, and whose row is not known."""
        rows, ended = self.rows.explicit, []
        for task, status in live.items():
            known = task in rows and rows[task].state.is_terminal
            if not status.state.is_terminal:
                if known:
                    self.again.add(task)
                if status.state is not State.PENDING:
                    self.begun.add(task)
                elif task in self.begun:  # requeued: its row says what it was, as soon as it has come
                    ended.append(task)
            elif not known or task in self.again:
                ended.append(task)
        return ended

    def count_missing(self, live: Mapping[int, TaskStatus], count: int) -> int:
        """Count the tasks that neither the controller nor accounting knows, of so many."""
        rows, collapsed = self.rows.explicit, self.rows.collapsed
        told = self.told
        told.update(task for task, row in collapsed.items() if row.state.is_terminal and task not in rows)
        return max(0, count - len(told.union(live)))

    @property
    def told(self) -> set[int]:
        """The tasks whose end is known from accounting."""
        return {task for task, row in self.rows.explicit.items() if row.state.is_terminal and task not in self.again}

    def learn(self, told: Accounted, *, is_whole: bool) -> None:
        """Take in what sacct said, of the whole job or of some tasks."""
        self.begun.difference_update(task for task, row in told.explicit.items() if task in told.earlier or row.state is State.REQUEUED)
        if is_whole:
            self.rows = told
            self.again.clear()
            return
        for task, row in told.explicit.items():
            self.rows.explicit[task] = row
            if task in told.earlier:
                self.rows.earlier[task] = told.earlier[task]
        self.again.difference_update(told.explicit)


class Poller:
    """Asks after arrays, and remembers what accounting said.

    Parameters
    ----------
    run : callable
        Runs a command, and returns what it answered.
    has_accounting : callable
        Says whether there is a database that sacct can ask.
    is_far : bool
        Whether a command takes longer than what it does: both are asked in one then.
    """

    def __init__(self, run: Callable[..., Completed], has_accounting: Callable[[], bool], *, is_far: bool = False) -> None:
        self._run = run
        self._is_far = is_far
        self._has_accounting = has_accounting
        self._memories: dict[str, _Memory] = {}
        self._names = ""  # of what is asked for: a job of that id that has another name is another's

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Ask about all arrays at once; see :meth:`Scheduler.poll`."""
        jobs = {array.job_id: array.tasks for array in arrays}
        if not jobs:
            return {}
        names = {array.name for array in arrays}
        self._names = ",".join(sorted(names)) if all(names) else ""
        has_accounting = self._has_accounting()
        answered = self._ask(list(jobs), in_one=self._is_far and has_accounting)
        answer = answered.queue
        # Asked for one job alone that it has forgotten, squeue fails; among others it skips it.
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise CommandFailed("squeue", answer.returncode, answer.stderr)
        queued = accounting.read_squeue(answer.stdout)
        if not has_accounting:
            return accounting.merge(jobs, queued, {})
        self._account(jobs, queued, answered)
        return accounting.merge(jobs, queued, {job: self._memories[job].rows for job in jobs})

    def _ask(self, jobs: Sequence[str], *, in_one: bool) -> Answered:
        """Ask the queue; in one command with it also accounting, for what is foreseen to be asked."""
        if not in_one:
            only = ["-n", self._names] if self._names else []
            words = ("squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), *only, "-o", accounting.SQUEUE_FORMAT)
            return Answered(self._run(*words))
        now, memories = time.monotonic(), {job: self._memories.get(job, _Memory()) for job in jobs}
        whole = [job for job, memory in memories.items() if now - memory.asked > AGE]
        told = {job: memory.told for job, memory in memories.items()}
        return one_question.ask(self._run, jobs, names=self._names, told=told, whole=whole, few=FEW)

    def _account(self, jobs: Mapping[str, int], queued: accounting.Tasks, answered: Answered) -> None:
        """Ask accounting for what it alone can tell and has not told yet."""
        now = time.monotonic()
        whole, some = [], []
        for job, count in jobs.items():
            memory, live = self._memories.setdefault(job, _Memory()), queued.get(job, {})
            memory.wanted = now
            lacking = memory.lacks(live)
            if len(lacking) > FEW or now - memory.asked > AGE or memory.count_missing(live, count) != memory.missing:
                whole.append(job)
            else:
                some += [f"{job}_{task}" for task in lacking]
        self._memories = {job: memory for job, memory in self._memories.items() if memory.wanted > now - KEPT}
        if not (whole or some):
            return
        if answered.asked.issuperset([*whole, *some]):
            rows = answered.rows
        else:
            rows = self._ask_accounting([*whole, *some])
        if rows is None:  # while its database is away, what squeue knows has to do
            return
        told = accounting.read_sacct(rows)
        for job in whole:
            memory = self._memories[job]
            memory.learn(told.get(job, Accounted()), is_whole=True)
            memory.asked, memory.missing = now, memory.count_missing(queued.get(job, {}), jobs[job])
        for job in {name.partition("_")[0] for name in some}:
            self._memories[job].learn(told.get(job, Accounted()), is_whole=False)

    def _ask_accounting(self, wanted: Sequence[str]) -> str | None:
        only = ["--name", self._names] if self._names else []
        rows = self._run("sacct", "-n", "-P", "-X", "-D", "-j", ",".join(wanted), *only, f"--format={accounting.SACCT_FIELDS}")
        return rows.stdout if not rows.returncode else None
