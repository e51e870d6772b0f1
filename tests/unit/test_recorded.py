"""What squeue and sacct of four versions printed in every case of Slurm's table of states, and what it means.

tests/slurm/test_versions.py has recorded it, with what was to be shown: of each task its state, its
exit code, and the executions before it was requeued.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from nexa_sdk.scheduling.base import TaskStatus
from nexa_sdk.scheduling.slurm.accounting import merge, read_sacct, read_squeue
from nexa_sdk.states import State

RECORDED = Path(__file__).parents[1] / "data" / "slurm"
FILES = sorted(RECORDED.glob("*/*.txt"))


@dataclass(frozen=True)
class Moment:
    """What was printed at one moment; `is_settled`: accounting had the time to hear of it."""

    expected: list[str]
    is_settled: bool
    squeue: str
    sacct: str


def moments(path: Path) -> list[Moment]:
    found = []
    for section in path.read_text().split("== ")[1:]:
        head, _, rest = section.partition("\n-- squeue\n")
        squeue, _, sacct = rest.partition("-- sacct\n")
        when, _, words = head.partition(": ")
        found.append(Moment(words.split("; "), when == "later", squeue, sacct))
    return found


def read(squeue: str, sacct: str) -> dict[int, TaskStatus]:
    queued, accounted = read_squeue(squeue), read_sacct(sacct)
    (job,) = {*queued, *accounted}
    return merge([job], queued, accounted)[job]


def is_as_expected(status: TaskStatus | None, words: str, *, version: str, is_settled: bool) -> bool:
    if words.endswith(" remembered"):  # we know it, Slurm does not; at most a stale row names it
        return status is None or status.state is State.CANCELLED
    if status is None:
        return False
    now, _, before = words.partition(" after ")
    state, _, code = now.partition(" ")
    # Up to 24.11 Slurm shows a code above 128 less 128: the record in the run's folder has it whole.
    codes = {int(code), int(code) - 128} if code and version < "26" else {int(code)} if code else {None}
    is_late = not is_settled and status.exit_code is None
    return (
        status.state is State(state)
        and (status.exit_code in codes or is_late)
        and [each.state for each in status.earlier] == (before.split(", ") if before else [])
    )


def test_every_version_is_recorded() -> None:
    cases = {version.name: sorted(path.name for path in version.iterdir()) for version in RECORDED.iterdir()}
    assert set(cases) == {"20.11", "22.05", "24.11", "26.05"}
    assert all(names == cases["26.05"] for names in cases.values())
    assert len(cases["26.05"]) == 13


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_text_means_what_was_shown(path: Path) -> None:
    recorded = moments(path)
    assert recorded
    for moment in recorded:
        tasks = read(moment.squeue, moment.sacct)
        for task, words in enumerate(moment.expected):
            is_right = is_as_expected(tasks.get(task), words, version=path.parent.name, is_settled=moment.is_settled)
            assert is_right, f"task {task} is to be {words}, and is read as {tasks.get(task)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_the_controller_forgot_is_as_it_was(path: Path) -> None:
    last = moments(path)[-1]
    tasks = read("", last.sacct)
    for task, words in enumerate(last.expected):
        assert is_as_expected(tasks.get(task), words, version=path.parent.name, is_settled=True), f"task {task} is to be {words}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_without_accounting_states_are_the_same(path: Path) -> None:
    for moment in (moment for moment in moments(path) if moment.squeue):
        tasks = read(moment.squeue, "")
        for task, words in enumerate(moment.expected):
            if not words.endswith(" remembered") and task in tasks:
                assert tasks[task].state is State(words.split()[0])
