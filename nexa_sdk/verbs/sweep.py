"""sweep: what to try, as YAML, from a cell or a file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from nexa_sdk.errors import BadUsage
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS"]


def _add(parser: Parser) -> None:
    parser.add("file", nargs="?", metavar="FILE.yaml", completes="yaml", help="a YAML definition")


def _sweep(session: Session, args: Namespace) -> object:
    from nexa_sdk.definition import load

    if (args.file is None) == (session.body is None):
        raise BadUsage(f"{session.prog} sweep reads one YAML definition: a file, or in a notebook the cell below %%nexa sweep")
    # A Path is never taken for the text itself, and a text never for a path.
    return load(Path(args.file).expanduser() if args.file is not None else f"{session.body}\n")


VERBS = [
    Verb(
        "sweep",
        "Read a sweep and its job from YAML.",
        "[FILE.yaml]",
        _add,
        _sweep,
        more=(
            "In a notebook the YAML may stand in the cell below, and --out names what it means:\n\n"
            "  %%nexa sweep --out study\n"
            "  job: {time: 0:10:00}\n"
            "  sweep:\n"
            "    base_args: python train.py\n"
            "    parameters: {lr: [1e-3, 1e-4], seed: {range: [0, 3]}}\n\n"
            "preview and launch then take the name; in Python it has study.sweep, study.job and study.trials()."
        ),
        takes_body=True,
    )
]
