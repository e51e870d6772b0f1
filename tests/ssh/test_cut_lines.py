"""The line is cut after so many bytes of a submission: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cutting import TRIALS, WORDS, Outcome, chosen_cuts, judge, parametrize, play
from loopback import Line, Loopback

from nexa_sdk import Cluster, Sweep

SIDE_BY_SIDE = 6


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
    parametrize(metafunc, cuts)


@pytest.fixture(scope="module")
def outcomes(
    box: Loopback, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Cut, Future[Outcome]]]:
    """Play all cuts, some at once."""
    folder = tmp_path_factory.mktemp("cuts")
    patch = pytest.MonkeyPatch()
    patch.setenv("NEXA_HOME", str(folder / "home"))
    patch.setenv("NEXA_SSH_CONFIG", str(box.config))
    chosen = chosen_cuts(request)
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
        run.wait(timeout=240, progress=False)
        return whole
    finally:
        line.close()


def _plan(line: Line, folder: Path, name: str):
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}", runs=folder / "runs")
    sweep = Sweep(WORDS, {"n": list(range(TRIALS))}, fixed={"begun": str(folder / f"begun-{name}")}, style="env", name=f"cut-{name}")
    return cluster.plan(sweep, time="0:05:00", workdir=folder)


def _play(cut: Cut, box: Loopback, folder: Path, whole: dict[str, int]) -> Outcome:
    line = Line(box.port)
    marks = folder / f"begun-{cut.number}"
    try:
        plan = _plan(line, folder, str(cut.number))
        outcome, run = play(
            plan,
            cut,
            line,
            of=whole[cut.direction],
            begun=lambda: Counter(map(int, marks.read_text().split())) if marks.exists() else Counter(),
        )
        outcome.numbers["logins"] = run._transport.connection.logins
        return outcome
    finally:
        line.close()


def test_a_cut_loses_nothing_and_runs_nothing_twice(outcomes: dict[Cut, Future[Outcome]], cut: Cut, request: pytest.FixtureRequest) -> None:
    judge(outcomes[cut].result(), cut, request.node, table="cut lines")
