"""preview and launch: see exactly what will run, and run it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from nexa_sdk.verbs.job_options import add_job_options
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.target import plan_of
from nexa_sdk.verbs.verb import Verb

if TYPE_CHECKING:
    from nexa_sdk.plan import Plan

__all__ = ["VERBS"]

_USAGE = "WHAT [NAME=VALUES …] [options]   or   [NAME=VALUES …] [options] -- COMMAND"
_MORE = """\
WHAT is one of
  train.py           a program, run with python (train.sh: with bash), and its parameters:
                       lr=1e-3,1e-4   each value
                       seed=0..2      0, 1 and 2: both ends are included
                       epochs=5       the same in every trial
                     A comma inside brackets, or behind a backslash, belongs to the value.
  study.yaml         a YAML definition; in a notebook also the cell below the line
  sweep              the Python name of a Sweep, a Plan or what %%nexa sweep --out named
-- COMMAND           any other command; {lr} in it is the place of a parameter.

In a notebook $name and {expression} are Python's; a list becomes its values: lr={lrs}.
Options change single fields of the job that --job or the definition gives.

Examples
  launch train.py lr=1e-3,1e-4 seed=0..2 epochs=5 --time 0:10:00 --gpus 1 --throttle 2
  launch lr=1,2 --time 1:00:00 -- python -m pkg.train --flag"""


def _add(parser: Parser) -> None:
    parser.add_words(completes="targets")
    parser.add("--cluster", metavar="NAME", completes="clusters", help="another cluster than the connected one")
    parser.add("--job", metavar="NAME", completes="jobs", help="the Python name of a Job")
    parser.add(
        "--after", action="append", metavar="RUN", completes="runs", help="wait until all of RUN has completed. Can be given several times."
    )
    parser.add("--after-each", metavar="RUN", completes="runs", help="let trial i wait until trial i of RUN has completed")
    parser.add("--name", metavar="NAME", help="what the run is called; else the program's name")
    parser.add("--style", choices=("flags", "hydra", "env", "template"), help="how parameters reach the program; see Sweep")
    parser.add(
        "--budget", metavar="AMOUNT", help="what it may cost: '50 USD'; it is refused if it could cost more, and holds to it by itself"
    )
    parser.add(
        "--until-spent", action="store_true", help="launch also what could cost more than --budget, and begin nothing once that is spent"
    )
    parser.add("--end-running", action="store_true", help="once --budget is spent, end also what runs")
    parser.add("--allow-unknown", action="store_true", help="launch it though nobody knows what it costs, and no budget can be held")
    add_job_options(parser)


def _add_launch(parser: Parser) -> None:
    parser.add("--again", action="store_true", help="run anew what is launched or completed already")
    parser.add("--watch", action="store_true", help="show a live table as well")
    _add(parser)


def _preview(session: Session, args: Namespace) -> object:
    session.previewed = plan_of(session, args)
    return session.previewed


def _what(plan: Plan) -> tuple[object, ...]:
    """Return what two plans share that may stand for each other."""
    return plan.digest, plan.folder.rpartition("/")[0], plan.hold.budget, plan.hold.allow_unknown, plan.hold.is_held


def _launch(session: Session, args: Namespace) -> object:
    plan, previewed = plan_of(session, args), session.previewed
    if previewed is not None and _what(previewed) == _what(plan):
        plan, session.previewed = previewed, None  # byte for byte what was shown, its id included
    run = plan.submit(again=args.again)
    session.last_run = run
    if args.watch:
        run.watch()
    return run


VERBS = [
    Verb(
        "preview",
        "Show the script and the trials that launch would submit; submit nothing.",
        _USAGE,
        _add,
        _preview,
        more=_MORE,
        takes_command=True,
        takes_body=True,
    ),
    Verb(
        "launch",
        "Submit it. What is the same in script and code is launched once.",
        _USAGE,
        _add_launch,
        _launch,
        more=_MORE,
        takes_command=True,
        takes_body=True,
    ),
]
