"""The embedded cluster: the same script, and Slurm's states as Slurm means them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Job, RunFailed, State, Sweep, attach
from nexa_sdk.errors import PreflightFailed, SubmissionRejected
from nexa_sdk.run import Run


def states(run: Run) -> list[str]:
    return run.status()["state"].tolist()


def test_completed_and_failed_with_their_exit_codes(local: Cluster, program) -> None:
    sweep = Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [0, 3, 137]})
    run = local.launch(sweep, time="0:01:00")
    with pytest.raises(RunFailed, match="2 of 3 trials"):
        run.wait()
    table = run.status()
    assert table["state"].tolist() == ["COMPLETED", "FAILED", "FAILED"]
    assert table["exit_code"].tolist() == [0, 3, 137]
    assert (table["node"] != "").all()
    assert table["elapsed"].notna().all()


def test_pending_and_running_under_a_throttle(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("time.sleep(300)"), {"x": range(3)}), time="0:05:00", throttle=1)
    wait_until(lambda: states(run) == ["RUNNING", "PENDING", "PENDING"])
    run.cancel()
    run.wait(check=False)
    assert states(run) == ["CANCELLED"] * 3


def test_the_throttle_holds_throughout(local: Cluster, program, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
        with open({str(log)!r}, "a") as f:
            print("begin", time.time(), file=f, flush=True)
            time.sleep(0.3)
            print("end", time.time(), file=f, flush=True)
    """
    local.launch(Sweep(program(code), {"x": range(5)}), time="0:01:00", throttle=1).wait()
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["begin", "end"] * 5


def test_a_time_limit_ends_a_trial_as_timeout(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("time.sleep(60)")), time="0:00:02")
    run.wait(check=False, timeout=240)
    assert states(run) == ["TIMEOUT"]


def test_a_cancel_sends_one_term_and_a_program_may_end_well(local: Cluster, program, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"""
        def stop(number, frame):
            with open({str(seen)!r}, "a") as f: print("TERM", file=f)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        for _ in range(3000):
            time.sleep(0.1)
            if os.path.exists({str(seen)!r}): time.sleep(1); break
    """
    run = local.launch(Sweep(program(code)), time="0:05:00")
    wait_until(lambda: "ready" in str(run.logs(0)))
    run.cancel()
    run.wait(check=False)
    assert states(run) == ["CANCELLED"]
    assert seen.read_text() == "TERM\n"


def test_a_program_that_ignores_term_is_killed_with_its_children(local: Cluster, program) -> None:
    code = """
        import subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "300"])
        print("child", child.pid, flush=True)
        time.sleep(300)
    """
    run = local.launch(Sweep(program(code)), time="0:05:00")
    wait_until(lambda: "child" in str(run.logs(0)))
    child = int(str(run.logs(0)).split()[1])
    run.cancel().wait(check=False, timeout=240)
    assert states(run) == ["CANCELLED"]
    wait_until(lambda: not os.path.exists(f"/proc/{child}/cmdline") or not Path(f"/proc/{child}/cmdline").read_bytes())


def test_some_trials_can_be_cancelled_alone(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("while not os.path.exists('go'): time.sleep(0.05)"), {"x": range(4)}), time="0:05:00", throttle=1)
    run.cancel([1, 3])
    Path("go").touch()
    run.wait(check=False)
    assert states(run) == ["COMPLETED", "CANCELLED", "COMPLETED", "CANCELLED"]


def test_a_run_outlives_the_process_that_launched_it(local: Cluster, program, home: Path) -> None:
    program("time.sleep(2); print('done')")
    code = (
        "import os, signal\nfrom nexa_sdk import *\n"
        f"run = Cluster('local').launch(Sweep([{sys.executable!r}, 'train.py'], {{'x': [1, 2]}}), time='0:01:00')\n"
        "print(run.id, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd(), env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = attach(done.stdout.strip())
    run.wait(timeout=240)
    assert states(run) == ["COMPLETED"] * 2
    assert "done" in str(run.logs(1))


def test_a_dead_supervisor_is_node_fail_and_leaves_nothing_running(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("print(os.getpid(), flush=True); time.sleep(300)"), {"x": range(2)}), time="0:05:00", throttle=1)
    wait_until(lambda: states(run)[0] == "RUNNING" and str(run.logs(0)).strip().isdecimal())
    trial = int(str(run.logs(0)))
    supervisors = [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdecimal() and run.folder.encode() in _cmdline(pid) and b"supervisor.py" in _cmdline(pid)
    ]
    assert len(supervisors) == 1
    os.kill(supervisors[0], signal.SIGKILL)
    wait_until(lambda: states(run) == ["NODE_FAIL", "NODE_FAIL"])
    wait_until(lambda: not _cmdline(str(trial)))
    assert run.status()["reason"].tolist() == ["its supervisor died", "its supervisor died before it could start"]
    Path("train.py").write_text("print('now it works')")
    run.retry().wait(timeout=240)
    assert states(run) == ["COMPLETED", "COMPLETED"]


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_gpus_are_handed_out_once_even_to_two_runs(program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    code = 'print(os.environ["CUDA_VISIBLE_DEVICES"], time.time()); time.sleep(0.5); print(time.time())'
    runs = [Cluster("local").launch(Sweep(program(code, f"p{n}.py"), {"x": range(2)}), time="0:05:00", gpus=1) for n in (1, 2)]
    used = []
    for run in runs:
        run.wait(timeout=240)
        for trial in range(2):
            words = str(run.logs(trial)).split()
            used.append((words[0], float(words[1]), float(words[2])))
    assert {gpu for gpu, _, _ in used} <= {"4", "5"}
    for gpu, begin, end in used:
        assert not [other for other in used if other[0] == gpu and begin < other[1] < end]


def test_what_this_machine_lacks_is_said_before_anything_starts(local: Cluster, home: Path) -> None:
    with pytest.raises(PreflightFailed, match=r"asks for 100 GPUs, and there are 0; leave gpus= out"):
        local.launch(Sweep("true"), gpus=100)
    with pytest.raises(PreflightFailed, match=r"asks for 1000 cores"):
        local.launch(Sweep("true"), cpus_per_task=1000)
    with pytest.raises(PreflightFailed, match="nodes=2, but this is one machine"):
        local.launch(Sweep("true"), nodes=2)
    assert not (home / "runs").exists()


def test_a_run_folder_that_can_not_be_written(program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SubmissionRejected, match="can't be written.*Choose another with Cluster"):
        Cluster("local", runs=tmp_path / "file").launch(Sweep("true"))


def test_the_notebooks_environment_does_not_leak(local: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "999")
    monkeypatch.setenv("SBATCH_PARTITION", "secret-partition")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    run = local.launch(Sweep(program("print(json.dumps(dict(os.environ)))")), time="0:01:00").wait()
    seen = json.loads(str(run.logs(0)))
    assert "planted" not in json.dumps(seen)
    assert not {name for name in seen if name.startswith("SBATCH_")}
    assert seen["SLURM_JOB_ID"] != "999"
    assert seen["HOME"] == os.environ["HOME"]


def test_ten_runs_leave_no_process_behind(local: Cluster, program) -> None:
    command = program("pass")
    runs = [local.launch(Sweep(command, {"x": [n]}), time="0:01:00") for n in range(10)]
    for run in runs:
        run.wait(timeout=240)
    wait_until(
        lambda: not [pid for pid in os.listdir("/proc") if pid.isdecimal() and any(run.folder.encode() in _cmdline(pid) for run in runs)]
    )


def test_job_is_of_the_run(local: Cluster) -> None:
    run = local.launch(Sweep("true"), Job(time="0:01:00", env={"A": "b"})).wait()
    found = attach(run.id)
    assert found.job == Job(time="0:01:00", env={"A": "b"})
    assert found.sweep.command == ("true",)
    assert [State(s) for s in states(found)] == [State.COMPLETED]
