"""A run's budget: how much of it is used, what was stopped because it is spent, and how it is raised.

What the tasks wrote down in the run's folder says it; see :mod:`nexa_sdk.scheduling.slurm.budget_guard`.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk.budget import Budget, Demand, money_text, used_seconds
from nexa_sdk.budgeting import Budgeting, demand_of
from nexa_sdk.errors import BudgetExceeded, BudgetWarning, CommandFailed, InvalidInput
from nexa_sdk.hold import limit_file, longest_task
from nexa_sdk.rates import Rates
from nexa_sdk.retry import Ladder
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt, Statuses
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.records import ArrayRecord
    from nexa_sdk.scheduling.base import TaskStatus
    from nexa_sdk.transports.base import Transport

__all__ = ["BudgetUse", "RunBudget"]

LOOKED_AT = 10.0  # seconds between two looks for a warning
CLOCKS = 60.0  # seconds by which the clocks of a cluster and of this machine may differ
WRITING = 60.0  # seconds that raising a limit may take

# The limit before the marks: a task that looks in between sees the new one, and leaves no new mark.
_RAISE = r"""
cd -- "$1/budget" || exit 73
printf '%s' "$2" > limit.part && mv -f limit.part limit || exit 73
now=$(date +%s)
shift 2
for mark in spent cancelled-*; do [ ! -e "$mark" ] || mv -f "$mark" "before-$mark-$now" || exit 73; done
rm -f warned
while [ $# -gt 1 ]; do
  [ ! -e "$1" ] || mv -f "$1" "$2" || exit 73
  shift 2
done
"""


@dataclass(frozen=True)
class BudgetUse:
    """How much of a run's budget is used, as its tasks count it.

    Attributes
    ----------
    limit : Decimal or None
        None where nothing holds it: nobody knows what it costs, or it costs nothing.
    used : Decimal
        What runs counts up to now.
    currency : str
    is_spent : bool
        Whether nothing more begins.
    """

    limit: Decimal | None
    used: Decimal
    currency: str
    is_spent: bool

    @property
    def percent(self) -> int | None:
        """How much of it that is; None where nothing holds it."""
        return None if self.limit is None else int(100 * self.used / self.limit)

    def __str__(self) -> str:
        used = money_text(self.used, self.currency or None)
        if self.limit is None:
            return f"{used} used; nothing holds it"
        spent = ": nothing more begins" if self.is_spent else ""
        return f"{used} of {money_text(self.limit, self.currency)} used ({self.percent} %){spent}"

    def __repr__(self) -> str:
        return f"<Budget: {self}>"


@dataclass(frozen=True)
class _Marks:
    """What lies in ``budget/``."""

    names: Collection[str]
    limit: int
    warning: int
    longest: int
    words: str
    stops: tuple[tuple[float, str], ...]  # when it was spent, and which budget that was

    def used(self, now: float) -> int:
        return used_seconds(self.names, now=now, longest=self.longest)

    @property
    def ended(self) -> int:
        """What tasks have used that have ended, in seconds of a task."""
        return used_seconds([name for name in self.names if "=" in name], now=0, longest=0)


class RunBudget:
    """The budget of one run.

    Parameters
    ----------
    run, folder : str
    plan : callable
        Returns the run's, as ``plan.json`` has it; it may be long, and is read when it is needed.
    job : callable
    """

    def __init__(
        self,
        run: str,
        folder: str,
        *,
        plan: Callable[[], Mapping[str, Any]],
        job: Callable[[], Job],
        transport: Transport,
        journal: Journal,
    ) -> None:
        self._run = run
        self._folder = folder
        self._read_plan = plan
        self._read_job = job
        self._transport = transport
        self._budgeting = Budgeting(journal)
        self._warned_at = -1e9
        self._warned = 0  # seconds of a task from which on it was said

    @cached_property
    def _plan(self) -> Mapping[str, Any]:
        return self._read_plan()

    @cached_property
    def _job(self) -> Job:
        return self._read_job()

    @cached_property
    def _is_granted(self) -> bool:
        """Whether something was set aside for it from here."""
        return any(grant.run == self._run for grant in self._budgeting.book.grants())

    @property
    def is_held(self) -> bool:
        """Whether its tasks look at a budget."""
        return bool((self._plan.get("budget") or {}).get("is_counted"))

    @property
    def _launch(self) -> Budget | None:
        """The budget of its launch, raised meanwhile or not."""
        held = self._plan.get("budget") or {}
        if held.get("launch") is None:
            return None
        budget = Budget.recall(held["launch"])
        grant = self._grant
        if grant is None or grant <= budget.amount:
            return budget
        return Budget(f"{grant} {self._demand(0, 1).currency}", until_spent=budget.until_spent, ends_running=budget.ends_running)

    @property
    def _grant(self) -> Decimal | None:
        return next((grant.amount for grant in self._budgeting.book.grants() if grant.run == self._run), None)

    def _demand(self, trials: int, tasks: int) -> Demand:
        return demand_of(self._job, Rates.read(self._plan.get("rates", [])), trials=trials, tasks=tasks)

    # ---- looking -------------------------------------------------------------------------------

    def _look(self) -> _Marks | None:
        """Read what the tasks wrote down; None where it is not laid down yet, or gone."""
        folder = f"{self._folder}/budget"
        names = set(self._transport.list(folder))
        wanted = [name for name in names if re.fullmatch(r"limit|spent|before-spent-\d+", name)]
        files = self._transport.read_many(folder, wanted)
        if (line := files.pop("limit", b"").decode().split(maxsplit=3)) and len(line) == 4:
            stops = [text.decode().split(maxsplit=2) for text in files.values()]
            told = tuple((float(stop[0]), stop[2].strip()) for stop in stops if len(stop) == 3)
            return _Marks(names, int(line[0]), int(line[1]), int(line[2]), line[3].strip(), told)
        return None

    def use(self) -> BudgetUse | None:
        """Look how much is used; None where the run has no budget.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        marks = self._look() if self.is_held else None
        if marks is None:
            return None
        demand = self._demand(0, 1)
        used = marks.used(time.time())
        hourly = demand.hourly or Decimal(0)
        limit = self._grant if self._grant is not None else self._granted
        is_spent = "spent" in marks.names or used >= marks.limit
        return BudgetUse(limit if demand.hourly else None, used * hourly / 3600, demand.currency, is_spent)

    @property
    def _granted(self) -> Decimal | None:
        granted = self._plan["budget"]["granted"]
        return Decimal(granted) if granted is not None else None

    def warn(self) -> None:
        """Say once when 80 % are used, and once when it is spent; looked for now and then.

        Raises
        ------
        ClusterError
        """
        if time.monotonic() - self._warned_at < LOOKED_AT or not self._is_granted:
            return
        self._warned_at = time.monotonic()
        marks = self._look()
        used = marks.used(time.time()) if marks is not None else 0
        passed = [mark for mark in (marks.warning, marks.limit) if used >= mark > self._warned] if marks is not None else []
        if passed:
            self._warned = passed[-1]
            warnings.warn(f"{self._run}: {self.use()}", BudgetWarning, stacklevel=5)

    # ---- what was stopped ----------------------------------------------------------------------

    def explain(self, array: ArrayRecord, told: Statuses, cancelled: set[int]) -> Statuses:
        """Say of what was cancelled, and by nobody from here, that its budget was spent."""
        if not any(_may_be_stopped(status) for (task, _), status in told.items() if task not in cancelled) or not self.is_held:
            return told
        marks = self._look()
        if marks is None or not marks.stops:
            return told
        was_told = any(re.fullmatch(rf"(before-)?cancelled-{array.job_id}(-\d+)?", name) for name in marks.names)
        found = dict(told)
        for (task, slot), status in told.items():
            if task in cancelled or not _may_be_stopped(status):
                continue
            stop = next((stop for stop in sorted(marks.stops) if was_told or array.at <= stop[0] + CLOCKS), None)
            if stop is None or (status.end is not None and status.end < stop[0] - CLOCKS):
                continue
            began = _has_begun(status)
            if began and not (self._plan["budget"]["launch"] or {}).get("ends_running"):
                continue
            words = f"{'stopped' if began else 'not begun'}: {stop[1]} is spent"
            # Of one that was requeued, and cancelled before it began again, sacct tells the times before.
            start, node = (status.start, status.node) if began else (None, "")
            found[task, slot] = replace(status, state=State.CANCELLED, reason=words, start=start, node=node)
        return found

    # ---- running again -------------------------------------------------------------------------

    def before_retry(
        self, given: Budget | str | float | None, attempts: Sequence[Attempt], again: Sequence[tuple[Mapping[str, Any], Sequence[Attempt]]]
    ) -> None:
        """Look whether what is to be run again fits, and raise what the run may take.

        Parameters
        ----------
        given : Budget, str or number, optional
            What all of the run may cost from now on.
        attempts : sequence of Attempt
            The last of each trial.
        again : sequence of (options, attempts)
            What is to be run again, by the options that it has other than planned.

        Raises
        ------
        BudgetExceeded
        InvalidInput
        """
        run_id = self._run
        if self._plan.get("budget") is None and given is not None:
            raise InvalidInput(f"{run_id} was launched without a budget, and its tasks look at none; launch it anew with budget=")
        budget = self._raised(given)
        jobs = [self._job.changed(options) for options, _ in again]
        walltimes = [job.limit for job in (self._job, *jobs)]
        longest = None if None in walltimes else max(length for length in walltimes if length is not None)
        tasks = sum(self._job.tasks_of(len(failed)) for _, failed in again)
        demand = replace(self._demand(sum(len(failed) for _, failed in again), tasks), walltime=longest)
        marks = self._look() if self.is_held else None
        going = {(one.array.token, one.task) for one in attempts if not one.status.state.is_terminal}
        before = Decimal(0)
        if demand.hourly is not None and marks is not None:
            most = 0 if longest is None else int(longest.total_seconds())
            is_open = budget is not None and budget.until_spent
            seconds = marks.used(time.time()) if is_open else marks.ended + len(going) * most
            before = seconds * demand.hourly / 3600
        elif demand.hourly is not None and self._plan.get("budget") is not None:
            before = self._grant or Decimal(0)  # they do not count themselves: all that was set aside may be used
        demand = replace(demand, before=before)
        held = self._plan.get("budget") or {}
        try:
            amount = self._budgeting.raise_grant(
                run_id, demand, budget, project=self._plan.get("project", ""), allow_unknown=bool(held.get("allow_unknown"))
            )
        except BudgetExceeded as error:
            more = "; run.retry(budget='…') (--budget) gives the run a larger one" if budget is not None and given is None else ""
            raise BudgetExceeded(f"{run_id} is not run again: {error}{more}") from None
        if self.is_held:
            self._raise_limit(amount, demand, budget, attempts, marks)

    def _raised(self, given: Budget | str | float | None) -> Budget | None:
        launched = self._launch
        if given is None:
            return launched
        budget = Budget.read(given)
        assert budget is not None
        ends_running = launched is not None and launched.ends_running
        if not isinstance(given, Budget):
            until_spent = launched is not None and launched.until_spent
            return Budget(str(given), until_spent=until_spent, ends_running=ends_running)
        if budget.ends_running != ends_running:
            raise InvalidInput(f"ends_running={budget.ends_running}: that is settled at the launch, and its scripts have it otherwise")
        return budget

    def _raise_limit(
        self, amount: Decimal | None, demand: Demand, budget: Budget | None, attempts: Sequence[Attempt], marks: _Marks | None
    ) -> None:
        """Write the new limit where the tasks look, and the ends of those that could not say it themselves."""
        ladder = Ladder.read(self._plan["ladder"]) if self._plan.get("ladder") is not None else Ladder()
        usual = longest_task(self._job, ladder)
        longest = None if usual is None or demand.walltime is None else max(usual, demand.walltime)
        line = limit_file(amount, demand, budget, longest=longest).decode()
        moves: list[str] = []
        ends = {one.job: one.status for one in attempts if one.status.state.is_terminal and one.status.end is not None}
        for name in marks.names if marks is not None else ():
            if (match := re.fullmatch(r"((\d+_\d+)-\d+)@(\d+)", name)) and (status := ends.get(match[2])) is not None:
                moves += [name, f"{match[1]}={max(0, int(status.end or 0) - int(match[3]))}"]
        argv = ["sh", "-c", _RAISE, "nexa-budget", self._folder, line, *moves]
        answer = self._transport.run(argv, env=self._transport.bare_environment(), timeout=WRITING)
        if answer.returncode:
            raise CommandFailed("sh", answer.returncode, f"{self._folder}/budget can't be written: {answer.stderr.strip()}")
        self._warned = 0


def _has_begun(status: TaskStatus) -> bool:
    if status.earlier and status.start == status.earlier[-1].start:
        return False
    return bool(status.node) or status.start not in (None, status.end)


def _may_be_stopped(status: TaskStatus) -> bool:
    """Whether a task was cancelled, but nobody said why; or went without having begun."""
    if status.state is State.UNKNOWN:
        return not _has_begun(status)
    return status.state is State.CANCELLED and (not status.reason or status.reason.startswith("cancelled by"))
