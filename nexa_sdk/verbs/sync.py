"""sync and fetch: the project to the cluster, and what a run wrote back."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add_sync(parser: Parser) -> None:
    parser.add("destination", nargs="?", metavar="FOLDER", help="where to, on the cluster; else a folder of the project's name in the home")
    parser.add("--path", default=".", metavar="FOLDER", completes="files", help="the project, or a folder in its repository; else .")
    parser.add("--cluster", metavar="NAME", completes="clusters", help="another cluster than the connected one")
    parser.add("--dry-run", "-n", action="store_true", help="list what would go and what would be deleted; change nothing")
    parser.add("--no-delete", action="store_true", help="keep there what earlier syncs put there and the project has no more")
    parser.add("--adopt", action="store_true", help="take a folder that is not empty, and that no sync of this project made")
    parser.add("--include-runs", action="store_true", help="take this machine's folder of runs along, where it lies in the project")
    parser.add("--timeout", type=float, metavar="SECONDS", help="for all of it; else as long as it takes")


def _sync(session: Session, args: Namespace) -> object:
    cluster = session.find_cluster(args.cluster) if args.cluster else session.cluster
    return cluster.sync(
        args.path,
        args.destination,
        dry_run=args.dry_run,
        delete=not args.no_delete,
        adopt=args.adopt,
        include_runs=args.include_runs,
        timeout=args.timeout,
    )


def _add_fetch(parser: Parser) -> None:
    parser.add("patterns", nargs="*", metavar="PATTERN", help="as .gitignore has them: 'checkpoints/**', '*.pt'")
    parser.add("--run", metavar="RUN", completes="runs", help="an id, the beginning of one, or a Python name; else the last run")
    parser.add("--to", metavar="FOLDER", completes="files", help="the folder for them; else one called as the run")
    parser.add("--overwrite", action="store_true", help="let them take the place even of files that are newer here")
    parser.add("--timeout", type=float, metavar="SECONDS", help="for all of it; else as long as it takes")


def _fetch(session: Session, args: Namespace) -> object:
    if not args.patterns:
        raise BadUsage(f"{session.prog} fetch needs to know what: {session.prog} fetch 'checkpoints/**'")
    return session.find_run(args.run).fetch(*args.patterns, to=args.to, overwrite=args.overwrite, timeout=args.timeout)


VERBS = [
    Verb(
        "sync",
        "Make a folder of the cluster what the project is here.",
        "[FOLDER] [--dry-run] [--path FOLDER] [--cluster NAME] [--no-delete] [--adopt] [--include-runs]",
        _add_sync,
        _sync,
        more="Only what differs travels, and only what a sync put there is ever deleted.",
        is_table=True,
    ),
    Verb(
        "fetch",
        "Bring files that a run wrote to here.",
        "PATTERN … [--run RUN] [--to FOLDER] [--overwrite]",
        _add_fetch,
        _fetch,
        more="Patterns are relative to where the trials ran, or to the run's folder.",
    ),
]
