"""Several trials a task, on a real Slurm: shares of GPUs, a cancel, a retry by arguments."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from until import wait_until

from nexa_sdk import Cluster, Sweep

TELL = """
with open(os.environ['NEXA_RESULTS'], 'w') as f:
    f.write(json.dumps({'argv': sys.argv[1:], 'gpus': os.environ.get('CUDA_VISIBLE_DEVICES'), 'trial': os.environ['NEXA_TRIAL']}) + '\\n')
"""


def records(folder: str, tasks: int) -> list[Path]:
    """Wait for the records of so many tasks."""
    wait_until(lambda: len(list(Path(folder, "tasks").glob("*.json"))) >= tasks)
    return sorted(Path(folder, "tasks").glob("*.json"))


def results(folder: str) -> dict[str, dict[str, Any]]:
    """Return what each trial reported, by the end of its file's name: task and slot."""
    return {path.stem.partition("_")[2]: json.loads(path.read_text()) for path in Path(folder, "results").iterdir()}


def ends(folder: str) -> dict[int, int]:
    lines = [line for path in Path(folder, "tasks").glob("*.trials") for line in path.read_text().splitlines()]
    return {event["trial"]: event["exit"] for event in map(json.loads, lines) if "exit" in event}


def test_side_by_side_on_a_task_s_gpus(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program(TELL), {"n": range(5)}), time="0:05:00", gpus=2, pack=2, side_by_side=True)
    run.wait(timeout=240)
    found = results(run.folder)
    assert {name: result["argv"] for name, result in found.items()} == {f"{n // 2}-{n % 2}": ["--n", str(n)] for n in range(5)}
    assert {name: result["trial"] for name, result in found.items()} == {f"{n // 2}-{n % 2}": str(n) for n in range(5)}
    for task in ("0", "1"):
        shares = [found[f"{task}-{slot}"]["gpus"] for slot in (0, 1)]
        assert all(len(share.split(",")) == 1 for share in shares)
        assert len(set(shares)) == 2
    assert ends(run.folder) == dict.fromkeys(range(5), 0)


def test_scancel_ends_what_runs_and_begins_no_more(slurm: Cluster, program) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (print('got TERM', flush=True), sys.exit(3)))\nprint('ready', flush=True)\ntime.sleep(300)"
    run = slurm.launch(Sweep(program(code), {"n": range(3)}), time="0:05:00", pack=3)
    logs = Path(run.folder, "logs")
    wait_until(lambda: any("ready" in path.read_text() for path in logs.glob("*_0-0.log")))
    (log,) = logs.glob("*_0-0.log")
    subprocess.run(["scancel", log.name.partition("_")[0]], check=True)
    (record,) = records(run.folder, 1)
    assert json.loads(record.read_text())["exit"] == 3
    assert log.read_text().count("got TERM") == 1
    assert ends(run.folder) == {0: 3}
    run.wait(timeout=240, check=False)
    assert run.status()["state"].tolist() == ["CANCELLED"] * 3


def test_the_trials_that_failed_are_packed_anew_for_a_retry(slurm: Cluster, program, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    code = f"{TELL}\nsys.exit(int(sys.argv[2]) in (1, 4, 8) and not os.path.exists({str(mended)!r}))"
    run = slurm.launch(Sweep(program(code), {"n": range(9)}), time="0:05:00", pack=3).wait(timeout=240, check=False)
    assert [trial for trial, state in enumerate(run.status()["state"]) if state == "FAILED"] == [1, 4, 8]
    mended.touch()
    run.retry().wait(timeout=240)
    assert run.results()["argv"].tolist() == [["--n", str(n)] for n in range(9)]
    assert len({run.status()["job"][trial] for trial in (1, 4, 8)}) == 1


def test_of_a_packed_task_only_the_trials_that_ran_out_of_memory_get_more(slurm: Cluster, program) -> None:
    code = """
        mark = "again-" + os.environ["NEXA_TRIAL"]
        again = os.path.exists(mark)
        open(mark, "w").close()
        sys.exit(0 if again else int(sys.argv[2]))
    """
    run = slurm.launch(Sweep(program(code), {"n": [0, 137, 3, 137]}), time="0:05:00", pack=2, mem="100M").wait(timeout=240, check=False)
    assert run.retry_plan()["again"].to_dict() == {1: True, 2: False, 3: True}
    run.retry(by="cause").wait(timeout=240, check=False)
    attempts = run.attempts()
    assert [len(attempts.loc[[trial]]) for trial in range(4)] == [1, 2, 1, 2]
    assert attempts["change"].tolist() == ["", "", "mem=200M", "", "", "mem=200M"]
    assert len({run.status()["job"][trial] for trial in (1, 3)}) == 1


def test_a_task_that_slurm_ended_for_its_memory_says_so_in_its_own_log(slurm: Cluster, program) -> None:
    code = """
        begun = "begun-" + os.environ["NEXA_TRIAL"]
        with open(begun, "a") as f: f.write("x")
        first = os.path.getsize(begun) == 1
        if first and sys.argv[2] == "hungry":
            held = bytearray(200 << 20)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(280)
        if first and sys.argv[2] == "told": sys.exit("slurmstepd: error: Detected 1 oom_kill event in StepId=1.batch.")
        sys.exit(3 * (sys.argv[2] == "wrong"))
    """
    kinds = ["wrong", "hungry", "after", "told", "wrong", "good"]
    run = slurm.launch(Sweep(program(code), {"kind": kinds}), time="0:05:00", pack=3, mem="100M")
    plan = run.wait(timeout=240, check=False, progress=False).retry_plan()
    assert plan["cause"].to_dict() == {0: "FAILED", **dict.fromkeys((1, 2, 3), "OUT_OF_MEMORY"), 4: "FAILED"}
    run.retry(by="cause").wait(timeout=240, check=False, progress=False)
    assert [Path(f"begun-{trial}").read_text() for trial in range(6)] == ["x", "xx", "x", "xx", "x", "x"]
    assert [trial for trial, state in enumerate(run.status()["state"]) if state != "COMPLETED"] == [0, 4]
    again = run.attempts().query("attempt == 2")
    assert again["change"].to_dict() == dict.fromkeys([(1, 2), (2, 2), (3, 2)], "mem=200M")


def test_the_same_script_carries_the_trials_that_its_arguments_name(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program(TELL), {"n": range(9)}), time="0:05:00", pack=3)
    records(run.folder, 3)
    answer = subprocess.run(
        ["sbatch", "--parsable", "--job-name=again", "--array=0-1", f"{run.folder}/job-0.sbatch", "7", "2", "4", "8"],
        check=True,
        capture_output=True,
        text=True,
    )
    again = answer.stdout.strip()
    wait_until(lambda: len(list(Path(run.folder, "tasks").glob(f"{again}_*.json"))) == 2)
    found = {path.stem: json.loads(path.read_text())["argv"] for path in Path(run.folder, "results").glob(f"{again}_*")}
    assert found == {f"{again}_{n // 3}-{n % 3}": ["--n", str(trial)] for n, trial in enumerate((7, 2, 4, 8))}
