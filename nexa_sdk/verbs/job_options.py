"""The fields of a Job as options of a line. The model itself is the list: nothing is said twice."""

from __future__ import annotations

import argparse
import inspect
import re
from argparse import Namespace
from functools import cache
from typing import Any, get_args

from nexa_sdk.errors import BadUsage
from nexa_sdk.values import parse_scalar
from nexa_sdk.verbs.parser import Parser

__all__ = ["add_job_options", "read_job_options"]

_FILES = ("workdir", "venv", "conda", "python")
_MARK = "job_"  # before a field's name among the arguments read


def add_job_options(parser: Parser) -> None:
    """Add an option for each field of :class:`nexa_sdk.Job`.

    A field of several values becomes an option that can be given several times: ``--module``,
    ``--secret``; a mapping takes ``KEY=VALUE``.
    """
    for field, kind in _kinds().items():
        help_text = _descriptions().get(field, "").replace("%", "%%")
        where = _MARK + field
        completes = "partitions" if field == "partition" else "files" if field in _FILES else ""
        if kind == "switch":
            parser.add(f"--{_dashed(field)}", dest=where, action="store_true", default=None, help=help_text)
        elif kind == "choice":
            parser.add(f"--{_dashed(field)}", dest=where, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        elif kind in ("several", "mapping"):
            meta = "KEY=VALUE" if kind == "mapping" else "NAME" if field == "secrets" else field.removesuffix("s").upper()
            text = f"{help_text} Can be given several times."
            parser.add(f"--{_dashed(field).removesuffix('s')}", dest=where, action="append", metavar=meta, help=text)
        else:
            meta = "N" if kind == "number" else field.upper()
            parser.add(f"--{_dashed(field)}", dest=where, metavar=meta, completes=completes, help=help_text)


def read_job_options(args: Namespace) -> dict[str, Any]:
    """Return the fields that were given, for :class:`nexa_sdk.Job` to check."""
    given = {field: getattr(args, _MARK + field) for field in _kinds()}
    return {field: _value(field, _kinds()[field], value) for field, value in given.items() if value is not None}


def _value(field: str, kind: str, given: Any) -> Any:
    if kind == "number":
        return int(given) if re.fullmatch(r"[0-9]+", given) else given  # what is none, Job says
    if kind == "mapping":
        pairs = {}
        for pair in given:
            key, equals, text = pair.partition("=")
            if not equals and field == "env":
                # What was typed is not shown: it may be a secret.
                raise BadUsage("--env takes KEY=VALUE; a value that must stay secret goes with --secret KEY")
            pairs[key] = text if field == "env" else parse_scalar(text) if equals else True
        return pairs
    return given


def _dashed(field: str) -> str:
    return field.replace("_", "-")


@cache
def _kinds() -> dict[str, str]:
    """Say for each field how its option takes values."""
    from nexa_sdk.job import Job

    found = {}
    for name, field in Job.model_fields.items():
        leaves = [field.annotation]
        for leaf in leaves:  # grows while it is walked
            leaves += get_args(leaf)
        if dict in (getattr(leaf, "__origin__", None) for leaf in leaves):
            kind = "mapping"
        elif tuple in (getattr(leaf, "__origin__", None) for leaf in leaves):
            kind = "several"
        elif bool in leaves:
            kind = "choice" if type(None) in leaves else "switch"
        else:
            kind = "number" if int in leaves else "text"
        found[name] = kind
    return found


@cache
def _descriptions() -> dict[str, str]:
    """Take the first sentence on each field from the docstring of Job."""
    from nexa_sdk.job import Job

    section = (inspect.getdoc(Job) or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\w[\w, ]*) : .*\n((?:    .*\n?)+)", section, re.MULTILINE):
        sentence = re.split(r"(?<=\.)\s", " ".join(text.split()).replace("``", ""), maxsplit=1)[0]
        found.update(dict.fromkeys(names.split(", "), sentence))
    return found
