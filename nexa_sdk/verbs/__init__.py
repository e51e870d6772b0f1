"""What ``%nexa`` and the console command can do: every verb once, for both.

A verb reads its words with an argparse parser, acts, and returns an object; it prints none. The
magic shows the object as a cell's output, the console command as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module

from nexa_sdk.errors import BadUsage, nearest
from nexa_sdk.verbs.parser import Help, HelpWanted, Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["Help", "Session", "Verb", "find", "overview", "parser_of", "perform", "verbs"]

# In the order of the help: first what makes a run, then what follows it.
_MODULES = (
    "connect",
    "sweep",
    "build",
    "launch",
    "remote",
    "status",
    "cost",
    "budget",
    "usage",
    "watch",
    "logs",
    "utilization",
    "cancel",
    "resume",
    "runs",
    "sync",
    "sandbox",
)


@cache
def verbs() -> dict[str, Verb]:
    """Return all verbs by name, in the order of the help."""
    modules = [import_module(f"nexa_sdk.verbs.{name}") for name in _MODULES]
    return {verb.name: verb for module in modules for verb in module.VERBS}


def find(name: str) -> Verb:
    """Return a verb by its name.

    Raises
    ------
    BadUsage
        For another word; the message names the nearest known one.
    """
    known = verbs()
    if name not in known:
        raise BadUsage(f"there is no verb {name!r}; {nearest(name, known)}")
    return known[name]


def overview(prog: str) -> Help:
    """Say what there is, a line for each verb."""
    lines = [f"  {verb.name:<11} {verb.help}" for verb in verbs().values()]
    return Help("\n".join([f"Usage: {prog} VERB …", "", *lines, "", f"{prog} VERB -h says more of one."]))


def parser_of(verb: Verb, session: Session) -> Parser:
    """Return the parser of a verb's words."""
    parser = Parser(f"{session.prog} {verb.name}", verb.usage, f"{verb.help}\n\n{verb.more}".strip())
    verb.add_arguments(parser)
    for name, words in session.outputs.items():
        parser.add_argument(f"--{name}", **words)
    return parser


def perform(session: Session, words: Sequence[str]) -> object:
    """Do what a line says, and return what came of it.

    Parameters
    ----------
    session : Session
    words : sequence of str
        The line after ``%nexa`` or ``nexa``, as words.

    Raises
    ------
    BadUsage
        When the line can't be meant.
    NexaError
        When the verb fails.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        return overview(session.prog)
    verb = find(words[0])
    if session.body is not None and not verb.takes_body:
        raise BadUsage(f"{session.prog} {verb.name} reads no cell below it; write it with a single %")
    try:
        args = parser_of(verb, session).read(words[1:], takes_command=verb.takes_command)
    except HelpWanted as wanted:
        return wanted.help
    session.check(args)
    result = verb.act(session, args)
    session.keep(args, result)
    return result
