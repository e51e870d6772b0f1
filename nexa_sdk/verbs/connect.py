"""connect: which cluster the lines that follow mean."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add(parser: Parser) -> None:
    parser.add(
        "cluster",
        nargs="?",
        metavar="NAME",
        completes="clusters",
        help="local, sandbox, slurm, one of clusters.toml or nexa.toml, or the Python name of a Cluster",
    )
    parser.add("--runs", metavar="FOLDER", completes="files", help="where runs get their folders; the nodes must see it")


def _connect(session: Session, args: Namespace) -> object:
    if args.cluster is None and args.runs is None:
        return session.cluster
    if args.runs is None:
        session.connect(session.find_cluster(args.cluster))
    else:
        from nexa_sdk.cluster import Cluster

        session.connect(Cluster(args.cluster or session.cluster_name, runs=args.runs))
    return session.cluster


VERBS = [
    Verb(
        "connect",
        "Choose the cluster, and ask it whether it is there.",
        "[NAME] [--runs FOLDER]",
        _add,
        _connect,
        more="Until then it is $NEXA_CLUSTER, else local. Without NAME: show which one it is. sandbox is started if need be.",
    )
]
