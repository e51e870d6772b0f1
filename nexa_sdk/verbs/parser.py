"""The parser of a verb's words: argparse without its exits, with errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from nexa_sdk.errors import BadUsage, nearest

__all__ = ["Help", "HelpWanted", "Parser"]

MAX_LISTED = 12  # options that an error names when none is near


class Help(str):
    """A help text; it shows itself as text, not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class HelpWanted(Exception):
    """Somebody asked for help."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.help = Help(text)


class _HelpAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpWanted(parser.format_help().rstrip())


class Parser(argparse.ArgumentParser):
    """Reads a verb's words. Options and other words may stand in any order.

    Parameters
    ----------
    prog : str
        What stands before the words: ``"%nexa launch"``.
    usage : str
        What the words look like.
    description : str
    """

    def __init__(self, prog: str, usage: str, description: str) -> None:
        self.line = f"{prog} {usage}".rstrip()
        super().__init__(
            prog=prog,
            usage=self.line.replace("%", "%%"),
            description=description,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=110),
            add_help=False,
            allow_abbrev=False,
        )
        self.color = False  # 3.14 colours help by what stdout is, and this text goes elsewhere as well
        self.add_argument("-h", "--help", action=_HelpAction, nargs=0, default=argparse.SUPPRESS, help="show this help")

    def add(self, *names: str, completes: str = "", **how: Any) -> None:
        """Add an argument.

        Parameters
        ----------
        *names : str
        completes : str
            What a completion offers for it: see :mod:`nexa_sdk.notebook.magics.completion`.
        **how
            As ``add_argument`` has it.
        """
        action = self.add_argument(*names, **how)
        action.completes = completes  # type: ignore[attr-defined]

    def add_words(self, *, completes: str) -> None:
        """Take the words that are no options; the verb reads them."""
        self.add("words", nargs="*", help=argparse.SUPPRESS, completes=completes)

    def read(self, words: Sequence[str], *, takes_command: bool = False) -> argparse.Namespace:
        """Read the words.

        Raises
        ------
        BadUsage
            For an option that there is not, or a value that is missing or can't be meant.
        HelpWanted
        """
        command: list[str] | None = None
        if takes_command and "--" in words:
            at = list(words).index("--")
            words, command = words[:at], list(words[at + 1 :])
        args, unknown = self.parse_known_intermixed_args(list(words))
        if unknown:
            name = unknown[0].partition("=")[0]  # what stands behind may be no one's business
            if not name.startswith("-"):
                self.error(f"{name!r} is one word too many")
            hint = nearest(name, self.options())
            is_short = hint.startswith("did you mean") or len(self.options()) <= MAX_LISTED
            self.error(f"there is no option {name}{f'; {hint}' if is_short else ''}")
        args.command = command
        return args

    def options(self) -> list[str]:
        """Name the options."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def action_of(self, option: str) -> argparse.Action | None:
        """Return what an option does; None if there is no such option."""
        return self._option_string_actions.get(option)

    def completes(self) -> str:
        """Say what a completion offers for a word that is no option."""
        return next((getattr(action, "completes", "") for action in self._get_positional_actions()), "")

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and what the line looks like."""
        end = "" if message.endswith("?") else "."
        raise BadUsage(f"{self.prog}: {message.removeprefix('argument ')}{end} Usage: {self.line} (-h says more)")
