"""Where numbers, texts and files are larger than what is behind them can take."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_script import TELL, received, run_task, script_of

from nexa_sdk import Cluster, Job, Sweep
from nexa_sdk.errors import InvalidInput, JobError, SweepError
from nexa_sdk.journal import Journal
from nexa_sdk.passing import argv
from nexa_sdk.records import RunRecord


def check_trials(sweep: Sweep, folder: Path) -> None:
    """Compare what the program receives from bash with what the sweep says, for every trial."""
    script = script_of(sweep, folder)
    for trial in range(len(sweep)):
        assert received(script, folder, trial)[0] == argv(sweep, sweep[trial])[len(TELL) :]


# ---- numbers beyond those of bash, and of len() --------------------------------------------------------


def test_a_draw_from_more_combinations_than_bash_can_count(tmp_path: Path) -> None:
    sweep = Sweep(TELL, {f"axis{k}": list(range(100)) for k in range(11)}).sample(3)
    assert sweep.space.size == 10**22
    assert len({json.dumps(trial) for trial in sweep}) == 3
    check_trials(sweep, tmp_path / "run")


@pytest.mark.parametrize(
    "values",
    [range(10**19, 10**19 + 100), range(0, 10**22, 10**20), range(-(10**19), -(10**19) - 100, -1), range(2**63 - 50, 2**63 + 50)],
    ids=["begins above", "ends above", "below", "across"],
)
def test_a_range_beyond_the_integers_of_bash(tmp_path: Path, values: range) -> None:
    script = script_of(Sweep(TELL, {"n": values}), tmp_path / "run")
    with_another = Sweep(TELL, {"n": values, "b": ["x", "y"]})
    another_script = script_of(with_another, tmp_path / "run")
    for trial in (0, 49, 50, 99):
        assert received(script, tmp_path / "run", trial)[0] == ["--n", str(values[trial])]
        assert received(another_script, tmp_path / "run", 2 * trial + 1)[0] == ["--n", str(values[trial]), "--b", "y"]
    check_trials(with_another.sample(3), tmp_path / "run")


def test_a_grid_that_nobody_can_count_can_be_looked_at(tmp_path: Path) -> None:
    sweep = Sweep(TELL, {f"axis{k}": range(100) for k in range(10)})
    assert sweep.space.size == 10**20
    assert sweep[0] == dict.fromkeys(sweep.parameters, 0)
    assert sweep[10**20 - 1] == sweep[-1] == dict.fromkeys(sweep.parameters, 99)
    assert "100,000,000,000,000,000,000 trials" in repr(sweep)
    assert len(sweep.trials(first=5)) == 5
    check_trials(sweep.sample(2), tmp_path / "run")
    with pytest.raises(SweepError, match=r"100,000,000,000,000,000,000 .*sample\("):
        len(sweep)
    with pytest.raises(SweepError, match=r"100,000,000,000,000,000,000 .*sample\("):
        Cluster("local").plan(sweep, time="0:05:00")


# ---- values ----------------------------------------------------------------------------------------------


def test_a_value_longer_than_an_argument_is_refused_and_the_longest_goes_through(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for text in ("x" * 131_072, "é" * 65_536, "漢" * 50_000):
        for values in ([text], ["short", text], ["x" * 60_000, text, "short"]):
            with pytest.raises(SweepError, match=r"'text'.* at most 13\d,\d{3}\b"):
                Sweep(TELL, {"text": values})
        with pytest.raises(SweepError, match=r"'text'.* at most 13\d,\d{3}\b"):
            Sweep(TELL, fixed={"text": text})
    tell = [sys.executable, "-S", "-c", "import sys; print(len(sys.argv[1].encode()))"]
    script = script_of(Sweep(tell, {"text": ["x" * 130_000, "é" * 65_000]}, style="hydra"), folder)
    for trial in (0, 1):
        done = run_task(script, folder, trial)
        assert (done.returncode, done.stdout) == (0, f"{len('text=') + 130_000}\n"), done.stderr


def test_a_short_float_of_numpys_is_what_its_user_sees(tmp_path: Path) -> None:
    tenths = np.array([0.1, 0.2, 1e-5], dtype=np.float32)
    sweep = Sweep(TELL, {"a": [np.float32(0.1), np.float16(0.3)], "b": tenths}, fixed={"c": np.float32(0.7), "d": np.float64(0.1)})
    assert sweep.argv(0)[len(TELL) :] == ["--a", "0.1", "--b", "0.1", "--c", "0.7", "--d", "0.1"]
    assert sweep.argv(5)[len(TELL) :] == ["--a", "0.3", "--b", "1e-05", "--c", "0.7", "--d", "0.1"]
    check_trials(sweep, tmp_path / "run")


# ---- what can't be meant is said at once ---------------------------------------------------------------------


def test_what_is_no_sweep_no_job_and_no_predicate_is_said_at_once() -> None:
    local = Cluster("local")
    with pytest.raises(SweepError, match="python train.py"):
        local.plan("python train.py")  # type: ignore[arg-type]
    with pytest.raises(JobError, match="1h"):
        local.plan(Sweep("true"), {"time": "1h"})  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="a>1"):
        Sweep("true", {"a": [1, 2]}, where="a>1")  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="a>1"):
        Sweep.from_trials("true", [{"a": 1}], where="a>1")
    assert local.plan(Sweep("true"), Job(time="0:05:00")).job == Job(time="0:05:00")


@pytest.mark.parametrize("folder", ["/tmp/a\nb", '/tmp/a"b', "/tmp/a\\b", "/tmp/a\rb"])
def test_a_folder_that_no_directive_can_name(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("local", "slurm", "sandbox"):
        with pytest.raises(InvalidInput, match="runs="):
            Cluster(where, runs=folder)
    monkeypatch.setenv("NEXA_RUNS", folder)
    with pytest.raises(InvalidInput):
        Cluster("slurm")


# ---- the journal's file ----------------------------------------------------------------------------------------


def test_what_a_killed_kernel_left_half_written_is_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    journal.begin(RunRecord("a-1", "local", "/", "d", 1, 1.0), {"id": "a-1"}, [])
    before = journal.path.stat().st_size
    code = f"""
import os, sqlite3
connection = sqlite3.connect({str(journal.path)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that the file itself is written before the end
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM runs")
for _ in range(400): connection.execute("INSERT INTO cancels VALUES (?, ?, ?)", ("half" * 100, "written" * 100, 1.0))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert Path(f"{journal.path}-journal").stat().st_size > 0
    assert journal.path.stat().st_size > before
    assert [run.id for run in Journal(journal.path).runs()] == ["a-1"]
    assert journal.plan("a-1") == {"id": "a-1"}
    assert journal.cancels(["half" * 100]) == {}
    journal.begin(RunRecord("a-2", "local", "/", "d", 1, 2.0), {}, [])
    assert [run.id for run in journal.runs()] == ["a-2", "a-1"]


def test_an_empty_file_is_an_empty_journal(tmp_path: Path) -> None:
    for ask in (Journal.runs, Journal.run_ids, lambda journal: journal.like("d", "local"), lambda journal: journal.arrays("a-1")):
        path = tmp_path / "j.sqlite"
        path.write_bytes(b"")
        assert ask(Journal(path)) == []
        Journal(path).begin(RunRecord("a-1", "local", "/", "d", 1, 1.0), {}, [])
        assert Journal(path).run("a").id == "a-1"
        path.unlink()
