"""usage: what calls of LLM APIs used and cost."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

if TYPE_CHECKING:
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.monitoring.usage.block import Usage

__all__ = ["VERBS"]

_MORE = """\
Calls are recorded within `with nexa_sdk.track_usage():`, in a cell below %%nexa usage, or between
usage start and usage stop: tokens and cost by genai-prices, and neither what was asked nor what was
answered. usage alone tells what the ledger has of the last 30 days.
--import reads JSON lines: {"id": …, "provider": …, "model": …, "at": …, "input_tokens": …, "output_tokens": …},
bodies of responses, or the results of a batch. The same file twice counts once.

Examples
  usage --by model,day
  usage --since 2026-11-01 --focus november.csv
  usage start --tag eval
  usage --import calls.jsonl --provider openai"""

# What a line may be meant for, and the options that go with it.
_ALLOWED = {
    "start": ("tag", "provider"),
    "stop": ("by", "focus"),
    "a cell": ("by", "focus", "tag", "provider"),
    "--import": ("by", "focus", "tag", "provider", "at"),
    "what the ledger has": ("since", "until", "by", "focus", "tag"),
}


def _add(parser: Parser) -> None:
    parser.add("what", nargs="?", metavar="start|stop", completes="start stop", help="record all of this notebook from now on, or no more")
    parser.add("--since", metavar="TIME", help="2026-11-01, in UTC, or so long ago; '30 days' unless given")
    parser.add("--until", metavar="TIME", help="not included; now unless given")
    parser.add("--by", metavar="NAMES", help="add up by some of provider, model, tag, day, run, trial, user, state")
    parser.add("--focus", metavar="FILE", completes="files", help="write it as FOCUS's CSV")
    parser.add("--leave-out-unknown", action="store_true", help="of --focus: leave out what has no known price, rather than refuse")
    parser.add("--tag", metavar="WORD", help="of what is recorded or imported; else only what has this tag")
    parser.add("--provider", metavar="NAME", help="whose API an unknown address is, or whose the lines are that say none")
    parser.add("--import", dest="file", metavar="FILE", completes="files", help="write the calls of a file of JSON lines into the ledger")
    parser.add("--at", metavar="TIME", help="of lines that do not say when they were")


def _usage(session: Session, args: Namespace) -> object:
    if args.leave_out_unknown and not args.focus:
        raise BadUsage("--leave-out-unknown goes with --focus: a table shows what has no known price as well")
    meant = _meant(session, args)
    for name in ("since", "until", "by", "focus", "tag", "provider", "at"):
        if getattr(args, name) is not None and name not in _ALLOWED[meant]:
            raise BadUsage(f"--{name} does not go with {meant}; there go {', '.join(f'--{one}' for one in _ALLOWED[meant])}")
    if session.execute is None and meant in ("start", "stop", "a cell"):
        raise BadUsage(f"{session.prog} usage {meant} goes with a notebook: a console's line has nothing to record")
    if meant == "start":
        return _start(session, args)
    names = [name.strip() for name in args.by.split(",") if name.strip()] if args.by else []
    report = (
        _stop(session)
        if meant == "stop"
        else _of_cell(session, args)
        if meant == "a cell"
        else _imported(args)
        if meant == "--import"
        else _recorded(args)
    )
    if args.focus:
        report.to_focus_csv(args.focus, leave_out_unknown=args.leave_out_unknown)
    return report.by(*names) if names else report


def _meant(session: Session, args: Namespace) -> str:
    """Say which of the things a line is for."""
    meant = [
        *([args.what] if args.what is not None else []),
        *(["a cell"] if session.body is not None else []),
        *(["--import"] if args.file is not None else []),
    ]
    if len(meant) > 1:
        raise BadUsage(f"{meant[0]} and {meant[1]}: write one of them")
    if args.what not in (None, "start", "stop"):
        raise BadUsage(f"{args.what!r}: write start or stop, or no word")
    return meant[0] if meant else "what the ledger has"


def _of_cell(session: Session, args: Namespace) -> CostReport:
    from nexa_sdk.monitoring.usage.block import track_usage

    with track_usage(tag=args.tag, providers=args.provider) as usage:
        session.execute(session.body or "")  # type: ignore[misc]
    return usage.report()


def _start(session: Session, args: Namespace) -> Usage:
    from nexa_sdk.monitoring.usage.block import track_usage

    if session.usage is not None:
        raise BadUsage(f"it is recorded already; {session.prog} usage stop ends that")
    session.usage = track_usage(tag=args.tag, providers=args.provider).start()
    return session.usage


def _stop(session: Session) -> CostReport:
    if session.usage is None:
        raise BadUsage(f"nothing is recorded; {session.prog} usage start begins it")
    report = session.usage.stop()
    session.usage = None
    return report


def _imported(args: Namespace) -> CostReport:
    from nexa_sdk.monitoring.ledger import read_moment
    from nexa_sdk.monitoring.usage.lines import import_usage

    at = read_moment("at", args.at) / 1000 if args.at else None
    return import_usage(Path(args.file).expanduser(), provider=args.provider, tag=args.tag, at=at)


def _recorded(args: Namespace) -> CostReport:
    from nexa_sdk.cost_line import API
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.monitoring.usage.recorder import flush

    flush()
    report = CostReport.between(args.since or "30 days", args.until, attempts=bool(args.focus))
    calls = replace(report.where(kind=API), title=report.title.replace("Cost", "API usage", 1))
    return calls.where(tag=args.tag) if args.tag else calls


VERBS = [
    Verb(
        "usage",
        "Say what calls of LLM APIs used and cost, and record them.",
        "[start|stop] [--since TIME] [--by NAMES] [--tag WORD] | --import FILE",
        _add,
        _usage,
        more=_MORE,
        takes_body=True,
        is_table=True,
    ),
]
