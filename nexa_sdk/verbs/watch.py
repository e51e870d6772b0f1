"""watch: a live table of a run."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add(parser: Parser) -> None:
    parser.add("run", nargs="?", metavar="RUN", completes="runs", help="the last one, unless given")


def _watch(session: Session, args: Namespace) -> object:
    return session.find_run(args.run).watch()


VERBS = [
    Verb(
        "watch",
        "Show the trials while they run.",
        "[RUN]",
        _add,
        _watch,
        more=f"In a notebook the cell returns at once; a terminal waits for the end, and Ctrl-C leaves the run alone.\n{RUN_HELP}",
    )
]
