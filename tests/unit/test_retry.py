"""The rules of a retry: which cause, how often, and what is changed; and the keeper in bash decides as they do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexa_sdk import Job, Retry, State
from nexa_sdk.errors import InvalidInput, JobError
from nexa_sdk.retry import Bounds, Cause, Failure, Ladder, cause_of, decide, fails_everywhere
from nexa_sdk.scheduling.slurm.accounting import read_bounds
from nexa_sdk.scheduling.slurm.keeper import KeeperScript, render_keeper
from nexa_sdk.tasks import parse_tasks

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
OOM = "slurmstepd-n1: error: Job 7 exceeded memory limit (300 > 100), being killed"
TIME = "slurmstepd-n1: error: *** JOB 10 ON n1 CANCELLED AT 2026-11-22T02:26:10 DUE TO TIME LIMIT ***"
LOGS = {
    "nothing": "",
    "a program's own words": "torch.OutOfMemoryError: CUDA out of memory",
    "without cgroups": f"epoch 1\n{OOM}\nslurmstepd-n1: error: *** JOB 10 ON n1 CANCELLED AT 2026-11-22T02:26:10 ***",
    "with cgroups": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=10.batch. Some of your processes may have been killed",
    "with cgroups, later": "slurmstepd: error: Detected 1 oom_kill event in StepId=10.batch. Some of the step tasks have been OOM Killed.",
    "a step": "srun: error: n1: task 0: Out Of Memory",
    "time": TIME,
    "time, 26.05": "[2026-11-22T02:26:10] error: *** JOB 93 ON n1 CANCELLED AT 2026-11-22T02:26:10 DUE TO TIME LIMIT ***",
    "preempted": "slurmstepd-n1: error: *** JOB 10 ON n1 CANCELLED AT 2026-11-22T02:26:10 DUE TO PREEMPTION ***",
    "node": "slurmstepd-n1: error: *** JOB 10 ON n1 CANCELLED AT 2026-11-22T02:26:10 DUE TO NODE FAILURE ***",
    "long ago": OOM + "\n" * 30,
    "first this, then that": f"{OOM}\n{TIME}",
}

# ---- causes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("nothing", Cause.FAILED),
        ("a program's own words", Cause.FAILED),
        ("without cgroups", Cause.OUT_OF_MEMORY),
        ("with cgroups", Cause.OUT_OF_MEMORY),
        ("with cgroups, later", Cause.OUT_OF_MEMORY),
        ("a step", Cause.OUT_OF_MEMORY),
        ("time", Cause.TIMEOUT),
        ("time, 26.05", Cause.TIMEOUT),
        ("preempted", Cause.PREEMPTED),
        ("node", Cause.NODE_FAIL),
        ("long ago", Cause.FAILED),
        ("first this, then that", Cause.TIMEOUT),
    ],
)
def test_the_end_of_a_log_says_why_a_trial_failed(log: str, cause: Cause) -> None:
    assert cause_of(State.FAILED, 1, LOGS[log]) is cause


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "PREEMPTED"])
def test_a_state_says_it_alone(state: str) -> None:
    assert cause_of(State(state), None, LOGS["first this, then that"]) == state


def test_what_was_cancelled_or_completed_has_no_cause() -> None:
    for state in (State.CANCELLED, State.COMPLETED, State.DEADLINE, State.UNKNOWN):
        assert cause_of(state, None, "") is None


def test_killed_without_a_word_means_memory() -> None:
    assert cause_of(State.FAILED, 137, "") is Cause.OUT_OF_MEMORY
    assert cause_of(State.FAILED, 139, "") is Cause.FAILED


def test_failing_everywhere_is_all_of_several_and_at_once() -> None:
    failed = (State.FAILED, Cause.FAILED, 3.0)
    assert fails_everywhere([failed, failed])
    assert fails_everywhere([failed, failed, (State.CANCELLED, None, None)])
    assert not fails_everywhere([failed]), "one is not everywhere"
    assert not fails_everywhere([failed, (State.COMPLETED, None, 3.0)])
    assert not fails_everywhere([failed, (State.FAILED, Cause.FAILED, 61.0)])
    assert not fails_everywhere([failed, (State.TIMEOUT, Cause.TIMEOUT, 3.0)])


# ---- what is changed ---------------------------------------------------------------------------


def test_memory_and_time_grow_to_what_there_is() -> None:
    job = Job(mem="16G", time="8:00:00")
    ladder = Ladder.of(Retry(out_of_memory=4), job, Bounds(most_memory="50000M", most_time=timedelta(hours=24)))
    assert ladder.memory == ("32G", "50000M")
    assert ladder.memory_end == "it had 50000M, and there is no more than 50000M"
    assert ladder.time == ("16:00:00", "1-00:00:00")
    assert ladder.time_end == ""


def test_the_rules_own_bounds_and_factors() -> None:
    ladder = Ladder.of(Retry(memory_factor=1.5, most_memory="20G", time_factor=1.5, most_time="2h"), Job(mem="10G", time="1h"), Bounds())
    assert ladder.memory == ("15G", "20G")
    assert ladder.time == ("01:30:00", "02:00:00")


def test_what_a_trial_has_by_default_is_raised_and_what_is_not_known_is_said() -> None:
    known = Ladder.of(Retry(), Job(), Bounds(memory="4000M", time=timedelta(hours=1)))
    assert known.memory == ("8000M", "16000M")
    assert known.time == ("02:00:00", "04:00:00")
    unknown = Ladder.of(Retry(), Job(), Bounds())
    assert (unknown.memory, unknown.memory_end) == ((), "it is not known how much memory it had; give mem=")
    assert (unknown.time, unknown.time_end) == ((), "it is not known how much time it had; give time=")
    per_cpu = Ladder.of(Retry(), Job(options={"mem-per-cpu": "4G"}), Bounds())
    assert per_cpu.memory_end == "memory is asked for by mem-per-cpu, which is not raised; give mem="


def test_bounds_are_read_from_sinfo_and_the_configuration() -> None:
    rows = "gpu*|infinite|1:00:00|64000|2\nlow|1-00:00:00|1:00:00|32000|2\n"
    config = {"DefMemPerCPU": "4000", "DefMemPerNode": "UNLIMITED"}
    assert read_bounds(rows, config, partition=None, cpus=2) == Bounds(
        memory="8000M", most_memory="64000M", time=timedelta(hours=1), most_time=None, nodes=2
    )
    assert read_bounds(rows, {}, partition="low", cpus=1).most_time == timedelta(days=1)
    assert read_bounds(rows, {}, partition="none", cpus=1) == Bounds()


def test_a_lost_node_is_avoided_while_another_is_left() -> None:
    rules, two = Retry(), Ladder.of(Retry(), Job(), Bounds(nodes=2))
    failure = Failure(trial=0, attempt=1, cause=Cause.NODE_FAIL, state=State.NODE_FAIL, nodes=("n1",))
    assert decide(failure, rules, two, planned={}).options == {"exclude": "n1"}
    again = Failure(
        trial=0, attempt=2, cause=Cause.NODE_FAIL, state=State.NODE_FAIL, nodes=("n2",), options={"exclude": "n1"}, before=("NODE_FAIL",)
    )
    assert decide(again, rules, two, planned={}).options == {"exclude": "n1"}
    wanted = Ladder.of(rules, Job(nodelist="n1"), Bounds(nodes=2))
    assert decide(failure, rules, wanted, planned={}).options == {}, "who wants a node gets no other"


def test_what_was_changed_for_another_cause_stays() -> None:
    ladder = Ladder.of(Retry(), Job(mem="1G", time="1h"), Bounds())
    failure = Failure(trial=3, attempt=2, cause=Cause.OUT_OF_MEMORY, state=State.FAILED, before=("TIMEOUT",), options={"time": "02:00:00"})
    step = decide(failure, Retry(), ladder, planned={"mem": "1G", "time": "01:00:00"})
    assert step.options == {"time": "02:00:00", "mem": "2G"}
    assert step.words == "mem 1G -> 2G"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("always", "'always' are no rules to run trials again by; give 'by-cause'"),
        ({"timeouts": 3}, "retry has no 'timeouts'; did you mean 'timeout'"),
        ({"timeout": -1}, "timeout=-1: give how often a trial is run again for it, 0 to 20"),
        ({"memory_factor": 1}, "memory_factor=1: give a number above 1"),
        ({"most_memory": "much"}, "'much' is no amount of memory"),
        ({"partition": "a b"}, "partition='a b' is no name of a partition"),
    ],
)
def test_rules_that_can_not_be_meant_are_refused(given: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Retry.read(given)
    with pytest.raises(JobError, match=words):
        Job(retry=given)


def test_a_job_keeps_its_rules_through_json() -> None:
    job = Job(retry=Retry(timeout=3, partition="cpu"))
    assert Job(**json.loads(job.model_dump_json(exclude_unset=True))).retry == job.retry
    assert Job(retry="by-cause").retry == Retry()
    with pytest.raises(JobError, match="packed trials are run again on demand alone"):
        Job(retry="by-cause", pack=4)


def test_a_rolling_submission_has_room_for_two_parts_and_what_looks_after_them() -> None:
    assert Job(rolling=1000).rolling_tasks == 498
    assert Job(rolling=1000, retry="by-cause").rolling_tasks == 494
    with pytest.raises(JobError, match="rolling=5 leaves no room .*; give 6 or more"):
        Job(rolling=5)


# ---- the keeper --------------------------------------------------------------------------------


def keeper(folder: Path, job: Job, rules: Retry, bounds: Bounds) -> str:
    script = KeeperScript(run="r-000000", folder=str(folder), arrays=1, counts=(9, 9), rules=rules, ladder=Ladder.of(rules, job, bounds))
    return render_keeper(job, script)


GOLDEN_JOB = Job(partition="gpu", account="lab", time="2:00:00", mem="16G", gpus=1, throttle=8, retry="by-cause", rolling=400)


def test_the_keeper_is_as_a_person_has_read_it() -> None:
    script = KeeperScript(
        run="sweep-7f3a9c",
        folder="/home/ada/.nexa/runs/sweep-7f3a9c",
        arrays=12,
        counts=(194, 100),
        rules=Retry(),
        ladder=Ladder.of(Retry(), GOLDEN_JOB, Bounds(most_memory="60G", most_time=timedelta(hours=4), nodes=8)),
        is_rolling=True,
    )
    text = render_keeper(GOLDEN_JOB, script)
    path = GOLDEN / "keeper.sbatch"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here; get it by: apt-get install shellcheck")
def test_the_keeper_pleases_shellcheck() -> None:
    done = subprocess.run(["shellcheck", "--shell=bash", GOLDEN / "keeper.sbatch"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Slurm's programs, as far as a keeper asks them: what they answer stands in files.
STUBS = {
    "sacct": 'cat "$STUB/sacct.txt"',
    "squeue": 'case "$*" in *" -n "*) ;; *) cat "$STUB/squeue.txt" ;; esac',
    "sbatch": 'printf "%s\\n" "$*" >> "$STUB/sent"; n=$(wc -l < "$STUB/sent"); echo "$((100 + n))"',
    "scancel": "",
    "sleep": "",
}
ENDS = {
    "COMPLETED": "0:0",
    "FAILED": "1:0",
    "TIMEOUT": "0:0",
    "OUT_OF_MEMORY": "0:125",
    "NODE_FAIL": "0:0",
    "PREEMPTED": "0:0",
    "CANCELLED by 0": "0:15",
}


def decided(
    ends: list[tuple[State, Cause | None, float, str]], rules: Retry, ladder: Ladder, token: str, excluded: str
) -> dict[str, tuple[list[int], dict[str, str]]]:
    """Return what the rules run again: tasks and options by the name of their array."""
    before = token.rpartition("-")[2].lstrip("0")
    letters = {cause.letter: cause for cause in Cause}
    history = tuple(letters[letter].value for letter in before)
    options = {}
    if "m" in before and len(ladder.memory) >= before.count("m"):
        options["mem"] = ladder.memory[before.count("m") - 1]
    if "t" in before and len(ladder.time) >= before.count("t"):
        options["time"] = ladder.time[before.count("t") - 1]
    if excluded:
        options["exclude"] = excluded
    lost = tuple(dict.fromkeys(node for _, cause, _, node in ends if cause is Cause.NODE_FAIL))
    everywhere = fails_everywhere((state, cause, seconds) for state, cause, seconds, _ in ends)
    expected: dict[str, tuple[list[int], dict[str, str]]] = {}
    for task, (state, cause, _, _) in enumerate(ends):
        if not state.is_failure or state is State.CANCELLED:
            continue
        failure = Failure(trial=task, attempt=1, cause=cause, state=state, before=history, options=options, nodes=lost)
        step = decide(failure, rules, ladder, planned={})
        if step.is_again and not everywhere:
            assert cause is not None
            expected.setdefault(f"{token}{cause.letter}", ([], dict(step.options)))[0].append(task)
    return expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.lists(
        st.tuples(
            st.sampled_from([*ENDS, "KILLED"]), st.sampled_from(list(LOGS)), st.sampled_from([3, 90]), st.sampled_from(["sacct", "squeue"])
        ),
        min_size=1,
        max_size=8,
    ),
    rules=st.builds(
        Retry, failed=st.integers(0, 1), timeout=st.integers(2, 3), node_fail=st.integers(1, 2), out_of_memory=st.integers(1, 2)
    ),
    before=st.sampled_from(["", "t", "m", "tm", "ttm", "n", "f"]),
)
def test_the_keeper_decides_as_the_rules_do(tmp_path_factory: pytest.TempPathFactory, tasks, rules: Retry, before: str) -> None:
    folder, stub = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("stub")
    for name in ("submitted", "tasks", "logs"):
        (folder / name).mkdir()
    for name, text in STUBS.items():
        (stub / name).write_text(f"#!/bin/bash\n{text}\n")
        (stub / name).chmod(0o755)
    job = Job(mem="1G", time="1h")
    bounds = Bounds(nodes=3, most_time=timedelta(hours=3))
    (folder / "keeper.sbatch").write_text(keeper(folder, job, rules, bounds))
    rows: dict[str, list[str]] = {"sacct": [], "squeue": []}
    ends = []
    for task, (word, log, seconds, told_by) in enumerate(tasks):
        state, code = ("FAILED", "9:0") if word == "KILLED" else (word, ENDS[word])
        exit_code = 137 if word == "KILLED" else 1 if word == "FAILED" else 0
        node = f"n{task % 2 + 1}"
        rows["sacct"] += [f"7_{task}|{state}|{code}|{node}"] if told_by == "sacct" else []
        rows["squeue"] += [f"{task}|{state.split()[0]}|{node}"]
        if state in ("COMPLETED", "FAILED"):
            (folder / "tasks" / f"7_{task}.json").write_text(f'{{"start":1000,"end":{1000 + seconds},"exit":{exit_code}}}')
        (folder / "logs" / f"7_{task}.log").write_text(LOGS[log])
        ends.append((State.read(state), cause_of(State.read(state), exit_code, LOGS[log]), float(seconds), node))
    for name, lines in rows.items():
        (stub / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    token = f"r-000000-0{before}"
    excluded = "n9" if "n" in before else ""
    argv = ["bash", str(folder / "keeper.sbatch"), "keep", token, "7", "job-0.sbatch", f"0-{len(tasks) - 1}", excluded]
    done = subprocess.run(argv, env={"PATH": f"{stub}:{os.environ['PATH']}", "STUB": str(stub)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    expected = decided(ends, rules, Ladder.of(rules, job, bounds), token, excluded)
    notes = [json.loads(path.read_text()) for path in (folder / "submitted").glob("*.json")]
    assert {note["token"]: (parse_tasks(note["tasks"]), note["options"]) for note in notes} == expected
    sent = (stub / "sent").read_text().splitlines() if expected else []
    assert len(sent) == 2 * len(expected), "an array and its keeper for each cause"
    assert (folder / "submitted" / f"{token}.kept").exists()


@pytest.mark.parametrize("other", [{"retry": "by-cause"}, {"rolling": 100}])
def test_a_canary_goes_with_neither_a_retry_nor_a_rolling_submission(other: dict[str, object]) -> None:
    with pytest.raises(JobError, match="canary=True can't go with retry= or rolling="):
        Job(canary=True, **other)
