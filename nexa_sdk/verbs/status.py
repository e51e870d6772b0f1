"""status and results: what became of a run, as tables."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["RUN_HELP", "VERBS"]

RUN_HELP = "RUN is an id, the beginning of one, or a Python name; without it the last run is meant."


def _add(parser: Parser) -> None:
    parser.add("run", nargs="?", metavar="RUN", completes="runs", help="the last one, unless given")


def _add_results(parser: Parser) -> None:
    _add(parser)
    parser.add("--every-line", action="store_true", help="a row for each line that a program reported, not one for each trial")


def _status(session: Session, args: Namespace) -> object:
    return session.find_run(args.run).status()


def _results(session: Session, args: Namespace) -> object:
    return session.find_run(args.run).results(every_line=args.every_line)


VERBS = [
    Verb("status", "Ask for the state of each trial, as a DataFrame.", "[RUN]", _add, _status, more=RUN_HELP, is_table=True),
    Verb(
        "results",
        "Return parameters, states and what the programs reported, as a DataFrame.",
        "[RUN] [--every-line]",
        _add_results,
        _results,
        more=RUN_HELP,
        is_table=True,
    ),
]
