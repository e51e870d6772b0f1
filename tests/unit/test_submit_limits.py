"""How many tasks a user may have in the queue: the texts are those of a Slurm 22.05."""

from __future__ import annotations

import pytest

from nexa_sdk.scheduling.slurm.submit_limits import SubmitLimit, check, read_limits, read_queue

# User,Account,Partition,DefaultQOS,MaxSubmit,GrpSubmit
ASSOCIATIONS = "|ml||||20000\nada|ml|||10000|\nada|ml|long|||50\nbob|ml|||7|\n"
# Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit
QOS = "normal|||\nhigh|30|300|3000\n"


def limits(account: str | None = None, partition: str | None = None, qos: str | None = None) -> list[tuple[str, str, int]]:
    found = read_limits(
        user="ada", default_account="ml", associations=ASSOCIATIONS, qos=QOS, account=account, partition=partition, chosen_qos=qos
    )
    return [(limit.name, limit.whose, limit.most) for limit in found]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [("MaxSubmitJobs", "of account ml", 10000), ("GrpSubmitJobs", "of account ml", 20000)]),
        ({"account": "other"}, []),
        ({"partition": "long"}, [("GrpSubmitJobs", "of user ada in account ml", 50), ("GrpSubmitJobs", "of account ml", 20000)]),
        (
            {"account": "ml", "qos": "high"},
            [
                ("MaxSubmitJobs", "of account ml", 10000),
                ("GrpSubmitJobs", "of account ml", 20000),
                ("MaxSubmitJobsPerUser", "of QOS high", 30),
                ("MaxSubmitJobsPerAccount", "of account ml in QOS high", 300),
                ("GrpSubmitJobs", "of QOS high", 3000),
            ],
        ),
    ],
)
def test_the_limits_of_account_partition_and_qos(asked: dict[str, str], found: list[tuple[str, str, int]]) -> None:
    assert limits(**asked) == found


QUEUE = read_queue(
    "ada|ml|normal|PENDING\n" * 300 + "ada|ml|normal|RUNNING\n" * 10 + "ada|ml|normal|COMPLETED\n" * 5 + "bob|ml|normal|PENDING\n" * 40
)
OF_ACCOUNT = SubmitLimit("MaxSubmitJobs", "of account ml", 10_000, user="ada", account="ml")


def words(tasks: int, *found: SubmitLimit, pack: int = 1) -> str | None:
    answer = check(tasks, pack, found, QUEUE)
    return None if answer is None else answer.words


def test_what_fits_is_no_word_worth() -> None:
    assert words(9690, OF_ACCOUNT) is None
    assert words(10**6) is None


def test_the_arithmetic_and_what_would_fit() -> None:
    assert words(12_000, OF_ACCOUNT) == (
        "12,000 tasks + 310 that you have queued are more than MaxSubmitJobs=10,000 of account ml; "
        "pack=2 puts 2 trials into a task and makes them 6,000, and time= is then that of all trials of a task; "
        "rolling=9000 submits that many at a time"
    )
    assert "pack=4 puts 4 trials" in str(words(9691, OF_ACCOUNT, pack=3))
    assert str(words(9691, OF_ACCOUNT, pack=3)).startswith("9,691 tasks of 3 trials + 310")


def test_the_tightest_counts_and_everybody_s_tasks_where_they_count() -> None:
    group = SubmitLimit("GrpSubmitJobs", "of account ml", 400, account="ml")
    assert str(words(60, OF_ACCOUNT, group)).startswith("60 tasks + 350 that all of account ml has queued are more than GrpSubmitJobs=400")
    full = SubmitLimit("GrpSubmitJobs", "of account ml", 350, account="ml")
    assert str(words(1, OF_ACCOUNT, full)).endswith("there is no room; launch it when some of these have ended")


def test_the_controller_holds_one_less_than_it_says_and_also_what_has_ended() -> None:
    assert words(1000 - 355 - 1, SubmitLimit.of_controller(1000)) is None
    assert str(words(1000 - 355, SubmitLimit.of_controller(1000))).startswith(
        "645 tasks + 355 that the controller holds for everybody are more than MaxJobCount=1,000 allows, which is 999"
    )
