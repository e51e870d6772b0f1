"""Keepers: what looks after a run's arrays on the cluster, as a notebook sees it.

A keeper waits for the end of an array, runs its failed trials again by the rules of the launch, and
sends the next array of a rolling submission; see :mod:`nexa_sdk.scheduling.slurm.keeper`. What it
did meanwhile is learnt from the marks that it left in the run's folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.records import ArrayRecord
from nexa_sdk.retry import Cause, Ladder, Retry, Step
from nexa_sdk.retrying import Diagnosis
from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks, parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.scheduling.base import Scheduler
    from nexa_sdk.transports.base import Transport

__all__ = ["Keepers", "Orders", "child_tokens"]

ASKED_AGAIN = 5.0  # seconds between two questions whether keepers live
GONE = 30.0  # seconds after which a keeper that nobody sees, and that left no word, is lost: a shared folder may be late
LETTERS = "".join(cause.letter for cause in Cause)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What was ordered at a launch to be done while nobody looks: ``keeper.json`` in the run's folder.

    `arrays` are the launch's: script, first trial and number of trials.
    """

    rules: Retry | None
    ladder: Ladder
    is_rolling: bool
    arrays: Sequence[tuple[str, int, int]]

    def written(self) -> bytes:
        """Write it as JSON."""
        return json.dumps(
            {
                "rules": None if self.rules is None else self.rules.written(),
                "ladder": self.ladder.written(),
                "rolling": self.is_rolling,
                "arrays": [list(array) for array in self.arrays],
            }
        ).encode()

    @classmethod
    def read(cls, content: bytes) -> Orders:
        """Read what :meth:`written` wrote."""
        known = json.loads(content)
        return cls(
            rules=None if known["rules"] is None else Retry(**known["rules"]),
            ladder=Ladder.read(known["ladder"]),
            is_rolling=known["rolling"],
            arrays=[(script, first, count) for script, first, count in known["arrays"]],
        )

    @cached_property
    def firsts(self) -> dict[str, int]:
        """The first trial of each script."""
        return {script: first for script, first, _ in self.arrays}


def child_tokens(token: str) -> list[str]:
    """Name the arrays by which a keeper may run trials of an array again, a cause each."""
    return [f"{token}{letter}" for letter in LETTERS]


class Keepers:
    """The keepers of one run.

    Parameters
    ----------
    run, folder : str
    orders : Orders
    """

    def __init__(
        self, run: str, folder: str, orders: Orders, *, scheduler: Scheduler, transport: Transport, journal: Journal, job: Job
    ) -> None:
        self.orders = orders
        self.diagnosis = Diagnosis(folder, transport)
        self.to_come: set[int] = set()  # trials that a keeper is to run again
        self.lost: dict[str, str] = {}  # arrays whose keepers are gone before they did anything: why
        self._run = run
        self._folder = folder
        self._scheduler = scheduler
        self._transport = transport
        self._journal = journal
        self._job = job
        self._kept: dict[str, dict[int, str]] = {}  # arrays whose keepers are done: their words on each task
        self._asked_at = -1e9
        self._unseen_since: dict[str, float] = {}

    def follows(self, token: str) -> bool:
        """Whether an array has a keeper: those of the launch have, and what keepers submitted themselves."""
        match = re.fullmatch(rf"{re.escape(self._run)}-([0-9]+)[{LETTERS}]*", token)
        return match is not None and int(match[1]) < len(self.orders.arrays)

    def is_open(self, token: str) -> bool:
        """Whether an array has a keeper that is not done."""
        return self.follows(token) and token not in self._kept

    # ---- what they did -------------------------------------------------------------------------

    def adopt(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Mapping[Any, TaskStatus]]) -> bool:
        """Take into the journal what keepers have submitted; say whether there was any."""
        ended = [
            array
            for array in arrays
            if array.job_id is not None
            and self.is_open(array.token)
            and all(status.state.is_terminal for status in statuses[array.token].values())
        ]
        living = self._living([array.token for array in ended])  # before the marks are read: who is done is not lost
        marks = self._read(name for array in ended for name in (f"{array.token}.kept", f"{array.token}.keeper"))
        known = {array.token for array in arrays}
        found = self._children([array.token for array in ended], known)
        for array in ended:
            if (kept := marks.get(f"{array.token}.kept")) is not None:
                self._kept[array.token] = _read_kept(kept.decode(), array.tasks)
                self.lost.pop(array.token, None)
            else:
                self._judge(array.token, living, marks.get(f"{array.token}.keeper", b"").decode().strip())
        if found:
            self._journal.adopt(found)
        return self._follow_the_waiting(arrays) or bool(found)

    def _read(self, names: Any) -> dict[str, bytes]:
        wanted = list(names)
        return self._transport.read_many(f"{self._folder}/submitted", wanted) if wanted else {}

    def _living(self, tokens: Sequence[str]) -> set[str] | None:
        """Ask which keepers live; None where that was asked a moment ago, or nobody answers."""
        if not tokens or time.monotonic() - self._asked_at < ASKED_AGAIN:
            return None
        try:
            living = self._scheduler.living_keepers(self._folder, tokens)
        except ClusterError:
            return None
        self._asked_at = time.monotonic()
        return living

    def _judge(self, token: str, living: set[str] | None, noted: str) -> None:
        """Find out whether a keeper is lost that has left no word."""
        if living is None:
            return
        if token in living:
            self._unseen_since.pop(token, None)
            self.lost.pop(token, None)
            return
        since = self._unseen_since.setdefault(token, time.monotonic())
        if not noted.isdecimal() and noted:
            self.lost[token] = f"its keeper was {noted}"
        elif time.monotonic() - since > GONE or not (noted or living):  # one that lives may be about to send this one
            self.lost[token] = "its keeper is gone" if noted else "its launch was cut short before it had a keeper"

    def _children(self, tokens: Sequence[str], known: set[str]) -> list[ArrayRecord]:
        """Read which arrays keepers have submitted that the journal does not know."""
        names = [child for token in tokens for child in child_tokens(token) if child not in known]
        notes = self._read(f"{name}.json" for name in names)
        marks = self._read(note.removesuffix(".json") for note in notes)
        found = []
        for note in map(json.loads, notes.values()):
            job_id = marks.get(note["token"], b"").decode().strip() or None
            found.append(
                ArrayRecord(
                    token=note["token"],
                    run=self._run,
                    script=note["script"],
                    first=self.orders.firsts[note["script"]],
                    tasks=note["tasks"],
                    at=float(note["at"]),
                    count=len(parse_tasks(note["tasks"])),
                    outcome="submitted" if job_id else "intent",
                    job_id=job_id,
                    sends=1,
                    options=note["options"],
                    cause=note["cause"],
                )
            )
        return found

    def _follow_the_waiting(self, arrays: Sequence[ArrayRecord]) -> bool:
        """Look whether the next arrays of a rolling submission were sent meanwhile."""
        waiting = [array.token for array in arrays if array.outcome == "waiting"]
        found = False
        for k in range(0, len(waiting), 2):  # a keeper sends the one after the next: two are under way
            next_ones = waiting[k : k + 2]
            marks = self._read(name for token in next_ones for name in (token, f"{token}.begun"))
            for token in next_ones:
                if mark := marks.get(token, b"").decode().strip():
                    self._journal.settle(token, "submitted", job_id=mark)
                elif f"{token}.begun" in marks:
                    self._journal.send(token)
            if not marks:
                break
            found = True
        return found

    # ---- what that means for the trials --------------------------------------------------------

    def overlay(self, last: Sequence[Attempt], everything: Sequence[Attempt]) -> list[Attempt]:
        """Return the last attempts as they are to be shown: what a keeper is to run again has not ended."""
        self.to_come = set()
        failed = [attempt for attempt in last if attempt.status.state.is_failure and self.follows(attempt.array.token)]
        pending = [a for a in failed if a.array.token not in self._kept and a.array.token not in self.lost]
        steps = self._steps(pending, everything)
        shown = []
        for attempt in last:
            token, status = attempt.array.token, attempt.status
            step = steps.get(attempt.trial)
            if step is not None and step.is_again:
                self.to_come.add(attempt.trial)
                reason = f"{status.state}; it runs again when its array has ended: {step.cause}, {step.words}"
                shown.append(attempt._replace(status=TaskStatus(State.PENDING, reason=reason)))
                continue
            words = f"{step.cause}: {step.words}" if step is not None else ""
            if status.state.is_failure and self.follows(token):
                words = self._kept.get(token, {}).get(attempt.task, words)
                if token in self.lost and status.state is not State.CANCELLED:
                    words = f"{self.lost[token]}, and nothing runs it again: run.retry(by='cause') does, or run.resume() sends a keeper"
            elif attempt.array.outcome == "waiting" and self.lost:
                words = f"of {next(iter(self.lost))} {next(iter(self.lost.values()))}: run.resume() goes on"
            if words:
                status = _with_reason(status, words)
                attempt = attempt._replace(status=status)  # noqa: PLW2901
            shown.append(attempt)
        return shown

    def _steps(self, failed: Sequence[Attempt], everything: Sequence[Attempt]) -> dict[int, Step]:
        """Decide as a keeper is going to, by trial."""
        rules = self.orders.rules
        failed = [attempt for attempt in failed if attempt.status.state is not State.CANCELLED]
        if rules is None or not failed:
            return {}
        stops = self._read({f"{attempt.array.token}.stop": None for attempt in failed})  # each once
        stopped = {name.removesuffix(".stop"): set(parse_tasks(text.decode().strip().replace("\n", ","))) for name, text in stops.items()}
        failed = [attempt for attempt in failed if attempt.task not in stopped.get(attempt.array.token, ())]
        steps = self.diagnosis.steps(failed, everything, rules=rules, ladder=self.orders.ladder, job=self._job)
        return {step.trial: step for _, step in steps}

    # ---- orders --------------------------------------------------------------------------------

    def stop(self, arrays: Sequence[ArrayRecord], trials: set[int] | None) -> None:
        """Keep trials, or all, from being run again or submitted in their turn.

        Raises
        ------
        InvalidInput
            When trials of an array that waits for its turn are to be cancelled, and others of it are not.
        """
        for array in arrays:
            chosen = [(task, trial) for task, _, trial in array.places() if trials is None or trial in trials]
            if array.outcome == "waiting" and chosen:
                if len(chosen) < array.count:
                    raise InvalidInput(
                        f"trial {chosen[0][1]} can't be cancelled alone: its array is not submitted yet. "
                        f"Cancel {array.first}-{array.first + array.count - 1}, or wait for its turn"
                    )
                self._withdraw(array)
            elif chosen and array.job_id is not None and self.is_open(array.token):
                tasks = "all" if trials is None else format_tasks(sorted({task for task, _ in chosen}))
                self._scheduler.tell_keeper(self._folder, ["stop", array.token, tasks])

    def _withdraw(self, array: ArrayRecord) -> None:
        verdict = self._scheduler.void(array.token, self._folder, max(1, array.sends))
        if verdict.job_id is not None:
            self._journal.settle(array.token, "submitted", job_id=verdict.job_id)
        elif not verdict.is_certain:  # a keeper is at it, or was: it is looked up like any other
            self._journal.send(array.token)
        else:
            self._journal.settle(array.token, "rejected", words="cancelled before it was submitted")
            self._transport.remove([f"{self._folder}/secrets/{array.token}"])

    def send_anew(self, arrays: Sequence[ArrayRecord]) -> list[str]:
        """Send the keepers that were lost again; return the arrays that they follow."""
        sent = []
        for array in arrays:
            if array.token in self.lost:
                excluded = str(array.options.get("exclude", ""))
                self._scheduler.tell_keeper(self._folder, ["anew", array.token, str(array.job_id), array.script, array.tasks, excluded])
                sent.append(array.token)
                self.lost.pop(array.token)
                self._unseen_since.pop(array.token, None)
        return sent

    def has_secrets_of(self, token: str) -> bool:
        """Whether a keeper still needs the secrets of an array."""
        return self.is_open(token) and token not in self.lost


def _with_reason(status: TaskStatus, words: str) -> TaskStatus:
    return replace(status, reason=f"{status.reason}; {words}" if status.reason else words)


def _read_kept(text: str, tasks: str) -> dict[int, str]:
    """Read a keeper's last words, by task."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        which, _, words = line.partition("|")
        found.update(dict.fromkeys(parse_tasks(tasks if which == "all" else which), words))
    return found
