"""The one poller of a cluster: one batched question for every run and every view."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

from nexa_sdk.errors import ClusterError
from nexa_sdk.scheduling.base import ArrayHandle, Scheduler, TaskStatus

__all__ = ["Clock", "Subscription", "Watcher"]

Answer = dict[str, dict[int, TaskStatus]]

SHORTEST, GROWTH = 0.5, 1.4  # seconds between questions; they grow while nothing changes
AFTER_TROUBLE = 5.0  # seconds at least until a cluster that did not answer is asked again
KEPT = 300.0  # seconds that an answer is kept of what nobody asks for any more
SHARE = 0.1  # of the time at most is spent asking: a controller that limits rates answers late, and says nothing


class Clock:
    """Time, as the poller sees it; a test brings one that does not wait."""

    def now(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def wait_for(self, condition: threading.Condition, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until a condition holds, so many seconds at most; it is locked."""
        condition.wait_for(holds, timeout=seconds)


class Subscription:
    """Somebody who wants to hear; until closed."""

    def __init__(self, watcher: Watcher, arrays: Callable[[], Sequence[ArrayHandle]], heard: Callable[[], object]) -> None:
        self._watcher = watcher
        self.arrays = arrays
        self.heard = heard

    def close(self) -> None:
        """Stop listening; the last one to go ends the poller's thread."""
        self._watcher._leave(self)


class Watcher:
    """Asks a scheduler, and remembers the answer for everybody.

    A thread asks by itself only while there are subscriptions: soon after a change, more and more
    seldom while nothing changes, and never more than a tenth of the time.
    """

    def __init__(self, scheduler: Scheduler, clock: Clock | None = None) -> None:
        self.scheduler = scheduler
        self._clock = clock or Clock()
        self._asking = threading.Lock()
        self._answers: Answer = {}
        self._asked_at: dict[str, float] = {}
        self._failed: tuple[float, ClusterError] | None = None  # when nobody answered, and why
        self._subscriptions: list[Subscription] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, arrays: Sequence[ArrayHandle], *, max_age: float = 0.0) -> Answer:
        """Return what is known of the arrays, not older than `max_age` seconds.

        Whoever else is watched is asked for in the same breath.

        Raises
        ------
        ClusterError
            When the scheduler does not answer.
        """
        wanted_since = self._clock.now() - max_age
        with self._asking:  # who waited here finds the answer that the other got
            if any(self._asked_at.get(array.job_id, -1e9) < wanted_since for array in arrays):
                everyone = {array.job_id: array for array in [*arrays, *self._watched()]}
                began = self._clock.now()
                is_listener = threading.current_thread() is self._thread  # it heard that nobody answered: that was for all
                if is_listener and self._failed is not None and self._failed[0] >= wanted_since:
                    raise self._failed[1].with_traceback(None)
                try:
                    self._answers.update(self.scheduler.poll(list(everyone.values())))
                except ClusterError as error:
                    self._failed = (self._clock.now(), error)
                    raise
                self._failed = None
                self._asked_at.update(dict.fromkeys(everyone, began))
                self._drop([job_id for job_id, at in self._asked_at.items() if at < began - KEPT])
            return {array.job_id: self._answers.get(array.job_id, {}) for array in arrays}

    def forget(self, job_ids: Sequence[str]) -> None:
        """Drop arrays that have ended: nobody asks for them again."""
        with self._asking:
            self._drop(job_ids)

    def _drop(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self._answers.pop(job_id, None)
            self._asked_at.pop(job_id, None)

    def subscribe(self, arrays: Callable[[], Sequence[ArrayHandle]], heard: Callable[[], object]) -> Subscription:
        """Call `heard` after each question, from the poller's thread, until the subscription closes."""
        subscription = Subscription(self, arrays, heard)
        with self._changed:
            self._subscriptions.append(subscription)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="nexa-watcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return subscription

    def tell(self) -> None:
        """Call everybody who listens: who saw a run end does not leave the others to the next question."""
        with self._changed:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            if subscription not in self._subscriptions:  # it was closed meanwhile
                continue
            try:
                subscription.heard()
            except Exception:  # noqa: BLE001  one listener's mistake must not end the news of all
                self._leave(subscription)
                sys.excepthook(*sys.exc_info())

    def _leave(self, subscription: Subscription) -> None:
        with self._changed:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            self._changed.notify_all()

    def _watched(self) -> list[ArrayHandle]:
        with self._changed:
            subscriptions = list(self._subscriptions)
        return [array for subscription in subscriptions for array in subscription.arrays()]

    def _loop(self) -> None:
        interval, before = SHORTEST, None
        while True:
            with self._changed:
                if not self._subscriptions:
                    self._thread = None
                    return
            began = self._clock.now()
            try:
                now = self.ask(self._watched())
            except Exception as error:  # noqa: BLE001  not swallowed: who listens asks in turn, gets the same, and says it
                interval = min(self.scheduler.slowest, max(interval * GROWTH, AFTER_TROUBLE))
                is_away = getattr(error, "may_pass", False)  # then nobody was burdened
            else:
                interval = SHORTEST if now != before else min(self.scheduler.slowest, interval * GROWTH)
                before, is_away = now, False
            took = self._clock.now() - began if not is_away else 0.0
            self.tell()
            with self._changed:
                count = len(self._subscriptions)
                pause = max(interval, took * (1 - SHARE) / SHARE)
                self._clock.wait_for(self._changed, lambda known=count: len(self._subscriptions) != known, pause)  # type: ignore[misc]
