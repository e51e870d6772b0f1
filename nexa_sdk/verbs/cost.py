"""cost: what a run, or all runs of a time, took and cost."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

if TYPE_CHECKING:
    from nexa_sdk.cost_report import CostReport

__all__ = ["VERBS"]

_MORE = f"""\
{RUN_HELP}
With --since it is all that ran on the connected cluster, or on --cluster; with --recorded as well, all
that the ledger has of every cluster, and none is asked. What a plan will cost preview shows.

Examples
  cost
  cost lr-sweep-7f3a --by trial
  cost --since 2026-11-01 --by user,day
  cost --since "30 days" --recorded --focus november.csv"""


def _add(parser: Parser) -> None:
    parser.add("run", nargs="?", metavar="RUN", completes="runs", help="the last one, unless given")
    parser.add("--since", metavar="TIME", help="2026-11-01, in UTC, or so long ago: '7 days'")
    parser.add("--until", metavar="TIME", help="not included; now unless given")
    parser.add(
        "--by",
        metavar="NAMES",
        help="add up by some of run, trial, user, account, gpu_type, day, cluster, partition, state, kind, provider, model, tag",
    )
    parser.add("--cluster", metavar="NAME", completes="clusters", help="another cluster than the connected one")
    parser.add("--everyone", action="store_true", help="all users' jobs, as far as the site shows them")
    parser.add("--recorded", action="store_true", help="ask no cluster: what the ledger has, of all of them")
    parser.add("--focus", metavar="FILE", completes="files", help="write it as FOCUS's CSV")
    parser.add("--leave-out-unknown", action="store_true", help="of --focus: leave out what has no known price, rather than refuse")


def _cost(session: Session, args: Namespace) -> object:
    if args.leave_out_unknown and not args.focus:
        raise BadUsage("--leave-out-unknown goes with --focus: a table shows what has no known price as well")
    names = [name.strip() for name in args.by.split(",") if name.strip()] if args.by else []
    report = _report(session, args, per_attempt="trial" in names or bool(args.focus))
    if args.focus:
        report.to_focus_csv(args.focus, leave_out_unknown=args.leave_out_unknown)
    return report.by(*names) if names else report


def _report(session: Session, args: Namespace, *, per_attempt: bool) -> CostReport:
    from nexa_sdk.cost_report import CostReport

    if args.since is None:
        only = [name for name in ("until", "cluster", "everyone", "recorded") if getattr(args, name)]
        if only:
            raise BadUsage(f"--{only[0]} goes with --since; give a time, as in --since '7 days'")
        return session.find_run(args.run).cost()
    if args.run is not None:
        raise BadUsage(f"a run, {args.run!r}, and --since: give one of them")
    if args.recorded:
        if args.cluster or args.everyone:
            raise BadUsage("--recorded asks no cluster: leave out --cluster and --everyone")
        return CostReport.between(args.since, args.until, attempts=per_attempt)
    cluster = session.find_cluster(args.cluster) if args.cluster else session.cluster
    return cluster.cost(args.since, args.until, everyone=args.everyone, attempts=per_attempt)


VERBS = [
    Verb(
        "cost",
        "Say what a run, or all runs of a time, took and cost.",
        "[RUN] | --since TIME [--until TIME] [--by NAMES] [--focus FILE]",
        _add,
        _cost,
        more=_MORE,
        is_table=True,
    ),
]
