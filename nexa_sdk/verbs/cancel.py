"""cancel and retry: end trials, and run failed ones again."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]

_MORE = f"TRIALS are numbers, such as 3 or 0,3-5; unless given, all. Digits alone are trials.\n{RUN_HELP}"

_MORE_RETRY = f"""\
{_MORE}
By cause: OUT_OF_MEMORY gets more memory, TIMEOUT more time, NODE_FAIL another node; PREEMPTED runs as
it is, FAILED not at all. launch --retry by-cause does it by itself, also while the notebook is closed."""


def _add(parser: Parser) -> None:
    parser.add_words(completes="runs")


def _cancel(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    return run.cancel(trials)


def _add_retry(parser: Parser) -> None:
    _add(parser)
    parser.add("--by-cause", action="store_true", help="with more memory, more time or on another node, as the cause demands")
    parser.add("--dry-run", action="store_true", help="show what --by-cause would do, as a table; submit nothing")
    parser.add("--budget", metavar="AMOUNT", help="what all of the run may cost from now on, what it has cost included: '80 USD'")


def _retry(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    if args.dry_run:
        return run.retry_plan(trials)
    return run.retry(trials, by="cause" if args.by_cause else None, budget=args.budget)


VERBS = [
    Verb("cancel", "End a run, or some of its trials: first by TERM, then by KILL.", "[RUN] [TRIALS]", _add, _cancel, more=_MORE),
    Verb(
        "retry",
        "Run the failed trials again; they keep their numbers and every attempt.",
        "[RUN] [TRIALS] [--by-cause] [--dry-run] [--budget AMOUNT]",
        _add_retry,
        _retry,
        more=_MORE_RETRY,
    ),
]
