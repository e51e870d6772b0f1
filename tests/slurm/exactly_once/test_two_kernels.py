"""Two kernels submit the same plan at the same moment; Ctrl-C comes while the controller does not answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from disturbing import heal, lay_gate
from points import Situation
from stage import PATIENCE, Stage, lines_of
from verdict import Outcome, judge

from nexa_sdk.scheduling.slurm.sandbox import Sandbox


@pytest.fixture
def stage(own_box: Sandbox) -> Iterator[Stage]:
    stage = Stage(Situation("launch", 7, None), own_box.environment)
    yield stage
    stage.remove()


@pytest.mark.parametrize("attempt", [0, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 10))])
def test_two_kernels_that_launch_the_same_at_once_make_one_run(own_box: Sandbox, stage: Stage, note, attempt: int) -> None:
    kernels = [stage.start("again") for _ in range(2)]
    ends = [kernel.communicate(timeout=PATIENCE + 60) for kernel in kernels]
    assert [kernel.returncode for kernel in kernels] == [0, 0], ends
    said = [lines_of(out) for out, _ in ends]
    assert said[0]["run"] == said[1]["run"]
    assert said[0]["states"] == said[1]["states"] == ["COMPLETED"] * 7
    outcome = Outcome("two kernels at once")
    judge(stage, outcome, own_box.environment)
    note(outcome)
    assert [outcome.lost, outcome.twice, outcome.wrong] == [[], [], []], ends


def test_ctrl_c_while_the_controller_is_frozen_is_heard_once_the_journal_is_settled(own_box: Sandbox, stage: Stage) -> None:
    lay_gate(stage, after=False, nth=1)
    child = stage.start("act", shimmed=True)
    while not (stage.folder / "gate").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    own_box.freeze("slurmctld")
    try:
        (stage.folder / "open").touch()
        for _ in range(2):  # who is impatient presses it again
            child.send_signal(signal.SIGINT)
            time.sleep(6)  # sbatch gives up after ten seconds
    finally:
        heal(own_box)
    said, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert "the submission comes to its end first" in said
    (run,) = stage.journal.runs()
    assert [array.outcome for array in stage.journal.arrays(run.id)] == ["submitted"] * 3
