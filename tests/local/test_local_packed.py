"""Several trials a task, on the embedded cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Job, Sweep
from nexa_sdk.scheduling.base import ArrayHandle, Submission
from nexa_sdk.scheduling.local import LocalScheduler

TELL = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps([sys.argv[2], os.environ.get('CUDA_VISIBLE_DEVICES')]) + '\\n')"


def wait_for_tasks(folder: str, tasks: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(Path(folder, "tasks").glob("*.json"))) < tasks:
        assert time.monotonic() < deadline, "the tasks did not end in time"
        time.sleep(0.05)


def reported(folder: str) -> dict[str, list[str]]:
    return {path.stem.partition("_")[2]: json.loads(path.read_text()) for path in Path(folder, "results").iterdir()}


def test_each_trial_of_a_task_reports_for_itself(local: Cluster, program) -> None:
    run = local.launch(Sweep(program(TELL), {"n": range(5)}), time="0:05:00", pack=2)
    wait_for_tasks(run.folder, 3)
    assert {name: n for name, (n, _) in reported(run.folder).items()} == {f"{n // 2}-{n % 2}": str(n) for n in range(5)}


def test_side_by_side_on_a_task_s_gpus(local: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    run = local.launch(Sweep(program(TELL), {"n": range(2)}), time="0:05:00", gpus=4, pack=2, side_by_side=True)
    wait_for_tasks(run.folder, 1)
    assert reported(run.folder) == {"0-0": ["0", "4,5"], "0-1": ["1", "6,7"]}


def test_arguments_name_the_trials_of_a_retry(local: Cluster, program, home: Path) -> None:
    run = local.launch(Sweep(program(TELL), {"n": range(9)}), time="0:05:00", pack=3)
    wait_for_tasks(run.folder, 3)
    scheduler = LocalScheduler(home / "local")
    job = Job(time="0:05:00", pack=3)
    again = scheduler.submit(Submission("again", run.folder, "job-0.sbatch", "0-1", job, is_retry=True, args=("7", "2", "4", "8")))
    wait_for_tasks(run.folder, 5)
    found = {path.stem: json.loads(path.read_text())[0] for path in Path(run.folder, "results").glob(f"{again}_*")}
    assert found == {f"{again}_{n // 3}-{n % 3}": trial for n, trial in enumerate(("7", "2", "4", "8"))}
    assert len(scheduler.poll([ArrayHandle(again, run.folder, 2)])[again]) == 2
