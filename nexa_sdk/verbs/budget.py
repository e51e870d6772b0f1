"""budget: what months and projects may cost, and how much of that is spent."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]

_USAGE = "[set AMOUNT | remove] [--month] [--project]"
_MORE = """\
Alone it shows all budgets: what is spent, what is set aside for unfinished runs, and what is left.
--month is of each calendar month, in UTC, and of everything that is launched from here; --project is of
the project of the current directory; both together are of a month of the project. A launch that could
cost more than is left is refused, and says what would fit. What one launch may cost launch --budget says.

Examples
  budget
  budget set 500 USD --month
  budget set 2000 EUR --project
  budget remove --month"""


def _add(parser: Parser) -> None:
    parser.add_words(completes="")
    parser.add("--month", action="store_true", help="of each calendar month")
    parser.add("--project", action="store_true", help="of the project of the current directory")


def _budget(_: Session, args: Namespace) -> object:
    from nexa_sdk.budgeting import budgets, set_budget

    verb, *amount = args.words or [""]
    if verb == "set" and amount:
        set_budget(" ".join(amount), month=args.month, project=args.project)
    elif verb == "remove" and not amount:
        set_budget(None, month=args.month, project=args.project)
    elif verb or args.month or args.project:
        raise BadUsage(
            f"{' '.join(['budget', *args.words])} can't be meant: write budget set 500 USD --month, budget remove --month, or budget"
        )
    return budgets()


VERBS = [
    Verb(
        "budget",
        "Say what a month or a project may cost, or show how much of it is spent.",
        _USAGE,
        _add,
        _budget,
        more=_MORE,
        is_table=True,
    ),
]
