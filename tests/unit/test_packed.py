"""Tasks that carry several trials: what the script does, run by bash as a scheduler would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_rows import lay_down
from test_script import TELL, script_of
from until import wait_until

from nexa_sdk import Cluster, Job, Sweep
from nexa_sdk.definition import load
from nexa_sdk.errors import JobError
from nexa_sdk.passing import argv

SIDE_BY_SIDE = Job(pack=3, side_by_side=True)


def start(script: str, folder: Path, task: int = 0, *args: str, **env: str) -> subprocess.Popen[bytes]:
    for name in ("tasks", "results", "logs", "submitted"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    path = folder / "job.sbatch"
    path.write_text(script)
    task_env = {
        "PATH": os.environ["PATH"],
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": "9",
        "SLURM_JOB_NAME": "r-000000-0",
        **env,
    }
    with open(folder / "task.log", "w") as log:
        return subprocess.Popen(["bash", str(path), *args], env=task_env, stdout=log, stderr=log, start_new_session=True)


def run(script: str, folder: Path, task: int = 0, *args: str, **env: str) -> int:
    code = start(script, folder, task, *args, **env).wait(timeout=240)
    assert (folder / "task.log").read_text() == ""
    return code


def events(folder: Path, task: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"tasks/7_{task}.trials").read_text().splitlines() if line]


def ends(folder: Path, task: int = 0) -> dict[int, int]:
    """Return the exit codes by trial."""
    return {event["trial"]: event["exit"] for event in events(folder, task) if "exit" in event}


def told(folder: Path, name: str) -> tuple[list[str], dict[str, str]]:
    words, env = json.loads((folder / f"logs/{name}.log").read_text())
    return words, env


def program(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time; n = int(sys.argv[2])\n{code}"]


def signal_session(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all processes of a task, as schedulers do."""
    os.killpg(process.pid, number)


# ---- which trials ------------------------------------------------------------------------------------------

SWEEPS = [
    Sweep(TELL, {"a": range(3, 303, 3), "b": ["x", "it's"]}),
    Sweep(TELL, {"a": list(range(40)), "b": ["x", "y"], "c": [True, None]}, where=lambda t: t["a"] % 2 == 1),
    Sweep.from_trials(TELL, [{"a": f"value {k}", **({"b": k} if k % 2 else {})} for k in range(50)]),
    Sweep(["env", *TELL, "{a}", "{b}"], {"a": list(range(10)), "b": ["$x", "y z"]}),
    Sweep(TELL, {"A": range(40), "B": [None, "b"]}, style="env"),
    Sweep(TELL, {"a": range(40), "b": [None, "b"]}, style="hydra"),
]


@pytest.mark.parametrize("are_rows_beside", [False, True], ids=["in the script", "beside it"])
@pytest.mark.parametrize("sweep", SWEEPS, ids=["grid", "where", "table", "template", "env", "hydra"])
def test_every_slot_carries_its_own_trial(sweep: Sweep, are_rows_beside: bool, tmp_path: Path) -> None:
    if sweep.style == "template":
        command = [word.replace("{", "{{").replace("}", "}}") if word == TELL[3] else word for word in sweep.command]
        sweep = Sweep(command, {"a": list(range(10)), "b": ["$x", "y z"]})
    if are_rows_beside:
        lay_down(sweep, tmp_path)
    first, count = 5, 11
    script = script_of(sweep, tmp_path, Job(pack=4), first=first, count=count, are_rows_beside=are_rows_beside)
    assert "#SBATCH --array=0-2\n" in script
    for task in range(3):
        assert run(script, tmp_path, task) == 0
    for n in range(count):
        name, trial = f"7_{n // 4}-{n % 4}", first + n
        words, env = told(tmp_path, name)
        assert words == argv(sweep, sweep[trial])[sweep.command.index("-c") + 2 :]
        assert (env["NEXA_TRIAL"], env["NEXA_RUN"]) == (str(trial), "r-000000")
        assert env["NEXA_RESULTS"] == str(tmp_path / f"results/{name}.jsonl")
        assert env["WANDB_RUN_NAME"] == f"r-000000-{trial}"
        for key, value in sweep[trial].items():
            if sweep.style == "env":
                assert env.get(key) == (None if value is None else str(value))
    assert [event["trial"] for event in events(tmp_path, 2) if "end" in event] == [13, 14, 15]
    assert not (tmp_path / "logs/7_2-3.log").exists()


def test_a_retry_carries_the_trials_that_it_names(tmp_path: Path) -> None:
    sweep = Sweep(program("sys.exit(n)"), {"code": range(100)})
    script = script_of(sweep, tmp_path, Job(pack=2))
    named = ["17", "23", "41"]
    assert run(script, tmp_path, 0, *named) == 17
    assert run(script, tmp_path, 1, *named) == 41
    assert ends(tmp_path, 0) == {17: 17, 23: 23}
    assert ends(tmp_path, 1) == {41: 41}
    assert start(script, tmp_path, 2, *named).wait(timeout=240) == 78
    assert "there is no trial for task 2" in (tmp_path / "task.log").read_text()


# ---- what becomes of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [Job(pack=3), SIDE_BY_SIDE], ids=["one after another", "side by side"])
def test_each_has_its_exit_code_and_the_task_that_of_the_first_that_failed(job: Job, tmp_path: Path) -> None:
    script = script_of(Sweep(program("print('code', n); sys.exit(n)"), {"code": [0, 7, 3]}), tmp_path, job)
    assert run(script, tmp_path, SLURMD_NODENAME="n1") == 7
    found = events(tmp_path)
    assert [set(event) for event in found if event["slot"] == 1] == [
        {"slot", "trial", "restart", "node", "start"},
        {"slot", "trial", "restart", "node", "start", "end", "exit"},
    ]
    assert ends(tmp_path) == {0: 0, 1: 7, 2: 3}
    assert {(event["node"], event["restart"]) for event in found} == {("n1", 0)}
    assert all(event["end"] >= event["start"] for event in found if "end" in event)
    record = json.loads((tmp_path / "tasks/7_0.json").read_text())
    assert (record["trial"], record["exit"]) == (0, 7)
    assert [(tmp_path / f"logs/7_0-{slot}.log").read_text() for slot in range(3)] == ["code 0\n", "code 7\n", "code 3\n"]


def test_one_after_another_means_so_and_side_by_side_means_at_once(tmp_path: Path) -> None:
    alone = f"here = {str(tmp_path / 'here')!r}\nos.mkdir(here); time.sleep(0.1); os.rmdir(here)"
    assert run(script_of(Sweep(program(alone), {"n": range(3)}), tmp_path, Job(pack=3)), tmp_path) == 0
    together = f"""
arrived = {str(tmp_path / "arrived-%d")!r}
open(arrived % n, "w").close()
while not all(os.path.exists(arrived % k) for k in range(3)):
    time.sleep(0.02)
"""
    assert run(script_of(Sweep(program(together), {"n": range(3)}), tmp_path, SIDE_BY_SIDE), tmp_path) == 0


def test_a_program_that_is_not_there_is_its_trials_failure_alone(tmp_path: Path) -> None:
    sweep = Sweep(["{program}"], {"program": ["true", "no-such-program-here", "true"]})
    assert run(script_of(sweep, tmp_path, Job(pack=3)), tmp_path) == 78
    assert ends(tmp_path) == {0: 0, 1: 78, 2: 0}
    assert "there is no program no-such-program-here on" in (tmp_path / "logs/7_0-1.log").read_text()


def test_a_row_that_is_gone_is_its_trials_failure_alone(tmp_path: Path) -> None:
    sweep = Sweep.from_trials("true", [{"a": k} for k in range(3)])
    lay_down(sweep, tmp_path)
    rows = tmp_path / "trials/0.sh"
    rows.write_text(rows.read_text().replace("row=1 ", "row=11 "))
    assert run(script_of(sweep, tmp_path, Job(pack=3), are_rows_beside=True), tmp_path) == 78
    assert ends(tmp_path) == {0: 0, 1: 78, 2: 0}


# ---- signals -----------------------------------------------------------------------------------------------

SLEEPY = """
def ended(number, frame):
    print('got', signal.Signals(number).name, flush=True)
    time.sleep(0.5)
    sys.exit(5)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, ended)
print('ready', flush=True)
time.sleep(300)
"""


def are_ready(folder: Path, slots: int) -> bool:
    logs = [folder / f"logs/7_0-{slot}.log" for slot in range(slots)]
    return all(log.exists() and "ready" in log.read_text() for log in logs)


def test_term_ends_the_current_trial_and_no_further_one_begins(tmp_path: Path) -> None:
    process = start(script_of(Sweep(program(SLEEPY), {"n": range(3)}), tmp_path, Job(pack=3)), tmp_path)
    wait_until(lambda: are_ready(tmp_path, 1))
    signal_session(process, signal.SIGTERM)
    assert process.wait(timeout=240) == 5
    assert [event["slot"] for event in events(tmp_path)] == [0, 0]
    assert [event.get("ended_by_task") for event in events(tmp_path)] == [None, True]
    assert (tmp_path / "logs/7_0-0.log").read_text() == "ready\ngot SIGTERM\n"


def test_a_task_that_term_kept_from_its_last_trials_has_not_ended_well(tmp_path: Path) -> None:
    process = start(script_of(Sweep(program(SLEEPY.replace("exit(5)", "exit(0)")), {"n": range(3)}), tmp_path, Job(pack=3)), tmp_path)
    wait_until(lambda: are_ready(tmp_path, 1))
    signal_session(process, signal.SIGTERM)
    assert process.wait(timeout=240) == 143
    assert ends(tmp_path) == {0: 0}
    assert "ended_by_task" not in (tmp_path / "tasks/7_0.trials").read_text()


def test_a_program_that_dies_of_the_same_term_as_its_script_has_no_strange_exit_code(tmp_path: Path) -> None:
    """In the very moment of a signal bash may lose the exit code of what it waits for."""
    script = script_of(Sweep(["sleep", "{n}"], {"n": range(300, 320)}), tmp_path, Job(pack=20, side_by_side=True))
    process = start(script, tmp_path)
    wait_until(lambda: (tmp_path / "tasks/7_0.trials").exists() and len(events(tmp_path)) == 20)
    time.sleep(0.5)
    signal_session(process, signal.SIGTERM)
    assert process.wait(timeout=240) == 143
    assert set(ends(tmp_path).values()) == {143}


@pytest.mark.parametrize("job", [Job(), Job(pack=3), SIDE_BY_SIDE], ids=["alone", "packed", "side by side"])
@pytest.mark.parametrize("late", ["date", "mv"])
def test_a_term_that_reaches_the_processes_in_turn_takes_no_record_away(job: Job, late: str, tmp_path: Path) -> None:
    """A program that TERM ended may be over before TERM has come to the last process of its task, with what that began by then."""
    tool = tmp_path / "tools" / late
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ ! -e {tmp_path}/ended ] || kill -TERM $$ $PPID\nexec {shutil.which(late)} "$@"\n')
    tool.chmod(0o755)
    sweep = Sweep(program(f"open({str(tmp_path / 'ended')!r}, 'w').close(); sys.exit(7)"), {"n": [1]})
    assert run(script_of(sweep, tmp_path / "run", job), tmp_path / "run", PATH=f"{tool.parent}:{os.environ['PATH']}") == 7
    assert json.loads((tmp_path / "run/tasks/7_0.json").read_text())["exit"] == 7
    assert job.pack is None or ends(tmp_path / "run") == {0: 7}


def test_term_ends_all_that_run_side_by_side_once_each(tmp_path: Path) -> None:
    process = start(script_of(Sweep(program(SLEEPY), {"n": range(3)}), tmp_path, SIDE_BY_SIDE), tmp_path)
    wait_until(lambda: are_ready(tmp_path, 3))
    signal_session(process, signal.SIGTERM)
    assert process.wait(timeout=240) == 5
    assert ends(tmp_path) == {0: 5, 1: 5, 2: 5}
    assert all(event["ended_by_task"] for event in events(tmp_path) if "end" in event)
    assert {(tmp_path / f"logs/7_0-{slot}.log").read_text() for slot in range(3)} == {"ready\ngot SIGTERM\n"}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("job", [Job(pack=3), SIDE_BY_SIDE], ids=["one after another", "side by side"])
def test_a_signal_to_the_script_reaches_what_runs(job: Job, number: signal.Signals, tmp_path: Path) -> None:
    code = f"{SLEEPY}" if job.side_by_side else f"if n: sys.exit(0)\n{SLEEPY}"
    process = start(script_of(Sweep(program(code), {"n": range(3)}), tmp_path, job), tmp_path)
    wait_until(lambda: are_ready(tmp_path, 3 if job.side_by_side else 1))
    process.send_signal(number)
    assert process.wait(timeout=240) == 5
    assert ends(tmp_path) == ({0: 5, 1: 5, 2: 5} if job.side_by_side else {0: 5, 1: 0, 2: 0})
    assert not any("ended_by_task" in event for event in events(tmp_path))
    assert f"got {number.name}\n" in (tmp_path / "logs/7_0-0.log").read_text()


def test_a_term_that_was_asked_for_comes_to_the_script_alone_and_is_passed_on(tmp_path: Path) -> None:
    job = Job(pack=3, signal="TERM@60")
    process = start(script_of(Sweep(program(SLEEPY), {"n": range(3)}), tmp_path, job), tmp_path)
    wait_until(lambda: are_ready(tmp_path, 1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 5
    assert ends(tmp_path) == {0: 5}


def test_a_program_begins_with_no_signal_ignored(tmp_path: Path) -> None:
    code = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('SigIgn')])"
    python_ignores = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    # What was ignored when bash began it can't change: SIGHUP, where the tests run under nohup.
    for inherited in (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn")):
        python_ignores |= int(inherited, 16)
    for job in (Job(pack=2), Job(pack=2, side_by_side=True)):
        (tmp_path / "logs/7_0-0.log").unlink(missing_ok=True)
        assert run(script_of(Sweep(program(code), {"n": range(2)}), tmp_path, job), tmp_path) == 0
        (mask,) = eval((tmp_path / "logs/7_0-0.log").read_text())
        assert int(mask, 16) & ~python_ignores == 0


# ---- requeued ----------------------------------------------------------------------------------------------


def test_after_a_requeue_only_those_run_that_had_not_ended_well(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    code = f"print('ran', flush=True); sys.exit(n if not os.path.exists({str(mended)!r}) else 0)"
    script = script_of(Sweep(program(code), {"code": [0, 7, 0, 9]}), tmp_path, Job(pack=4))
    assert run(script, tmp_path) == 7
    with open(tmp_path / "tasks/7_0.trials", "a") as file:
        file.write('{"slot":3,"trial":3,"rest')  # the node was lost in the middle of a line
    mended.touch()
    assert run(script, tmp_path, SLURM_RESTART_COUNT="1") == 0
    lines = (tmp_path / "tasks/7_0.trials").read_text().splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]
    assert [(event["trial"], event["exit"]) for event in found if event["restart"] == 1 and "exit" in event] == [(1, 0), (3, 0)]
    assert [(tmp_path / f"logs/7_0-{slot}.log").read_text().count("ran") for slot in range(4)] == [1, 2, 1, 2]


# ---- GPUs --------------------------------------------------------------------------------------------------


def test_side_by_side_shares_the_gpus_of_the_task(tmp_path: Path) -> None:
    job = Job(pack=2, side_by_side=True, gpus=4)
    script = script_of(Sweep(TELL, {"n": range(3)}), tmp_path, job)
    for task in (0, 1):
        assert run(script, tmp_path, task, CUDA_VISIBLE_DEVICES="1,2,5,GPU-x") == 0
    shares = {name: told(tmp_path, name)[1]["CUDA_VISIBLE_DEVICES"] for name in ("7_0-0", "7_0-1", "7_1-0")}
    assert shares == {"7_0-0": "1,2", "7_0-1": "5,GPU-x", "7_1-0": "1,2"}


@pytest.mark.parametrize("devices", ["0,1,2", "0", ""])
def test_gpus_that_can_not_be_shared_fail_the_task(devices: str, tmp_path: Path) -> None:
    script = script_of(Sweep(TELL, {"n": range(3)}), tmp_path, Job(pack=2, side_by_side=True, gpus=4))
    assert start(script, tmp_path, CUDA_VISIBLE_DEVICES=devices).wait(timeout=240) == 78
    assert f"2 trials can't share the GPUs {devices} evenly" in (tmp_path / "task.log").read_text()


def test_one_after_another_has_all_gpus_of_the_task(tmp_path: Path) -> None:
    assert run(script_of(Sweep(TELL, {"n": range(2)}), tmp_path, Job(pack=2, gpus=2)), tmp_path, CUDA_VISIBLE_DEVICES="3,4") == 0
    assert told(tmp_path, "7_0-1")[1]["CUDA_VISIBLE_DEVICES"] == "3,4"


# ---- what is planned ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"pack": 0}, "pack"),
        ({"side_by_side": True}, "side_by_side=True needs pack="),
        ({"pack": 3, "side_by_side": True, "gpus": 4}, "pack=3 trials side by side can't share 4 GPUs evenly; give a task 6 GPUs"),
        ({"pack": 2, "side_by_side": True, "gpus_per_node": 1}, "can't share 1 GPU evenly; give a task 2 GPUs"),
        ({"pack": 2, "side_by_side": True, "nodes": 2}, "nodes=2"),
    ],
)
def test_what_can_not_be_packed_is_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(JobError, match=complaint):
        Job(**given)


def test_a_packed_plan_has_fewer_tasks_and_costs_their_walltime() -> None:
    plan = Cluster("local").plan(Sweep("true", {"n": range(10)}), time="2:00:00", gpus=2, pack=4)
    assert "#SBATCH --array=0-2\n" in plan.script
    assert plan.cost().trials == 10
    assert plan.cost().gpu_hours == 3 * 2 * 2


def test_an_array_holds_as_many_tasks_as_before() -> None:
    plan = Cluster("local").plan(Sweep("true", {"n": range(10**7)}), time="0:01:00", pack=5)
    assert list(plan.arrays) == [(0, 5 * 10**6), (5 * 10**6, 5 * 10**6)]
    assert "#SBATCH --array=0-999999\n" in plan.scripts[1]
    assert "i = 5000000 + SLURM_ARRAY_TASK_ID * 5; i < 10000000" in plan.scripts[1]


def test_torchrun_starts_a_process_for_each_gpu_of_a_trials_share() -> None:
    text = "job: {{gpus: 4, pack: 2{}}}\nlauncher: {{type: torchrun, script: train.py}}\nsweep: {{parameters: {{lr: [1, 2]}}}}\n"
    assert "--nproc-per-node=2" in load(text.format(", side_by_side: true")).sweep.command
    assert "--nproc-per-node=4" in load(text.format("")).sweep.command
