"""Budget: what a launch may cost, what counts against it, and whether a plan fits. Values; all money is exact.

On the cluster a run's budget is counted in seconds of a task: all tasks of a run cost the same, so
that whole numbers are enough there. :func:`used_seconds` counts as the scripts do; see
:mod:`nexa_sdk.scheduling.slurm.budget_guard`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from numbers import Real
from typing import Any

from nexa_sdk.errors import BudgetExceeded, InvalidInput
from nexa_sdk.walltime import format_walltime

__all__ = [
    "MOST_SECONDS",
    "WARNING",
    "Account",
    "Budget",
    "Demand",
    "admit",
    "limit_line",
    "money_text",
    "month_of",
    "read_money",
    "used_seconds",
]

WARNING = Decimal("0.8")  # of a budget, from which on it is said
MOST_SECONDS = 2**62  # of a task: what bounds nothing
MOST_MONEY = Decimal(10) ** 12

_MONEY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]{3})?")


def read_money(name: str, given: object) -> tuple[Decimal, str | None]:
    """Read an amount and its currency: ``"50 USD"``, ``"49.90EUR"``; a bare number has none.

    Raises
    ------
    InvalidInput
    """
    if isinstance(given, bool) or not isinstance(given, (str, Real, Decimal)):
        raise InvalidInput(f"{name}={given!r} is no amount; give '50 USD'")
    match = _MONEY.fullmatch(str(given).strip())
    if match is None:
        raise InvalidInput(f"{name}={given!r} is no amount; give a number above 0 and the three letters of its currency, as in '50 USD'")
    amount = Decimal(match[1])
    if not 0 < amount <= MOST_MONEY:
        raise InvalidInput(f"{name}={given!r}: give more than 0, and at most {MOST_MONEY:,}")
    return amount, match[2].upper() if match[2] else None


def money_text(amount: Decimal, currency: str | None = None) -> str:
    """Write an amount, to the cent, and a small one with more digits. It is rounded down, so that what is said to be left is."""
    places = 0 if amount == amount.to_integral_value() else 2 if amount >= 1 else 6
    text = f"{amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_FLOOR):,f}"
    if places > 2:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {currency}" if currency else text


@dataclass(frozen=True, init=False)
class Budget:
    """What a launch may cost; ``budget="50 USD"`` means ``Budget("50 USD")``.

    A plan that could cost more is refused, unless `until_spent`. What has been used is looked at
    whenever a trial begins and when a task ends, by the tasks themselves: no notebook need be open.
    Once the budget is spent no trial begins any more. What runs goes on, unless `ends_running`: so
    the run may cost more than its budget by what was running at that moment took from then on, and
    never by more.

    Parameters
    ----------
    amount : str, number or Decimal
        ``"50 USD"``; a bare number is in the currency of the price.
    until_spent : bool
        Launch also what could cost more, and stop there.
    ends_running : bool
        End also what runs once it is spent: by TERM, then by KILL. Each task then has a process
        beside it that sleeps, and looks at least once a minute.

    Attributes
    ----------
    amount : Decimal
    currency : str or None

    Raises
    ------
    InvalidInput

    Notes
    -----
    It is counted from when a task's script begins to when it ends, to the second; what Slurm takes
    before and after, and the small jobs of ``retry=``, are in ``run.cost()`` alone. An attempt that
    could not say when it ended, because its node was lost, counts until the task begins again, or to
    its walltime.
    """

    amount: Decimal
    currency: str | None
    until_spent: bool
    ends_running: bool

    def __init__(self, amount: str | float | Decimal, *, until_spent: bool = False, ends_running: bool = False) -> None:
        read, currency = read_money("budget", amount)
        for name, value in (("amount", read), ("currency", currency), ("until_spent", until_spent), ("ends_running", ends_running)):
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, given: object) -> Budget | None:
        """Take what a launch was given.

        Raises
        ------
        InvalidInput
        """
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, (str, Real, Decimal)):
            raise InvalidInput(f"budget={given!r} is no budget; give '50 USD', or Budget('50 USD', until_spent=True)")
        return cls(given)  # type: ignore[arg-type]

    def written(self) -> dict[str, Any]:
        """Return it as ``plan.json`` has it."""
        amount = f"{self.amount} {self.currency}" if self.currency else str(self.amount)
        return {"amount": amount, "until_spent": self.until_spent, "ends_running": self.ends_running}

    @classmethod
    def recall(cls, written: Mapping[str, Any]) -> Budget:
        """Read what :meth:`written` wrote."""
        return cls(**written)

    def __str__(self) -> str:
        return money_text(self.amount, self.currency)


# ---- what could be taken -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What trials could take, at most.

    Attributes
    ----------
    trials, tasks, pack : int
        A task carries `pack` trials.
    walltime : timedelta or None
        Of a task; None where there is none.
    hourly : Decimal or None
        What a task costs in an hour; None where no price is known.
    currency : str
    why_unknown : str
        Why there is no price.
    before : Decimal
        What is used, or under way, already.
    """

    trials: int
    tasks: int
    pack: int = 1
    walltime: timedelta | None = None
    hourly: Decimal | None = None
    currency: str = ""
    why_unknown: str = ""
    before: Decimal = Decimal(0)

    @property
    def bound(self) -> Decimal | None:
        """What it costs at most; None where nothing bounds it."""
        if self.hourly is None:
            return None
        if not self.hourly:
            return self.before
        if self.walltime is None:
            return None
        return self.before + self.tasks * self.hourly * _seconds(self.walltime) / 3600

    def seconds(self, amount: Decimal | None) -> int:
        """Say for how many seconds of a task an amount is enough."""
        if amount is None or not self.hourly:
            return MOST_SECONDS
        return min(MOST_SECONDS, int(amount * 3600 / self.hourly))

    def fits(self, left: Decimal) -> str:
        """Say what an amount would be enough for."""
        left -= self.before
        if not self.hourly or left <= 0:
            return ""
        found = []
        if self.walltime is not None:
            tasks = int(left * 3600 / (self.hourly * _seconds(self.walltime)))
            if tasks:
                found.append(f"{min(self.trials, tasks * self.pack):,} of the {self.trials:,} trials fit")
        each = int(left * 3600 / (self.hourly * self.tasks))
        if each:
            found.append(
                f"{'all of them' if found else f'all {self.trials:,} trials'} with time='{format_walltime(timedelta(seconds=each))}'"
            )
        return ", or ".join(found)

    def __str__(self) -> str:
        assert self.hourly is not None
        tasks = f"{self.tasks:,} task{'s' if self.tasks != 1 else ''} × {format_walltime(self.walltime)}"
        what = f"{tasks} × {_rate_text(self.hourly)} {self.currency} an hour"
        return f"{money_text(self.before, self.currency)} used or under way, and {what}" if self.before else what


def _seconds(length: timedelta) -> Decimal:
    return Decimal(length.days * 86400 + length.seconds) + Decimal(length.microseconds).scaleb(-6)


def _rate_text(rate: Decimal) -> str:
    return f"{rate.normalize():f}"


# ---- what counts against it ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Account:
    """A budget, and what counts against it.

    Attributes
    ----------
    name : str
        ``"the month's budget (2026-11)"``.
    limit : Decimal
    currency : str or None
        None is that of the price.
    spent : Decimal
        What was paid.
    aside : Decimal
        What unfinished runs may still take: each of them has it set aside.
    unfinished : int
        How many those are.
    notes : sequence of str
        What could not be counted.
    """

    name: str
    limit: Decimal
    currency: str | None
    spent: Decimal = Decimal(0)
    aside: Decimal = Decimal(0)
    unfinished: int = 0
    notes: tuple[str, ...] = ()

    @property
    def left(self) -> Decimal:
        """What may be taken still."""
        return max(Decimal(0), self.limit - self.spent - self.aside)

    def __str__(self) -> str:
        whole = money_text(self.limit, self.currency)
        if not self.spent and not self.aside:
            return f"{self.name} is {whole}{self._more}"
        runs = f"{self.unfinished:,} unfinished run{'s' if self.unfinished != 1 else ''}"
        aside = f", {money_text(self.aside)} set aside for {runs}" if self.unfinished else ""
        return f"{self.name} has {money_text(self.left, self.currency)} left of {whole} ({money_text(self.spent)} spent{aside}){self._more}"

    @property
    def _more(self) -> str:
        return "".join(f"; {note}" for note in self.notes)


def admit(demand: Demand, budget: Budget | None, accounts: Sequence[Account], *, allow_unknown: bool = False) -> Decimal | None:
    """Decide whether something may be launched, and return what it may take; None where nothing holds it.

    Parameters
    ----------
    budget : Budget, optional
        Of the launch itself.
    accounts : sequence of Account
        The month's and the project's.

    Raises
    ------
    BudgetExceeded
        With the arithmetic.
    """
    own = [Account(name="its budget", limit=budget.amount, currency=budget.currency)] if budget is not None else []
    every = [*own, *accounts]
    if not every:
        return None
    names = " and ".join(account.name for account in every)
    allowed = "; allow_unknown=True (--allow-unknown) launches it all the same, and nothing holds it then"
    if demand.hourly is None:
        if allow_unknown:
            return None
        raise BudgetExceeded(f"nobody knows what it costs, and {names} can't be held: {demand.why_unknown}{allowed}")
    every = [account if account.currency else replace(account, currency=demand.currency) for account in every]
    if other := next((account for account in every if account.currency != demand.currency), None):
        if allow_unknown:
            return None
        raise BudgetExceeded(f"{other}, and its price is in {demand.currency}: they can't be compared{allowed}")
    tightest = min(every, key=lambda account: account.left)
    is_open = budget is not None and budget.until_spent
    bound = demand.bound
    if bound is None and not is_open:
        how = _until_spent(tightest.left, demand)
        raise BudgetExceeded(f"it has no walltime, so nothing bounds what it costs, and {tightest}. Give time=; or with {how}")
    if is_open:
        assert budget is not None
        if budget.amount > tightest.left:
            raise BudgetExceeded(f"its budget is {budget}, and {tightest}. Give it no more than that")
        if demand.before >= budget.amount:
            raise BudgetExceeded(
                f"its budget is {budget}, and {money_text(demand.before, demand.currency)} are used or under way: nothing would begin"
            )
        return budget.amount
    assert bound is not None
    if bound > tightest.left:
        fits = demand.fits(tightest.left)
        rest = f"With {_until_spent(tightest.left, demand)}" if tightest.left > demand.before else "Nothing is left of it"
        raise BudgetExceeded(
            f"it could cost {money_text(bound, demand.currency)} ({demand}), and {tightest}. {f'{fits}. ' if fits else ''}{rest}"
        )
    return min(budget.amount, tightest.left) if budget is not None else bound


def _until_spent(left: Decimal, demand: Demand) -> str:
    amount = money_text(left, demand.currency).replace(",", "")
    how = f"budget=Budget('{amount}', until_spent=True) (--budget '{amount}' --until-spent)"
    return f"{how} it is launched all the same, and begins nothing more once that is spent"


# ---- months ----------------------------------------------------------------------------------------


def month_of(moment: float) -> tuple[str, int, int]:
    """Return the calendar month of a time in UTC: its name, ``"2026-11"``, its beginning and its end, in milliseconds since the epoch."""
    first = datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    return first.strftime("%Y-%m"), int(first.timestamp()) * 1000, int(after.timestamp()) * 1000


# ---- what the tasks count --------------------------------------------------------------------------


def limit_line(seconds: int, *, longest: timedelta | None, words: str) -> bytes:
    """Write what ``budget/limit`` in a run's folder holds: budget, warning and longest task, in seconds of a task; the budget's name.

    Parameters
    ----------
    longest : timedelta or None
        What a task may take at most; what left no end counts no longer.
    """
    most = int(_seconds(longest)) if longest is not None else MOST_SECONDS
    return f"{seconds} {int(seconds * WARNING)} {most} {words}\n".encode()


_ENTRY = re.compile(r"\d+_\d+-\d+(?:=(\d+)|@(\d+))")


def used_seconds(names: Iterable[str], *, now: float, longest: int) -> int:
    """Add up what a run's tasks have used, in seconds of a task, from the names in its ``budget/``."""
    used = 0
    for name in names:
        if (match := _ENTRY.fullmatch(name)) is not None:
            used += int(match[1]) if match[1] else min(longest, max(0, int(now) - int(match[2])))
    return used
