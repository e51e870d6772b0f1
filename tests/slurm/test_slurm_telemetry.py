"""The agent on a real Slurm: beside a task, on all of its nodes, beside a job for one look; signals and exit codes are the program's own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

from stand_in import library_folder  # noqa: E402

pytestmark = pytest.mark.usefixtures("slurm")

WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        sum(range(20000))
    sys.exit(int(sys.argv[2]))
"""


def launch(slurm: Cluster, program, code: str = WAITS, **given):
    env = {"LD_LIBRARY_PATH": str(library_folder()), "STAND_IN_GPUS": "4", "STAND_IN_BUSY": "98,0,50,7"}
    return slurm.launch(Sweep(program(code), {"code": given.pop("codes", [0])}), time="0:10:00", telemetry=0.2, env=env, **given)


def test_the_samples_of_every_task_lie_in_the_runs_folder(slurm: Cluster, program) -> None:
    run = launch(slurm, program, codes=[0, 3], gpus=2)
    wait_until(lambda: set(run.utilization()["trial"].dropna()) == {0, 1})
    now = slurm.utilization()
    assert set(now["task"]) == set(run.status()["job"])
    Path("go").touch()
    run.wait(check=False)
    assert run.status()["exit_code"].tolist() == [0, 3]
    table = run.utilization()
    assert {path.name.partition("@")[0] for path in Path(run.folder, "utilization").glob("*.samples")} == set(run.status()["job"])
    assert set(table["node"]) == set(run.status()["node"])
    of_each = [set(table[table["trial"] == trial]["gpu"]) for trial in (0, 1)]
    assert [len(gpus) for gpus in of_each] == [2, 2], "a task's own GPUs, not the node's"
    assert table["job_cpu"].max() > 0.1
    assert (table["job_cores"] == 1).all()
    assert table.attrs["complaints"] == {}


def test_what_idle_gpus_cost_stands_in_the_bill(slurm: Cluster, program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexa_sdk.monitoring.verdicts.NEVER_FOR", 2.0)
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[clusters.sandbox]\ncurrency = "EUR"\n[clusters.sandbox.gpus]\nh100 = 3600\n')
    run = launch(slurm, program, gpus=2)  # the first is at work, the second is not
    wait_until(lambda: len(run.utilization()) > 40)
    Path("go").touch()
    run.wait()
    cost = run.cost()
    (verdict,) = run.verdicts().to_dict("records")
    assert verdict["rule"] == "gpu-never-used"
    assert float(cost.idle_gpu_hours) == pytest.approx(verdict["gpu_hours"], abs=1e-6)
    assert 0 < cost.idle_gpu_hours < cost.gpu_hours
    assert cost.idle_cost == round(cost.idle_gpu_hours * 3600, 2), "at 3600 EUR an hour"
    assert verdict["cost"] == cost.idle_cost
    assert f"({cost.idle_cost} EUR)" in verdict["words"]
    assert f"{cost.idle_cost:,.2f} EUR of it" in repr(cost)


def test_a_job_without_gpus_is_not_told_of_its_neighbours(slurm: Cluster, program) -> None:
    run = launch(slurm, program)
    wait_until(lambda: len(run.utilization()) > 3)
    Path("go").touch()
    run.wait()
    assert run.utilization()["gpu"].isna().all()


def test_a_cancelled_task_is_watched_to_its_end_and_ends_as_ever(slurm: Cluster, program) -> None:
    code = """
        def end(*_):
            print("TERM", flush=True)
            time.sleep(2)
            sys.exit(9)
        signal.signal(signal.SIGTERM, end)
        open("ready", "w").close()
        while True: time.sleep(0.05)
    """
    run = launch(slurm, program, code)
    wait_until(lambda: Path("ready").exists() and len(run.utilization()) > 3)
    asked = time.time()
    run.cancel()
    run.wait(check=False)
    status = run.status().iloc[0]
    assert status["state"] == "CANCELLED"
    assert str(run.logs(0)).count("TERM") == 1
    assert run.utilization()["time"].max().timestamp() > asked + 1, "while it took its time to end"


def test_a_task_on_two_nodes_is_watched_on_both(slurm: Cluster, program) -> None:
    run = launch(slurm, program, codes=[4], nodes=2, gpus_per_node=1)
    wait_until(lambda: set(run.utilization()["node"]) == {"n1", "n2"})
    assert set(slurm.utilization()["node"]) == {"n1", "n2"}
    Path("go").touch()
    wait_until(lambda: list(Path(run.folder, "tasks").glob("*.json")))
    began = time.monotonic()
    wait_until(lambda: not subprocess.run(["squeue", "-h", "-n", f"{run.id}-0"], capture_output=True, check=True).stdout)
    assert time.monotonic() - began < 25, "no step holds the job up: Slurm would wait 30 s before it kills one"
    run.wait(check=False)
    assert run.status()["exit_code"].tolist() == [4]
    table = run.utilization()
    assert table.groupby("node", observed=True)["gpu"].nunique().tolist() == [1, 1]
    assert table.attrs["complaints"] == {}


def test_a_requeued_task_goes_on_in_its_file(slurm: Cluster, program) -> None:
    import subprocess

    run = launch(slurm, program, requeue=True, nodelist="n1")
    wait_until(lambda: len(run.utilization()) > 3)
    job = run.status()["job"][0]
    subprocess.run(["scontrol", "requeue", job], check=True)
    first = run.utilization()["time"].max()
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    wait_until(lambda: (run.utilization()["time"] > first).sum() > 20, seconds=180)
    Path("go").touch()
    run.wait()
    assert len(list(Path(run.folder, "utilization").glob("*.samples"))) == 1


def test_no_running_job_is_an_empty_table(slurm: Cluster) -> None:
    assert slurm.utilization().empty


def test_accounting_tells_the_id_that_each_task_of_an_array_has_alone(slurm: Cluster, program) -> None:
    """It is the one that DCGM's exporter hears of."""
    tell = 'open(os.environ["NEXA_RESULTS"], "a").write(json.dumps({"id": os.environ["SLURM_JOB_ID"]}) + "\\n")'
    run = slurm.launch(Sweep(program(f"import json\n{tell}"), {"x": range(3)}), time="0:10:00").wait()
    told = dict(zip(run.status()["job"], run.results()["id"].astype(str), strict=True))
    assert len(set(told.values())) == 3

    def known() -> bool:  # accounting is some seconds late
        run.watched._ids_at = -1e9
        return run.watched._own_ids() == told

    wait_until(known)
