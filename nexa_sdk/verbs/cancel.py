"""cancel and retry: end trials, and run failed ones again."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]

_MORE = f"TRIALS are numbers, such as 3 or 0,3-5; unless given, all. Digits alone are trials.\n{RUN_HELP}"


def _add(parser: Parser) -> None:
    parser.add_words(completes="runs")


def _cancel(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    return run.cancel(trials)


def _retry(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    return run.retry(trials)


VERBS = [
    Verb("cancel", "End a run, or some of its trials: first by TERM, then by KILL.", "[RUN] [TRIALS]", _add, _cancel, more=_MORE),
    Verb("retry", "Run the failed trials again; they keep their numbers and every attempt.", "[RUN] [TRIALS]", _add, _retry, more=_MORE),
]
