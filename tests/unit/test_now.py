"""A look into running jobs: what answers is shown, what does not is named."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from nexa_sdk.monitoring import agent
from nexa_sdk.now import _look_into_jobs
from nexa_sdk.transports.local import LocalTransport


@pytest.fixture
def slurm(tmp_path: Path):
    """Put a squeue and an srun on PATH: a node that does not answer can't be had at will."""

    def write(**programs: str) -> dict[str, str]:
        for name, text in programs.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("#!/bin/bash\n" + textwrap.dedent(text))
            path.chmod(0o755)
        return {"PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}

    return write


SRUN = f"""
case $* in
  *--jobid=11*) echo "a login's words"; SLURMD_NODENAME=n1 {sys.executable} -IS {agent.__file__} once; SLURMD_NODENAME=n2 {sys.executable} -IS {agent.__file__} once ;;
  *--jobid=12*) echo "srun: error: Unable to create step for job 12: Communication connection failure" >&2; exit 1 ;;
  *--jobid=13*) echo "slurmstepd-n4: error: execve(): python3: No such file or directory" >&2; exit 2 ;;
esac
"""


def test_nodes_that_answer_and_nodes_that_do_not(slurm):
    env = slurm(squeue='echo "11 2 10_0"; echo "12 1 10_1"; echo "13 1 10_2"', srun=SRUN)
    series, complaints = _look_into_jobs(LocalTransport(), env)
    assert [(one.task, one.node, one.count()) for one in series] == [("10_0", "n1", 1), ("10_0", "n2", 1)]
    assert complaints == {
        "10_1": "Unable to create step for job 12: Communication connection failure",
        "10_2": "slurmstepd-n4: error: execve(): python3: No such file or directory",
    }


def test_a_controller_that_does_not_answer_is_an_error(slurm):
    from nexa_sdk.errors import CommandFailed

    env = slurm(squeue='echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1', srun="exit 1")
    with pytest.raises(CommandFailed, match="Unable to contact slurm controller"):
        _look_into_jobs(LocalTransport(), env)


def test_very_many_jobs_are_cut_and_it_is_said(slurm, monkeypatch):
    monkeypatch.setattr("nexa_sdk.now.MOST_JOBS", 1)
    env = slurm(squeue='echo "11 1 10_0"; echo "12 1 10_1"', srun="exit 0")
    _, complaints = _look_into_jobs(LocalTransport(), env)
    assert "only 1 of your running jobs are looked into" in complaints.values()
