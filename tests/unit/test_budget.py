"""Budgets: amounts, what fits, what counts; and what the tasks' own bash makes of them."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexa_sdk import Budget
from nexa_sdk.budget import MOST_SECONDS, Account, Demand, admit, limit_line, money_text, month_of, read_money, used_seconds
from nexa_sdk.budgeting import Budgeting
from nexa_sdk.errors import BudgetExceeded, InvalidInput
from nexa_sdk.journal import Journal
from nexa_sdk.monitoring.budget_book import EVER, EVERYTHING, MONTH, BudgetBook, Grant
from nexa_sdk.monitoring.ledger import Charge, Ledger
from nexa_sdk.rates import Price, RateCard, Rates, RateTable
from nexa_sdk.records import ArrayRecord, RunRecord
from nexa_sdk.scheduling.slurm.budget_guard import budget_functions

# ---- amounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "amount", "currency"),
    [
        ("50 USD", "50", "USD"),
        ("49.90eur", "49.90", "EUR"),
        (50, "50", None),
        (0.1, "0.1", None),
        (np.float64(0.1), "0.1", None),
        (np.int64(50), "50", None),
        (Decimal("1.5"), "1.5", None),
        (" 7 ", "7", None),
    ],
)
def test_amounts(given: object, amount: str, currency: str | None) -> None:
    assert read_money("budget", given) == (Decimal(amount), currency)


@pytest.mark.parametrize(
    "given", ["", "0", 0, -1, "-1 USD", "$50", "50 dollars", "1,000 USD", "1e9", float("nan"), True, [], "50 USD\n; rm"]
)
def test_what_is_no_amount(given: object) -> None:
    with pytest.raises(InvalidInput, match=r"50 USD|more than 0"):
        Budget.read(given)


def test_what_is_left_is_never_said_to_be_more() -> None:
    assert [money_text(Decimal(text), "USD") for text in ("50", "1234.567", "0.999999999", "0")] == [
        "50 USD",
        "1,234.56 USD",
        "0.999999 USD",
        "0 USD",
    ]


def test_a_budget_outlives_its_json() -> None:
    budget = Budget("49.90 EUR", until_spent=True, ends_running=True)
    assert Budget.recall(budget.written()) == budget


# ---- what fits -----------------------------------------------------------------------------------

HUNDRED = Demand(trials=100, tasks=100, walltime=timedelta(hours=2), hourly=Decimal("1.20"), currency="USD")
MONTHLY = Account(
    name="the month's budget (2026-11)", limit=Decimal(500), currency="USD", spent=Decimal("247.69"), aside=Decimal(100), unfinished=2
)


def test_the_arithmetic_is_shown_and_what_would_fit() -> None:
    with pytest.raises(BudgetExceeded) as refused:
        admit(HUNDRED, None, [MONTHLY])
    assert str(refused.value) == (
        "it could cost 240 USD (100 tasks × 02:00:00 × 1.2 USD an hour), and the month's budget (2026-11) has 152.31 USD left of 500 USD "
        "(247.69 spent, 100 set aside for 2 unfinished runs). 63 of the 100 trials fit, or all of them with time='01:16:09'. "
        "With budget=Budget('152.31 USD', until_spent=True) (--budget '152.31 USD' --until-spent) it is launched all the same, and begins "
        "nothing more once that is spent"
    )
    # What it says fits.
    assert admit(replace(HUNDRED, trials=63, tasks=63), None, [MONTHLY]) == Decimal("151.20")
    assert admit(replace(HUNDRED, walltime=timedelta(hours=1, minutes=16, seconds=9)), None, [MONTHLY]) == Decimal("152.30")
    assert admit(HUNDRED, Budget("152.31 USD", until_spent=True), [MONTHLY]) == Decimal("152.31")
    with pytest.raises(BudgetExceeded):
        admit(replace(HUNDRED, trials=64, tasks=64), None, [MONTHLY])
    with pytest.raises(BudgetExceeded):
        admit(replace(HUNDRED, walltime=timedelta(hours=1, minutes=16, seconds=10)), None, [MONTHLY])
    with pytest.raises(BudgetExceeded, match=r"its budget is 152.32 USD, and the month's budget"):
        admit(HUNDRED, Budget("152.32 USD", until_spent=True), [MONTHLY])


@settings(max_examples=200)
@given(
    tasks=st.integers(1, 10_000),
    pack=st.integers(1, 20),
    seconds=st.integers(1, 10**6),
    hourly=st.decimals("0.0001", "500", places=4),
    left=st.decimals("0.01", "10000", places=2),
)
def test_what_is_said_to_fit_does(tasks: int, pack: int, seconds: int, hourly: Decimal, left: Decimal) -> None:
    demand = Demand(trials=tasks * pack, tasks=tasks, pack=pack, walltime=timedelta(seconds=seconds), hourly=hourly, currency="USD")
    words = demand.fits(left)
    if "of the" in words:
        fitting = int(words.split()[0].replace(",", ""))
        fewer = replace(demand, trials=fitting, tasks=-(-fitting // pack))
        assert fewer.bound is not None
        assert fewer.bound <= left
    assert demand.bound is not None
    assert (admit_or_none(demand, left) is not None) == (demand.bound <= left)


def admit_or_none(demand: Demand, left: Decimal) -> Decimal | None:
    try:
        return admit(demand, None, [Account(name="it", limit=left, currency="USD")])
    except BudgetExceeded:
        return None


def test_an_unknown_price_is_refused_unless_allowed() -> None:
    unknown = replace(HUNDRED, hourly=None, why_unknown="no price is known of a GPU; write gpu_hour into the file of rates")
    with pytest.raises(
        BudgetExceeded, match=r"nobody knows what it costs, and its budget can't be held: no price is known of a GPU; write gpu_hour"
    ):
        admit(unknown, Budget(50), [])
    assert admit(unknown, Budget(50), [MONTHLY], allow_unknown=True) is None
    with pytest.raises(BudgetExceeded, match=r"its price is in EUR: they can't be compared"):
        admit(replace(HUNDRED, currency="EUR"), None, [MONTHLY])
    assert admit(unknown, None, []) is None


def test_what_nothing_bounds_is_refused_or_begins_until_it_is_spent() -> None:
    endless = replace(HUNDRED, walltime=None)
    with pytest.raises(BudgetExceeded, match=r"it has no walltime, so nothing bounds what it costs, and its budget is 50 USD. Give time="):
        admit(endless, Budget("50 USD"), [])
    assert admit(endless, Budget("50 USD", until_spent=True), []) == 50
    assert admit(replace(endless, hourly=Decimal(0)), Budget("50 USD"), []) == 50  # it is free


def test_a_launch_may_take_what_its_budget_says_and_no_more_than_the_month_leaves() -> None:
    small = replace(HUNDRED, tasks=10)
    assert small.bound == 24
    assert admit(small, Budget("50 USD"), []) == 50
    assert admit(small, Budget("500 USD"), [MONTHLY]) == Decimal("152.31")
    assert admit(small, None, [MONTHLY]) == 24
    assert small.seconds(Decimal(24)) == 72_000 == 10 * 2 * 3600
    assert small.seconds(None) == MOST_SECONDS


# ---- months and projects -------------------------------------------------------------------------

NOVEMBER = datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp()
DECEMBER = NOVEMBER + 4 * 3600
PRICE = Price(Decimal(10), None, None, "USD", "mine", 1.0)


def test_months_are_calendar_months_in_utc() -> None:
    assert month_of(NOVEMBER) == ("2026-11", 1793491200000, 1796083200000)
    assert month_of(DECEMBER) == ("2026-12", 1796083200000, 1798761600000)
    assert month_of(datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp())[0] == "2027-01"


class World:
    """A journal, a ledger and a book, and a clock that is set."""

    def __init__(self) -> None:
        self.now = NOVEMBER
        self.journal, self.ledger = Journal(), Ledger()
        self.budgeting = Budgeting(self.journal, ledger=self.ledger, now=lambda: self.now)

    def ran(
        self,
        run: str,
        hours: float,
        *,
        start: float,
        price: Price | None = PRICE,
        project: str = "/home/ada/p",
        is_known: bool = True,
        state: str = "COMPLETED",
    ) -> None:
        """Write down a run of a GPU for so many hours."""
        if is_known:
            array = ArrayRecord(
                token=f"{run}-0", run=run, script="job-0.sbatch", first=0, tasks="0", at=start, count=1, outcome="submitted"
            )
            plan = {"workdir": project, "job": {"time": "1:00:00", "gpus": 1}, "arrays": [["job-0.sbatch", 0, 1]]}
            plan["rates"] = Rates((RateCard("mine", 1.0, "USD", RateTable(gpu_hour=Decimal(10))),)).written()
            if not any(record.id == run for record in self.journal.runs()):
                self.journal.begin(RunRecord(run, "work", f"/runs/{run}", run, 1, start), plan, [replace(array, job_id="17")])
        begin, length = int(start * 1000), int(hours * 3_600_000)
        charge = Charge(
            "compute",
            "work",
            run,
            "0",
            "ada",
            "",
            "gpu",
            "h100",
            state,
            "17_0",
            run,
            begin,
            begin + length,
            state == "COMPLETED",
            length,
            1,
            1,
            1,
            True,
        )
        self.ledger.record([charge], lambda _: price, asked=self.now)

    def account(self, project: str = "/home/ada/p") -> Account:
        with self.budgeting.book.reading() as page:
            assert page is not None
            return self.budgeting.accounts(page, project)[0]


def test_a_month_rolls_over(home: Path) -> None:
    world = World()
    world.budgeting.set(EVERYTHING, MONTH, Decimal(100), "USD")
    world.ran("a-00000001", 3, start=NOVEMBER - 7200)  # from 20 h to 23 h of the last day
    world.ran("b-00000002", 4, start=NOVEMBER)  # two hours in each month
    world.now = NOVEMBER + 7199
    assert world.account().spent == 50
    world.now = DECEMBER
    account = world.account()
    assert (account.name, account.spent, account.left) == ("the month's budget (2026-12)", 20, 80)
    # A run of November that is not over has all that it may still take set aside, in December too.
    with world.budgeting.book.writing() as page:
        page.grant(Grant("c-00000003", "/home/ada/p", Decimal(60), "USD", NOVEMBER, is_open=True))
    world.ran("c-00000003", 1, start=NOVEMBER)  # 10 USD of it in November
    account = world.account()
    assert (account.spent, account.aside, account.left) == (20, 50, 30)
    with pytest.raises(BudgetExceeded, match=r"has 30 USD left of 100 USD \(20 spent, 50 set aside for 1 unfinished run\)"):
        world.budgeting.raise_grant("d-00000004", replace(HUNDRED, tasks=13), None, project="/home/ada/p", allow_unknown=False)
    assert world.budgeting.raise_grant(
        "d-00000004", replace(HUNDRED, tasks=12), None, project="/home/ada/p", allow_unknown=False
    ) == Decimal("28.80")


def test_what_others_ran_and_what_has_no_price_is_left_out_and_that_is_said(home: Path) -> None:
    world = World()
    world.budgeting.set(EVERYTHING, MONTH, Decimal(100), "USD")
    world.ran("a-00000001", 1, start=NOVEMBER - 7200)
    world.ran("b-00000002", 1, start=NOVEMBER - 7200, price=None)
    world.ran("c-00000003", 1, start=NOVEMBER - 7200, price=replace(PRICE, currency="EUR"))
    world.ran("of-somebody-00000004", 1, start=NOVEMBER - 7200, is_known=False)
    account = world.account()
    assert account.spent == 10
    assert account.notes == ("10 EUR are not counted", "attempts without a price are not counted (1)")


def test_a_project_counts_its_own_runs_those_too_that_ran_before(home: Path) -> None:
    world = World()
    world.ran("a-00000001", 1, start=NOVEMBER - 90 * 86400)
    world.ran("b-00000002", 2, start=NOVEMBER - 7200, project="/home/ada/other")
    for run in ("a-00000001-0", "b-00000002-0"):
        world.journal.finish(run, [["COMPLETED", 0, 1.0, 2.0, "n1", ""]])
    world.budgeting.set("/home/ada/p", EVER, Decimal(100), "USD")
    account = world.account()
    assert (account.name, account.spent, account.aside) == ("the budget of the project p", 10, 0)
    assert world.budgeting.standing("/home/ada/other") == []


@pytest.mark.parametrize("scope", [EVERYTHING, "/home/ada/p"])
def test_what_ran_before_a_budget_counts_though_nobody_asked_what_it_cost(home: Path, scope: str) -> None:
    world = World()
    array = ArrayRecord(token="a-00000001-0", run="a-00000001", script="job-0.sbatch", first=0, tasks="0-2", at=NOVEMBER, count=3)
    rates = Rates((RateCard("mine", 1.0, "USD", RateTable(gpu_hour=Decimal(10))),)).written()
    plan = {"workdir": "/home/ada/p", "job": {"time": "9:00:00", "gpus": 2}, "arrays": [["job-0.sbatch", 0, 3]], "rates": rates}
    world.journal.begin(
        RunRecord("a-00000001", "work", "/runs/a", "a", 3, NOVEMBER), plan, [replace(array, outcome="submitted", job_id="17")]
    )
    hours = [NOVEMBER - 4 * 3600, NOVEMBER - 3 * 3600, NOVEMBER - 1 * 3600]
    requeued = ["FAILED", 1, hours[1], hours[2], "n2", "", [["REQUEUED", None, hours[0], hours[1], "n1", ""]]]  # 1 h, and 2 h
    never = ["CANCELLED", None, hours[0], hours[0], "", "cancelled"]
    world.journal.finish(array.token, [["COMPLETED", 0, hours[0], hours[2], "n1", ""], requeued, never])
    world.budgeting.set(scope, MONTH, Decimal(200), "USD")
    assert (world.account().spent, world.account().aside, world.account().left) == (120, 0, 80)
    world.ran("a-00000001", 7, start=NOVEMBER - 8 * 3600)  # what accounting says of it counts, once it is known
    assert (world.account().spent, world.account().aside) == (70, 0)


def test_what_ran_on_after_somebody_asked_what_it_cost_counts(home: Path) -> None:
    world = World()
    world.ran("a-00000001", 1, start=NOVEMBER - 7200, state="RUNNING")
    plan = world.journal.plan("a-00000001")
    world.journal.finish("a-00000001-0", [["COMPLETED", 0, NOVEMBER - 7200, NOVEMBER, "n1", ""]])
    assert plan["rates"]
    world.budgeting.set(EVERYTHING, MONTH, Decimal(200), "USD")
    assert (world.account().spent, world.account().aside, world.account().left) == (10, 10, 180)


def test_a_ledger_that_was_lost_gives_no_budget_back(home: Path) -> None:
    world = World()
    world.budgeting.set(EVERYTHING, MONTH, Decimal(100), "USD")
    with world.budgeting.book.writing() as page:
        page.grant(Grant("a-00000001", "", Decimal(60), "USD", NOVEMBER, is_open=False, charged=Decimal(40), closed=NOVEMBER))
    account = world.account()
    assert account.spent == 40
    assert account.notes == ("runs that the ledger does not know count as they are known (1)",)


def test_nothing_is_set_aside_for_a_launch_that_fails(home: Path) -> None:
    world = World()
    world.budgeting.set(EVERYTHING, MONTH, Decimal(100), "USD")
    small = replace(HUNDRED, tasks=10)

    def launch() -> None:
        with world.budgeting.admitted("a-00000001", small, None, project="", allow_unknown=False) as amount:
            assert (amount, world.account().aside) == (24, 24)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch()
    assert BudgetBook().grants() == []


# ---- the tasks' own bash -------------------------------------------------------------------------

_BENCH = """
set -u
run=$1 NEXA_RUN=r HOSTNAME=here SLURM_JOB_NAME=r-0 SLURM_ARRAY_JOB_ID=1 clock=0
date() { echo "$clock"; }
fail() { echo "failed: $*"; exit 1; }
while read -r verb task attempt clock; do
  job=1_$task SLURM_RESTART_COUNT=$attempt begun='' SLURM_ARRAY_TASK_ID=$task
  eval "$functions"
  case $verb in
    begin) if (started=$clock; budget_begin) 2> /dev/null; then echo "$clock" > "$run/$task.start"; echo yes; else echo no; fi ;;
    end) started=$(< "$run/$task.start") ; budget_end "$clock" 2> /dev/null; echo done ;;
    used) budget_add_up && echo "$budget_used" ;;
  esac
done
"""


class Tasks:
    """Tasks of a run, by their own bash, with a clock that is set."""

    def __init__(self, folder: Path, *, limit: int, longest: int = MOST_SECONDS) -> None:
        self.folder = folder
        for name in ("budget", "submitted", "local"):  # no supervisor listens there
            (folder / name).mkdir()
        (folder / "budget" / "limit").write_bytes(
            limit_line(limit, longest=timedelta(seconds=longest) if longest < MOST_SECONDS else None, words="it")
        )
        self.bash = subprocess.Popen(
            ["bash", "-c", _BENCH, "bench", folder],
            env={"functions": budget_functions(ends_running=False), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, verb: str, task: int, attempt: int, clock: int) -> str:
        assert self.bash.stdin is not None
        assert self.bash.stdout is not None
        self.bash.stdin.write(f"{verb} {task} {attempt} {clock}\n")
        self.bash.stdin.flush()
        return self.bash.stdout.readline().strip()

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        self.bash.communicate()

    @property
    def names(self) -> list[str]:
        return [path.name for path in (self.folder / "budget").iterdir()]


LENGTHS = st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, throttle=st.integers(1, 4), limit=st.integers(1, 200))
def test_no_more_is_used_than_the_budget_and_what_ran_when_it_was_spent(lengths: list[tuple[int, bool]], throttle: int, limit: int) -> None:
    """Tasks begin as far as the throttle lets them; some are requeued once, and can't say when that was."""
    now = 1000
    begun: list[tuple[int, int]] = []  # start and end of each execution
    waiting = [(task, 0) for task in range(len(lengths))]
    running: dict[int, tuple[int, int]] = {}  # by task: its end, and which attempt it is
    with tempfile.TemporaryDirectory() as folder, Tasks(Path(folder), limit=limit) as tasks:
        while waiting or running:
            while waiting and len(running) < throttle:
                task, attempt = waiting.pop(0)
                said = tasks.ask("begin", task, attempt, now)
                used_then = sum(min(end, now) - start for start, end in begun)
                assert (said == "yes") == (used_then < limit), "what ran is known to the second, requeued or not"
                if said == "yes":
                    running[task] = (now + lengths[task][0], attempt)
                    begun.append((now, now + lengths[task][0]))
            if not running:
                continue
            task = min(running, key=lambda task: running[task][0])
            now, attempt = running.pop(task)
            if lengths[task][1] and attempt == 0:
                waiting.insert(0, (task, 1))  # it begins again at once, and its end is known by that
                running_then = len(running)
                assert running_then < throttle
            else:
                assert tasks.ask("end", task, attempt, now) == "done"
        used = sum(end - start for start, end in begun)
        assert tasks.ask("used", 0, 0, now) == str(used)
        assert used_seconds(tasks.names, now=now, longest=MOST_SECONDS) == used
        assert ("spent" in tasks.names) == (used >= limit)
        assert used < 0.8 * limit or {"warned", "spent"} & set(tasks.names)
    if used > limit:
        moment = next(time for time in range(1000, now + 1) if sum(max(0, min(end, time) - start) for start, end in begun) >= limit)
        assert not any(start > moment for start, _ in begun)
        # Within the second in which it was spent, as many may run as are at work.
        over = sum(end - max(start, moment) for start, end in begun if end > moment)
        at_moment = sum(max(0, min(end, moment) - start) for start, end in begun)
        assert used - at_moment == over
        assert at_moment < limit + throttle


def test_an_attempt_that_never_said_its_end_counts_no_longer_than_a_task_may_take(tmp_path: Path) -> None:
    with Tasks(tmp_path, limit=1000, longest=60) as tasks:
        assert tasks.ask("begin", 0, 0, 100) == "yes"
        assert tasks.ask("used", 1, 0, 130) == "30"
        assert tasks.ask("used", 1, 0, 5000) == "60"
        assert tasks.ask("begin", 0, 1, 5000) == "yes"  # its node was lost; it waited for long, and begins again
        assert tasks.ask("end", 0, 1, 5010) == "done"
        assert tasks.ask("used", 1, 0, 6000) == "70"
        assert sorted(name for name in tasks.names if name[0] == "1") == ["1_0-0=60", "1_0-1=10"]


def test_clocks_that_differ_make_nothing_negative(tmp_path: Path) -> None:
    with Tasks(tmp_path, limit=1000) as tasks:
        assert tasks.ask("begin", 0, 0, 100) == "yes"
        assert tasks.ask("used", 1, 0, 90) == "0"
        assert tasks.ask("end", 0, 0, 90) == "done"
        assert tasks.ask("used", 1, 0, 200) == "0"


def test_without_its_limit_nothing_begins(tmp_path: Path) -> None:
    with Tasks(tmp_path, limit=1000) as tasks:
        (tmp_path / "budget" / "limit").unlink()
        assert tasks.ask("begin", 0, 0, 100) == "failed: the run's budget, " + f"{tmp_path}/budget/limit, can't be read on here"
