"""Budgets on the embedded cluster, which runs the same script: launches, months, projects, two kernels at once, and the verbs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Budget, Cluster, Job, Sweep, attach, budgets, set_budget
from nexa_sdk.cli import main
from nexa_sdk.errors import BadUsage, BudgetExceeded, BudgetWarning, InvalidInput, PreflightFailed
from nexa_sdk.monitoring.budget_book import BudgetBook
from nexa_sdk.run import Run
from nexa_sdk.verbs import Session, perform

pytestmark = pytest.mark.filterwarnings("ignore::nexa_sdk.errors.BudgetWarning")  # those that are meant are looked for

DOLLAR_A_SECOND = "[clusters.local]\ncurrency = 'USD'\ncpu_hour = 3600\n"


@pytest.fixture(autouse=True)
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    path.write_text(DOLLAR_A_SECOND)
    return path


def marks(run: Run) -> set[str]:
    return {path.name for path in Path(run.folder, "budget").iterdir()}


def lengths(run: Run) -> dict[int, int]:
    """Read how long each task took, in whole seconds, from its own record; those that began a trial."""
    records = [json.loads(path.read_text()) for path in Path(run.folder, "tasks").glob("*.json")]
    return {record["trial"]: record["end"] - record["start"] for record in records if "stopped" not in record}


def states(run: Run) -> list[str]:
    return [str(attempt.status.state) for attempt in run.refresh()]


# ---- a launch ------------------------------------------------------------------------------------


def test_what_could_cost_more_is_refused_and_leaves_no_trace(local: Cluster, program) -> None:
    sweep = Sweep(program("pass"), {"x": range(8)})
    with pytest.raises(BudgetExceeded) as refused:
        local.launch(sweep, time="0:01:40", budget="500 USD")
    words = str(refused.value)
    assert "was not submitted: it could cost 800 USD (8 tasks × 00:01:40 × 3600 USD an hour), and its budget is 500 USD" in words
    assert "5 of the 8 trials fit, or all of them with time='00:01:02'" in words
    assert local.journal.runs() == []
    assert BudgetBook().grants() == []
    assert not Path(local.runs_folder).exists()
    plan = local.plan(sweep, time="0:01:40", budget="500 USD")
    checks = plan.preflight().set_index("what")
    assert checks["verdict"]["budget"] == "error"
    within = local.plan(sweep, time="0:01:02", budget="500 USD")
    assert within.preflight().set_index("what")["words"]["budget"] == "500 USD is its budget"
    run = local.launch(sweep, time="0:01:02", budget="500 USD").wait(timeout=240)
    assert set(states(run)) == {"COMPLETED"}
    assert "spent" not in marks(run)


def test_an_unknown_price_is_refused_unless_it_is_allowed(local: Cluster, program, rates: Path) -> None:
    rates.unlink()
    sweep = Sweep(program("pass"))
    with pytest.raises(BudgetExceeded, match="nobody knows what it costs, and its budget can't be held: no price is known; write one into"):
        local.launch(sweep, time="0:05:00", budget="50 USD")
    run = local.launch(sweep, time="0:05:00", budget="50 USD", allow_unknown=True).wait(timeout=240)
    use = run.budget()
    assert use is not None
    assert use.limit is None
    assert "nothing holds it" in str(use)
    assert local.launch(sweep, time="0:05:00", again=True).wait(timeout=240).budget() is None


def test_once_it_is_spent_nothing_begins_and_status_says_so(local: Cluster, program) -> None:
    sweep = Sweep(program("time.sleep(2.2)"), {"x": range(6)})
    run = local.launch(sweep, time="0:00:30", throttle=1, budget=Budget("5 USD", until_spent=True))
    run.wait(check=False, timeout=240)
    took = lengths(run)
    begun = len(took)
    assert sorted(took) == list(range(begun)), "one after another"
    assert sum(took[trial] for trial in range(begun - 1)) < 5 <= sum(took.values())
    status = run.status()
    assert status["state"].tolist() == ["COMPLETED"] * begun + ["CANCELLED"] * (6 - begun)
    assert set(status["reason"][begun:]) == {"not begun: the budget of 5 USD is spent"}
    use = run.budget()
    assert use is not None
    assert (use.limit, use.used, use.is_spent) == (5, sum(took.values()), True)
    assert repr(use) == f"<Budget: {sum(took.values())} USD of 5 USD used ({20 * sum(took.values())} %): nothing more begins>"
    assert attach(run.id).status()["reason"].tolist() == status["reason"].tolist()
    # Run again it refuses, or takes a larger budget.
    with pytest.raises(
        BudgetExceeded, match=rf"{run.id} is not run again: its budget is 5 USD, .* nothing would begin; run.retry\(budget="
    ):
        run.retry()
    assert len(run.attempts()) == 6
    run.retry(budget="500 USD").wait(timeout=240)
    assert set(states(run)) == {"COMPLETED"}
    reasons = [attempt.status.reason for attempt in run.known_attempts if attempt.number == 1]
    assert reasons.count("not begun: the budget of 5 USD is spent") == 6 - begun
    records = [json.loads(path.read_text()) for path in Path(run.folder, "tasks").glob("*.json")]
    now = run.budget()
    assert now is not None
    assert (now.limit, now.used, now.is_spent) == (
        500,
        sum(record["end"] - record["start"] for record in records if "stopped" not in record),
        False,
    )


def test_with_the_kernel_dead(local: Cluster, program, tmp_path: Path) -> None:
    program("time.sleep(2.2)")
    code = """
        import sys, time
        from nexa_sdk import Budget, Cluster, Sweep
        sweep = Sweep([sys.executable, "train.py"], {"x": range(6)})
        run = Cluster("local").launch(sweep, time="0:00:30", throttle=1, budget=Budget("5 USD", until_spent=True))
        print(run.id, flush=True)
        time.sleep(600)
    """
    kernel = subprocess.Popen(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())], stdout=subprocess.PIPE, text=True
    )
    assert kernel.stdout is not None
    run_id = kernel.stdout.readline().strip()
    kernel.send_signal(signal.SIGKILL)
    kernel.communicate()
    folder = Path(local.runs_folder) / run_id
    wait_until(lambda: (folder / "budget" / "spent").exists())
    wait_until(lambda: not list(folder.glob("local/*.fifo")))  # its supervisor has ended
    run = attach(run_id)
    with pytest.warns(BudgetWarning, match="nothing more begins"):
        status = run.status()
    took = lengths(run)
    assert sum(took[trial] for trial in range(len(took) - 1)) < 5 <= sum(took.values())
    assert set(status["reason"][len(took) :]) == {"not begun: the budget of 5 USD is spent"}


def test_what_is_used_is_warned_of(local: Cluster, program) -> None:
    """Whoever looks is told, and so are the logs of what runs; it is noted when that was."""
    sweep = Sweep(program("time.sleep(60 if sys.argv[2] == '1' else 41)"), {"x": [0, 1]})
    run = local.launch(sweep, time="0:02:00", throttle=1, budget=Budget("50 USD", until_spent=True))
    log = Path(run.folder, "logs", "1_0.log")
    wait_until(lambda: log.exists() and "% of the budget of 50 USD are used" in log.read_text())
    at, used, words = Path(run.folder, "budget", "warned").read_text().split(maxsplit=2)
    assert words == "the budget of 50 USD\n"
    assert Decimal(40) - 1 < int(used)
    assert abs(time.time() - int(at)) < 60
    with pytest.warns(BudgetWarning, match=rf"{run.id}: .* of 50 USD used"):
        run.refresh()
    run.cancel().wait(check=False, timeout=240)


def test_what_runs_is_ended_too_if_that_is_asked_for(local: Cluster, program) -> None:
    sweep = Sweep(program("time.sleep(120)"), {"x": range(4)})
    run = local.launch(sweep, time="0:05:00", throttle=2, budget=Budget("6 USD", until_spent=True, ends_running=True))
    run.wait(check=False, timeout=240)
    status = run.status()
    assert set(status["state"]) == {"CANCELLED"}
    assert status["reason"].tolist() == ["stopped: the budget of 6 USD is spent"] * 2 + ["not begun: the budget of 6 USD is spent"] * 2
    with pytest.raises(InvalidInput, match="that is settled at the launch"):
        run.retry(budget=Budget("1000 USD"))


def test_packed_trials_begin_only_while_something_is_left(local: Cluster, program) -> None:
    sweep = Sweep(program("time.sleep(4.2)"), {"x": range(6)})
    run = local.launch(sweep, time="0:02:00", pack=6, budget=Budget("10 USD", until_spent=True)).wait(check=False, timeout=240)
    status = run.status()
    begun = (status["state"] == "COMPLETED").sum()
    assert 2 <= begun <= 3
    assert set(status["state"][begun:]) == {"CANCELLED"}
    assert set(status["reason"][begun:]) == {"not begun: the budget of 10 USD is spent"}
    assert run.retry(budget="200 USD").wait(timeout=240).tally() == "6 COMPLETED"


def test_an_automatic_retry_is_held_too(local: Cluster, program) -> None:
    """What fits at its launch can take more only by being run again."""
    sweep = Sweep(program("time.sleep(4.2); sys.exit(int(sys.argv[2]))"), {"x": [0, 1]})
    job = Job(time="0:00:15", throttle=1, retry={"failed": 9})
    run = local.launch(sweep, job, budget="31 USD").wait(check=False, timeout=240)
    wait_until(lambda: run.try_refresh(max_age=0) == "" and run.is_finished)
    last = run.status()
    assert "spent" in marks(run)
    assert last["state"][0] == "COMPLETED"
    assert last["state"][1] in ("CANCELLED", "FAILED")
    tasks = [json.loads(path.read_text()) for path in Path(run.folder, "tasks").glob("*.json")]
    took = sorted(record["end"] - record["start"] for record in tasks if "stopped" not in record)
    assert sum(took) - max(took) < 31 <= sum(took)


def test_a_parameter_that_is_called_like_a_variable_of_the_script_is_not_one(local: Cluster, program) -> None:
    code = "json.dump(dict(zip(sys.argv[1::2], sys.argv[2::2])), open(os.environ['NEXA_RESULTS'], 'a'))"
    names = ["budget", "budget_entry", "budget_used", "now", "entry", "length", "started", "run", "job"]
    run = local.launch(
        Sweep(program(code), {name: [n, n + 1][: 2 if n == 0 else 1] for n, name in enumerate(names)}), time="0:01:00", budget="5000 USD"
    )
    run.wait(timeout=240)
    assert [line["--budget"] for line in run.results().filter(regex="result|--").to_dict("records")] == ["0", "1"]
    assert sorted(name.partition("=")[0] for name in marks(run) - {"limit"}) == ["1_0-0", "1_1-0"]


def test_run_all_with_another_budget_launches_nothing_twice(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(program("pass"))
    first = local.launch(sweep, time="0:00:50", budget="50 USD").wait(timeout=240)
    assert local.launch(sweep, time="0:00:50", budget="60 USD").id == first.id
    assert "Launched nothing" in capsys.readouterr().out


# ---- months and projects -------------------------------------------------------------------------


def test_a_month_is_held_by_what_is_set_aside_and_then_by_what_was_paid(
    local: Cluster, program, capsys: pytest.CaptureFixture[str]
) -> None:
    set_budget("100 USD", month=True)
    sweep = Sweep(program("time.sleep(float(sys.argv[2]))"), {"x": [60, 61]})
    run = local.launch(sweep, time="0:00:45")
    assert "The month's budget" in capsys.readouterr().out  # 90 % of it
    with pytest.raises(BudgetExceeded, match=r"has 10 USD left of 100 USD \(0 spent, 90 set aside for 1 unfinished run\)"):
        local.launch(Sweep(program("pass")), time="0:00:11")
    run.cancel().wait(check=False, timeout=240)
    local.launch(Sweep(program("pass")), time="0:00:11").wait(timeout=240)
    (row,) = budgets().to_dict("records")
    assert row["aside"] == 0
    assert row["spent"] == sum(r.cost().total for r in (run, attach(local.journal.runs()[0].id)))
    assert row["spent"] + row["left"] == 100


def test_a_project_counts_its_runs_alone(local: Cluster, program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = local.launch(Sweep(program("time.sleep(1)")), time="0:00:50").wait(timeout=240)
    spent = before.cost().total
    set_budget("60 USD", project=True)
    assert budgets()["spent"].tolist() == [spent]
    with pytest.raises(BudgetExceeded, match=r"the budget of the project work has 5\d.* USD left of 60 USD"):
        local.launch(Sweep(program("pass")), time="0:01:00")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    run = local.launch(Sweep("true"), time="0:01:00").wait(timeout=240)
    assert run.budget() is None
    assert budgets()["spent"].tolist() == [spent]


def test_a_plan_that_is_older_than_a_budget_is_not_launched_past_it(local: Cluster, program) -> None:
    plan = local.plan(Sweep(program("pass")), time="0:00:10")
    assert "budget/limit" not in plan.script
    set_budget("1000 USD", month=True)
    with pytest.raises(PreflightFailed, match="plan it again"):
        plan.submit()
    assert local.journal.runs() == []


def test_of_two_kernels_that_launch_at_once_one_fits(local: Cluster, program, tmp_path: Path) -> None:
    set_budget("100 USD", month=True)
    program("time.sleep(55)")
    code = (
        "import sys, pathlib, time; from nexa_sdk import Cluster, Sweep; from nexa_sdk.errors import BudgetExceeded\n"
        "plan = Cluster('local').plan(Sweep([sys.executable, 'train.py', sys.argv[1]]), time='0:01:00')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: print(plan.submit().id, flush=True)\n"
        "except BudgetExceeded as error: print('refused:', error, flush=True)\n"
    )
    kernels = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for k in range(3)
    ]
    for kernel in kernels:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "ready\n"
    for kernel in kernels:
        assert kernel.stdin is not None
        kernel.stdin.write("now\n")
        kernel.stdin.flush()
    said = [kernel.communicate(timeout=240)[0].splitlines()[-1] for kernel in kernels]
    assert sum(line.startswith("refused:") for line in said) == 2, said
    assert all(
        "has 40 USD left of 100 USD (0 spent, 60 set aside for 1 unfinished run)" in line for line in said if line.startswith("refused:")
    )
    assert len(local.journal.runs()) == 1
    assert [grant.amount for grant in BudgetBook().grants()] == [60]


@pytest.mark.parametrize("given", ["", "0 USD", "500", "-3 USD", "much"])
def test_a_budget_that_cant_be_meant(given: str) -> None:
    with pytest.raises(InvalidInput):
        set_budget(given, month=True)
    assert not BudgetBook().path.exists()
    with pytest.raises(InvalidInput, match="of a month or of a project"):
        set_budget("5 USD")
    with pytest.raises(InvalidInput, match="there is none"):
        set_budget(None, month=True)


# ---- the verbs -----------------------------------------------------------------------------------


def say(line: list[str]) -> object:
    return perform(Session("%nexa"), line)


def test_the_verbs(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    program("pass")
    assert main(["budget", "set", "500", "USD", "--month"]) == 0
    assert main(["budget", "set", "2000 USD", "--project"]) == 0
    shown = capsys.readouterr().out
    assert "the month's budget (2" in shown
    assert "the budget of the project work" in shown
    assert main(["launch", "train.py", "x=0..9", "--time", "0:01:00", "--budget", "50 USD"]) == 1
    assert "it could cost 600 USD" in capsys.readouterr().err
    assert main(["launch", "train.py", "x=0..9", "--time", "0:01:00", "--budget", "50", "--until-spent"]) == 0
    run = attach(local.journal.runs()[0].id).wait(timeout=240)
    use = run.budget()
    assert use is not None
    assert (use.limit, use.currency) == (50, "USD")
    assert main(["budget", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("the budget of the project work,2000,")
    assert main(["budget", "remove", "--month"]) == 0
    assert main(["budget", "remove", "--project"]) == 0
    assert list(budgets().columns) == ["limit", "spent", "aside", "left", "currency", "used", "notes"]
    assert budgets().empty


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("launch train.py --until-spent", "--until-spent goes with --budget"),
        ("budget sell 5 USD", "can't be meant"),
        ("budget set", "can't be meant"),
        ("budget --month", "can't be meant"),
        ("launch train.py --budget lots", "is no amount"),
    ],
)
def test_a_line_that_cant_be_meant(program, line: str, words: str) -> None:
    program("pass")
    with pytest.raises((BadUsage, InvalidInput), match=words):
        say(line.split())


def test_what_is_previewed_with_another_budget_is_not_what_is_launched(local: Cluster, program) -> None:
    program("pass")
    session = Session("%nexa")
    perform(session, ["preview", "train.py", "--time", "0:00:10", "--budget", "500 USD"])
    with pytest.raises(BudgetExceeded):
        perform(session, ["launch", "train.py", "--time", "0:00:10", "--budget", "1 USD"])
