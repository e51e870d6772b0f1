"""remote: this cell on the cluster."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import BadUsage, nearest
from nexa_sdk.verbs.job_options import add_job_options, read_job_options
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.target import budget_of, job_of
from nexa_sdk.verbs.verb import Verb

if TYPE_CHECKING:
    from nexa_sdk.plan import Plan

__all__ = ["VERBS"]

_FIRST_LINE = 2  # of the code, in a cell whose first line is the magic's

_MORE = """\
The cell below is executed on the cluster, as one trial of a run. Text, progress bars, values and pictures come here as
they do there; an error there is an error here. Only the names given by -i go along, pickled by cloudpickle; modules that
the cell uses are imported there. Those given by -o come back, and are bound here: to read them is to trust the cluster.

The Python there is the job's python3, 3.8 or later, with --module, --venv or --conda before it, or --python; on this
machine it is the notebook's own. Nothing need be installed.

Interrupting the cell cancels the job; with --detach it returns at once, and --attach RUN brings what it showed and its
outputs, in any later notebook. Running the cell again takes up its execution that is under way or of whose end nobody was told
(the kernel died meanwhile); else it is executed anew.

Examples
  %%nexa remote -i x,y -o model --time 0:10:00 --gpus 1
  %nexa remote --attach remote-1a2b3c4d"""


def _add(parser: Parser) -> None:
    parser.add("-i", "--input", action="append", default=[], metavar="NAMES", completes="names", help="what goes along: x,y")
    parser.add("-o", "--output", action="append", default=[], metavar="NAMES", completes="names", help="what comes back: model,history")
    parser.add("--detach", action="store_true", help="return at once; the cell goes on")
    parser.add(
        "--attach", metavar="RUN", completes="runs", help="wait for a cell that was launched, and bring what it showed and its outputs"
    )
    parser.add("--again", action="store_true", help="execute it anew, though it is under way")
    parser.add("--dry-run", action="store_true", help="show the plan; send nothing")
    parser.add("--cluster", metavar="NAME", completes="clusters", help="another cluster than the connected one")
    parser.add("--job", metavar="NAME", completes="jobs", help="the Python name of a Job")
    parser.add(
        "--after", action="append", metavar="RUN", completes="runs", help="wait until all of RUN has completed. Can be given several times."
    )
    parser.add("--name", metavar="NAME", help="what the run is called; else remote")
    parser.add("--budget", metavar="AMOUNT", help="what it may cost: '50 USD'; it is refused if it could cost more")
    parser.add("--until-spent", action="store_true", help="launch also what could cost more than --budget")
    parser.add("--end-running", action="store_true", help="once --budget is spent, end it")
    parser.add("--allow-unknown", action="store_true", help="launch it though nobody knows what it costs, and no budget can be held")
    add_job_options(parser)


def _remote(session: Session, args: Namespace) -> object:
    if args.attach is not None:
        return _attach(session, args)
    if session.body is None:
        raise BadUsage(
            f"{session.prog} remote needs a cell below it: write it with %% as a cell's first line; --attach RUN alone needs none"
        )
    if not session.body.strip():
        raise BadUsage("the cell is empty; write below the line what is to run")
    plan = _plan(session, args)
    if args.dry_run:
        return plan
    if args.detach:
        cell = plan.submit(again=args.again).cell
        session.last_run = cell.run
        return cell
    from nexa_sdk.remote_cell import execute

    cell, outputs = execute(plan, again=args.again, launched=session.mean)
    session.name(outputs)
    return cell if getattr(args, "out", None) is not None else None


def _plan(session: Session, args: Namespace) -> Plan:
    from nexa_sdk.remote.packing import read_names

    inputs, outputs = read_names(args.input), read_names(args.output)
    known = session.namespace
    missing = [name for name in inputs if name not in known]
    if missing:
        hint = nearest(missing[0], [name for name in known if not name.startswith("_")])
        near = f"; {hint}" if hint.startswith("did you mean") else ""  # all known ones would be too many
        raise BadUsage(f"-i {missing[0]}: there is no Python name {missing[0]!r}{near}")
    cluster = session.find_cluster(args.cluster) if args.cluster else session.cluster
    return cluster.plan_remote(
        session.body or "",
        job_of(session, args.job) if args.job is not None else None,
        inputs={name: known[name] for name in inputs},
        outputs=outputs,
        name=args.name,
        namespace={name: known[name] for name in known if not name.startswith("_")},
        first_line=_FIRST_LINE,
        after=[session.find_run(word) for word in args.after or ()],
        budget=budget_of(args),
        allow_unknown=args.allow_unknown,
        **read_job_options(args),
    )


def _attach(session: Session, args: Namespace) -> Any:
    given = [name for name in ("input", "output", "detach", "again", "dry_run", "job", "name", "budget") if getattr(args, name)]
    if session.body is not None or given:
        what = "the cell below" if session.body is not None else f"--{given[0].replace('_', '-')}"
        raise BadUsage(f"--attach takes up what was launched, and {what} would launch; give one of them")
    cell = session.find_run(args.attach).cell
    session.last_run = cell.run
    session.name(cell.result())
    return cell if getattr(args, "out", None) is not None else None


VERBS = [
    Verb(
        "remote",
        "Execute this cell on the cluster: inputs go along, outputs and pictures come back.",
        "[-i NAMES] [-o NAMES] [--detach] [options]   or   --attach RUN",
        _add,
        _remote,
        more=_MORE,
        takes_body=True,
    ),
]
