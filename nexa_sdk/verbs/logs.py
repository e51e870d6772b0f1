"""logs: what a trial wrote."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add(parser: Parser) -> None:
    parser.add_words(completes="runs")
    parser.add("--follow", "-f", action="store_true", help="print it as it grows, until the trial ends or Ctrl-C")
    parser.add("--tail", type=int, metavar="N", help="the last N lines alone")
    parser.add("--attempt", type=int, metavar="K", help="an earlier attempt, counted from 1; else the last")


def _logs(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    if args.follow and args.tail is not None:
        raise BadUsage("--follow prints all there is, and --tail a part; give one of them")
    chosen = 0 if trials is None else trials[0] if len(trials) == 1 else trials
    return run.logs(chosen, attempt=args.attempt, tail=args.tail, follow=args.follow)


VERBS = [
    Verb(
        "logs",
        "Show what a trial wrote to stdout and stderr.",
        "[RUN] [TRIALS] [--follow] [--tail N] [--attempt K]",
        _add,
        _logs,
        more=f"TRIALS is a number, 0 unless given, or several, as in 0,3-5: each line has its trial before it.\n{RUN_HELP}",
    )
]
