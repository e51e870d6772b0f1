"""Budgets on a real Slurm, with nobody there: what runs is counted by the tasks, and what waits is cancelled by them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from until import wait_until
from versions import NATIVE, VERSIONS, sandbox_of

from nexa_sdk import Budget, Cluster, Job, Sweep, attach, budgets, set_budget
from nexa_sdk.errors import BudgetExceeded, BudgetWarning
from nexa_sdk.run import Run
from nexa_sdk.scheduling.slurm.sandbox import SandboxSpec

pytestmark = pytest.mark.filterwarnings("ignore::nexa_sdk.errors.BudgetWarning")  # those that are meant are looked for

RATES = """
[clusters.sandbox]
currency = "USD"
[clusters.sandbox.gpus]
h100 = 1800
"""  # half a dollar a second of a GPU
TWO_GPUS = Job(time="0:02:00", gpus=2, gpu_type="h100")  # a dollar a second


@pytest.fixture(autouse=True)
def rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%s")
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    path.write_text(RATES)
    return path


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def marks(run: Run) -> set[str]:
    return {path.name for path in Path(run.folder, "budget").iterdir()}


def records(run: Run) -> list[dict[str, int]]:
    """Return what tasks wrote down of themselves that began a trial, in the order in which they ended."""
    found = [json.loads(path.read_text()) for path in Path(run.folder, "tasks").glob("*.json")]
    return sorted((record for record in found if "stopped" not in record), key=lambda record: (record["end"], record["start"]))


def begun_by_sacct(run: Run) -> list[tuple[int, int, int]]:
    """Return start, end and GPUs of all executions that began, as accounting has them."""
    name = ",".join(f"{run.id}-{n}" for n in range(9))
    rows = raw("sacct", "-n", "-P", "-X", "-D", "--name", name, "-S", "now-1day", "-o", "Start,End,AllocTRES").splitlines()
    found = []
    for row in rows:
        start, end, tres = row.split("|")
        if start.isdecimal() and end.isdecimal() and "gres/gpu=" in tres:
            found.append((int(start), int(end), int(dict(part.split("=") for part in tres.split(","))["gres/gpu"])))
    return found


KERNEL = """
import sys, time
from nexa_sdk import Budget, Cluster, Job, Sweep
sweep = Sweep([sys.executable, "train.py"], {"x": range(int(sys.argv[1]))})
job = Job(time="0:02:00", gpus=2, gpu_type="h100", throttle=int(sys.argv[2]))
print(Cluster("sandbox").launch(sweep, job, budget=Budget(sys.argv[3], until_spent=True)).id, flush=True)
time.sleep(600)
"""


def launched_by_a_kernel_that_is_killed(*argv: str) -> str:
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL, *argv], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    run_id = kernel.stdout.readline().strip()
    kernel.kill()
    kernel.communicate()
    assert run_id
    return run_id


def is_gone(run_id: str) -> bool:
    return not raw("squeue", "-h", "-n", f"{run_id}-0", "-o", "%i").strip()


def test_at_100_percent_with_the_kernel_dead(slurm: Cluster, program) -> None:
    program("time.sleep(3)")
    run_id = launched_by_a_kernel_that_is_killed("12", "2", "10 USD")
    wait_until(lambda: is_gone(run_id))
    run = attach(run_id)
    with pytest.warns(BudgetWarning, match=rf"{run_id}: .* of 10 USD used \(\d{{3}} %\): nothing more begins"):
        status = run.status()
    ended = records(run)
    began = [trial in {record["trial"] for record in ended} for trial in range(12)]
    assert status["state"].tolist() == ["COMPLETED" if yes else "CANCELLED" for yes in began]
    assert set(status["reason"][[not yes for yes in began]]) == {"not begun: the budget of 10 USD is spent"}
    # By hand: a dollar a second. Nothing began once 10 were used; each that began did so before.
    used = sum(record["end"] - record["start"] for record in ended)
    assert used >= 10
    for record in ended:
        before = sum(max(0, min(other["end"], record["start"]) - other["start"]) for other in ended if other is not record)
        assert before < 10, "it began when the budget was spent"
    use = run.budget()
    assert use is not None
    assert (use.limit, use.used, use.currency, use.is_spent) == (10, used, "USD", True)
    # No more than what ran at that moment took from then on: two at a time, by accounting as well.
    wait_until(lambda: len(begun_by_sacct(run)) >= len(list(Path(run.folder, "tasks").glob("*.json"))))
    spent = sum((end - start) * gpus for start, end, gpus in begun_by_sacct(run)) / 2
    at, counted, _ = Path(run.folder, "budget", "spent").read_text().split(maxsplit=2)
    over = sum(max(0, record["end"] - int(at)) for record in ended)
    assert used <= int(counted) + over
    assert run.cost().total == Decimal(str(spent))
    # Those that waited were cancelled; only what was on its way already was started to be told so.
    assert len(list(Path(run.folder, "tasks").glob("*.json"))) < 12
    assert attach(run_id).status()["reason"].tolist() == status["reason"].tolist()


def test_at_80_percent_with_the_kernel_dead(slurm: Cluster, program) -> None:
    program("time.sleep(41 if sys.argv[2] == '0' else 300)")
    run_id = launched_by_a_kernel_that_is_killed("2", "1", "50 USD")
    folder = Path(slurm.runs_folder) / run_id
    wait_until(lambda: (folder / "budget" / "warned").exists() and (folder / "budget" / "warned").read_text().endswith("\n"))
    at, used, words = (folder / "budget" / "warned").read_text().split(maxsplit=2)
    run = attach(run_id)
    (first,) = records(run)
    assert int(used) == first["end"] - first["start"], "the first task, a dollar a second; nothing else has begun"
    assert int(used) >= 0.8 * 50 - 1
    assert abs(int(at) - first["end"]) <= 60
    assert words.strip() == "the budget of 50 USD"
    warning = f"{100 * int(used) // 50} % of the budget of 50 USD are used"
    wait_until(lambda: warning in next(folder.glob("logs/*_0.log")).read_text())
    with pytest.warns(BudgetWarning, match=rf"{run_id}: .* of 50 USD used"):
        run.refresh()
    run.cancel().wait(check=False, timeout=240)


def test_a_run_that_was_stopped_is_run_again_with_a_larger_budget(slurm: Cluster, program) -> None:
    sweep = Sweep(program("time.sleep(2)"), {"x": range(6)})
    run = slurm.launch(sweep, TWO_GPUS, throttle=1, budget=Budget("5 USD", until_spent=True)).wait(check=False, timeout=240)
    stopped = (run.status()["state"] == "CANCELLED").sum()
    assert stopped >= 3
    with pytest.raises(BudgetExceeded, match=r"nothing would begin; run.retry\(budget="):
        run.retry()
    with pytest.raises(BudgetExceeded, match=r"nothing would begin"):
        run.retry(budget=f"{run.budget().used} USD")  # all of it is used
    run.retry(budget="600 USD").wait(timeout=240)
    assert run.tally() == "6 COMPLETED"
    reasons = [attempt.status.reason for attempt in run.known_attempts if attempt.number == 1]
    assert reasons.count("not begun: the budget of 5 USD is spent") == stopped
    assert {"spent", "warned"} & marks(run) == set()


def test_a_requeue_counts_what_it_took_before(slurm: Cluster, program) -> None:
    code = """
        if not os.path.exists("second"): time.sleep(300)
        time.sleep(1)
    """
    run = slurm.launch(Sweep(program(code), {"x": range(4)}), TWO_GPUS, throttle=1, budget=Budget("9 USD", until_spent=True))
    wait_until(lambda: run.status()["state"][0] == "RUNNING")
    wait_until(lambda: any("@" in name for name in marks(run)))
    (entry,) = [name for name in marks(run) if "@" in name]
    wait_until(lambda: time.time() - int(entry.partition("@")[2]) >= 7)
    Path("second").touch()
    raw("scontrol", "requeue", run.status()["job"][0])  # it has to wait for minutes: the others come first
    run.wait(check=False, timeout=240)
    status = run.status()
    took = {name.partition("=")[0]: int(name.partition("=")[2]) for name in marks(run) if "=" in name}
    before = took.pop(entry.partition("@")[0])
    assert before >= 7
    assert sum(took.values()) < 9, "without what it took before the requeue all would have begun"
    stopped = status[status["state"] == "CANCELLED"]
    assert 3 in stopped.index
    assert set(stopped["reason"]) == {"not begun: the budget of 9 USD is spent"}
    assert run.attempts()["state"].tolist()[0] == "REQUEUED"


def test_packed_trials_and_a_retry_by_cause(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(2)"), {"x": range(6)}), TWO_GPUS, pack=6, budget=Budget("5 USD", until_spent=True))
    run.wait(check=False, timeout=240)
    status = run.status()
    begun = (status["state"] == "COMPLETED").sum()
    assert 1 <= begun <= 3
    assert set(status["reason"][begun:]) == {"not begun: the budget of 5 USD is spent"}
    assert set(status["state"][begun:]) == {"CANCELLED"}
    code = "time.sleep(2); sys.exit(int(sys.argv[2]))"
    job = Job(**{**TWO_GPUS.given(), "time": "0:01:00", "throttle": 1, "retry": {"failed": 9}})
    held = slurm.launch(Sweep(program(code), {"x": [0, 1]}), job, budget=Budget("7 USD", until_spent=True))
    held.wait(check=False, timeout=300)
    assert held.status()["state"].tolist()[0] == "COMPLETED"
    assert "spent" in marks(held)
    ended = records(held)
    took = [record["end"] - record["start"] for record in ended]
    assert sum(took) >= 7
    assert sum(took[:-1]) < 7
    assert len(held.attempts()) <= len(took) + 2, "what is not begun for want of money is not run again"


def test_what_runs_is_ended_too_if_that_is_asked_for(slurm: Cluster, program) -> None:
    sweep = Sweep(program("time.sleep(300)"), {"x": range(4)})
    run = slurm.launch(sweep, TWO_GPUS, throttle=2, budget=Budget("12 USD", until_spent=True, ends_running=True))
    run.wait(check=False, timeout=180)
    status = run.status()
    assert set(status["state"]) == {"CANCELLED"}
    assert status["reason"].tolist() == ["stopped: the budget of 12 USD is spent"] * 2 + ["not begun: the budget of 12 USD is spent"] * 2
    use = run.budget()
    assert use is not None
    assert use.used >= 11


def test_what_a_user_cancels_is_not_said_to_be_the_budget(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(4)"), {"x": range(5)}), TWO_GPUS, throttle=1, budget=Budget("6 USD", until_spent=True))
    run.cancel(4)
    run.wait(check=False, timeout=240)
    reasons = run.status()["reason"].tolist()
    assert "budget" not in reasons[4]
    assert reasons[3] == "not begun: the budget of 6 USD is spent"


def test_without_accounting_and_where_slurm_forgets(forgetful: Cluster, program) -> None:
    run = forgetful.launch(Sweep(program("time.sleep(2)"), {"x": range(8)}), TWO_GPUS, throttle=1, budget=Budget("5 USD", until_spent=True))
    wait_until(lambda: is_gone(run.id))
    time.sleep(5)  # it has forgotten all of it
    status = attach(run.id).status()
    begun = len(records(run))
    assert status["state"].tolist() == ["COMPLETED"] * begun + ["CANCELLED"] * (8 - begun)
    assert set(status["reason"][begun:]) == {"not begun: the budget of 5 USD is spent"}


def test_a_month_is_held_by_what_accounting_says(slurm: Cluster, program) -> None:
    set_budget("1000 USD", month=True)
    code = """
        while not os.path.exists("go"): time.sleep(0.05)
        time.sleep(2)
    """
    run = slurm.launch(Sweep(program(code), {"x": range(4)}), TWO_GPUS)
    assert budgets()["aside"].tolist() == [480]
    with pytest.raises(BudgetExceeded, match=r"set aside for 1 unfinished run\)"):
        slurm.launch(Sweep(program("pass", name="other.py"), {"x": range(5)}), TWO_GPUS)
    Path("go").touch()
    run.wait(timeout=240)
    table = budgets()
    assert table["aside"].tolist() == [0]
    executions = begun_by_sacct(run)
    assert len(executions) == 4
    assert table["spent"].tolist() == [Decimal(sum((end - start) * gpus for start, end, gpus in executions)) / 2]
    slurm.launch(Sweep(program("pass"), {"x": range(5)}), TWO_GPUS).wait(timeout=240)


@pytest.mark.timeout(900)  # the root file system of the version may have to be made
@pytest.mark.parametrize("version", [pytest.param(version, marks=pytest.mark.full) for version in VERSIONS if version != NATIVE])
def test_other_versions_cancel_what_waits_and_what_runs(version: str, rates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox_of(version, SandboxSpec(nodes=1)) as box:
        rates.write_text("currency = 'USD'\ncpu_hour = 3600\n")
        monkeypatch.setenv("NEXA_SANDBOX", str(box.folder))
        cluster = Cluster("sandbox")
        for seconds, ends_running in (("2", False), ("100", True)):
            sweep = Sweep(["sleep", seconds], {"x": range(5)}, style="env")
            budget = Budget("5 USD", until_spent=True, ends_running=ends_running)
            run = cluster.launch(sweep, time="0:05:00", throttle=1, budget=budget).wait(check=False, timeout=240)
            states, reasons = run.status()["state"].tolist(), run.status()["reason"].tolist()
            assert states[0] == ("CANCELLED" if ends_running else "COMPLETED")
            assert set(states[3:]) == {"CANCELLED"}
            assert set(reasons[3:]) == {"not begun: the budget of 5 USD is spent"}
            assert not ends_running or reasons[0] == "stopped: the budget of 5 USD is spent"
            began = [path for path in Path(run.folder, "tasks").iterdir() if '"stopped":"not begun' in path.read_text()]
            assert len(began) <= 1, "they were cancelled; none was started to be told so, but one that was on its way"
