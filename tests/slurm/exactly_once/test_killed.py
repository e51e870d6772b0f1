"""A submitting process is killed (SIGKILL) at many points of a submission: every trial runs exactly once."""

from __future__ import annotations

import pytest
from points import KillPoint, kill_points

SAMPLE = (0, 6, 17, 23, 30, 44, 55, 69, 74, 78, 79, 80, 82)  # of the hundred, one for each kind of window


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    points = kill_points(100, metafunc.config.getoption("--seed"))
    params = [pytest.param(point, id=str(point), marks=[] if point.number in SAMPLE else [pytest.mark.full]) for point in points]
    metafunc.parametrize("point", params)


@pytest.mark.timeout(3600)  # the first one waits for what is played before it
def test_every_trial_runs_once_though_its_submission_is_killed(killed, judged, point: KillPoint) -> None:
    judged(point, killed[point])
