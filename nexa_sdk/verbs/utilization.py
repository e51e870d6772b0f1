"""top, utilization and verdicts: what nodes and GPUs do."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.status import RUN_HELP
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]

_HOW = "A run is watched that was launched with --telemetry, or whose cluster's description names a Prometheus."


def _add_words(parser: Parser) -> None:
    parser.add_words(completes="runs")


def _add_utilization(parser: Parser) -> None:
    _add_words(parser)
    parser.add("--every", type=float, metavar="SECONDS", help="how long a row is to stand for; unless given, a row is a sample")
    parser.add("--now", action="store_true", help="what the connected cluster's nodes do at this moment, whichever run is on them")


def _add_verdicts(parser: Parser) -> None:
    _add_words(parser)
    parser.add("--gpu-hour-cost", metavar="USD", help="what a GPU costs for an hour: then it says what idle ones cost")


def _top(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    return run.top(trials)


def _utilization(session: Session, args: Namespace) -> object:
    if args.now:
        if args.words or args.every is not None:
            raise BadUsage("--now tells of the whole cluster: leave the run, its trials and --every out")
        return session.cluster.utilization()
    run, trials = session.find_run_and_trials(args.words)
    return run.utilization(trials, every=args.every)


def _verdicts(session: Session, args: Namespace) -> object:
    run, trials = session.find_run_and_trials(args.words)
    return run.verdicts(trials, gpu_hour_cost=args.gpu_hour_cost)


VERBS = [
    Verb(
        "top",
        "Show live what a run's GPUs and nodes do.",
        "[RUN] [TRIALS]",
        _add_words,
        _top,
        more=f"In a notebook the cell returns at once; a terminal follows until the run has ended, or Ctrl-C.\n{_HOW}\n{RUN_HELP}",
    ),
    Verb(
        "utilization",
        "Return what a run's GPUs and nodes did, as a DataFrame.",
        "[RUN] [TRIALS] [--every SECONDS] [--now]",
        _add_utilization,
        _utilization,
        more=f"{_HOW}\n{RUN_HELP}",
        is_table=True,
    ),
    Verb(
        "verdicts",
        "Say what stands out in it: idle GPUs, starved ones, memory to spare.",
        "[RUN] [TRIALS] [--gpu-hour-cost USD]",
        _add_verdicts,
        _verdicts,
        more=f"{_HOW}\n{RUN_HELP}",
        is_table=True,
    ),
]
