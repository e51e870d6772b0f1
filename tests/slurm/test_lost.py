"""What Slurm took twice, and what it forgot."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep
from nexa_sdk.journal import Journal
from nexa_sdk.run import Run
from nexa_sdk.scheduling.base import ArrayHandle


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def states(run: Run) -> list[str]:
    return [str(attempt.status.state) for attempt in run.refresh()]


def test_of_an_array_that_slurm_took_twice_one_job_carries_the_trials(slurm: Cluster, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = slurm.launch(
        Sweep(["sh", "-c", f"echo $n >> {begun}; sleep 2"], {"n": [0, 1, 2]}, style="env"), time="0:05:00", options={"hold": True}
    )
    (first,) = {attempt.job_id for attempt in run.refresh()}
    double = raw("sbatch", "--parsable", f"{run.folder}/job-0.sbatch").strip()  # held by its own directive
    raw("scontrol", "release", double)
    wait_until(lambda: (Path(run.folder) / f"submitted/{run.id}-0.claim").exists())
    raw("scontrol", "release", str(first))
    wait_until(lambda: not raw("squeue", "-h", "-n", f"{run.id}-0"))
    assert sorted(begun.read_text().split()) == ["0", "1", "2"]
    ends = [json.loads(path.read_text()) for path in (Path(run.folder) / "tasks").glob("*.json")]
    assert len(ends) == 3
    refused = sorted((Path(run.folder) / "logs").glob(f"{first}_*.log"))
    assert ["this is its double" in log.read_text() for log in refused] == [True] * 3
    rows = ("sacct", "-n", "-P", "-X", "-j", str(first), "--format=JobID,ExitCode")  # some seconds late
    wait_until(lambda: {row.split("|")[1] for row in raw(*rows).split()} == {"78:0"})


def test_what_slurm_forgot_beside_trials_that_ran_is_run_again_by_force(forgetful: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    program = ["sh", "-c", "until [ -e go-on ]; do sleep 0.1; done"]
    run = forgetful.launch(Sweep(program, {"n": [0, 1, 2]}, style="env"), time="0:05:00", throttle=1)
    wait_until(lambda: states(run)[0] == "RUNNING")
    raw("scancel", f"{run.last_known[0].job_id}_[1-2]")  # by somebody else, with no trace
    Path("go-on").touch()
    wait_until(lambda: not raw("squeue", "-h", "-t", "all", "-n", f"{run.id}-0"))
    assert states(run) == ["COMPLETED", "UNKNOWN", "UNKNOWN"]
    run.resume()
    assert states(run) == ["COMPLETED", "UNKNOWN", "UNKNOWN"]
    assert "run.resume(force=True)" in capsys.readouterr().out
    run.resume(force=True).wait(timeout=240)
    assert "trials 1-2" in capsys.readouterr().out
    attempts = run.attempts()
    assert attempts["state"].tolist() == ["COMPLETED", "UNKNOWN", "COMPLETED", "UNKNOWN", "COMPLETED"]


@pytest.mark.parametrize("trials", [None, [1]])
def test_a_job_that_was_given_the_id_of_a_lost_one_is_not_cancelled(slurm: Cluster, trials: list[int] | None) -> None:
    run = slurm.launch(Sweep(["sleep", "500"], {"n": [0, 1]}, style="env"), time="0:10:00")
    wait_until(lambda: run.refresh()[0].status.state.value == "RUNNING")
    raw("scancel", str(run.last_known[0].job_id))
    other = raw("sbatch", "--parsable", "--array=0-1", "--output=/dev/null", "--job-name=other", "--wrap", "sleep 500").strip()
    try:
        Journal().settle(f"{run.id}-0", "submitted", job_id=other)  # as if the controller had lost it, and counted anew
        run.cancel(trials)
        time.sleep(2)
        assert sorted(raw("squeue", "-h", "-r", "-j", other, "-t", "pending,running", "-o", "%i").split()) == [f"{other}_0", f"{other}_1"]
    finally:
        raw("scancel", other)


def test_a_cancel_leaves_a_job_alone_that_was_given_a_lost_one_s_id(slurm: Cluster, tmp_path: Path) -> None:
    other = raw("sbatch", "--parsable", "--job-name=other", "--array=0-3", "--hold", "--wrap", "true").strip()

    def waiting() -> int:
        return len(raw("squeue", "-h", "-r", "-t", "pending", "-n", "other", "-o", "%i").split())

    try:
        for tasks in (None, "2-3", "0-3"):
            slurm.scheduler.cancel(ArrayHandle(other, str(tmp_path), 4, "lost-000001-0"), tasks)
        assert waiting() == 4
        slurm.scheduler.cancel(ArrayHandle(other, str(tmp_path), 4, "other"), "2-3")
        assert waiting() == 2, "of its own name, what is named and no more"
        slurm.scheduler.cancel(ArrayHandle(other, str(tmp_path), 4, "other"), None)
        assert waiting() == 0
    finally:
        raw("scancel", other)


def test_a_cancel_that_comes_too_late_is_no_error(slurm: Cluster) -> None:
    run = slurm.launch(Sweep(["true"], {"n": range(2)}), time="0:05:00").wait(timeout=240)
    ended = ArrayHandle(str(run.last_known[0].job_id), run.folder, 2, f"{run.id}-0")
    forgotten = ArrayHandle("999999", run.folder, 2, f"{run.id}-0")
    for handle in (ended, forgotten):
        for tasks in (None, "0-1"):
            slurm.scheduler.cancel(handle, tasks)
