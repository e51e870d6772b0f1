"""What sacct says that jobs took, as values."""

from __future__ import annotations

import pytest

from nexa_sdk.scheduling.base import Usage
from nexa_sdk.scheduling.slurm.usage import USAGE_FIELDS, read_usage
from nexa_sdk.states import State

TRES = "billing=8,cpu=8,gres/gpu:h100=2,gres/gpu=2,mem=64000M,node=1"


def row(**known: str) -> str:
    fields = {
        "JobID": "17_0", "JobIDRaw": "18", "User": "ada", "Account": "ml", "Partition": "gpu", "State": "COMPLETED", "Start": "1000",
        "End": "1060", "ElapsedRaw": "60", "AllocCPUS": "8", "AllocNodes": "1", "AllocTRES": TRES, "JobName": "sweep-0a1b2c3d-0",
    }  # fmt: skip
    return "|".join({**fields, **known}[name] for name in USAGE_FIELDS.split(","))


def read(*rows: str, now: float = 2000.0) -> list[Usage]:
    return list(read_usage("\n".join(rows), now=now))


def test_a_row() -> None:
    assert read(row()) == [
        Usage("17_0", "18", "sweep-0a1b2c3d-0", "ada", "ml", "gpu", State.COMPLETED, 1000.0, 1060.0, True, 60.0, 2, 8, 1, "h100")
    ]


def test_each_execution_of_a_requeued_task_counts_once() -> None:
    rows = [row(State="REQUEUED", End="1020", ElapsedRaw="20"), row(Start="1100", End="1160"), row(JobID="17_1", JobIDRaw="19")]
    assert [(usage.raw, usage.start, usage.elapsed, usage.is_over) for usage in read(*rows)] == [
        ("18", 1000.0, 20.0, True),
        ("18", 1100.0, 60.0, True),
        ("19", 1000.0, 60.0, True),
    ]


@pytest.mark.parametrize(
    "waiting",
    [
        {"JobID": "17_[3-5]", "State": "PENDING", "Start": "Unknown", "End": "Unknown", "ElapsedRaw": "0", "AllocTRES": ""},
        {"State": "CANCELLED by 1000", "Start": "None", "End": "1000", "ElapsedRaw": "0", "AllocTRES": ""},
        {"State": "CANCELLED by 1000", "Start": "1000", "End": "1000", "ElapsedRaw": "0", "AllocTRES": ""},  # up to 21.08
        {"State": "PENDING", "Start": "1000", "End": "Unknown", "ElapsedRaw": "0"},
    ],
)
def test_what_never_began_took_nothing(waiting: dict[str, str]) -> None:
    assert read(row(**waiting)) == []


def test_what_runs_counts_until_now() -> None:
    (usage,) = read(row(State="RUNNING", End="Unknown", ElapsedRaw="500"), now=1500.5)
    assert (usage.is_over, usage.start, usage.end, usage.elapsed) == (False, 1000.0, 1500.5, 500.0)


def test_time_in_which_it_was_suspended_is_left_out() -> None:
    (usage,) = read(row(End="2000", ElapsedRaw="60"))
    assert (usage.end - usage.start, usage.elapsed) == (1000.0, 60.0)


def test_an_end_before_the_start_is_no_time_and_is_said() -> None:
    (usage,) = read(row(End="990", ElapsedRaw="0"))
    assert (usage.start, usage.end, usage.elapsed, usage.is_skewed) == (1000.0, 1000.0, 0.0, True)


@pytest.mark.parametrize(
    ("tres", "gpus", "gpu_type"),
    [
        ("billing=8,cpu=8,mem=1G,node=1", 0, ""),
        ("cpu=8,gres/gpu=2,node=1", 2, ""),  # 20.11 names no type
        ("cpu=8,gres/gpu:h100=2,node=1", 2, "h100"),
        ("cpu=8,gres/gpu:a100=1,gres/gpu:h100=2,gres/gpu=3,node=2", 3, "a100+h100"),
        ("cpu=8,gres/gpu:nvidia_a100-sxm4-80gb=4,gres/gpu=4", 4, "nvidia_a100-sxm4-80gb"),
        ("cpu=8,gres/gpumem=80G,gres/gpuutil=50,gres/gpu=1", 1, ""),
        ("", 0, ""),
    ],
)
def test_gpus_are_counted_once(tres: str, gpus: int, gpu_type: str) -> None:
    (usage,) = read(row(AllocTRES=tres))
    assert (usage.gpus, usage.gpu_type) == (gpus, gpu_type)


def test_a_name_may_hold_bars() -> None:
    assert read(row(JobName="a|b|c"))[0].name == "a|b|c"


def test_lines_that_are_none_are_left_out() -> None:
    assert read("", "sacct: something else", row()) == read(row())
