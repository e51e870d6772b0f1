"""What runs cost on a real Slurm: the report is what a hand computes from sacct, to the second."""

from __future__ import annotations

import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, CostReport, Job, Sweep
from nexa_sdk.errors import ClusterError, RatesError
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.run import Run

pytestmark = pytest.mark.usefixtures("slurm")

RATES = """
[clusters.sandbox]
currency = "USD"
cpu_hour = 0.01
[clusters.sandbox.gpus]
h100 = 2.49
"""


@pytest.fixture(autouse=True)
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    path.write_text(RATES)
    return path


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def by_hand(*names: str) -> tuple[int, int, int]:
    """Compute GPU-seconds, core-seconds and executions of jobs from sacct's times, not from its own sums."""
    gpu_seconds = cpu_seconds = executions = 0
    rows = raw("sacct", "-n", "-P", "-X", "-D", "--name", ",".join(names), "-S", "now-1day", "-o", "Start,End,State,AllocTRES").split("\n")
    for row in filter(None, rows):
        start, end, state, tres = row.split("|")
        if not start.isdecimal():
            continue
        assert end.isdecimal(), f"{state} is not over"
        counts = dict(part.split("=") for part in tres.split(","))
        gpu_seconds += (int(end) - int(start)) * int(counts.get("gres/gpu", 0))
        cpu_seconds += (int(end) - int(start)) * int(counts["cpu"])
        executions += 1
    return gpu_seconds, cpu_seconds, executions


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%s")


def is_accounted(run: Run, executions: int) -> bool:
    """Whether accounting knows all that has begun, and as ended: its rows are some seconds late."""
    rows = raw("sacct", "-n", "-P", "-X", "-D", "--name", f"{run.id}-0", "-S", "now-1day", "-o", "Start,State").splitlines()
    begun = [state for start, _, state in (row.partition("|") for row in rows) if start.isdecimal()]
    return len(begun) == executions and not any(state.startswith(("RUNNING", "PENDING")) for state in begun)


def test_throttle_failure_cancellation_and_a_requeue_come_to_what_a_hand_computes(slurm: Cluster, program, rates: Path) -> None:
    code = """
        what = sys.argv[2]
        if what == "fails": time.sleep(2); sys.exit(3)
        if what in ("cancelled", "requeued") and not os.path.exists("second"):
            open(f"sleeps-{what}", "w").close()
            time.sleep(300)
        time.sleep(1)
    """
    sweep = Sweep(program(code), {"what": ["completes", "fails", "cancelled", "requeued", "never"]})
    job = Job(time="0:10:00", gpus=2, gpu_type="h100", cpus_per_task=2, throttle=2)
    plan = slurm.plan(sweep, job)
    estimate = plan.cost()
    assert estimate.gpu_hours == Decimal(5 * 2 * 600) / 3600
    assert estimate.total == (Decimal("2.49") * 2 + Decimal("0.01") * 2) * 3000 / 3600
    assert estimate.wall_clock is not None
    assert estimate.wall_clock.total_seconds() == 3 * 600
    run = plan.submit()
    wait_until(lambda: run.status()["state"].tolist()[2:4] == ["RUNNING", "RUNNING"])
    so_far = run.cost()
    assert so_far.by("state").loc["RUNNING", "attempts"] == 2
    job_id = run.status()["job"][0].partition("_")[0]
    wait_until(lambda: len(list(Path().glob("sleeps-*"))) == 2)
    Path("second").touch()
    run.cancel(4)  # it waits; else it would get the place of one of these
    raw("scontrol", "requeue", f"{job_id}_3")
    run.cancel(2)
    rates.write_text(RATES.replace("2.49", "99"))  # what was launched keeps its price
    run.wait(check=False, timeout=240)
    wait_until(lambda: is_accounted(run, 5))
    report = run.cost()
    gpu_seconds, cpu_seconds, executions = by_hand(f"{run.id}-0")
    assert executions == 5, "trial 3 ran twice, and trial 4 never"
    assert report.gpu_seconds == gpu_seconds
    assert report.cpu_hours == Decimal(cpu_seconds) / 3600
    assert report.attempts == executions
    assert report.total is not None
    assert abs(report.total - (Decimal("2.49") * gpu_seconds + Decimal("0.01") * cpu_seconds) / 3600) < Decimal("1e-7")
    assert report.currency == "USD"
    assert not report.unknown
    trials = report.by("trial")
    assert trials.index.tolist() == ["0", "1", "2", "3"]
    assert trials["attempts"].tolist() == [1, 1, 1, 2]
    states = report.by("state")
    assert states["attempts"].to_dict() == {"CANCELLED": 1, "COMPLETED": 2, "FAILED": 1, "REQUEUED": 1}
    assert report.failed.attempts == 3
    assert report.failed.total == sum(states["cost"]) - states["cost"]["COMPLETED"]
    assert report.by("gpu_type").index.tolist() == ["h100"]
    assert report.by("account").index.tolist() == ["root"]
    assert report.estimate is not None
    assert report.estimate.total == estimate.total
    assert report.total < estimate.total
    # The same again changes nothing, and the cluster's report is of the same attempts.
    assert run.cost().lines == report.lines
    whole = slurm.cost("1 hour", attempts=True).where(run=run.id)
    assert list(whole.lines) == list(report.lines)
    assert slurm.cost("1 hour").by("run").loc[run.id, "cost"] == report.total
    assert CostReport.between("1 hour").by("run").loc[run.id, "cost"] == report.total


def test_the_ledger_is_made_anew_from_accounting(slurm: Cluster, program, rates: Path) -> None:
    run = slurm.launch(Sweep(program("time.sleep(1)"), {"x": [0, 1]}), time="0:05:00", gpus=1, gpu_type="h100").wait(timeout=240)
    wait_until(lambda: is_accounted(run, 2))
    before = run.cost()
    rates.write_text(RATES.replace("2.49", "99"))
    Ledger().path.unlink()
    assert slurm.cost("1 hour", attempts=True).where(run=run.id).lines == before.lines, "at the price of the launch, by journal and sacct"
    Ledger().path.unlink()
    assert run.cost().lines == before.lines


def test_what_others_launched_counts_on_the_cluster_too(slurm: Cluster) -> None:
    job = raw("sbatch", "--parsable", "--gpus=h100:1", "--output=/dev/null", "--wrap=sleep 2").strip()
    wait_until(lambda: raw("sacct", "-n", "-P", "-X", "-j", job, "-o", "State,JobName").strip() == "COMPLETED|wrap")
    (line,) = [line for line in slurm.cost("1 hour", attempts=True).lines if line.job == job]
    start, end = map(int, raw("sacct", "-n", "-P", "-X", "-j", job, "-o", "Start,End").strip().split("|"))
    assert (line.run, line.trial, line.gpu_type, line.gpu_ms) == ("", "", "h100", (end - start) * 1000)
    assert line.price is not None
    assert line.price.gpu_hour == Decimal("2.49")


def test_an_earlier_run_of_the_same_program_says_what_to_expect(slurm: Cluster, program) -> None:
    command = program("time.sleep(1)")
    job = Job(time="0:10:00", gpus=1, gpu_type="h100", throttle=2)
    first = slurm.plan(Sweep(command, {"x": [0, 1]}), job)
    assert first.cost().expected is None
    assert "nothing is known of earlier runs of this program" in first.cost().notes
    run = first.submit().wait(timeout=240)
    wait_until(lambda: run.try_refresh(max_age=0) == "" and all(array.final for array in slurm.journal.arrays(run.id)))
    estimate = slurm.plan(Sweep(command, {"x": range(10)}), job).cost()
    assert estimate.experience is not None
    assert (estimate.experience.trials, estimate.experience.runs) == (2, 1)
    assert estimate.expected is not None
    assert estimate.at_most is not None
    seconds = [(attempt.status.end or 0) - (attempt.status.start or 0) for attempt in run.last_known]
    mean = Decimal(str(sum(seconds) / len(seconds)))
    assert estimate.expected.gpu_hours == 10 * mean / 3600
    assert estimate.expected_low.gpu_hours <= estimate.expected.gpu_hours <= estimate.expected_high.gpu_hours <= estimate.at_most.gpu_hours
    assert estimate.expected_wall_clock is not None
    assert estimate.expected_wall_clock.total_seconds() == pytest.approx(5 * float(mean))


def test_packed_trials_share_their_tasks_line(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(0.6)"), {"x": range(5)}), time="0:05:00", gpus=1, gpu_type="h100", pack=3).wait(
        timeout=240
    )
    wait_until(lambda: is_accounted(run, 2))
    report = run.cost()
    assert report.by("trial").index.tolist() == ["0-2", "3-4"]
    assert report.gpu_seconds == by_hand(f"{run.id}-0")[0]


def test_what_looks_after_a_run_counts_as_well(slurm: Cluster, program) -> None:
    job = Job(time="0:05:00", gpus=1, gpu_type="h100", retry="by-cause")
    run = slurm.launch(Sweep(program("time.sleep(1)"), {"x": [0, 1]}), job).wait(timeout=240)
    names = (f"{run.id}-0", f"{run.id}-0-keeper")
    wait_until(lambda: raw("sacct", "-n", "-P", "-X", "--name", names[1], "-o", "State").strip() == "COMPLETED")
    wait_until(lambda: is_accounted(run, 2))
    report = run.cost()
    gpu_seconds, cpu_seconds, executions = by_hand(*names)
    assert (report.gpu_seconds, report.cpu_hours, report.attempts) == (gpu_seconds, Decimal(cpu_seconds) / 3600, executions)
    assert report.by("trial").index.tolist() == ["", "0", "1"]
    assert slurm.cost("1 hour").by("run").loc[run.id, "cost"] == report.total


def test_a_file_of_prices_that_cant_be_meant_stops_a_launch_before_anything_is_sent(slurm: Cluster, rates: Path) -> None:
    rates.write_text("[clusters.sandbox]\ncurrency = 'USD'\ngpu_hours = 2\n")
    plan = slurm.plan(Sweep("true"), time="0:05:00")
    with pytest.raises(RatesError, match=r"rates.toml, line 3: 'gpu_hours' is not known here; did you mean 'gpu_hour'\?"):
        plan.submit()
    assert slurm.journal.runs() == []
    assert "price unknown: " in plan._repr_mimebundle_()["text/plain"]


def test_an_accounting_that_is_away_is_said(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    run = slurm.launch(Sweep(program("pass")), time="0:05:00").wait(timeout=240)
    port = next(line for line in Path(slurm.environment["SLURM_CONF"]).read_text().splitlines() if line.startswith("AccountingStoragePort"))
    other = Path("slurm.conf")
    other.write_text(Path(slurm.environment["SLURM_CONF"]).read_text().replace(port, "AccountingStoragePort=1"))
    slurm.scheduler.settings["SLURM_CONF"] = str(other.absolute())
    with pytest.raises(ClusterError, match="sacct failed"):
        run.cost()


def test_without_accounting_the_runs_own_records_say_it(forgetful: Cluster, program) -> None:
    code = "time.sleep(2); sys.exit(int(sys.argv[2]))"
    job = Job(time="0:05:00", gpus=1, gpu_type="h100")
    run = forgetful.launch(Sweep(program(code), {"code": [0, 1]}), job).wait(check=False, timeout=240)
    report = run.cost()
    assert report.notes == ("there is no accounting: this is from the run's own records",)
    assert report.attempts == 2
    assert report.gpu_seconds is not None
    attempts = run.attempts()
    assert abs(float(report.gpu_seconds) - attempts["elapsed"].dt.total_seconds().sum()) <= 2
    assert report.total is not None
    assert report.total > 0
    assert run.cost().lines == report.lines
    whole = forgetful.cost("1 hour")
    assert whole.by("run")["cost"].to_dict() == {run.id: report.total}
    assert whole.notes == ("there is no accounting: these are the runs that this machine's journal knows",)


def test_a_launch_goes_on_when_the_ledger_cant_be_written(slurm: Cluster, program) -> None:
    Ledger().path.parent.mkdir(parents=True, exist_ok=True)
    Ledger().path.write_text("this is no database, but a text of some length" * 100)
    with pytest.warns(UserWarning, match="launched all the same"):
        run = slurm.launch(Sweep(program("pass")), time="0:05:00")
    run.wait(timeout=240)
    Ledger().path.unlink()
    assert run.cost().attempts == 1
