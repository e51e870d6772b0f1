"""connect: which cluster the lines that follow mean."""

from __future__ import annotations

from argparse import Namespace

from nexa_sdk.errors import BadUsage
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
        help="local, sandbox, slurm, ssh://host, hosts://gpu1,gpu2, one of clusters.toml or nexa.toml, or the Python name of a Cluster",
    )
    parser.add("--runs", metavar="FOLDER", completes="files", help="where runs get their folders; the nodes must see it")
    parser.add("--accept-fingerprint", metavar="SHA256:…", help="the key of a host that is not known yet, as its administrators publish it")


def _connect(session: Session, args: Namespace) -> object:
    if args.accept_fingerprint is not None:
        from nexa_sdk.cluster import Cluster

        if args.cluster is None:
            raise BadUsage("--accept-fingerprint belongs to a host: connect ssh://login --accept-fingerprint SHA256:…")
        Cluster.trust(args.cluster, args.accept_fingerprint)
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
        "[NAME] [--runs FOLDER] [--accept-fingerprint SHA256:…]",
        _add,
        _connect,
        more="Until then it is $NEXA_CLUSTER, else local. Without NAME: show which one it is. sandbox is started if need be.",
    )
]
