"""The journal: written before anything is sent, safe with several kernels."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexa_sdk.errors import JournalError, RunNotFound
from nexa_sdk.journal import Journal
from nexa_sdk.records import ArrayRecord, RunRecord
from nexa_sdk.tasks import parse_tasks


def run(run_id: str = "train-000001", digest: str = "d", created: float = 1.0) -> RunRecord:
    return RunRecord(run_id, "local", "/runs/" + run_id, digest, 3, created)


def array(run_id: str = "train-000001", n: int = 0, tasks: str = "0-2") -> ArrayRecord:
    return ArrayRecord(
        token=f"{run_id}-{n}", run=run_id, script="job-0.sbatch", first=0, tasks=tasks, at=time.time(), count=len(parse_tasks(tasks))
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "j.sqlite")


def test_a_run_is_begun_once(journal: Journal) -> None:
    assert journal.begin(run(), {"id": "train-000001"}, [array()]) is None
    assert journal.begin(run(), {"id": "other"}, [array()]) == "train-000001"
    with pytest.raises(JournalError, match="there is another run train-000001; plan it again"):
        journal.begin(run(digest="other"), {}, [])
    assert journal.plan("train-000001") == {"id": "train-000001"}
    assert [found.outcome for found in journal.arrays("train-000001")] == ["intent"]


def test_what_came_of_it(journal: Journal) -> None:
    journal.begin(run(), {}, [array()])
    assert journal.outcome("train-000001") == "UNKNOWN"
    journal.settle("train-000001-0", "submitted", job_id="47")
    assert journal.outcome("train-000001") == "SUBMITTED"
    journal.finish("train-000001-0", [["COMPLETED", 0, 1, 2, "n", ""], ["FAILED", 1, 1, 2, "n", ""], ["COMPLETED", 0, 1, 2, "n", ""]])
    assert journal.outcome("train-000001") == "FAILED"
    journal.intend([array(n=1, tasks="1")], known=1)
    journal.settle("train-000001-1", "submitted", job_id="48")
    journal.finish("train-000001-1", [["COMPLETED", 0, 3, 4, "n", ""]])
    assert journal.outcome("train-000001") == "COMPLETED"
    assert [found.job_id for found in journal.arrays("train-000001")] == ["47", "48"]


def test_a_rejected_run(journal: Journal) -> None:
    journal.begin(run(), {}, [array()])
    journal.settle("train-000001-0", "rejected", words="Invalid partition")
    assert journal.outcome("train-000001") == "REJECTED"


def test_cancels_are_remembered(journal: Journal) -> None:
    journal.begin(run(), {}, [array()])
    journal.cancelled("train-000001-0", "1-2")
    assert journal.cancels(["train-000001-0", "other"]) == {"train-000001-0": ["1-2"]}


def test_runs_are_found_by_id_and_by_its_beginning(journal: Journal) -> None:
    for n, run_id in enumerate(["train-0001", "train-0002", "eval-0001"]):
        journal.begin(run(run_id, created=n), {}, [])
    assert journal.run("eval").id == "eval-0001"
    assert [found.id for found in journal.runs()] == ["eval-0001", "train-0002", "train-0001"]
    assert journal.run_ids(2) == ["eval-0001", "train-0002"]
    with pytest.raises(RunNotFound, match="'train' may be any of train-0002, train-0001; give more of it"):
        journal.run("train")
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        journal.run("nope")
    with pytest.raises(RunNotFound):
        journal.run("train%")


def test_the_same_script_and_code_on_the_same_cluster(journal: Journal) -> None:
    journal.begin(run("a-1", "same", 1), {}, [])
    journal.begin(run("a-2", "same", 2), {}, [])
    journal.begin(run("a-3", "other", 3), {}, [])
    assert journal.like("same", "local") == ["a-2", "a-1"]
    assert journal.like("same", "slurm") == []


def test_a_run_that_another_kernel_has_just_begun_is_taken(journal: Journal) -> None:
    mark = journal.newest()
    assert journal.begin(run("a-1", "same"), {}, [], alike_since=mark) is None
    assert journal.begin(run("a-2", "same"), {}, [], alike_since=mark) == "a-1"
    assert journal.begin(run("a-3", "other"), {}, [], alike_since=mark) is None
    assert journal.begin(run("a-4", "same"), {}, [], alike_since=journal.newest()) is None
    assert journal.begin(run("a-5", "same"), {}, []) is None


def test_one_of_a_newer_version_is_refused_and_left_as_it_is(journal: Journal) -> None:
    journal.begin(run(), {}, [])
    with sqlite3.connect(journal.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = journal.path.read_bytes()
    for attempt in (lambda: journal.begin(run("b-1"), {}, []), lambda: journal.runs()):
        with pytest.raises(JournalError, match=r"newer nexa_sdk \(format 99, this one knows 2\); upgrade it"):
            attempt()
    assert journal.path.read_bytes() == before


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="set NEXA_HOME to a folder that can be written"):
        Journal(tmp_path / "file" / "j.sqlite").begin(run(), {}, [])


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "j.sqlite").write_text("something else entirely, and long enough to be a header of nothing")
    with pytest.raises(JournalError, match="file is not a database"):
        Journal(tmp_path / "j.sqlite").runs()


def test_several_kernels_write_at_once(journal: Journal) -> None:
    code = (
        "import sys; from pathlib import Path; from nexa_sdk.journal import *; from nexa_sdk.records import *\n"
        f"journal = Journal(Path({str(journal.path)!r}))\n"
        "for n in range(20):\n"
        "    run = f'r{sys.argv[1]}-{n}'\n"
        "    journal.begin(RunRecord(run, 'local', '/', 'd', 1, n), {}, [ArrayRecord(token=run + '-0', run=run, script='s', first=0, tasks='0', at=0.0, count=1)])\n"
        "    journal.settle(run + '-0', 'submitted', job_id='1')\n"
        "print(journal.begin(RunRecord('shared', 'local', '/', 'd', 1, 0), {}, []))\n"
    )
    kernels = [subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=subprocess.PIPE, text=True) for k in range(4)]
    said = [kernel.communicate(timeout=240)[0].strip() for kernel in kernels]
    assert sorted(said) == ["None", "shared", "shared", "shared"], "the run of all four was begun once"
    assert len(journal.runs()) == 81
    assert all(found.outcome == "submitted" for record in journal.runs() for found in journal.arrays(record.id))


# ---- a lock, a full disk, an older file ------------------------------------------------------------------


def test_one_that_another_process_has_locked_is_waited_for_with_a_word(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexa_sdk.journal_file.QUIET", 0.2)
    journal.begin(run(), {}, [array()])
    code = f"import sqlite3, time; c = sqlite3.connect({str(journal.path)!r}, isolation_level=None); c.execute('BEGIN EXCLUSIVE'); print(1, flush=True); time.sleep(4)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        journal.settle("train-000001-0", "submitted", job_id="47")
    assert "is locked by another process; waiting for it" in capsys.readouterr().err
    assert [found.job_id for found in journal.arrays("train-000001")] == ["47"]


VERSION_1 = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, cluster TEXT NOT NULL, folder TEXT NOT NULL, digest TEXT NOT NULL,
    trials INTEGER NOT NULL, created REAL NOT NULL, plan BLOB NOT NULL
);
CREATE INDEX runs_by_digest ON runs (digest);
CREATE TABLE arrays (
    token TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id), script TEXT NOT NULL, first INTEGER NOT NULL,
    tasks TEXT NOT NULL, outcome TEXT NOT NULL, job_id TEXT, words TEXT NOT NULL DEFAULT '', at REAL NOT NULL, final BLOB
);
CREATE INDEX arrays_by_run ON arrays (run);
CREATE TABLE cancels (token TEXT NOT NULL, tasks TEXT NOT NULL, at REAL NOT NULL);
INSERT INTO runs VALUES ('old-1', 'slurm', '/runs/old-1', 'd', 7, 1.0, X'');
INSERT INTO arrays (token, run, script, first, tasks, outcome, job_id, at) VALUES ('old-1-0', 'old-1', 'job-0.sbatch', 0, '0-2,4-7', 'submitted', '47', 1.0);
PRAGMA user_version = 1;
"""


def test_one_of_version_1_is_read_and_written_on(journal: Journal) -> None:
    connection = sqlite3.connect(journal.path)
    connection.executescript(VERSION_1)
    connection.close()
    (old,) = journal.arrays("old-1")
    assert (old.job_id, old.count, old.pack, old.trials, old.options) == ("47", 7, 1, None, {})
    journal.intend([array("old-1", n=1, tasks="3")], known=1)
    assert journal.send("old-1-1") == 1
    assert [found.token for found in journal.arrays("old-1")] == ["old-1-0", "old-1-1"]


def test_one_that_was_removed_under_a_submission_says_so(journal: Journal) -> None:
    journal.begin(run(), {}, [array()])
    journal.path.unlink()
    with pytest.raises(JournalError, match="does not know the array train-000001-0: was it removed"):
        journal.settle("train-000001-0", "submitted", job_id="47")
