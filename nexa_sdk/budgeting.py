"""Budgets at work: what is spent and set aside, what may be launched, and the table of it all.

Every run under a budget has what it may take set aside at its launch, and its tasks hold to that
themselves; see :mod:`nexa_sdk.scheduling.slurm.budget_guard`. So what is spent, and what unfinished
runs may still take, never comes to more than a month's or a project's budget, whoever is there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nexa_sdk import settings
from nexa_sdk.budget import WARNING, Account, Budget, Demand, admit, money_text, month_of, read_money
from nexa_sdk.cost_line import COMPUTE, CostLine
from nexa_sdk.errors import ClusterError, InvalidInput, RunNotFound, SandboxError
from nexa_sdk.monitoring.budget_book import EVER, EVERYTHING, MONTH, BudgetBook, Grant, Page, StandingBudget
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.rates import money
from nexa_sdk.records import UNDER_WAY
from nexa_sdk.scheduling.base import TaskStatus

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.rates import Rates
    from nexa_sdk.records import ArrayRecord, RunRecord
    from nexa_sdk.run import Run

__all__ = ["Budgeting", "budgets", "demand_of", "set_budget"]

CUT_SHORT = 600.0  # seconds after which a run that nobody wrote down was never launched

EVER_SINCE, FOR_EVER = 0, 2**62  # milliseconds since the epoch


def demand_of(job: Job, rates: Rates, *, trials: int, tasks: int, before: Decimal = Decimal(0)) -> Demand:
    """Say what tasks of a job could take at most."""
    from nexa_sdk.estimate import Takes

    allocation = {"partition": job.partition or "", "gpu_type": job.gpu_type or "", "gpus": job.gpu_count}
    price = rates.price(**allocation)  # type: ignore[arg-type]
    hour = Takes.of(Decimal(3600), gpus=job.gpu_count, cpus=job.cpu_count, nodes=job.nodes or 1, price=price)
    return Demand(
        trials=trials,
        tasks=tasks,
        pack=job.trials_per_task,
        walltime=job.limit,
        hourly=hour.total,
        currency=price.currency if price is not None else "",
        why_unknown="" if price is not None else rates.why_unknown(**allocation),  # type: ignore[arg-type]
        before=before,
    )


class _Paid(NamedTuple):
    """What was paid in one currency, and of how many attempts nobody knows it."""

    amounts: dict[str, Decimal]
    unknown: int


class Budgeting:
    """The budgets of this user.

    Parameters
    ----------
    journal : Journal
        It knows which runs are meant: those that were launched from here.
    now : callable
        Tells the time, in seconds since the epoch.
    """

    def __init__(
        self, journal: Journal, *, book: BudgetBook | None = None, ledger: Ledger | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.book = book or BudgetBook()
        self._journal = journal
        self._ledger = ledger or Ledger()
        self._now = now

    def standing(self, project: str) -> list[StandingBudget]:
        """Return the budgets that hold for a project's runs."""
        return [budget for budget in self.book.budgets() if budget.scope in (EVERYTHING, project)]

    # ---- launching -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def admitted(self, run: str, demand: Demand, budget: Budget | None, *, project: str, allow_unknown: bool) -> Iterator[Decimal | None]:
        """Set aside what a run may take, while its launch is written down; one process at a time decides.

        Returns
        -------
        Decimal or None
            What it may take; None where nothing holds it.

        Raises
        ------
        BudgetExceeded
            With the arithmetic; nothing is set aside. Nor is it when what is done meanwhile fails.
        """
        if budget is None and not self.standing(project):
            yield None
            return
        with self.book.writing() as page:
            amount = self._admit(page, run, demand, budget, project=project, allow_unknown=allow_unknown)
            page.grant(Grant(run, project, amount, demand.currency, self._now(), is_open=True))
        try:
            yield amount
        except BaseException:
            self.release(run)
            raise

    def release(self, run: str) -> None:
        """Set nothing aside for a run: it was not launched."""
        with self.book.writing() as page:
            page.release(run)

    def raise_grant(self, run: str, demand: Demand, budget: Budget | None, *, project: str, allow_unknown: bool) -> Decimal | None:
        """Set aside what a run may take that runs trials again: `demand` is of all of it, what it used included.

        Raises
        ------
        BudgetExceeded
            What was set aside stays as it was.
        """
        known = next((grant for grant in self.book.grants() if grant.run == run), None)
        if known is None and budget is None and not self.standing(project):
            return None
        project = known.project if known is not None else project
        with self.book.writing() as page:
            amount = self._admit(page, run, demand, budget, project=project, allow_unknown=allow_unknown)
            page.grant(Grant(run, project, amount, demand.currency, self._now(), is_open=True))
        return amount

    def _admit(self, page: Page, run: str, demand: Demand, budget: Budget | None, *, project: str, allow_unknown: bool) -> Decimal | None:
        accounts = self.accounts(page, project, leave_out=run)
        amount = admit(demand, budget, accounts, allow_unknown=allow_unknown)
        for account in accounts if amount is not None else ():
            used = account.spent + account.aside + (amount or 0)
            if used >= WARNING * account.limit:
                whole = money_text(account.limit, account.currency)
                what = f"{account.name[0].upper()}{account.name[1:]}"
                print(f"{what}: {int(100 * used / account.limit)} % of {whole} are spent or set aside, this included.")
        return amount

    # ---- what counts ---------------------------------------------------------------------------

    def accounts(self, page: Page, project: str | None = None, *, leave_out: str = "") -> list[Account]:
        """Say of each budget, or of those that hold for a project, what counts against it; one run may be left out."""
        grants = [grant for grant in page.grants() if grant.run != leave_out]
        held = [budget for budget in page.budgets() if project is None or budget.scope in (EVERYTHING, project)]
        return [self._account(budget, grants, leave_out) for budget in held]

    def _account(self, budget: StandingBudget, grants: Sequence[Grant], leave_out: str) -> Account:
        name, low, high = month_of(self._now()) if budget.period == MONTH else ("", EVER_SINCE, FOR_EVER)
        within = [grant for grant in grants if budget.scope in (EVERYTHING, grant.project)]
        runs = {grant.run for grant in within} if budget.scope else self._runs() | {grant.run for grant in within}
        runs -= {leave_out}
        high = min(high, int(self._now() * 1000) + 86_400_000)
        paid = _paid(line for line in self._ledger.report(low, high).lines if _counts(line, runs, is_everything=not budget.scope))
        spent = paid.amounts.pop(budget.currency, Decimal(0))
        notes = [f"{money_text(amount, other)} are not counted" for other, amount in paid.amounts.items()]
        if paid.unknown:
            notes.append(f"attempts without a price are not counted ({paid.unknown:,})")
        known = self._ledger.runs()
        lost = [
            grant
            for grant in within
            if not grant.is_open and grant.charged and grant.run not in known and (grant.closed or 0) * 1000 >= low
        ]
        spent += sum((grant.charged for grant in lost if grant.currency == budget.currency), Decimal(0))
        if lost:
            notes.append(f"runs that the ledger does not know count as they are known ({len(lost):,})")
        going = [grant for grant in within if grant.is_open]
        aside = Decimal(0)
        for grant in going:
            if grant.amount is not None and grant.currency == budget.currency:
                used = _paid(self._ledger.of_run(grant.run)).amounts.get(budget.currency, Decimal(0)) if grant.run in known else Decimal(0)
                aside += max(Decimal(0), grant.amount - used)
        if unknown := sum(grant.amount is None for grant in going):
            notes.append(f"unfinished runs without a price are not counted ({unknown:,})")
        return Account(
            name=_name(budget, name),
            limit=budget.amount,
            currency=budget.currency,
            spent=spent,
            aside=aside,
            unfinished=len(going),
            notes=tuple(notes),
        )

    def _runs(self) -> set[str]:
        return {record.id for record in self._journal.runs()}

    # ---- runs that have ended --------------------------------------------------------------------

    def settle(self, url: str, find: Callable[[RunRecord], Run]) -> None:
        """Look which runs have ended: what they took counts from then on, not what was set aside.

        Runs of other clusters are not asked about: what was set aside for them counts until all of
        them is written down.
        """
        for grant in self.book.grants():
            if grant.is_open and self._is_over(grant, url, find):
                charged = _paid(self._ledger.of_run(grant.run)).amounts.get(grant.currency, Decimal(0))
                with self.book.writing() as page:
                    now = next((other for other in page.grants() if other.run == grant.run), None)
                    if now == grant:  # else a retry has opened it anew
                        page.grant(grant._replace(is_open=False, charged=charged, closed=self._now()))

    def settle_everywhere(self) -> None:
        """Look which runs of any cluster have ended; one that can't be asked is left aside."""
        from nexa_sdk.cluster import Cluster
        from nexa_sdk.scheduling.slurm.sandbox import Sandbox

        urls: dict[str, None] = {}
        for grant in self.book.grants():
            if grant.is_open:
                with contextlib.suppress(RunNotFound):
                    urls[self._journal.run(grant.run).cluster] = None
        for url in urls:
            if url == "sandbox" and not Sandbox(settings.sandbox_folder()).is_up:
                continue  # it would be started
            with contextlib.suppress(ClusterError, SandboxError):
                self.settle(url, Cluster(url).run)

    def _is_over(self, grant: Grant, url: str, find: Callable[[RunRecord], Run]) -> bool:
        try:
            record = self._journal.run(grant.run)
        except RunNotFound:
            return self._now() - grant.at > CUT_SHORT
        arrays = self._journal.arrays(record.id)
        if all(array.outcome == "rejected" for array in arrays):
            return True
        if record.cluster != url:
            lines = self._ledger.of_run(record.id)
            return all(array.final is not None for array in arrays) and bool(lines) and all(line.state != "RUNNING" for line in lines)
        run = find(record)
        if run.try_refresh(max_age=5.0) or not run.is_finished:
            return False
        try:
            run.cost()
        except ClusterError:
            return False
        return True

    # ---- setting -------------------------------------------------------------------------------

    def set(self, scope: str, period: str, amount: Decimal, currency: str) -> None:
        """Set a budget; what runs already has the most that it can take set aside, and what ran before counts."""
        found = list(self._before(scope))
        with self.book.writing() as page:
            known = {grant.run for grant in page.grants()}
            for grant in found:
                if grant.run not in known:
                    page.grant(grant)
            page.set(StandingBudget(scope, period, amount, currency), at=self._now())

    def _before(self, scope: str) -> Iterator[Grant]:
        """Return what earlier runs may take, and what those took that are over and that the ledger does not know yet."""
        from nexa_sdk.job import Job
        from nexa_sdk.rates import Rates

        known, half_known = self._ledger.runs(), self._ledger.running()
        for record in self._journal.runs():
            is_over = self._journal.outcome(record.id) not in UNDER_WAY
            is_known = record.id in known and record.id not in half_known
            if is_over and is_known and not scope:
                continue
            plan = self._journal.plan(record.id)
            project = _project_of(plan)
            if scope not in (EVERYTHING, project):
                continue
            job, rates = Job(**plan["job"]), Rates.read(plan.get("rates", []))
            tasks = sum(job.tasks_of(count) for _, _, count in plan["arrays"])
            demand = demand_of(job, rates, trials=record.trials, tasks=tasks)
            grant = Grant(record.id, project, demand.bound, demand.currency, record.created, is_open=not is_over)
            if is_over and not is_known:  # as the journal has it, until somebody asks what it cost
                took, end = _took(job, rates, self._journal.arrays(record.id))
                if record.id in known:
                    grant = grant._replace(amount=took, is_open=True)
                else:
                    grant = grant._replace(charged=took, closed=end or record.created)
            yield grant


def _took(job: Job, rates: Rates, arrays: Sequence[ArrayRecord]) -> tuple[Decimal, float]:
    """Say what a run that is over cost, and when it ended, by the times that the journal has of its trials."""
    total, last = Decimal(0), 0.0
    for array in arrays:
        times: dict[tuple[int, int], list[float]] = {}  # of each execution of a task; packed trials share it
        for (task, _, _), final in zip(array.places(), array.final or (), strict=False):
            status = TaskStatus.read(final)
            for k, execution in enumerate((*status.earlier, status)):
                if execution.has_begun and execution.end is not None:
                    times.setdefault((task, k), []).extend((execution.start or 0.0, execution.end))
        seconds = sum((Decimal(repr(max(both))) - Decimal(repr(min(both))) for both in times.values()), Decimal(0))
        total += (demand_of(job.changed(array.options), rates, trials=1, tasks=1).hourly or Decimal(0)) * seconds / 3600
        last = max([last, *(moment for both in times.values() for moment in both)])
    return total, last


def _project_of(plan: dict[str, object]) -> str:
    """Return whose run it was; before projects were written down, by its working directory."""
    if (known := plan.get("project")) is not None:
        return str(known)
    return str(plan["workdir"])


def _counts(line: CostLine, runs: set[str], *, is_everything: bool) -> bool:
    """Whether a line of the ledger counts: the runs that are meant, and what else than computing one uses."""
    return line.run in runs if line.run else is_everything and line.kind != COMPUTE


def _paid(lines: Iterable[CostLine]) -> _Paid:
    nanos: dict[str, int] = {}
    unknown = 0
    for line in lines:
        if line.nanos is None or line.price is None:
            unknown += line.attempts
        else:
            nanos[line.price.currency] = nanos.get(line.price.currency, 0) + line.nanos
    return _Paid({currency: money(amount) for currency, amount in nanos.items()}, unknown)


def _name(budget: StandingBudget, month: str) -> str:
    if budget.scope == EVERYTHING:
        return f"the month's budget ({month})" if month else "the budget of everything"
    whose = f"the budget of the project {Path(budget.scope).name}"
    return f"{whose} for the month ({month})" if month else whose


# ---- what a user calls -------------------------------------------------------------------------------


def set_budget(amount: str | None, *, month: bool = False, project: bool | str | Path = False) -> None:
    """Set what a month or a project may cost; a launch that could cost more is refused from then on.

    Parameters
    ----------
    amount : str or None
        ``"500 USD"``. None removes the budget.
    month : bool
        For each calendar month, in UTC; else in all.
    project : bool or path
        For the project of the current directory, or of another: the repository that it is in, else
        the folder itself. Unless given, for everything that is launched from here.

    Raises
    ------
    InvalidInput

    Notes
    -----
    What runs count that this machine's journal knows. A month's are paid by when they ran: a run that
    goes over the end of a month counts in both, each its part.
    """
    from nexa_sdk.journal import Journal
    from nexa_sdk.project_files import find_root

    if not month and project is False:
        raise InvalidInput("a budget is of a month or of a project: give month=True (--month), project=True (--project), or both")
    scope = EVERYTHING if project is False else str(find_root("." if project is True else project))
    period = MONTH if month else EVER
    if amount is None:
        with BudgetBook().writing() as page:
            if not page.remove(scope, period):
                raise InvalidInput(f"there is no such budget; there {_listed(page.budgets())}")
        return
    read, currency = read_money("budget", amount)
    if currency is None:
        raise InvalidInput(f"budget={amount!r} has no currency; write it, as in '{amount} USD'")
    Budgeting(Journal()).set(scope, period, read, currency)


def _listed(known: Sequence[StandingBudget]) -> str:
    if not known:
        return "is none"
    return "are " + ", ".join(f"{_name(budget, 'each' if budget.period == MONTH else '')}" for budget in known)


def budgets(*, refresh: bool = True) -> pd.DataFrame:
    """Return the budgets of months and projects: a row for each.

    Parameters
    ----------
    refresh : bool
        Ask the clusters of unfinished runs first how far those are; one that does not answer is
        left aside, and what was set aside for its runs counts.

    Returns
    -------
    pandas.DataFrame
        `budget`, `limit`, `spent`, `aside` (what unfinished runs may still take), `left` (Decimal),
        `currency`, `used` (of the limit, in percent) and `notes`.
    """
    import pandas as pd

    from nexa_sdk.journal import Journal

    at_work = Budgeting(Journal())
    if refresh:
        at_work.settle_everywhere()
    with at_work.book.reading() as page:
        found = at_work.accounts(page) if page is not None else []
    rows = [
        {
            "budget": account.name,
            "limit": account.limit,
            "spent": account.spent,
            "aside": account.aside,
            "left": account.left,
            "currency": account.currency,
            "used": int(100 * (account.spent + account.aside) / account.limit),
            "notes": "; ".join(account.notes),
        }
        for account in found
    ]
    columns = ["budget", "limit", "spent", "aside", "left", "currency", "used", "notes"]
    return pd.DataFrame(rows, columns=columns).set_index("budget")
