"""What tests have in common that cut a line after so many bytes of a launch: nothing may be lost, and nothing may run twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from loopback import Line
from tables import note_row

from nexa_sdk import Run
from nexa_sdk.errors import ClusterError, PreflightFailed
from nexa_sdk.plan import Plan

TRIALS = 4
NEAR_THE_END = 0.98  # of all bytes
WORDS = ["sh", "-c", 'echo "$NEXA_TRIAL" >> "$begun"; sleep 1']


class Cut(Protocol):
    """Where a launch is cut: how far into all bytes of a direction, and for how long nobody is let in."""

    @property
    def direction(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def down_for(self) -> float: ...


@dataclass
class Outcome:
    """What came of one cut."""

    was_cut: bool
    said: str
    begun: Counter[int]
    states: list[str]
    numbers: dict[str, int] = field(default_factory=dict)


def parametrize(metafunc: pytest.Metafunc, draw: Callable[[int, int], list[Any]]) -> None:
    """Give a test its cuts: 200, or a dozen."""
    if "cut" in metafunc.fixturenames:
        is_full, seed = metafunc.config.getoption("--full"), metafunc.config.getoption("--seed")
        metafunc.parametrize("cut", draw(200 if is_full else 12, seed), ids=str)


def chosen_cuts(request: pytest.FixtureRequest) -> list[Any]:
    """Return the cuts of a module that are to be played in this session."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    return [item.callspec.params["cut"] for item in items if hasattr(item, "callspec") and "cut" in item.callspec.params]


def play(plan: Plan, cut: Cut, line: Line, *, of: int, begun: Callable[[], Counter[int]]) -> tuple[Outcome, Run]:
    """Launch a plan whose line is cut on the way, `of` bytes in all, and see it through."""
    said = ""
    line.arm(cut.direction, max(1, int(cut.share * of)), down_for=cut.down_for)
    try:
        run = plan.submit()
    except ClusterError as error:
        said = f"{type(error).__name__}: {error}"
        time.sleep(cut.down_for)
        run = until_it_answers(plan.submit)
    if not line.cuts and cut.share > NEAR_THE_END:  # this launch was some bytes shorter than that which was measured
        line.cut()
    was_cut = line.cuts > 0
    line.disarm()
    until_it_answers(lambda: run.wait(timeout=240, check=False, progress=False))
    return Outcome(was_cut, said, begun(), [str(attempt.status.state) for attempt in run.last_known]), run


def until_it_answers(ask: Callable[[], Run]) -> Run:
    deadline = time.monotonic() + 240
    while True:
        try:
            return ask()
        except ClusterError as error:
            # where many launches are cut at once, sshd turns some of those away who come again
            is_away = error.may_pass or (isinstance(error, PreflightFailed) and "it does not answer" in str(error))
            if not is_away or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def judge(outcome: Outcome, cut: Cut, node: pytest.Item, *, table: str) -> None:
    """Note a row of the table, and fail where something was lost or ran twice."""
    lost, twice = Counter(range(TRIALS)) - outcome.begun, outcome.begun - Counter(range(TRIALS))
    numbers = {"missed": not outcome.was_cut, "raised": bool(outcome.said), **outcome.numbers, "lost": lost.total(), "twice": twice.total()}
    note_row(node, table, f"cut on its way {cut.direction}, closed for {cut.down_for:g} s", numbers)
    assert outcome.was_cut
    assert outcome.begun == Counter(range(TRIALS)), outcome
    assert outcome.states == ["COMPLETED"] * TRIALS, outcome
