"""The line is cut after so many bytes of a submission: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import Line, Loopback
from tables import note_row

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import ClusterError

SIDE_BY_SIDE = 6
TRIALS = 4
WORDS = ["sh", "-c", 'echo "$NEXA_TRIAL" >> "$begun"; sleep 1']


@dataclass(frozen=True)
class Cut:
    """Where a submission is cut: how far into all bytes of a direction, and for how long nobody is let in."""

    number: int
    direction: str
    share: float
    down_for: float

    def __str__(self) -> str:
        return f"{self.number}-{self.direction}-{self.share:.3f}-{self.down_for:g}s"


def cuts(count: int, seed: int) -> list[Cut]:
    drawn = random.Random(seed)
    return [Cut(n, "up" if n % 2 else "down", (n + drawn.random()) / count, drawn.choice((0.0, 0.0, 3.0))) for n in range(count)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cut" in metafunc.fixturenames:
        is_full, seed = metafunc.config.getoption("--full"), metafunc.config.getoption("--seed")
        metafunc.parametrize("cut", cuts(200 if is_full else 12, seed), ids=str)


@dataclass
class Outcome:
    """What came of one cut."""

    was_cut: bool
    said: str
    begun: Counter[int]
    states: list[str]
    logins: int


@pytest.fixture(scope="module")
def outcomes(
    box: Loopback, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Cut, Future[Outcome]]]:
    """Play all cuts, some at once."""
    folder = tmp_path_factory.mktemp("cuts")
    patch = pytest.MonkeyPatch()
    patch.setenv("NEXA_HOME", str(folder / "home"))
    patch.setenv("NEXA_SSH_CONFIG", str(box.config))
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    chosen = [item.callspec.params["cut"] for item in items if "cut" in item.callspec.params]
    try:
        whole = _undisturbed(box, folder)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            yield {cut: pool.submit(_play, cut, box, folder, whole) for cut in chosen}
    finally:
        patch.undo()


def _undisturbed(box: Loopback, folder: Path) -> dict[str, int]:
    """Count the bytes of a submission, in each direction."""
    line = Line(box.port)
    try:
        plan = _plan(line, folder, "whole")
        before = dict(line.passed)
        run = plan.submit()
        whole = {direction: line.passed[direction] - before[direction] for direction in before}
        run.wait(timeout=60, progress=False)
        return whole
    finally:
        line.close()


def _plan(line: Line, folder: Path, name: str):
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}", runs=folder / "runs")
    sweep = Sweep(WORDS, {"n": list(range(TRIALS))}, fixed={"begun": str(folder / f"begun-{name}")}, style="env", name=f"cut-{name}")
    return cluster.plan(sweep, time="0:05:00", workdir=folder)


def _play(cut: Cut, box: Loopback, folder: Path, whole: dict[str, int]) -> Outcome:
    line = Line(box.port)
    said = ""
    try:
        plan = _plan(line, folder, str(cut.number))
        line.arm(cut.direction, max(1, int(cut.share * whole[cut.direction])), down_for=cut.down_for)
        try:
            run = plan.submit()
        except ClusterError as error:
            said = f"{type(error).__name__}: {error}"
            time.sleep(cut.down_for)
            run = _until_it_answers(plan.submit)
        was_cut = line.cuts > 0
        line.disarm()
        _until_it_answers(lambda: run.wait(timeout=120, check=False, progress=False))
        states = [str(attempt.status.state) for attempt in run.last_known]
        marks = folder / f"begun-{cut.number}"
        begun = Counter(map(int, marks.read_text().split())) if marks.exists() else Counter()
        return Outcome(was_cut, said, begun, states, run._transport.connection.logins)
    finally:
        line.close()


def _until_it_answers(ask):
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except ClusterError as error:
            if not error.may_pass or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_a_cut_loses_nothing_and_runs_nothing_twice(outcomes: dict[Cut, Future[Outcome]], cut: Cut, request: pytest.FixtureRequest) -> None:
    outcome = outcomes[cut].result()
    lost, twice = Counter(range(TRIALS)) - outcome.begun, outcome.begun - Counter(range(TRIALS))
    numbers = {
        "missed": not outcome.was_cut,
        "raised": bool(outcome.said),
        "logins": outcome.logins,
        "lost": lost.total(),
        "twice": twice.total(),
    }
    note_row(request.node, "cut lines", f"cut on its way {cut.direction}, closed for {cut.down_for:g} s", numbers)
    assert outcome.was_cut
    assert outcome.begun == Counter(range(TRIALS)), outcome
    assert outcome.states == ["COMPLETED"] * TRIALS, outcome
