"""Runs that wait for other runs, and for their canary, on the embedded cluster; what is refused is the same on all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Sweep, attach, runs
from nexa_sdk.cli import main
from nexa_sdk.errors import InvalidInput, JobError, PreflightFailed
from nexa_sdk.run import Run

# It tells when it began, and ends once a file "go" is there; trials named in "bad" fail.
STAGE = """
while not os.path.exists('go'): time.sleep(0.05)
bad = open('bad').read().split() if os.path.exists('bad') else []
sys.exit(3 if sys.argv[-1] in bad else 0)
"""
QUICK = "open('began-' + sys.argv[-1], 'w').close(); sys.exit(int(os.environ.get('CODE', '0')))"


def first_and_second(local: Cluster, program, **after: str) -> tuple[Run, Run]:
    first = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(3)}), time="0:05:00")
    second = local.launch(Sweep(program(QUICK, "second.py"), {"n": range(3)}), time="0:05:00", **dict.fromkeys(after, first))
    return first, second


def go(bad: str = "") -> None:
    Path("bad").write_text(bad)
    Path("go").touch()


def began() -> list[str]:
    return sorted(path.name for path in Path().glob("began-*"))


def states(run: Run) -> list[str]:
    return [attempt.status.state.value for attempt in run.last_known]


def test_nothing_begins_before_all_of_the_other_has_completed(local: Cluster, program) -> None:
    first, second = first_and_second(local, program, after="")
    assert second.plan["after"] == [{"run": first.id, "each": False}]
    assert set(second.status()["state"]) == {"PENDING"}
    assert began() == []
    go()
    second.wait(timeout=240, progress=False)
    assert set(first.status()["state"]) == {"COMPLETED"}


def test_what_can_never_run_is_cancelled_and_says_why(local: Cluster, program) -> None:
    first, second = first_and_second(local, program, after="")
    go(bad="1")
    second.wait(timeout=240, check=False, progress=False)
    assert states(second) == ["CANCELLED"] * 3
    assert {attempt.status.reason for attempt in second.last_known} == {
        f"trial 1 of run {first.id}, which comes first, did not complete: it is FAILED with exit code 3"
    }
    assert attach(second.id).status()["reason"].str.contains(first.id).all(), "it is remembered"
    assert began() == []


def test_each_trial_waits_for_its_own(local: Cluster, program) -> None:
    first, second = first_and_second(local, program, after_each="")
    go(bad="1")
    second.wait(timeout=240, check=False, progress=False)
    assert states(second) == ["COMPLETED", "CANCELLED", "COMPLETED"]
    assert f"trial 1 of run {first.id}" in second.last_known[1].status.reason
    # and again, once the other is mended
    with pytest.raises(PreflightFailed, match=rf"trial 1 of {first.id}.* is FAILED with exit code 3; run it again first: run.retry\(1\)"):
        second.retry()
    go()
    first.retry()
    second.retry()
    second.wait(timeout=240, progress=False)
    assert set(first.status()["state"]) == {"COMPLETED"}


def test_a_run_that_has_completed_needs_no_wait_and_one_that_failed_is_an_error(local: Cluster, program) -> None:
    go()
    done = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00").wait(timeout=240, progress=False)
    sweep = Sweep(program(QUICK, "second.py"), {"n": range(2)})
    local.launch(sweep, time="0:05:00", after=done).wait(timeout=240, progress=False)
    go(bad="0")
    failed = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00", again=True)
    failed.wait(timeout=240, check=False, progress=False)
    plan = local.plan(sweep, time="0:05:00", after=[done, failed])
    with pytest.raises(PreflightFailed, match=rf"trial 0 of {failed.id}, .* run.retry\(0\)\. Nothing was submitted"):
        plan.submit()
    assert not Path(plan.folder).exists()


def test_what_comes_first_is_part_of_the_plan(local: Cluster, program) -> None:
    go()
    first = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00").wait(timeout=240, progress=False)
    sweep = Sweep(program(QUICK, "second.py"), {"n": range(2)})
    plain, whole = local.plan(sweep, time="0:05:00"), local.plan(sweep, time="0:05:00", after=first)
    each = local.plan(sweep, time="0:05:00", after_each=first)
    assert len({plain.digest, whole.digest, each.digest}) == 3
    assert repr(whole).endswith(f"on local, after run {first.id}>")
    assert f"each trial after the same one of run {first.id}" in each._repr_mimebundle_()["text/html"]
    run = whole.submit()
    assert json.loads(Path(run.folder, "plan.json").read_text())["after"] == [{"run": first.id, "each": False}]
    assert local.launch(sweep, time="0:05:00", after=first).id == run.id, "the same is launched once"


def test_a_line_names_the_runs_that_come_first(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    go()
    first = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00").wait(timeout=240, progress=False)
    program(QUICK, "second.py")
    line = ["second.py", "n=0,1", "--time", "0:05:00"]
    assert main(["preview", *line, "--after-each", first.id]) == 0
    assert f"each trial after the same one of run {first.id}" in capsys.readouterr().out
    assert main(["launch", *line, "--after", first.id[:-2], "--canary"]) == 0
    newest = attach(runs(limit=1).index[0])
    assert newest.plan["after"] == [{"run": first.id, "each": False}]
    assert newest.job.canary


def test_what_can_not_be_meant_is_said(local: Cluster, program) -> None:
    go()
    first = local.launch(Sweep(program(STAGE, "first.py"), {"n": range(2)}), time="0:05:00").wait(timeout=240, progress=False)
    sweep = Sweep(program(QUICK, "second.py"), {"n": range(3)})
    with pytest.raises(InvalidInput, match="it has 2 trials, and this has 3. after= waits for all of it"):
        local.plan(sweep, time="0:05:00", after_each=first)
    with pytest.raises(InvalidInput, match="it has arrays of 2 trials, and this has 1; is one with canary=True"):
        local.plan(Sweep(program(QUICK, "second.py"), {"n": range(2)}), time="0:05:00", canary=True, after_each=first)
    with pytest.raises(InvalidInput, match=r"after='.*' is no Run; nexa_sdk.attach\(id\) finds one"):
        local.plan(sweep, time="0:05:00", after=first.id)
    with pytest.raises(InvalidInput, match=f"after={first.id} runs on local, and this is planned for slurm"):
        Cluster("slurm").plan(sweep, time="0:05:00", after=first)
    with pytest.raises(InvalidInput, match="joins 'and' with no 'or'"):
        local.plan(sweep, time="0:05:00", after=first, dependency="afterok:1?afterok:2")
    with pytest.raises(JobError, match="joins 'and' with no 'or'"):
        local.plan(sweep, time="0:05:00", canary=True, dependency="afterok:1?afterok:2")


def test_a_supervisor_that_dies_keeps_nobody_waiting(local: Cluster, program) -> None:
    first, second = first_and_second(local, program, after="")
    (lock,) = Path(first.folder, "local").glob(f"{first.id}-*.lock")
    found = subprocess.run(["pgrep", "-o", "-f", f"supervisor.py {lock.with_suffix('.json')}"], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout), signal.SIGKILL)
    second.wait(timeout=240, check=False, progress=False)
    assert states(second) == ["CANCELLED"] * 3
    assert f"of run {first.id}, which comes first, did not complete: it is NODE_FAIL" in second.last_known[0].status.reason


def test_what_waits_can_be_cancelled(local: Cluster, program) -> None:
    _, second = first_and_second(local, program, after="")
    second.cancel(1)
    go()
    second.wait(timeout=240, check=False, progress=False)
    assert states(second) == ["COMPLETED", "CANCELLED", "COMPLETED"]
    assert second.last_known[1].status.reason == ""


# ---- a canary ------------------------------------------------------------------------------------


def test_a_canary_that_fails_keeps_the_others_from_failing(local: Cluster, program) -> None:
    sweep = Sweep(program(QUICK), {"n": range(4)})
    plan = local.plan(sweep, time="0:05:00", canary=True, env={"CODE": "5"})
    assert list(plan.arrays) == [(0, 1), (1, 3)]
    assert plan.task_count == 4
    run = plan.submit().wait(timeout=240, check=False, progress=False)
    assert states(run) == ["FAILED", *["CANCELLED"] * 3]
    assert (
        run.last_known[3].status.reason
        == "the canary, trial 0, did not complete: it is FAILED with exit code 5. run.logs(0) shows what it wrote"
    )
    assert began() == ["began-0"]
    run.retry().wait(timeout=240, check=False, progress=False)
    assert [(attempt.number, attempt.status.state.value) for attempt in run.last_known] == [(2, "FAILED"), *[(2, "CANCELLED")] * 3]
    assert began() == ["began-0"], "a retry has its canary, too"


def test_after_a_canary_that_completes_all_others_run(local: Cluster, program) -> None:
    local.launch(Sweep(program(QUICK), {"n": range(4)}), time="0:05:00", canary=True).wait(timeout=240, progress=False)
    assert began() == [f"began-{n}" for n in range(4)]
    alone = local.launch(Sweep(program(QUICK), {"n": [7]}), time="0:05:00", canary=True).wait(timeout=240, progress=False)
    assert len(alone.plan["arrays"]) == 1


def test_a_canary_with_several_trials_a_task(local: Cluster, program) -> None:
    plan = local.plan(Sweep(program(QUICK), {"n": range(6)}), time="0:05:00", canary=True, pack=2)
    assert list(plan.arrays) == [(0, 1), (1, 5)]
    assert plan.task_count == 4
    plan.submit().wait(timeout=240, progress=False)
    assert began() == [f"began-{n}" for n in range(6)]
