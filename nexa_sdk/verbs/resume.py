"""resume: make a launch whole that was cut short."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]

_MORE = f"""\
A launch is cut short when its kernel dies, its machine goes down, or its cluster gives no answer.
What arrived is found by its name and adopted; what provably did not is submitted. Nothing is
submitted twice. launch of the same does it too.
{RUN_HELP}"""


def _add(parser: Parser) -> None:
    parser.add("run", nargs="?", metavar="RUN", completes="runs", help="the last one, unless given")
    parser.add("--force", action="store_true", help="submit again also what nobody can say anything of; look with squeue before")


def _resume(session: Session, args: Namespace) -> object:
    session.last_run = session.find_run(args.run).resume(force=args.force)
    return session.last_run


VERBS = [Verb("resume", "Send what of a launch was cut short and never arrived.", "[RUN] [--force]", _add, _resume, more=_MORE)]
