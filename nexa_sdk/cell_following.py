"""Follow a cell that runs on a cluster: what it writes and shows, as it comes, and how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError
from nexa_sdk.remote.tape import Ended, Event, Tape
from nexa_sdk.states import State
from nexa_sdk.transports.base import MOST_AT_ONCE

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.base import TaskStatus
    from nexa_sdk.transports.base import Transport

__all__ = ["Standing", "follow"]

SOONEST, SELDOM = 0.1, 1.0  # seconds between two looks; they grow where nothing comes
SHARE = 0.1  # of the time at most is spent looking
PATIENCE = 60.0  # seconds without news until the cluster is asked
LATE = 20.0  # seconds that a shared file system may be late with the last that was written


@dataclass(frozen=True)
class Standing:
    """How it stands.

    Attributes
    ----------
    status : TaskStatus or None
        Its last attempt's, as last known; None before anybody has answered.
    problem : str
        Why that may not be up to date: the line went.
    """

    status: TaskStatus | None
    problem: str = ""


def follow(run: Run, transport: Transport, *, timeout: float | None = None) -> Iterator[Event | Standing]:
    """Yield what the cell of a run writes and shows, from its beginning on, until it ends.

    The last is an :class:`Ended`; of a run that ended without one there is none: it was cancelled, ran
    out of memory or time, or never had a Python. A line that is cut is said, and
    waited for.

    Raises
    ------
    TimeoutError
    ClusterError
        One that will not pass.
    """
    follower = _Follower(run, transport)
    subscription = run.subscribe(follower.news.set)
    try:
        yield from follower.events(None if timeout is None else time.monotonic() + timeout)
    finally:
        subscription.close()


class _Follower:
    """What is known of a cell, and how far it was read."""

    def __init__(self, run: Run, transport: Transport) -> None:
        self.news = threading.Event()
        self._run, self._transport = run, transport
        self._attempt: Attempt | None = None
        self._tape = Tape()
        self._line = self._answer = ""  # what is wrong with the line, and with the cluster's answers
        self._told: Standing | None = None
        self._asked = time.monotonic()
        self._over_at: float | None = None

    def events(self, deadline: float | None) -> Iterator[Event | Standing]:
        """Yield what comes, until it ends."""
        pause = SOONEST
        while True:
            began = time.monotonic()
            if deadline is not None and began > deadline:
                raise TimeoutError(f"{self._run.id} has not ended in time; it goes on: {self._run.tally()}")
            pieces = self._read(attempt) if (attempt := self._known()) is not None else None
            yield from self._stand()
            if pieces is None or attempt is None:
                time.sleep(SELDOM)
                continue
            for event in self._tape.take(*pieces):
                yield event
                if isinstance(event, Ended):
                    return
            is_over = attempt.status.state.is_terminal and self._run.is_finished
            if is_over and not any(pieces) and not self._may_come(attempt.status):
                yield from self._tape.take(b"", b"", is_last=True)
                return
            if max(map(len, pieces)) < MOST_AT_ONCE:
                least = (time.monotonic() - began) * (1 - SHARE) / SHARE
                pause = max(SOONEST, least) if any(pieces) else max(least, min(SELDOM, pause * 1.2))
                self.news.wait(pause)
            self._ask(attempt)

    def _known(self) -> Attempt | None:
        """Return the last attempt, as last known; None where nobody answers."""
        if self._attempt is None:
            try:
                self._attempt = self._run.refresh(max_age=1.0)[0]
            except ClusterError as error:
                if not error.may_pass:
                    raise
                self._line = self._line or str(error)
        return self._attempt

    def _read(self, attempt: Attempt) -> tuple[bytes, bytes] | None:
        """Read what has come of the log and of what it showed; None where the line went."""
        log, shown = f"{self._run.folder}/logs/{attempt.name}.log", f"{self._run.folder}/cell/{attempt.name}.shown"
        try:
            found = self._transport.read_on({log: self._tape.read_log, shown: self._tape.read_shown})
        except ClusterError as error:
            if not error.may_pass:
                raise
            self._line = self._line or str(error)
            return None
        self._line = ""
        return found.get(log, b""), found.get(shown, b"")

    def _ask(self, before: Attempt) -> None:
        """Look at what the cluster last answered, if there is news."""
        if not self.news.is_set() and time.monotonic() - self._asked < PATIENCE:
            return
        self.news.clear()
        self._asked = time.monotonic()
        self._answer = self._run.try_refresh()
        self._attempt = self._run.last_known[0]
        if self._attempt.name != before.name:  # it was sent, or is run again
            self._tape, self._over_at = Tape(), None

    def _stand(self) -> Iterator[Standing]:
        standing = Standing(self._attempt.status if self._attempt is not None else None, self._line or self._answer)
        if standing != self._told:
            self._told = standing
            yield standing

    def _may_come(self, status: TaskStatus) -> bool:
        """Whether its last word may only be late: it came to its end by itself, and that says how."""
        self._over_at = self._over_at if self._over_at is not None else time.monotonic()
        came_to_its_end = status.state is State.COMPLETED or (status.state is State.FAILED and status.exit_code == 1)
        return came_to_its_end and time.monotonic() - self._over_at < LATE
