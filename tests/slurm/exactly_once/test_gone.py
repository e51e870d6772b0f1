"""A disk is full, or the journal or the run's folder is removed under a running run: it is said, and nothing wrong is written down."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep, attach
from nexa_sdk.errors import ClusterError, JournalError, RunNotFound, SubmissionRejected
from nexa_sdk.journal import Journal
from nexa_sdk.run import Run

WAITING = "echo begun; until [ -e go-on ]; do sleep 0.2; done"


def states(run: Run) -> list[str]:
    return [str(attempt.status.state) for attempt in run.refresh()]


def queued(token: str) -> list[str]:
    return subprocess.run(["squeue", "-h", "-t", "all", "-n", token, "-o", "%F"], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of a quarter of a MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True)
    if mounting.returncode:
        pytest.skip(f"mounting a small disk takes root: {mounting.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    with open(folder / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def waiting(cluster: Cluster) -> Run:
    run = cluster.launch(Sweep(["sh", "-c", WAITING], {"x": [1, 2]}, style="env"), time="0:10:00")
    wait_until(lambda: [str(run.logs(trial)) for trial in (0, 1)] == ["begun\n", "begun\n"])
    return run


def test_a_full_runs_disk_refuses_the_launch_and_nothing_is_submitted(slurm: Cluster, small_disk: Path) -> None:
    fill(small_disk)
    plan = Cluster("sandbox", runs=small_disk).plan(Sweep("true"), time="0:05:00")
    with pytest.raises(SubmissionRejected, match="can't be written.*No space left"):
        plan.submit()
    assert queued(plan.tokens[0]) == []
    assert Journal().outcome(plan.id) == "REJECTED"


def test_a_disk_that_fills_up_under_a_run_makes_no_state_wrong(slurm: Cluster, small_disk: Path) -> None:
    run = waiting(Cluster("sandbox", runs=small_disk))
    fill(small_disk)
    Path("go-on").touch()
    run.wait(timeout=240, progress=False)
    wait_until(lambda: run.status()["exit_code"].fillna(-1).tolist() == [0, 0])  # accounting is some seconds late
    wait_until(lambda: states(run) and Journal().outcome(run.id) == "COMPLETED")


def test_a_full_journal_is_said_before_anything_is_sent(slurm: Cluster, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_HOME", str(small_disk))
    Journal().newest()
    fill(small_disk)
    cluster = Cluster("sandbox", runs=Path.cwd() / "runs")
    plan = cluster.plan(Sweep("true"), time="0:05:00")
    with pytest.raises(JournalError, match="make room|is full"):
        plan.submit()
    assert queued(plan.tokens[0]) == []
    (small_disk / "filler").unlink()
    plan.submit().wait(timeout=240, progress=False)
    assert len(queued(plan.tokens[0])) == 1


def test_a_journal_that_fills_up_right_after_sbatch_finds_the_run_again(
    slurm: Cluster, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXA_HOME", str(small_disk))
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\n{real} "$@"\ncode=$?\ncat /dev/zero > {small_disk}/filler 2>/dev/null\nexit $code\n')
    shim.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{shim.parent}:{path}")
    plan = Cluster("sandbox", runs=Path.cwd() / "runs").plan(Sweep("true"), time="0:05:00")
    with pytest.raises(JournalError, match=r"is submitted, as job \d+"):
        plan.submit()
    monkeypatch.setenv("PATH", path)
    (small_disk / "filler").unlink()
    run = plan.submit().wait(timeout=240, progress=False)
    assert run.id == plan.id
    assert len(queued(plan.tokens[0])) == 1


def test_a_journal_that_is_removed_under_a_run_is_said(slurm: Cluster) -> None:
    run = waiting(slurm)
    Journal().path.unlink()
    for ask in (run.status, run.results, run.logs, run.cancel, run.retry, run.resume, lambda: run.wait(timeout=240, progress=False)):
        with pytest.raises((RunNotFound, JournalError), match="was it removed"):
            ask()
    with pytest.raises(RunNotFound):
        attach(run.id)
    Path("go-on").touch()


def test_a_runs_folder_that_is_removed_under_it_is_said_and_states_stay_right(slurm: Cluster) -> None:
    run = waiting(slurm)
    subprocess.run(["rm", "-rf", run.folder], check=True)
    assert states(run) == ["RUNNING", "RUNNING"]
    assert f"the run's folder {run.folder} is gone" in str(run.logs(0))
    with pytest.raises(ClusterError, match="is gone, and its results with it"):
        run.results()
    Path("go-on").touch()
    run.wait(timeout=240, progress=False)
    wait_until(lambda: states(attach(run.id)) == ["COMPLETED", "COMPLETED"] and Journal().outcome(run.id) == "COMPLETED")
