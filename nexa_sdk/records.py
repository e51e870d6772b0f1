"""Runs and their arrays, as the journal has them: values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nexa_sdk.tasks import parse_tasks

__all__ = ["UNDER_WAY", "UNSETTLED", "ArrayRecord", "RunRecord", "describe", "read_description"]

UNDER_WAY = ("SUBMITTED", "UNKNOWN")  # what became, as far as is written down, of a run that may go on
UNSETTLED = ("intent", "unknown", "void")  # outcomes of what resuming looks up, and sends if it never arrived


@dataclass(frozen=True)
class RunRecord:
    """A run, as the journal has it."""

    id: str
    cluster: str
    folder: str
    digest: str
    trials: int
    created: float


@dataclass(frozen=True, kw_only=True)
class ArrayRecord:
    """One array of a run: the first attempt of its trials, or a later one.

    Attributes
    ----------
    token, run, script : str
        Its name, its run's id, and which script of the run's folder it runs.
    first : int
        The trial that its first task begins with, unless `trials` says otherwise.
    tasks : str
        As sbatch's ``--array`` has them.
    outcome : {'waiting', 'intent', 'submitted', 'rejected', 'unknown', 'void'}
        Waiting: its turn comes later. Void: it never arrived, and provably never will.
    job_id, words : str
        The scheduler's id, or what it said.
    at : float
        When it was written down, in seconds since the epoch.
    count : int
        How many trials it has.
    pack : int
        Trials of a task.
    trials : list of int, optional
        Its trials, where they do not follow from `first` and `tasks`.
    options : dict
        Fields of the job that are others than planned: ``{"mem": "32G"}``.
    cause : str
        Why these trials are run again.
    sends : int
        How often it was sent.
    final : list, optional
        What became of its trials, once all have ended.
    """

    token: str
    run: str
    script: str
    first: int
    tasks: str
    at: float
    count: int
    outcome: str = "intent"
    job_id: str | None = None
    words: str = ""
    final: list[Any] | None = None
    sends: int = 0
    pack: int = 1
    trials: list[int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    cause: str = ""

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return len(parse_tasks(self.tasks))

    def places(self) -> list[tuple[int, int, int]]:
        """Return where each of its trials runs: task, slot in it, trial."""
        tasks = parse_tasks(self.tasks)
        if self.pack == 1 and self.trials is None:
            return [(task, 0, self.first + task) for task in tasks]
        if self.trials is not None:
            return [(n // self.pack, n % self.pack, trial) for n, trial in enumerate(self.trials)]
        slots = ((tasks[n // self.pack], n % self.pack) for n in range(self.count))
        return [(task, slot, self.first + task * self.pack + slot) for task, slot in slots]

    @property
    def nodes(self) -> str | None:
        """Where it was placed, before it was sent; None where the scheduler chooses."""
        chosen = self.options.get("nodelist")
        return None if chosen is None else str(chosen)

    @property
    def args(self) -> tuple[str, ...]:
        """What its script is given: the trials, where they do not follow from its tasks."""
        return tuple(map(str, self.trials or ()))


_DESCRIBED = ("token", "script", "first", "tasks", "at", "count", "pack", "trials", "options", "cause")


def describe(array: ArrayRecord) -> bytes:
    """Write down what an array is made of, for the run's folder: who has no journal of it reads it there."""
    return json.dumps({name: getattr(array, name) for name in _DESCRIBED}).encode()


def read_description(content: bytes, *, run: str, job_id: str | None) -> ArrayRecord:
    """Read what :func:`describe` wrote."""
    known = json.loads(content)
    described = {name: known[name] for name in _DESCRIBED}
    return ArrayRecord(run=run, outcome="unknown" if job_id is None else "submitted", job_id=job_id, sends=1, **described)
