"""The one poller: how often it asks, whom it tells, and what it keeps. Its scheduler and its clock are stand-ins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from until import wait_until

from nexa_sdk.errors import ClusterError, Unreachable
from nexa_sdk.scheduling.base import ArrayHandle, TaskStatus
from nexa_sdk.scheduling.watcher import Clock, Watcher
from nexa_sdk.states import State


class Hurried(Clock):
    """A clock that passes its waits at once, and ends the watching after some."""

    def __init__(self, waits: int) -> None:
        self.time = 1000.0
        self.left = waits
        self.pauses: list[float] = []
        self.over = threading.Event()

    def now(self) -> float:
        return self.time

    def wait_for(self, condition: threading.Condition, holds: Callable[[], bool], seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        self.left -= 1
        if self.left <= 0:
            self.over.set()
            super().wait_for(condition, holds, 300)


class Answering:
    """A scheduler that answers from a list of states, the last for ever, and takes its time."""

    slowest = 30.0

    def __init__(self, clock: Hurried | None = None, *, takes: float = 0.0, states: Sequence[State | Exception] = (State.PENDING,)) -> None:
        self.clock, self.takes, self.states = clock, takes, list(states)
        self.asked: list[list[str]] = []

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        self.asked.append([array.job_id for array in arrays])
        if self.clock is not None:
            self.clock.time += self.takes
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return {array.job_id: {0: TaskStatus(state)} for array in arrays}


def watched(scheduler: Answering, clock: Hurried) -> list[float]:
    """Watch one array until the clock has had enough, and return the pauses between two questions."""
    watcher = Watcher(scheduler, clock)  # type: ignore[arg-type]
    subscription = watcher.subscribe(lambda: [ArrayHandle("17", "/runs/a", 1)], lambda: None)
    assert clock.over.wait(240)
    subscription.close()
    return clock.pauses


def test_the_pauses_grow_while_nothing_changes_and_no_further_than_the_slowest() -> None:
    clock = Hurried(20)
    pauses = watched(Answering(clock), clock)
    assert pauses[0] == 0.5
    assert pauses[:10] == sorted(pauses[:10])
    assert pauses[-1] == 30.0


def test_a_change_makes_them_short_again() -> None:
    clock = Hurried(12)
    pauses = watched(Answering(clock, states=[State.PENDING] * 8 + [State.RUNNING]), clock)
    assert pauses[7] > 3
    assert pauses[8] == 0.5


def test_a_controller_that_answers_late_is_asked_a_tenth_of_the_time_at_most() -> None:
    clock = Hurried(6)
    assert min(watched(Answering(clock, takes=2.0), clock)) == pytest.approx(18.0)


def test_one_that_does_not_answer_is_left_alone_for_a_while() -> None:
    clock = Hurried(4)
    pauses = watched(Answering(clock, states=[ClusterError("it is down")]), clock)
    assert pauses[0] == 5.0


def test_a_host_that_is_away_is_not_left_alone_for_as_long_as_it_was_waited_for() -> None:
    clock = Hurried(6)
    pauses = watched(Answering(clock, states=[Unreachable("it is away")], takes=10.0), clock)
    assert pauses[0] == 5.0
    assert max(pauses) <= 30.0


def test_a_host_that_is_away_is_asked_once_for_all_who_listen_and_again_for_a_person() -> None:
    clock = Hurried(2)
    scheduler = Answering(clock, states=[Unreachable("it is away")])
    watcher = Watcher(scheduler, clock)  # type: ignore[arg-type]
    arrays = [ArrayHandle("17", "/runs", 1)]
    told: list[str] = []

    def look() -> None:
        try:
            watcher.ask(arrays, max_age=5.0)
        except Unreachable as error:
            told.append(str(error))

    subscription = watcher.subscribe(lambda: arrays, lambda: [look() for _ in range(3)])
    assert clock.over.wait(240)
    subscription.close()
    asked = len(scheduler.asked)
    assert (asked, len(told)) == (2, 6), "once a round, whoever looks"
    with pytest.raises(Unreachable, match="it is away"):
        watcher.ask(arrays, max_age=5.0)
    assert len(scheduler.asked) == asked + 1, "who asks in a cell is not put off"


def test_all_are_asked_for_in_one_question_however_many_look() -> None:
    scheduler = Answering(states=[State.RUNNING])
    watcher = Watcher(scheduler)  # type: ignore[arg-type]
    subscriptions = [watcher.subscribe(lambda job=str(n % 10): [ArrayHandle(job, "/runs", 1)], lambda: None) for n in range(100)]
    deadline = time.monotonic() + 240
    while not any(len(asked) >= 10 for asked in scheduler.asked):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for subscription in subscriptions:
        subscription.close()
    assert max(len(asked) for asked in scheduler.asked) == 10
    wait_until(lambda: watcher._thread is None)
    before = len(scheduler.asked)
    for n in range(10):
        watcher.ask([ArrayHandle(str(n), "/runs", 1)], max_age=60)
    assert len(scheduler.asked) == before, "what was asked a moment ago is remembered"


def test_no_thread_is_left_when_nobody_listens() -> None:
    watcher = Watcher(Answering())  # type: ignore[arg-type]
    watcher.subscribe(list, lambda: None).close()
    deadline = time.monotonic() + 240
    while watcher._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_nobody_asks_for_any_more_is_dropped() -> None:
    clock = Hurried(1)
    watcher = Watcher(Answering(clock), clock)  # type: ignore[arg-type]
    for n in range(50):
        watcher.ask([ArrayHandle(str(n), "/runs", 1)])
        clock.time += 60
    assert len(watcher._answers) <= 7
