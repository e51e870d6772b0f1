"""What holds a plan's cost: its own budget, and those of its project and of the month."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk.budget import Budget, Demand, admit, limit_line, money_text
from nexa_sdk.budgeting import Budgeting, demand_of
from nexa_sdk.errors import BudgetExceeded, InvalidInput, PreflightFailed
from nexa_sdk.scheduling.base import Check
from nexa_sdk.walltime import parse_walltime

if TYPE_CHECKING:
    from datetime import timedelta

    from nexa_sdk.job import Job
    from nexa_sdk.plan import Plan
    from nexa_sdk.records import ArrayRecord, RunRecord
    from nexa_sdk.retry import Ladder

__all__ = ["LIMIT", "Hold", "limit_file", "longest_task"]

LIMIT = "budget/limit"  # in the run's folder


def longest_task(job: Job, ladder: Ladder) -> timedelta | None:
    """Say how long a task may take, one that is run again with more time too; None where nobody knows."""
    if job.limit is None:
        return None
    return max([job.limit, *(length for text in ladder.time if (length := parse_walltime(text)) is not None)])


def limit_file(amount: Decimal | None, demand: Demand, budget: Budget | None, *, longest: timedelta | None) -> bytes:
    """Write what the tasks of a run look at."""
    words = "no budget"
    if amount is not None:
        words = f"the budget of {money_text(amount, demand.currency)}"
        words += " set aside for this run" if budget is None or budget.amount != amount else ""
    return limit_line(demand.seconds(amount), longest=longest, words=words)


class Hold:
    """What holds the cost of one plan.

    Attributes
    ----------
    budget : Budget or None
        Its own.
    allow_unknown : bool
        Whether it may be launched though nobody knows what it costs.
    """

    def __init__(self, plan: Plan, *, budget: Budget | None, allow_unknown: bool, recalled: Mapping[str, Any] | None) -> None:
        self.budget, self.allow_unknown = budget, allow_unknown
        self._plan = plan
        self._recalled = recalled
        if budget is not None and (budget.until_spent or budget.ends_running) and not plan.cluster.scheduler.shares_folder:
            raise InvalidInput(
                f"until_spent= and ends_running= can't be held on {plan.cluster.url}: its machines share no folder in which tasks could "
                "count together. A budget alone holds there: nothing is launched that could cost more"
            )
        if recalled is not None:
            held = recalled.get("budget")
            self.is_held = held is not None
            self.budget = Budget.recall(held["launch"]) if held is not None and held["launch"] is not None else None

    @cached_property
    def project(self) -> str:
        """The project that it belongs to: the repository of the current directory, else that directory."""
        from nexa_sdk.project_files import find_root

        return str(self._plan.project.root if self._plan.project is not None else find_root())

    @cached_property
    def is_held(self) -> bool:
        """Whether a budget holds for it."""
        return self.budget is not None or bool(self._budgeting.standing(self.project))

    @property
    def is_counted(self) -> bool:
        """Whether its tasks look at a budget themselves: they need a folder in common.

        Where they have none, no trial is run again by itself either, and its walltimes bound it.
        """
        return self.is_held and self._plan.cluster.scheduler.shares_folder

    @property
    def ends_running(self) -> bool:
        """Whether what runs is ended when it is spent."""
        return self.budget is not None and self.budget.ends_running

    @property
    def demand(self) -> Demand:
        """What the plan could take."""
        plan = self._plan
        return demand_of(plan.job, plan.rates, trials=len(plan.sweep), tasks=plan.task_count)

    @property
    def _budgeting(self) -> Budgeting:
        return Budgeting(self._plan.cluster.journal)

    # ---- before --------------------------------------------------------------------------------

    def checks(self) -> list[Check]:
        """Look whether the budgets leave enough; nothing is set aside yet."""
        if not self.is_held:
            return []
        with self._budgeting.book.reading() as page:
            accounts = self._budgeting.accounts(page, self.project, leave_out=self._plan.id) if page is not None else []
        try:
            amount = admit(self.demand, self.budget, accounts, allow_unknown=self.allow_unknown)
        except BudgetExceeded as error:
            return [Check("budget", "error", str(error))]
        if amount is None:
            return [Check("budget", "warning", "nobody knows what it costs, and nothing holds it, as you allow")]
        own = f"{money_text(amount, self.demand.currency)} {'is its budget' if self.budget is not None else 'are set aside for it'}"
        return [Check("budget", "ok", "; ".join([own, *map(str, accounts)]))]

    # ---- at its launch -------------------------------------------------------------------------

    def begin(
        self,
        record: RunRecord,
        written: dict[str, Any],
        arrays: Sequence[ArrayRecord],
        files: dict[str, Mapping[str, bytes]],
        *,
        alike_since: int | None,
    ) -> str | None:
        """Set aside what the run may take, and write it down in the journal.

        Parameters
        ----------
        written, files
            What ``plan.json`` says, and what is laid into the run's folder: what is granted is added to both.

        Returns
        -------
        str or None
            The id of the run that was there already.

        Raises
        ------
        BudgetExceeded
        PreflightFailed
            A budget has come since it was planned: its script does not look at it.
        """
        plan, budgeting = self._plan, self._budgeting
        written["project"] = self.project
        if not self.is_held:
            if budgeting.standing(self.project):
                raise PreflightFailed(
                    f"{plan.id} was planned before there was a budget that holds for it; plan it again. Nothing was submitted"
                )
            return plan.cluster.journal.begin(record, written, arrays, alike_since=alike_since)
        from nexa_sdk.written import to_json

        budgeting.settle(plan.cluster.url, plan.cluster.run)
        there: str | None = None
        try:
            with budgeting.admitted(plan.id, self.demand, self.budget, project=self.project, allow_unknown=self.allow_unknown) as granted:
                written["budget"] = self._written(granted)
                there = plan.cluster.journal.begin(record, written, arrays, alike_since=alike_since)
        except BudgetExceeded as error:
            raise BudgetExceeded(f"{plan.id} was not submitted: {error}") from None
        if there is not None and there != plan.id:
            budgeting.release(plan.id)
        laid = {"plan.json": to_json(written).encode(), **({LIMIT: self._file(granted)} if self.is_counted else {})}
        for token, known in files.items():
            if "plan.json" in known:  # on each machine that has a folder of the run
                files[token] = ChainMap(laid, known)  # type: ignore[arg-type]
        return there

    def _written(self, granted: Decimal | None) -> dict[str, Any]:
        return {
            "launch": self.budget.written() if self.budget is not None else None,
            "granted": None if granted is None else str(granted),
            "allow_unknown": self.allow_unknown,
            "is_counted": self.is_counted,
        }

    def _file(self, granted: Decimal | None) -> bytes:
        return limit_file(granted, self.demand, self.budget, longest=longest_task(self._plan.job, self._plan.ladder))

    def files(self) -> dict[str, bytes]:
        """Return what a run's folder holds of it, when a launch that was cut short is taken up."""
        if self._recalled is None or not self.is_counted:
            return {}
        granted = self._recalled["budget"]["granted"]
        amount = Decimal(granted) if granted is not None else None
        with contextlib.suppress(StopIteration):  # it may have been raised since
            amount = next(grant.amount for grant in self._budgeting.book.grants() if grant.run == self._plan.id)
        return {LIMIT: self._file(amount)}
