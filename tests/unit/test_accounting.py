"""What squeue, sacct and sinfo print, as recorded from Slurm 20.11 to 26.05, and what it means."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nexa_sdk import Job
from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.scheduling.slurm.accounting import merge, read_limit, read_partitions, read_sacct, read_squeue
from nexa_sdk.scheduling.slurm.checks import expected_start, resources
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks, parse_tasks


def test_squeue_rows() -> None:
    text = (
        "1|3|PENDING|N/A|N/A||JobArrayTaskLimit\n"
        "1|2|RUNNING|1795381733|1795385333|n1|None\n"
        "1|0|COMPLETED|1795381700|1795381710|n2|None\n"
        "1|1|FAILED|1795381700|1795381711|n2|NonZeroExitCode\n"
        "17|N/A|PENDING|N/A|N/A||JobHeldUser\n"
        "1|4-9%2|PENDING|N/A|N/A||Resources\n"
    )
    tasks = read_squeue(text)["1"]
    assert set(tasks) == {0, 1, 2, 3}
    assert tasks[3] == TaskStatus(State.PENDING, reason="JobArrayTaskLimit")
    assert tasks[2] == TaskStatus(State.RUNNING, start=1795381733.0, node="n1")
    assert tasks[0] == TaskStatus(State.COMPLETED, 0, start=1795381700.0, end=1795381710.0, node="n2")
    assert tasks[1].reason == ""


def test_the_expected_start_of_a_pending_task_is_no_start() -> None:
    (task,) = read_squeue("1|3|PENDING|1795381733|1795385333||Resources\n")["1"].values()
    assert (task.start, task.end) == (None, None)


@pytest.mark.parametrize(
    ("row", "state", "code"),
    [
        ("1_0|COMPLETED|0:0|1|2|n1|None", State.COMPLETED, 0),
        ("1_0|FAILED|7:0|1|2|n1|NonZeroExitCode", State.FAILED, 7),
        ("1_0|FAILED|0:9|1|2|n1|None", State.FAILED, 137),
        ("1_0|FAILED|137:0|1|2|n1|None", State.FAILED, 137),
        ("1_0|TIMEOUT|0:0|1|2|n1|None", State.TIMEOUT, None),
        ("1_0|CANCELLED by 1000|0:0|1|2|n1|None", State.CANCELLED, None),
        ("1_0|NODE_FAIL|1:0|1|2|n1|None", State.NODE_FAIL, None),
        ("1_0|OUT_OF_MEMORY|0:125|1|2|n1|None", State.OUT_OF_MEMORY, None),
        ("1_0|FAILED|0:53|1|2|n1|None", State.FAILED, None),
        ("1_0|PREEMPTED|0:0|1|2|n1|None", State.PREEMPTED, None),
        ("1_0|RUNNING|0:0|1|Unknown|n1|None", State.RUNNING, None),
        ("1_0|SOMETHING_NEW|0:0|1|2|n1|None", State.UNKNOWN, None),
    ],
)
def test_sacct_states_and_exit_codes(row: str, state: State, code: int | None) -> None:
    status = read_sacct(row)["1"].explicit[0]
    assert (status.state, status.exit_code) == (state, code)


def test_a_cancel_tells_who() -> None:
    assert read_sacct("1_0|CANCELLED by 1000|0:0|1|2|n1|None")["1"].explicit[0].reason == "cancelled by uid 1000"


def test_explicit_rows_win_over_stale_collapsed_ones() -> None:
    # up to 23.11 the collapsed row goes on naming tasks 1 and 2
    accounted = read_sacct(
        "88_1|COMPLETED|0:0|10|20|n1|\n88_2|FAILED|1:0|10|20|n1|\n88_[1-9%3]|CANCELLED by 0|0:0|None|30|None assigned|\n"
    )
    tasks = merge(["88"], {}, accounted)["88"]
    assert [tasks[k].state for k in range(1, 10)] == [State.COMPLETED, State.FAILED, *[State.CANCELLED] * 7]


def test_a_collapsed_row_of_20_11_is_cut_without_a_bracket() -> None:
    accounted = read_sacct("2_[1,3,5,7,9,11,13,15,17,19,21,23|CANCELLED by 0|0:0|None|30||\n")
    assert set(accounted["2"].collapsed) == set(range(1, 24, 2))


def test_what_lives_is_as_the_controller_says_whatever_accounting_has() -> None:
    queued = read_squeue("5|0|RUNNING|1795381733|N/A|n1|None\n5|1|COMPLETED|1795381700|1795381710|n2|None\n")
    accounted = read_sacct(
        "5_0|REQUEUED|0:0|1|2|n1|\n5_1|RUNNING|0:0|1|Unknown|n2|\n5_2|RUNNING|0:0|1|Unknown|n2|\n5_3|COMPLETED|0:0|1|2|n2|\n"
    )
    tasks = merge(["5"], queued, accounted)["5"]
    assert tasks[0].state is State.RUNNING
    assert tasks[1].state is State.COMPLETED, "accounting is late"
    assert 2 not in tasks, "the controller does not know it, and accounting has no end of it"
    assert tasks[3].state is State.COMPLETED


def test_collapsed_rows_that_still_wait_say_nothing() -> None:
    assert merge(["1"], {}, read_sacct("1_[3-9%2]|PENDING|0:0|Unknown|Unknown|None assigned|JobArrayTaskLimit\n")) == {"1": {}}


def earlier(squeue: str, sacct: str) -> list[State]:
    (status,) = merge(["7"], read_squeue(squeue), read_sacct(sacct))["7"].values()
    return [each.state for each in status.earlier]


def test_earlier_executions_are_kept_the_oldest_first() -> None:
    before = "7_0|REQUEUED|0:0|10|20|n1|\n7_0|NODE_FAIL|1:0|30|40|n1|\n"
    assert earlier("7|0|RUNNING|50|N/A|n1|None\n", f"{before}7_0|RUNNING|0:0|50|Unknown|n1|\n") == [State.REQUEUED, State.NODE_FAIL]
    assert earlier("", f"{before}7_0|COMPLETED|0:0|50|60|n1|\n") == [State.REQUEUED, State.NODE_FAIL]
    assert earlier("", before) == [State.REQUEUED], "it was not requeued again"


@pytest.mark.parametrize(
    ("now", "row", "before"),
    [
        # the row of the present execution is late
        ("PENDING|N/A|N/A", "NODE_FAIL|1:0|10|20", [State.NODE_FAIL]),
        ("PENDING|N/A|N/A", "PREEMPTED|0:0|10|20", [State.PREEMPTED]),
        ("RUNNING|30|N/A", "COMPLETED|0:0|10|20", [State.COMPLETED]),
        ("COMPLETED|30|40", "NODE_FAIL|1:0|10|20", [State.NODE_FAIL]),
        # the controller was asked a moment before: it is the same execution
        ("PENDING|N/A|N/A", "COMPLETED|0:0|10|10", []),
        ("RUNNING|10|N/A", "FAILED|1:0|10|20", []),
        ("RUNNING|10|N/A", "COMPLETED|0:0|10|10", []),
        ("COMPLETED|10|20", "COMPLETED|0:0|10|20", []),
    ],
)
def test_a_row_is_of_an_earlier_execution_only_if_it_must_be(now: str, row: str, before: list[State]) -> None:
    assert earlier(f"7|0|{now}|n1|None\n", f"7_0|{row}|n1|None\n") == before


def test_a_collapsed_row_says_nothing_of_a_task_whose_own_row_is_late() -> None:
    sacct = "7_0|RUNNING|0:0|10|Unknown|n1|\n7_[0-1]|CANCELLED by 0|0:0|None|30|None assigned|\n"
    assert set(merge(["7"], {}, read_sacct(sacct))["7"]) == {1}


SINFO = "gpu*|up|infinite|2|gpu:h100:4\ncpu|up|1-00:00:00|10|(null)\nold|down|2:00:00|1|gpu:v100:2(S:0-1),lustre:1\nany|up|30:00|3|gpu:8\nany|up|30:00|1|gpu:a100:2\n"


def test_partitions() -> None:
    table = read_partitions(SINFO)
    assert table["gpu"].is_default
    assert table["gpu"].limit is None
    assert table["gpu"].gpus == {"h100": 4}
    assert (table["cpu"].limit, table["cpu"].gpus) == (timedelta(days=1), {})
    assert not table["old"].is_up
    assert table["old"].gpus == {"v100": 2}
    assert (table["any"].nodes, table["any"].gpus) == (4, {"gpu": 8, "a100": 2})


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("infinite", None),
        ("n/a", None),
        ("2-03:00:00", timedelta(days=2, hours=3)),
        ("12:30:00", timedelta(hours=12, minutes=30)),
        ("30:00", timedelta(minutes=30)),
    ],
)
def test_limits(text: str, length: timedelta | None) -> None:
    assert read_limit(text) == length


@pytest.mark.parametrize(
    ("job", "verdicts"),
    [
        (Job(time="1:00:00", gpus=1), {"partition": "ok", "walltime": "ok", "GPUs": "ok"}),
        (Job(gpus_per_node=4, gpu_type="h100"), {"partition": "ok", "walltime": "warning", "GPUs": "ok"}),
        (Job(time="2-00:00:00", partition="cpu"), {"partition": "ok", "walltime": "error"}),
        (Job(time="UNLIMITED", partition="cpu"), {"partition": "ok", "walltime": "error"}),
        (Job(time="2-00:00:00", partition="cpu,gpu"), {"partition": "ok", "walltime": "ok"}),
        (Job(time="1:00:00", partition="cpu", gpus=1), {"partition": "ok", "walltime": "ok", "GPUs": "error"}),
        (Job(time="1:00:00", gpus=9), {"partition": "ok", "walltime": "ok", "GPUs": "error"}),
        (Job(time="1:00:00", partition="nosuch"), {"partition": "error"}),
    ],
)
def test_a_job_is_judged_by_its_partition(job: Job, verdicts: dict[str, str]) -> None:
    assert {check.what: check.verdict for check in resources(job, read_partitions(SINFO))} == verdicts


@pytest.mark.parametrize(
    ("code", "words", "verdict", "said"),
    [
        (
            0,
            "sbatch: Job 48 to start at 2026-11-22T04:02:34 using 1 processors on nodes n1 in partition gpu",
            "ok",
            "2026-11-22 04:02:34 on n1",
        ),
        (
            0,
            "sbatch: Job 48 to start at 2026-11-22T04:02:33 a using 1 processors on nodes n[1-2] in partition gpu",
            "ok",
            "04:02:33 on n[1-2]",
        ),
        (
            1,
            "allocation failure: Requested node configuration is not available",
            "error",
            "says: Requested node configuration is not available",
        ),
        (0, "", "unknown", "nothing"),
    ],
)
def test_the_expected_start(code: int, words: str, verdict: str, said: str) -> None:
    check = expected_start(code, words)
    assert check.verdict == verdict
    assert said in check.words


@pytest.mark.parametrize(("tasks", "text"), [([0], "0"), ([0, 1, 2, 3, 7], "0-3,7"), ([1, 3, 5], "1,3,5"), (list(range(1000)), "0-999")])
def test_task_lists(tasks: list[int], text: str) -> None:
    assert format_tasks(tasks) == text
    assert parse_tasks(text) == tasks


def test_task_lists_with_steps_and_throttles() -> None:
    assert parse_tasks("1-9:2%7") == [1, 3, 5, 7, 9]
