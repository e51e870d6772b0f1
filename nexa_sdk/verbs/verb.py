"""Verb: something that ``%nexa`` and the console command can do."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session

__all__ = ["Verb"]


@dataclass(frozen=True)
class Verb:
    """Something that can be done.

    Attributes
    ----------
    name, help : str
        One word, and one line.
    usage : str
        What its line looks like after the verb's name.
    add_arguments : callable
        Adds its arguments to a parser.
    act : callable
        Does it, and returns an object; it prints none.
    more : str
        What its help says further.
    takes_command : bool
        Whether all words after ``--`` are a command.
    takes_body : bool
        Whether it can head a cell.
    is_table : bool
        Whether it returns a DataFrame.
    """

    name: str
    help: str
    usage: str
    add_arguments: Callable[[Parser], None]
    act: Callable[[Session, Namespace], object]
    more: str = ""
    takes_command: bool = False
    takes_body: bool = False
    is_table: bool = False
