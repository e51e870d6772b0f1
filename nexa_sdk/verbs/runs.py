"""runs and attach: what was launched, and how to take it up again."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add_runs(parser: Parser) -> None:
    parser.add("--limit", type=int, default=20, metavar="N", help="how many at most; 20 unless given")


def _add_attach(parser: Parser) -> None:
    parser.add("run", nargs="?", metavar="RUN", completes="runs", help="an id, or the beginning of one")


def _runs(_: Session, args: Namespace) -> object:
    from nexa_sdk.known import runs

    if args.limit < 1:
        raise BadUsage(f"--limit {args.limit}: give 1 or more")
    return runs(limit=args.limit)


def _attach(session: Session, args: Namespace) -> object:
    if args.run is None:
        raise BadUsage(f"{session.prog} attach needs a run's id; {session.prog} runs lists them")
    session.last_run = session.find_run(args.run)
    return session.last_run


VERBS = [
    Verb("runs", "List the newest runs, as a DataFrame; no cluster is asked.", "[--limit N]", _add_runs, _runs, is_table=True),
    Verb("attach", "Find a run again, in any process, and mean it by the lines that follow.", "RUN", _add_attach, _attach),
]
