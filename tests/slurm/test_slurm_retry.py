"""Retry by cause and rolling submissions on a real Slurm, while nobody looks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Retry, Sweep, attach
from nexa_sdk.errors import InvalidInput
from nexa_sdk.run import Run

# Takes more memory than it has, until it is killed; the second time it has enough.
HUNGRY = """
    print("attempt", flush=True)
    mark = "again-" + sys.argv[2]
    if not os.path.exists(mark):
        open(mark, "w").close()
        held = bytearray(200 << 20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(120)
"""


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def launched_by_a_process_that_dies(code: str) -> str:
    """Launch in a process of its own that is killed right after; return the run's id."""
    begin = "import os, sys\nfrom nexa_sdk import *\n"
    end = "\nprint(run.id, flush=True)\nos.kill(os.getpid(), 9)\n"
    done = subprocess.run([sys.executable, "-c", begin + code + end], capture_output=True, text=True)
    assert done.stdout.strip(), done.stderr
    return done.stdout.split()[-1]


def kept(run: Run) -> list[str]:
    return sorted(path.name.removesuffix(".kept") for path in Path(run.folder, "submitted").glob("*.kept"))


def changes(run: Run, trial: int) -> list[tuple[str, str, str]]:
    rows = run.attempts().loc[[trial]]
    return list(zip(rows["state"], rows["cause"], rows["change"], strict=True))


def test_more_memory_though_the_process_that_launched_is_dead(slurm: Cluster, program) -> None:
    program(HUNGRY)
    run_id = launched_by_a_process_that_dies(
        f"""
run = Cluster("sandbox").launch(
    Sweep(["{sys.executable}", "train.py"], {{"x": [0, 1]}}), time="0:05:00", mem="100M", retry="by-cause"
)
"""
    )
    run = attach(run_id)
    wait_until(lambda: kept(run) == [f"{run_id}-0", f"{run_id}-0m"])  # nobody has asked: only files are looked at
    run.wait(timeout=240, progress=False)
    for trial in (0, 1):
        assert changes(run, trial) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]
    # one array of each name, and the second has what it says
    for token, mem in ((f"{run_id}-0", "100M"), (f"{run_id}-0m", "200M")):
        rows = raw("squeue", "-h", "-t", "all", "-n", token, "-o", "%F|%m").split()
        assert len({row.partition("|")[0] for row in rows}) == 1
        assert {row.partition("|")[2] for row in rows} == {mem}
    assert "exceeded memory limit" in str(run.logs(0, attempt=1))
    assert str(run.logs(0, attempt=2)) == "attempt\n"


def test_more_memory_by_itself_where_there_is_no_accounting(forgetful: Cluster, program) -> None:
    code = "again = os.path.exists('again'); open('again', 'w').close(); sys.exit(0 if again else 137)"
    run = forgetful.launch(Sweep(program(code)), time="0:05:00", mem="100M", retry="by-cause")
    wait_until(lambda: kept(run) == [f"{run.id}-0", f"{run.id}-0m"])
    assert changes(attach(run.id), 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]


def test_a_keeper_tells_causes_apart_where_there_is_no_accounting(forgetful: Cluster, program) -> None:
    code = """
        mark = "again-" + sys.argv[2]
        if os.path.exists(mark): sys.exit(0)
        open(mark, "w").close()
        if sys.argv[2] == "memory": sys.exit("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.")
        if sys.argv[2] == "time": sys.exit("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***")
    """
    run = forgetful.launch(Sweep(program(code), {"x": ["memory", "time", "good"]}), time="0:05:00", mem="100M", retry="by-cause")
    wait_until(lambda: kept(run) == [f"{run.id}-0", f"{run.id}-0m", f"{run.id}-0t"])
    wait_until(lambda: not raw("squeue", "-h", "-t", "all", "-n", f"{run.id}-0"))
    again = attach(run.id)  # that has only the run's own folder to go by
    assert again.status()["state"].tolist() == ["COMPLETED"] * 3
    assert changes(again, 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]
    assert changes(again, 1) == [("FAILED", "", ""), ("COMPLETED", "TIMEOUT", "time=00:10:00")]


def test_a_keeper_that_runs_twice_submits_once(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program(HUNGRY), {"x": [0]}), time="0:05:00", mem="100M", retry="by-cause")
    wait_until(lambda: kept(run) == [f"{run.id}-0", f"{run.id}-0m"])
    marks = Path(run.folder, "submitted")
    job_id = (marks / f"{run.id}-0").read_text().strip()
    again = ["bash", f"{run.folder}/keeper.sbatch", "keep", f"{run.id}-0", job_id, "job-0.sbatch", "0"]
    raw(*again)
    (marks / f"{run.id}-0.kept").unlink()  # as if it had been requeued before it could say so
    raw(*again)
    assert len(set(raw("squeue", "-h", "-t", "all", "-n", f"{run.id}-0m", "-o", "%F").split())) == 1
    (marks / f"{run.id}-0m").rename(marks / f"{run.id}-0m.begun")  # as if it had died while sbatch was at work
    (marks / f"{run.id}-0.kept").unlink()
    raw(*again)
    assert len(set(raw("squeue", "-h", "-t", "all", "-n", f"{run.id}-0m", "-o", "%F").split())) == 1
    assert len(run.wait(timeout=240, progress=False).attempts()) == 2


def test_what_fails_everywhere_at_once_is_not_run_again_and_it_says_so(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("sys.exit(3)"), {"x": range(3)}), time="0:05:00", retry=Retry(failed=2))
    run.wait(check=False, timeout=240, progress=False)
    wait_until(lambda: kept(run) == [f"{run.id}-0"])
    status = run.status()
    assert status["state"].tolist() == ["FAILED"] * 3
    assert set(status["reason"]) == {"FAILED: all failed within a minute of their start: nothing is run again"}
    assert len(run.attempts()) == 3


def test_secrets_go_to_the_second_attempt_and_then_away(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NX_SECRET", "only at launch")
    code = """
        print(os.environ["NX_SECRET"])
        if not os.path.exists("again"): open("again", "w").close(); os.kill(os.getpid(), 9)
    """
    run = slurm.launch(Sweep(program(code)), time="0:05:00", mem="100M", secrets=["NX_SECRET"], retry="by-cause")
    monkeypatch.delenv("NX_SECRET")
    run.wait(timeout=240, progress=False)
    assert changes(run, 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]
    assert str(run.logs(0, attempt=2)) == "only at launch\n"
    wait_until(lambda: (run.refresh(), os.listdir(f"{run.folder}/secrets") == [])[1])
    for path in Path(run.folder).rglob("*"):
        assert not path.is_file() or path.parent.name == "logs" or b"only at launch" not in path.read_bytes()


def test_a_run_that_is_cancelled_is_not_run_again(slurm: Cluster, program) -> None:
    code = """
        if sys.argv[2] == "0": os.kill(os.getpid(), 9)
        time.sleep(500)
    """
    run = slurm.launch(Sweep(program(code), {"x": [0, 1]}), time="0:10:00", mem="100M", retry="by-cause")
    wait_until(lambda: run.status()["reason"][0].startswith("FAILED; it runs again when its array has ended: OUT_OF_MEMORY"))
    assert not run.is_finished
    with pytest.raises(InvalidInput, match="trial 0 is PENDING"):
        run.retry(0, by="cause")
    run.cancel().wait(check=False, timeout=240, progress=False)
    assert run.status()["state"].tolist() == ["FAILED", "CANCELLED"]
    assert raw("squeue", "-h", "-n", f"{run.id}-0-keeper", "-o", "%T").split() == []
    assert len(run.attempts()) == 2


def test_a_keeper_that_is_lost_is_said_and_sent_again(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexa_sdk.keepers.GONE", 1.0)
    monkeypatch.setattr("nexa_sdk.keepers.ASKED_AGAIN", 0.0)
    run = slurm.launch(Sweep(program(HUNGRY), {"x": [0]}), time="0:05:00", mem="100M", retry="by-cause")
    raw("scancel", "-n", f"{run.id}-0-keeper")
    run.wait(check=False, timeout=240, progress=False)
    status = run.status()
    assert status["state"].tolist() == ["FAILED"]
    assert (
        "its keeper is gone, and nothing runs it again: run.retry(by='cause') does, or run.resume() sends a keeper" in status["reason"][0]
    )
    run.resume().wait(timeout=240, progress=False)
    assert changes(run, 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]


def test_a_rolling_submission_goes_on_though_the_process_that_launched_is_dead(slurm: Cluster, program) -> None:
    program("while not os.path.exists('go'): time.sleep(0.05)\ntime.sleep(1)")
    run_id = launched_by_a_process_that_dies(
        f"""run = Cluster("sandbox").launch(Sweep(["{sys.executable}", "train.py"], {{"x": range(9)}}), time="0:05:00", rolling=8)"""
    )
    run = attach(run_id)
    assert "its array is submitted when there is room" in set(run.status()["reason"])
    most = 0
    names = ",".join([f"{run_id}-{n}{keeper}" for n in range(5) for keeper in ("", "-keeper")])
    Path("go").touch()
    while kept(run) != [f"{run_id}-{n}" for n in range(5)]:
        most = max(most, len(raw("squeue", "-h", "-r", "-n", names, "-o", "%i").split()))
        time.sleep(0.1)
    run.wait(timeout=240, progress=False)
    assert run.status()["state"].tolist() == ["COMPLETED"] * 9
    assert [path.name for path in sorted(Path(run.folder).glob("job-*.sbatch"))] == [f"job-{n}.sbatch" for n in range(5)]
    assert 4 <= most <= 8, "never more in the queue than was asked for"


def test_a_rolling_submission_that_is_cancelled_submits_no_more(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(500)"), {"x": range(9)}), time="0:10:00", rolling=8)
    with pytest.raises(InvalidInput, match="trial 5 can't be cancelled alone: its array is not submitted yet. Cancel 4-5"):
        run.cancel(5)
    run.cancel([4, 5])
    assert run.status()["reason"][4] == "never submitted: cancelled before it was submitted"
    run.cancel().wait(check=False, timeout=240, progress=False)
    assert run.status()["state"].tolist() == ["CANCELLED"] * 9
    assert not [name for name in os.listdir(f"{run.folder}/submitted") if name == f"{run.id}-3"]


def test_a_rolling_submission_waits_for_what_runs_again_and_a_lost_keeper_is_resumed(
    slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexa_sdk.keepers.GONE", 1.0)
    monkeypatch.setattr("nexa_sdk.keepers.ASKED_AGAIN", 0.0)
    code = """
        time.sleep(2)
        if sys.argv[2] == "0" and not os.path.exists("again"): open("again", "w").close(); os.kill(os.getpid(), 9)
    """
    run = slurm.launch(Sweep(program(code), {"x": range(4)}), time="0:05:00", mem="100M", rolling=14, retry="by-cause", throttle=1)
    raw("scancel", "-n", f"{run.id}-1-keeper")
    lost = f"of {run.id}-1 its keeper is gone: run.resume() goes on"
    wait_until(lambda: any(lost in reason for reason in run.status()["reason"]))
    run.resume().wait(timeout=240, progress=False)
    assert changes(run, 0) == [("FAILED", "", ""), ("COMPLETED", "OUT_OF_MEMORY", "mem=200M")]
    ids = {name: int(Path(run.folder, "submitted", f"{run.id}-{name}").read_text()) for name in ("0", "0m", "1", "2", "3")}
    assert ids["0m"] < ids["2"], "its place in the queue is free when its second attempt has ended"
    assert run.status()["state"].tolist() == ["COMPLETED"] * 4


@pytest.mark.full
@pytest.mark.timeout(300)
def test_more_time_where_there_is_no_accounting(forgetful: Cluster, program) -> None:
    program("if not os.path.exists('again'): open('again', 'w').close(); time.sleep(600)")
    run = forgetful.launch(Sweep([sys.executable, "train.py"]), time="0:01:00", retry="by-cause")
    wait_until(lambda: kept(run) == [f"{run.id}-0", f"{run.id}-0t"], 240)
    run.wait(timeout=240, progress=False)
    assert changes(run, 0) == [("TIMEOUT", "", ""), ("COMPLETED", "TIMEOUT", "time=00:02:00")]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_time_nodes_and_preemption(slurm: Cluster, program, sandbox) -> None:
    """Three causes side by side: each takes Slurm a minute or two to see."""
    program(
        """
        mark = "went-" + sys.argv[2]
        if os.path.exists(mark): sys.exit(0)
        open(mark, "w").close()
        time.sleep(600)
        """
    )
    command = [sys.executable, "train.py"]
    timed = slurm.launch(Sweep(command, {"x": ["timed"]}), time="0:01:00", nodelist="n2", retry="by-cause")
    low = slurm.launch(Sweep(command, {"x": ["low"]}), time="0:10:00", partition="low", nodelist="n1", exclusive=True, retry="by-cause")
    wait_until(lambda: low.status()["state"][0] == "RUNNING" and timed.status()["state"][0] == "RUNNING", 60)
    high = slurm.launch(Sweep([sys.executable, "-c", "pass"]), time="0:05:00", nodelist="n1", exclusive=True)
    wait_until(lambda: low.attempts()["state"].tolist()[0] == "PREEMPTED", 120)
    high.wait(timeout=200, progress=False)
    timed.wait(timeout=300, progress=False)
    low.wait(timeout=300, progress=False)
    assert changes(timed, 0) == [("TIMEOUT", "", ""), ("COMPLETED", "TIMEOUT", "time=00:02:00")]
    assert changes(low, 0) == [("PREEMPTED", "", ""), ("COMPLETED", "PREEMPTED", "")]

    lost = slurm.launch(Sweep(command, {"x": ["lost"]}), time="0:10:00", requeue=False, retry="by-cause")
    wait_until(lambda: lost.status()["state"][0] == "RUNNING")
    node = lost.status()["node"][0]
    sandbox.down(f"slurmd-{node}")
    try:
        wait_until(lambda: lost.attempts()["state"].tolist()[0] == "NODE_FAIL", 240)
        lost.wait(timeout=240, progress=False)
    finally:
        sandbox.up(f"slurmd-{node}")
    assert changes(lost, 0) == [("NODE_FAIL", "", ""), ("COMPLETED", "NODE_FAIL", f"exclude={node}")]
    assert lost.status()["node"][0] != node
