"""Runs that wait for other runs, and for their canary, on a real Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import PreflightFailed
from nexa_sdk.run import Run
from nexa_sdk.scheduling.base import Submission

STAGE = """
while not os.path.exists('go-' + sys.argv[-1]) and not os.path.exists('go'): time.sleep(0.05)
bad = open('bad').read().split() if os.path.exists('bad') else []
sys.exit(3 if sys.argv[-1] in bad else 0)
"""
QUICK = "open('began-' + sys.argv[-1], 'w').close(); sys.exit(int(os.environ.get('CODE', '0')))"


def dependencies(run: Run) -> set[str]:
    """Return what Slurm says that the run's jobs wait for."""
    jobs = ",".join(str(attempt.job_id) for attempt in run.last_known)
    return set(subprocess.run(["squeue", "-h", "-j", jobs, "-o", "%E"], capture_output=True, text=True, check=True).stdout.split())


def end(run: Run) -> list[str]:
    run.wait(timeout=240, check=False, progress=False)
    return [attempt.status.state.value for attempt in run.last_known]


def test_a_run_waits_for_all_of_another_and_is_cancelled_when_a_trial_of_it_fails(slurm: Cluster, program) -> None:
    Path("bad").write_text("1")
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(3)}), time="0:05:00")
    second = slurm.launch(Sweep(program(QUICK, "second.py"), {"n": range(4)}), time="0:05:00", after=first)
    second.refresh()
    (job,) = {attempt.job_id for attempt in first.refresh()}
    assert dependencies(second) == {f"afterok:{job}_*(unfulfilled)"}
    Path("go").touch()
    assert end(second) == ["CANCELLED"] * 4
    assert {attempt.status.reason for attempt in second.last_known} == {
        f"trial 1 of run {first.id}, which comes first, did not complete: it is FAILED with exit code 3"
    }
    assert not list(Path().glob("began-*"))
    with pytest.raises(PreflightFailed, match=rf"trial 1 of {first.id}.*run.retry\(1\)"):
        second.retry()
    # Once the failed trial runs again, its first failure counts no more.
    Path("go").unlink()
    Path("bad").unlink()
    first.retry()
    second.retry()
    second.refresh()
    assert not list(Path().glob("began-*"))
    Path("go").touch()
    assert end(second) == ["COMPLETED"] * 4
    assert end(first) == ["COMPLETED"] * 3


def test_only_what_goes_on_is_named_where_a_job_also_has_failures(slurm: Cluster, program) -> None:
    Path("bad").write_text("1")
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(4)}), time="0:05:00")
    Path("go-0").touch()
    Path("go-1").touch()
    wait_until(lambda: {str(attempt.status.state) for attempt in first.refresh()[:2]} == {"COMPLETED", "FAILED"})
    Path("go-1").unlink()
    Path("bad").unlink()
    first.retry(1)
    again, job = (first.refresh()[trial].job_id for trial in (1, 2))
    second = slurm.launch(Sweep(program(QUICK, "second.py"), {"n": range(2)}), time="0:05:00", after=first)
    second.refresh()
    (told,) = dependencies(second)
    assert sorted(told.replace("(unfulfilled)", "").split(",")) == sorted([f"afterok:{job}_2", f"afterok:{job}_3", f"afterok:{again}_*"])
    Path("go-2").touch()
    Path("go-3").touch()
    wait_until(lambda: [str(attempt.status.state) for attempt in first.refresh()[2:]] == ["COMPLETED"] * 2)
    Path("go-1").touch()
    assert end(second) == ["COMPLETED"] * 2


def test_each_trial_waits_for_the_job_that_carries_its_own_and_for_none_that_does_not(slurm: Cluster, program) -> None:
    Path("bad").write_text("1")
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(4)}), time="0:05:00")
    Path("go-0").touch()
    Path("go-1").touch()
    wait_until(lambda: {str(attempt.status.state) for attempt in first.refresh()[:2]} == {"COMPLETED", "FAILED"})
    Path("go-1").unlink()
    first.retry(1)
    Path("bad").write_text("2")
    # Trial 0 has completed, 1 runs again in a job of its own, 2 will fail, and 3 will complete.
    second = slurm.launch(Sweep(program(QUICK, "second.py"), {"n": range(4)}), time="0:05:00", after_each=first)
    wait_until(lambda: Path("began-0").exists())
    assert len({attempt.job_id for attempt in second.refresh()}) == 3
    Path("go").touch()
    assert end(second) == ["COMPLETED", "COMPLETED", "CANCELLED", "COMPLETED"]


def test_each_trial_waits_for_its_own(slurm: Cluster, program) -> None:
    Path("bad").write_text("1")
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(3)}), time="0:05:00")
    second = slurm.launch(Sweep(program(QUICK, "second.py"), {"n": range(3)}), time="0:05:00", after_each=first)
    Path("go-2").touch()
    wait_until(lambda: Path("began-2").exists())
    assert [path.name for path in Path().glob("began-*")] == ["began-2"]
    Path("go").touch()
    assert end(second) == ["COMPLETED", "CANCELLED", "COMPLETED"]
    assert f"trial 1 of run {first.id}, which comes first" in second.last_known[1].status.reason


def test_what_has_completed_and_is_forgotten_is_not_named(slurm: Cluster, program) -> None:
    Path("go").touch()
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00").wait(timeout=240, progress=False)
    second = slurm.launch(Sweep(program(QUICK, "second.py"), {"n": range(2)}), time="0:05:00", after=first)

    assert end(second) == ["COMPLETED"] * 2


def test_a_job_s_own_dependency_that_never_holds_waits_for_nobody(slurm: Cluster, program) -> None:
    Path("go").touch()
    Path("bad").write_text("0")
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": [0]}), time="0:05:00")
    assert end(first) == ["FAILED"]
    second = slurm.launch(
        Sweep(program(QUICK, "second.py"), {"n": [0]}), time="0:05:00", dependency=f"afterok:{first.last_known[0].job_id}"
    )
    assert end(second) == ["CANCELLED"]


def die(_: Submission) -> str:
    raise SystemExit("as if the kernel died here")


def test_a_launch_that_was_cut_short_still_waits(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    first = slurm.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00")
    plan = slurm.plan(Sweep(program(QUICK, "second.py"), {"n": range(2)}), time="0:05:00", after=first)
    with monkeypatch.context() as patch:
        patch.setattr(plan.cluster.scheduler, "submit", die)
        with pytest.raises(SystemExit):
            plan.submit()
    second = plan.submit()
    assert all("afterok" in text for text in dependencies(second))
    Path("go").touch()
    assert end(second) == ["COMPLETED"] * 2


# ---- a canary ------------------------------------------------------------------------------------


def test_a_canary_that_fails_keeps_the_others_from_failing(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program(QUICK), {"n": range(4)}), time="0:05:00", canary=True, env={"CODE": "5"})
    assert end(run) == ["FAILED", *["CANCELLED"] * 3]
    assert (
        run.last_known[3].status.reason
        == "the canary, trial 0, did not complete: it is FAILED with exit code 5. run.logs(0) shows what it wrote"
    )
    assert [path.name for path in Path().glob("began-*")] == ["began-0"]


def test_after_a_canary_that_completes_all_others_run(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program(QUICK), {"n": range(5)}), time="0:05:00", canary=True, pack=2, throttle=1)
    assert end(run) == ["COMPLETED"] * 5
    assert len(list(Path().glob("began-*"))) == 5
