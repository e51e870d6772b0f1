"""build: a form for a sweep."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add(parser: Parser) -> None:
    parser.add("sweep", nargs="?", metavar="SWEEP", completes="targets", help="the Python name of a Sweep to begin with")


def _build(session: Session, args: Namespace) -> object:
    from nexa_sdk import ui
    from nexa_sdk.sweep import Sweep

    given = session.namespace.get(args.sweep) if args.sweep else None
    if args.sweep and not isinstance(given, Sweep):
        raise BadUsage(f"{args.sweep!r} is no Sweep of this notebook; give the Python name of one, or none")
    return ui.sweep(given, cluster=session.cluster)


VERBS = [
    Verb(
        "build",
        "Build a sweep in a form, see what would happen, and launch it.",
        "[SWEEP]",
        _add,
        _build,
        more="In a notebook. The form shows the Python that does the same; in a terminal that is all.",
    )
]
