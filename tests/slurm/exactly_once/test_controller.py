"""The controller, its database or munge fail while a run is submitted, watched, cancelled or run again."""

from __future__ import annotations

import pytest
from faults import ControllerFault, controller_faults

# daemon, what, seconds, during
SAMPLE = {
    ("slurmctld", "frozen", 14, "before sbatch"),
    ("slurmctld", "frozen", 14, "cancel-some"),
    ("slurmctld", "restarted", 0, "watch"),
    ("munged", "down", 6, "before sbatch"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    faults = controller_faults(metafunc.config.getoption("--seed"))
    is_sampled = [(fault.daemon, fault.what, fault.seconds, fault.during) in SAMPLE for fault in faults]
    marks = [[] if sampled else [pytest.mark.full] for sampled in is_sampled]
    metafunc.parametrize("point", [pytest.param(fault, id=str(fault), marks=m) for fault, m in zip(faults, marks, strict=True)])


@pytest.mark.timeout(3600)  # the first one waits for what is played before it
def test_every_trial_runs_once_and_no_state_is_wrong(disturbed, judged, point: ControllerFault) -> None:
    judged(point, disturbed[point])
