"""Completion of ``%nexa`` lines. It reads what this process and the journal know; no cluster is asked."""

from __future__ import annotations

import glob
import os
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

from nexa_sdk.errors import NexaError
from nexa_sdk.verbs import Session, parser_of, verbs

__all__ = ["complete"]

_IPYTHONS = ("In", "Out", "exit", "quit", "get_ipython", "open")  # in every notebook


def complete(line: str, session: Session, namespace: Mapping[str, Any], *, cell: str = "") -> tuple[str, list[str]]:
    """Complete a line.

    Parameters
    ----------
    line : str
        What stands between ``%nexa`` and the cursor.
    session : Session
    namespace : mapping
        The Python names.
    cell : str
        What stands below the line.

    Returns
    -------
    tuple of str and list of str
        The piece before the cursor, and what may stand in its place.
    """
    *words, piece = re.split(r"\s+", line)
    if cell:
        namespace = ChainMap(dict.fromkeys(_assigned(cell)), dict(namespace)) if words[-1:] in (["-o"], ["--output"]) else namespace
    if not words:
        return piece, _beginning(piece, verbs())
    verb = verbs().get(words[0])
    if verb is None or "--" in words:
        return piece, _files(piece, "*") if verb is not None else []
    parser = parser_of(verb, session)
    if piece.startswith("--") and "=" in piece:
        option, _, value = piece.partition("=")
        return value, _values(parser.action_of(option), value, session, namespace)
    if piece.startswith("-"):
        given = set(words)
        return piece, _beginning(piece, [name for name in [*parser.options(), "--help"] if name not in given])
    action = parser.action_of(words[-1]) if words[-1].startswith("-") else None
    if action is not None and action.nargs != 0:
        return piece, _values(action, piece, session, namespace)
    return piece, _offers(parser.completes(), piece, session, namespace)


def _values(action: Any, piece: str, session: Session, namespace: Mapping[str, Any]) -> list[str]:
    if action is None:
        return []
    if action.choices is not None:
        return _beginning(piece, action.choices)
    return _offers(getattr(action, "completes", ""), piece, session, namespace)


def _offers(kind: str, piece: str, session: Session, namespace: Mapping[str, Any]) -> list[str]:
    """Say what may stand somewhere; `kind` is what the argument was declared with."""
    match kind:
        case "names":
            return _names(piece, namespace)
        case "runs":
            return [*_named(piece, namespace, "Run"), *_beginning(piece, _run_ids())]
        case "clusters":
            return [*_named(piece, namespace, "Cluster"), *_beginning(piece, _clusters())]
        case "partitions":
            return _beginning(piece, session.partitions.get(session.cluster_name, []))
        case "jobs":
            return _named(piece, namespace, "Job")
        case "targets":
            return [*_named(piece, namespace, "Sweep", "Plan", "Definition"), *_files(piece, ".py", ".sh", ".yaml", ".yml")]
        case "yaml":
            return _files(piece, ".yaml", ".yml")
        case "files":
            return _files(piece, "*")
        case _:
            return _beginning(piece, kind.split())


def _beginning(piece: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(piece)]


def _named(piece: str, namespace: Mapping[str, Any], *kinds: str) -> list[str]:
    """Return the Python names of our objects; nothing is imported to find out what they are."""
    ours = {name: type(value) for name, value in namespace.items() if type(value).__module__.startswith("nexa_sdk.")}
    return [name for name, kind in ours.items() if kind.__name__ in kinds and name.startswith(piece) and not name.startswith("_")]


def _names(piece: str, namespace: Mapping[str, Any]) -> list[str]:
    """Complete the last of names with commas between them by the user's own, those that are given left out."""
    *given, last = piece.split(",")
    before = "".join(f"{name}," for name in given)
    own = [name for name in namespace if not name.startswith("_") and name not in _IPYTHONS]
    return [f"{before}{name}" for name in sorted(own) if name.startswith(last) and name not in given]


def _assigned(cell: str) -> Iterable[str]:
    """Name what a cell defines, also one that is not written to its end."""
    from nexa_sdk.remote.names import names_of

    try:
        return names_of(cell).defined
    except SyntaxError:
        return re.findall(r"^(?:def\s+|class\s+)?([A-Za-z_]\w*)\s*(?:=[^=]|\(|:)", cell, re.MULTILINE)


def _run_ids() -> list[str]:
    from nexa_sdk.journal import Journal

    try:
        return Journal().run_ids()
    except NexaError:  # status would say it; a completion has nowhere to
        return []


def _clusters() -> list[str]:
    from nexa_sdk.profiles import RESERVED, profiles

    try:
        return [*RESERVED, *profiles()]
    except NexaError:  # connect says it
        return [*RESERVED]


def _files(piece: str, *endings: str) -> list[str]:
    found = sorted(glob.glob(glob.escape(os.path.expanduser(piece)) + "*"))
    home = os.path.expanduser("~") + os.sep
    shown = [f"~{os.sep}{path.removeprefix(home)}" if piece.startswith("~") else path for path in found]
    return [
        f"{name}{os.sep}" if os.path.isdir(path) else name
        for name, path in zip(shown, found, strict=True)
        if os.path.isdir(path) or "*" in endings or path.endswith(endings)
    ]
