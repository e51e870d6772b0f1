"""What is asked of accounting, and what is remembered. The two commands are stand-ins that answer with recorded text.

Each test is run twice: as on a near cluster, with a command for each question, and as on a far one,
where one shell script asks both.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nexa_sdk.errors import CommandFailed
from nexa_sdk.scheduling.base import ArrayHandle
from nexa_sdk.scheduling.slurm import polling
from nexa_sdk.scheduling.slurm.polling import Poller
from nexa_sdk.transports.base import Completed


class Slurm:
    """squeue and sacct of one job, 17: for each task its state, and the rows of its executions."""

    def __init__(self, count: int, folder: Path) -> None:
        self.folder, self.commands = folder, 0
        self.queue = dict.fromkeys(range(count), "PENDING")
        self.rows: dict[int, list[str]] = {}
        self.asked: list[str] = []
        self.is_down = False

    def run(self, *argv: str, stdin: bytes = b"") -> Completed:
        self.commands += 1
        if argv[0] == "sh":
            return self._run_in_a_shell(argv, stdin)
        about = argv[argv.index("-j") + 1]
        if argv[0] == "squeue":
            times = {task: "100|200" if state != "PENDING" else "N/A|N/A" for task, state in self.queue.items()}
            return Completed(0, "".join(f"17|{task}|{state}|{times[task]}|n1|None\n" for task, state in self.queue.items()), "")
        self.asked.append(about)
        if self.is_down:
            return Completed(1, "", "sacct: error: Problem talking to the database")
        wanted = None if about == "17" else {int(name.partition("_")[2]) for name in about.split(",")}
        lines = [f"17_{task}|{row}" for task, rows in self.rows.items() if wanted is None or task in wanted for row in rows]
        return Completed(0, "\n".join(lines), "")

    def _run_in_a_shell(self, argv: tuple[str, ...], stdin: bytes) -> Completed:
        """Run a script that finds both as programs."""
        for name, script in PROGRAMS.items():
            (self.folder / name).write_text(f"#!/bin/sh\ncd '{self.folder}'\n{script}")
            (self.folder / name).chmod(0o755)
        (self.folder / "queue").write_text(self.run("squeue", "-j", "17").stdout)
        (self.folder / "rows").write_text("".join(f"17_{task}|{row}\n" for task, rows in self.rows.items() for row in rows))
        (self.folder / "asked").write_text("")
        self.commands -= 1
        path = f"{self.folder}:{os.environ['PATH']}"
        done = subprocess.run(argv, input=stdin, env={"PATH": path, "down": "yes" if self.is_down else ""}, capture_output=True)
        self.asked += (self.folder / "asked").read_text().split()
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def end(self, task: int, state: str = "COMPLETED", *, start: int = 100, end: int = 200) -> None:
        self.queue[task] = state
        self.rows.setdefault(task, []).append(f"{state}|0:0|{start}|{end}|n1|None")


PROGRAMS = {
    "squeue": "cat queue\n",
    "sacct": """while [ "$1" != -j ]; do shift; done
echo "$2" >> asked
[ -z "$down" ] || { echo 'sacct: error: Problem talking to the database' >&2; exit 1; }
if [ "$2" = 17 ]; then cat rows; else grep -E "^($(echo "$2" | tr , '|'))[|]" rows || :; fi
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(1000, tmp_path)


@pytest.fixture(params=[pytest.param(False, id="near"), pytest.param(True, id="far")])
def look(slurm: Slurm, request: pytest.FixtureRequest):
    poller = Poller(slurm.run, lambda: True, is_far=request.param)
    return lambda: {task: status.state.value for task, status in poller.poll([ArrayHandle("17", "/runs", 1000)])["17"].items()}


def test_what_waits_is_asked_for_once(slurm: Slurm, look) -> None:
    assert set(look().values()) == {"PENDING"}
    assert slurm.asked == ["17"]
    look()
    assert slurm.asked == ["17"]


def test_only_what_ended_since_is_asked_for(slurm: Slurm, look) -> None:
    look()
    slurm.end(3)
    slurm.end(5, "TIMEOUT")
    found = look()
    assert (found[3], found[5], found[4]) == ("COMPLETED", "TIMEOUT", "PENDING")
    assert slurm.asked == ["17", "17_3,17_5"]
    look()
    assert len(slurm.asked) == 2


def test_much_at_once_is_asked_for_as_a_whole(slurm: Slurm, look) -> None:
    look()
    for task in range(500):
        slurm.end(task)
    look()
    assert slurm.asked == ["17", "17"]


def test_a_row_that_is_late_is_asked_for_again(slurm: Slurm, look) -> None:
    look()
    slurm.queue[3] = "COMPLETED"
    assert look()[3] == "COMPLETED"
    look()
    assert slurm.asked == ["17", "17_3", "17_3"]
    slurm.end(3)
    look()
    look()
    assert len(slurm.asked) == 4


def test_what_squeue_forgot_is_remembered(slurm: Slurm, look) -> None:
    look()
    slurm.end(3)
    look()
    del slurm.queue[3]
    assert look()[3] == "COMPLETED"
    assert len(slurm.asked) == 2, "its row is known already"


def test_a_task_without_a_trace_is_not_asked_for_again_and_again(slurm: Slurm, look) -> None:
    look()
    del slurm.queue[3]  # cancelled while it waited
    assert 3 not in look()
    look()
    look()
    assert slurm.asked == ["17", "17"]


def test_a_task_that_runs_again_is_not_as_it_was(slurm: Slurm, look) -> None:
    look()
    slurm.end(3, "NODE_FAIL")
    assert look()[3] == "NODE_FAIL"
    slurm.queue[3] = "RUNNING"
    assert look()[3] == "RUNNING"
    slurm.end(3, "COMPLETED", start=300, end=400)
    assert look()[3] == "COMPLETED"
    del slurm.queue[3]
    assert look()[3] == "COMPLETED"


def test_one_that_ran_again_and_is_forgotten_is_asked_for(slurm: Slurm, look) -> None:
    look()
    slurm.end(3, "NODE_FAIL")
    look()
    slurm.queue[3] = "RUNNING"
    look()
    slurm.end(3, "COMPLETED", start=300, end=400)
    del slurm.queue[3]  # before anybody looked
    assert look()[3] == "COMPLETED"


def test_one_that_was_requeued_is_asked_for_at_once(slurm: Slurm, look) -> None:
    look()
    slurm.queue[3] = "RUNNING"
    look()
    slurm.queue[3] = "PENDING"
    slurm.rows[3] = ["REQUEUED|0:0|100|200|n1|None", "PENDING|0:0|Unknown|Unknown|None assigned|BeginTime"]
    look()
    assert slurm.asked == ["17", "17_3"]


def test_all_is_asked_for_again_after_a_while(slurm: Slurm, look, monkeypatch: pytest.MonkeyPatch) -> None:
    look()
    monkeypatch.setattr(polling, "AGE", 0.0)
    look()
    assert slurm.asked == ["17", "17"]


def test_while_the_database_is_away_what_is_known_stays(slurm: Slurm, look) -> None:
    look()
    slurm.end(3)
    look()
    del slurm.queue[3]
    slurm.is_down = True
    slurm.queue[4] = "FAILED"
    found = look()
    assert (found[3], found[4]) == ("COMPLETED", "FAILED")


def test_a_controller_that_does_not_answer_is_an_error() -> None:
    down = Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(CommandFailed, match="Unable to contact"):
        Poller(lambda *_: down, lambda: True).poll([ArrayHandle("17", "/runs", 1)])


@pytest.mark.parametrize("look", [True], indirect=True)
def test_a_far_cluster_is_asked_in_one_command(slurm: Slurm, look) -> None:
    for change in ([], [3], [], range(10, 20), range(100, 400), []):
        slurm.commands = 0
        for task in change:
            slurm.end(task)
        states = look()
        assert slurm.commands == 1
        assert all(states[task] == "COMPLETED" for task in change)
