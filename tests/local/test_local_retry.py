"""Retry by cause on the embedded cluster: on demand, and by itself while nobody looks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Retry, Sweep, attach
from nexa_sdk.errors import InvalidInput
from nexa_sdk.journal import Journal

# Runs out of time in its first attempt; in its second it is done at once.
SLOW = """
    print("attempt", flush=True)
    if not os.path.exists(f"again-{sys.argv[2]}"):
        open(f"again-{sys.argv[2]}", "w").close()
        time.sleep(300)
"""


def changes(run, trial: int) -> list[tuple[str, str, str]]:
    rows = run.attempts().loc[[trial]]
    return list(zip(rows["state"], rows["cause"], rows["change"], strict=True))


def test_on_demand_it_shows_before_it_acts_and_gives_more_time(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    run = local.launch(Sweep(program(SLOW), {"x": [0]}), time="12s").wait(check=False, progress=False)
    plan = run.retry_plan()
    assert plan.to_dict("records") == [{"attempt": 1, "cause": "TIMEOUT", "again": True, "change": "time 00:00:12 -> 00:00:24"}]
    assert len(run.attempts()) == 1, "looking submits nothing"
    run.retry(by="cause").wait(progress=False)
    assert "trial 0: TIMEOUT, run again: time 00:00:12 -> 00:00:24" in capsys.readouterr().out
    assert changes(run, 0) == [("TIMEOUT", "", ""), ("COMPLETED", "TIMEOUT", "time=00:00:24")]
    assert str(run.logs(0, attempt=1)) == str(run.logs(0, attempt=2)) == "attempt\n"


def test_plain_failures_are_not_run_again_by_cause_and_that_is_said(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    run = local.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"x": [0, 3]}), time="1:00:00").wait(check=False, progress=False)
    run.retry(by="cause")
    assert "trial 1: FAILED, not run again: not run again, unless the rules say so" in capsys.readouterr().out
    assert len(run.attempts()) == 2
    run.retry(by=Retry(failed=1)).wait(check=False, progress=False)
    assert run.attempts()["cause"].tolist() == ["", "", "FAILED"]
    run.retry(by=Retry(failed=1))
    assert "run again 1 time for it already" in capsys.readouterr().out


def test_what_was_killed_without_a_word_gets_more_memory(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("os.kill(os.getpid(), 9)")), time="1:00:00", mem="2G").wait(check=False, progress=False)
    assert run.retry_plan()["change"].tolist() == ["mem 2G -> 4G"]
    without = local.launch(Sweep(program("os.kill(os.getpid(), 9)")), time="1:00:00").wait(check=False, progress=False)
    assert without.retry_plan()["change"].tolist() == ["it is not known how much memory it had; give mem="]


def test_it_goes_on_by_itself_when_the_process_that_launched_is_dead(local: Cluster, program) -> None:
    program(SLOW)
    code = f"""
import os
from nexa_sdk import *
run = Cluster("local").launch(Sweep(["{sys.executable}", "train.py"], {{"x": [0, 1]}}), time="12s", retry="by-cause")
print(run.id, flush=True)
os.kill(os.getpid(), 9)
"""
    run_id = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    folder = Path(attach(run_id).folder)
    deadline = time.monotonic() + 240
    while len(list((folder / "tasks").glob("*.json"))) < 4:  # nobody asks: only files are looked at
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run = attach(run_id).wait(timeout=240, progress=False)
    for trial in (0, 1):
        assert changes(run, trial) == [("TIMEOUT", "", ""), ("COMPLETED", "TIMEOUT", "time=00:00:24")]
    assert run.status()["attempt"].tolist() == [2, 2]


def test_a_trial_that_runs_again_has_not_ended(local: Cluster, program) -> None:
    code = """
        while sys.argv[2] == "1" and not os.path.exists("go"): time.sleep(0.05)
        if sys.argv[2] == "1": sys.exit(0)
        if not os.path.exists("again"): open("again", "w").close(); os.kill(os.getpid(), 9)
    """
    run = local.launch(Sweep(program(code), {"x": [0, 1]}), time="1:00:00", mem="1G", retry="by-cause")
    deadline = time.monotonic() + 240
    while not run.status()["reason"][0].startswith("FAILED; it runs again"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run.status()["state"][0] == "PENDING"
    assert not run.is_finished
    with pytest.raises(
        InvalidInput, match="trial 0 is PENDING .FAILED; it runs again when its array has ended: OUT_OF_MEMORY, mem 1G -> 2G"
    ):
        run.retry(0)
    Path("go").touch()
    run.wait(timeout=240, progress=False)
    assert changes(run, 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=2G")]


def test_what_fails_everywhere_at_once_is_not_run_again(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("sys.exit(3)"), {"x": range(3)}), time="1:00:00", retry=Retry(failed=2))
    run.wait(check=False, timeout=240, progress=False)
    status = run.status()
    assert status["state"].tolist() == ["FAILED"] * 3
    assert len(run.attempts()) == 3


def test_it_ends_after_as_many_times_as_the_rules_say(local: Cluster, program) -> None:
    code = "time.sleep(int(sys.argv[2]))"
    run = local.launch(Sweep(program(code), {"x": [0, 60]}), time="1s", retry={"timeout": 2, "most_time": "0:00:03"})
    run.wait(check=False, timeout=240, progress=False)
    assert [change for *_, change in changes(run, 1)] == ["", "time=00:00:02", "time=00:00:03"]
    assert run.status()["reason"][1] == "TIMEOUT: run again 2 times for it already"


def test_a_run_that_is_cancelled_is_not_run_again(local: Cluster, program) -> None:
    code = """
        if sys.argv[2] == "0": os.kill(os.getpid(), 9)
        time.sleep(300)
    """
    run = local.launch(Sweep(program(code), {"x": [0, 1]}), time="1:00:00", mem="1G", retry="by-cause")
    deadline = time.monotonic() + 240
    while not run.status()["reason"][0].startswith("FAILED; it runs again"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.cancel().wait(check=False, timeout=240, progress=False)
    assert run.status()["state"].tolist() == ["FAILED", "CANCELLED"]
    assert len(run.attempts()) == 2


def test_the_secrets_of_a_retry_are_those_of_the_launch(local: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NX_SECRET", "only at launch")
    code = """
        print(os.environ["NX_SECRET"])
        if not os.path.exists("again"): open("again", "w").close(); os.kill(os.getpid(), 9)
    """
    run = local.launch(Sweep(program(code)), time="1:00:00", mem="1G", secrets=["NX_SECRET"], retry="by-cause")
    monkeypatch.delenv("NX_SECRET")
    run.wait(timeout=240, progress=False)
    assert str(run.logs(0, attempt=2)) == "only at launch\n"
    deadline = time.monotonic() + 240
    while os.listdir(f"{run.folder}/secrets"):
        assert time.monotonic() < deadline, "no secret stays"
        run.refresh()
        time.sleep(0.1)


def test_two_kernels_that_run_again_at_once_run_each_trial_again_once(
    local: Cluster, program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = local.launch(Sweep(program("sys.exit(not os.path.exists('mended'))"), {"x": [0, 1, 2]}), time="0:01:00")
    run.wait(check=False, progress=False)
    Path("mended").touch()
    others = iter([lambda: attach(run.id).retry([0, 1]), lambda: attach(run.id).retry()])
    intend = Journal.intend

    def while_others_do(journal: Journal, arrays, *, known: int) -> bool:
        if (other := next(others, None)) is not None:
            other()
        return intend(journal, arrays, known=known)

    monkeypatch.setattr(Journal, "intend", while_others_do)
    run.retry().wait(progress=False)
    assert "Another kernel has just begun to run them again" in capsys.readouterr().out
    assert list(run.attempts().index) == [(trial, number) for trial in (0, 1, 2) for number in (1, 2)]
