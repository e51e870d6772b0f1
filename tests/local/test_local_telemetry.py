"""The agent beside programs on the embedded cluster: what it writes, and that the program does not notice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Job, Sweep, attach
from nexa_sdk.errors import InvalidInput, JobError

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

from stand_in import library_folder  # noqa: E402


def samples(run, task: str = "*") -> list[Path]:
    return list(Path(run.folder, "utilization").glob(f"{task}@*.samples"))


WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        sum(range(20000))
"""


def launch(local, program, code: str = WAITS, **given):
    return local.launch(Sweep(program(code), {"x": given.pop("x", [1])}), time="0:10:00", telemetry=0.1, **given)


def agents(run) -> list[int]:
    """Find the agents of a run by what they were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{run.folder}/utilization/agent.py".encode() in words:
            found.append(int(path.name))
    return found


def test_what_a_program_and_its_gpus_do_comes_back_as_a_dataframe(local: Cluster, program) -> None:
    env = {"LD_LIBRARY_PATH": str(library_folder()), "STAND_IN_GPUS": "2", "STAND_IN_BUSY": "98,0"}
    run = launch(local, program, env=env, x=[1, 2])
    wait_until(lambda: len(run.utilization()) >= 20 and set(run.utilization()["trial"]) == {0, 1})
    first = run.utilization()
    wait_until(lambda: len(run.utilization()) > len(first))
    Path("go").touch()
    run.wait()
    table = run.utilization()
    assert len(table) > len(first), "nothing goes at the end"
    assert set(table["trial"]) == {0, 1}
    assert set(table[table["gpu"] == 0]["gpu_busy"]) == {98.0}
    assert set(table[table["gpu"] == 1]["gpu_busy"]) == {0.0}
    assert table["job_cpu"].max() > 0.2, "it computes all the while"
    assert table["job_ram"].max() > 3
    assert table.attrs == {"complaints": {}, "lost_lines": 0}
    assert run.utilization(1)["trial"].unique().tolist() == [1]
    assert run.utilization(every=60)["seconds"].sum() == pytest.approx(table["seconds"].sum(), rel=0.01)
    again = attach(run.id)  # in another process it would be the same: the files lie in the run's folder
    assert len(again.utilization()) == len(table)
    assert agents(run) == []


def test_its_script_says_in_plain_bash_what_is_started_and_the_others_are_as_ever(local: Cluster, program) -> None:
    sweep = Sweep(program("pass"))
    plain, watched = local.plan(sweep, Job(time="1:00:00")), local.plan(sweep, Job(time="1:00:00", telemetry=True))
    assert "agent" not in plain.script
    assert all("utilization/agent.py" not in files for files in plain.files_by_token().values())
    added = [line for line in watched.script.splitlines() if line not in plain.script.splitlines()]
    assert sum("python3" in line for line in added) == 4
    assert "--every 1 --most 750000 --shell $$" in watched.script
    assert watched.script.index("agent.py") < watched.script.index("# one trial a task")
    (files,) = watched.files_by_token().values()
    assert files["utilization/agent.py"].startswith(b'"""The agent')


def test_a_run_of_many_tasks_keeps_less_of_each(local: Cluster, program) -> None:
    plan = local.plan(Sweep(program("pass"), {"x": range(5000)}), Job(time="1:00:00", telemetry=True))
    assert f"--most {(512 << 20) // 5000}" in plan.script


def test_the_program_has_its_exit_code_its_signals_and_its_log_for_itself(local: Cluster, program) -> None:
    code = """
        signal.signal(signal.SIGUSR1, lambda *_: print("USR1", flush=True))
        signal.signal(signal.SIGTERM, lambda *_: (print("TERM", flush=True), sys.exit(7)))
        print(sorted(os.listdir("/proc/self/fd")), flush=True)
        open("ready", "w").close()
        while True: time.sleep(0.05)
    """
    run = launch(local, program, code)
    wait_until(lambda: Path("ready").exists() and samples(run))
    shell = int(Path(f"/proc/{agents(run)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shell, signal.SIGUSR1)
    wait_until(lambda: "USR1" in str(run.logs(0)))
    assert agents(run), "it watches on"
    run.cancel()
    run.wait(check=False)
    assert str(run.logs(0)).splitlines()[1:] == ["USR1", "TERM"], "and nobody else wrote into the log"
    record = json.loads(next(Path(run.folder, "tasks").glob("*.json")).read_text())
    assert record["exit"] == 7
    wait_until(lambda: not agents(run))


def test_an_agent_that_is_killed_costs_its_samples_alone(local: Cluster, program) -> None:
    run = launch(local, program)
    wait_until(lambda: len(run.utilization()) > 3)
    for pid in agents(run):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not agents(run))
    before = len(run.utilization())
    Path("go").touch()
    run.wait()
    assert run.status()["exit_code"].tolist() == [0]
    assert len(run.utilization()) >= before > 3
    assert "Killed" not in str(run.logs(0))


def test_a_node_without_python_says_so_and_runs_the_program(local: Cluster, tmp_path) -> None:
    tools = tmp_path / "tools"  # all that a script needs, but no python3
    tools.mkdir()
    for name in ("bash", "date", "mv", "rm", "ln", "cat", "sleep"):
        (tools / name).symlink_to(shutil.which(name) or "")
    script = tmp_path / "work" / "trial.sh"
    script.write_text("exit 5\n")
    run = local.launch(Sweep(["bash", "trial.sh"]), time="0:01:00", telemetry=True, pre_commands=[f"PATH={tools}"])
    run.wait(check=False)
    assert run.status()["exit_code"].tolist() == [5]
    assert run.utilization().empty
    (words,) = run.utilization().attrs["complaints"].values()
    assert words.startswith("nexa: no python3 on ")
    assert run.verdicts()["rule"].tolist() == ["unknown"]


def test_a_file_that_is_cut_in_the_middle_is_read_around_the_gap(local: Cluster, program) -> None:
    run = launch(local, program)
    wait_until(lambda: samples(run) and samples(run)[0].stat().st_size > 1500)
    Path("go").touch()
    run.wait()
    whole = len(run.utilization())
    (path,) = samples(run)
    content = path.read_bytes()
    path.write_bytes(content[:700] + b"\0" * 50 + content[760:])
    table = attach(run.id).utilization()
    assert whole - 3 <= len(table) < whole
    assert table.attrs["lost_lines"] >= 1


def test_a_run_that_nobody_watched_says_how_to_have_it_watched(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("pass")), time="0:01:00").wait()
    with pytest.raises(InvalidInput, match="telemetry=True"):
        run.utilization()


def test_of_gpus_that_nobody_saw_nobody_says_how_long_they_were_idle(local: Cluster, program, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run = local.launch(Sweep(program("time.sleep(1.5)")), time="0:05:00", gpus=1, telemetry=True).wait(timeout=240)
    was_seen = run.utilization()["gpu"].notna().any()
    cost = run.cost()
    assert (cost.idle_gpu_hours is None) == (not was_seen)
    assert not any("hpc_job" in note for note in cost.notes)


def test_a_clusters_description_watches_every_launch(program) -> None:
    Path("nexa.toml").write_text('[clusters.here]\nhost = "local"\njob = {telemetry = 5}\n')
    here = Cluster("here")
    assert "--every 5 " in here.plan(Sweep(program("pass"))).script
    assert "agent" not in here.plan(Sweep(program("pass")), telemetry=False).script


@pytest.mark.parametrize("given", [0.01, -1, 3600, "1s", "yes"])
def test_a_time_that_is_none_is_refused(given) -> None:
    with pytest.raises(JobError, match=r"telemetry: .* is no time between two samples; give True, or seconds from 0.1 to 600"):
        Job(telemetry=given)


@pytest.mark.parametrize("given", [{"every": 0}, {"every": "1min"}, {"trials": 7}])
def test_what_utilization_can_not_mean_is_refused(local: Cluster, program, given) -> None:
    run = launch(local, program, "pass").wait()
    with pytest.raises(InvalidInput):
        run.utilization(**given)


def test_now_is_this_machine(local: Cluster, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library_folder()))
    table = local.utilization()
    assert table["gpu"].tolist() == list(range(8))
    assert table["ram"].iloc[0] > 10


def test_packed_trials_share_their_tasks_samples(local: Cluster, program) -> None:
    run = launch(local, program, "time.sleep(0.5)", x=[1, 2, 3], pack=3).wait()
    table = run.utilization()
    assert len(table) > 5
    assert table["trial"].isna().all()
    assert len(set(table["task"])) == 1
    assert len(run.utilization(2)) == len(table)
