"""The book of budgets: what a month and a project may cost, and what is set aside for each run.

A small file of its own beside the ledger: the ledger can be lost and made anew from accounting, and
what a person has said can't. In a project's ``nexa.toml`` a budget would look like the team's, and be
held for each of them alone, by what each one's ledger knows. What is decided while the book is being
written is decided once: two kernels that launch at the same moment take turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nexa_sdk import settings
from nexa_sdk.journal_file import JournalFile

if TYPE_CHECKING:
    import sqlite3

__all__ = ["EVER", "EVERYTHING", "MONTH", "BudgetBook", "Grant", "Page", "StandingBudget"]

EVERYTHING = ""  # the scope of all projects
MONTH, EVER = "month", "ever"


class _BookFile(JournalFile):
    """The book's SQLite file."""

    name = "book of budgets"
    version = 1
    upgrade = ""
    schema = """
CREATE TABLE budgets (
    scope TEXT NOT NULL,            -- a project's folder; empty is everything
    period TEXT NOT NULL,           -- month: each calendar month, in UTC; ever: in all
    amount TEXT NOT NULL,           -- a decimal number
    currency TEXT NOT NULL,
    at REAL NOT NULL,               -- seconds since the epoch
    PRIMARY KEY (scope, period)
);
CREATE TABLE grants (               -- one for each run that was launched under a budget, or ran when one was set
    run TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    amount TEXT,                    -- what it may take; null: nobody knows
    currency TEXT NOT NULL,
    at REAL NOT NULL,
    is_open INTEGER NOT NULL,       -- else what it took is known, and counts instead
    charged TEXT NOT NULL,          -- what it took when it was closed: the ledger can be lost
    closed REAL                     -- when that was
);
CREATE INDEX grants_open ON grants (is_open);
"""


class StandingBudget(NamedTuple):
    """A budget of a project, or of everything, for each month or in all."""

    scope: str
    period: str
    amount: Decimal
    currency: str


class Grant(NamedTuple):
    """What is set aside for a run; None is not known."""

    run: str
    project: str
    amount: Decimal | None
    currency: str
    at: float
    is_open: bool
    charged: Decimal = Decimal(0)
    closed: float | None = None


class Page:
    """The book within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def budgets(self) -> list[StandingBudget]:
        """Return all budgets."""
        rows = self._connection.execute("SELECT scope, period, amount, currency FROM budgets ORDER BY scope, period").fetchall()
        return [StandingBudget(scope, period, Decimal(amount), currency) for scope, period, amount, currency in rows]

    def grants(self) -> list[Grant]:
        """Return what was set aside, the first first."""
        rows = self._connection.execute(
            "SELECT run, project, amount, currency, at, is_open, charged, closed FROM grants ORDER BY at"
        ).fetchall()
        return [
            Grant(run, project, None if amount is None else Decimal(amount), currency, at, bool(is_open), Decimal(charged), closed)
            for run, project, amount, currency, at, is_open, charged, closed in rows
        ]

    def set(self, budget: StandingBudget, *, at: float) -> None:
        """Write a budget, in place of what there was."""
        row = (budget.scope, budget.period, str(budget.amount), budget.currency, at)
        self._connection.execute("INSERT OR REPLACE INTO budgets VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, scope: str, period: str) -> bool:
        """Remove a budget; say whether there was one."""
        return bool(self._connection.execute("DELETE FROM budgets WHERE scope = ? AND period = ?", (scope, period)).rowcount)

    def grant(self, grant: Grant) -> None:
        """Write what is set aside for a run, in place of what was."""
        amount = None if grant.amount is None else str(grant.amount)
        row = (grant.run, grant.project, amount, grant.currency, grant.at, grant.is_open, str(grant.charged), grant.closed)
        self._connection.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def release(self, run: str) -> None:
        """Forget a run: it was never launched."""
        self._connection.execute("DELETE FROM grants WHERE run = ?", (run,))


class BudgetBook:
    """The book in a file; made when first written to."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or settings.home() / "budgets.sqlite"
        self._file = _BookFile(self.path)

    def budgets(self) -> list[StandingBudget]:
        """Return all budgets; no file is made for it."""
        with self.reading() as page:
            return page.budgets() if page is not None else []

    def grants(self) -> list[Grant]:
        """Return what was set aside; no file is made for it."""
        with self.reading() as page:
            return page.grants() if page is not None else []

    @contextlib.contextmanager
    def reading(self) -> Iterator[Page | None]:
        """Read it; None where there is none."""
        if not self.path.exists():
            yield None
            return
        with self._file.reading() as connection:
            yield Page(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Page]:
        """Read and write it, one process at a time; what raises within leaves it as it was."""
        with self._file.writing() as connection:
            yield Page(connection)
