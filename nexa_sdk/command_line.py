"""Commands: text split into words as a shell splits it, and the name that a program gives its runs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from nexa_sdk.errors import SweepError
from nexa_sdk.values import check_text

__all__ = ["check_run_name", "program_name", "split_command"]

_SHELL_WORDS = re.compile(r"\|\|?|&&?|;|\d?>>?(&\d)?|<|&>")


def split_command(command: str | Sequence[str]) -> tuple[str, ...]:
    """Split a command into words, as a shell would; no shell reads them."""
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise SweepError(f"command {command!r} can't be split into words: {error}") from error
        meant_for_a_shell = [word for word in words if _SHELL_WORDS.fullmatch(word)]
        if meant_for_a_shell:
            raise SweepError(
                f"command {command!r}: no shell reads it, so {meant_for_a_shell[0]!r} would be an "
                'argument; write ["bash", "-c", "…"] for a shell\'s work, or a list of words if '
                "the argument is meant"
            )
    else:
        if not isinstance(command, Iterable):
            raise SweepError(f"command {command!r}: give text, or a list of words")
        words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in command]
    for word in words:
        if not isinstance(word, str):
            raise SweepError(f"command {command!r}: the word {word!r} is no text; write it as {str(word)!r}")
        check_text("command", word)
    if not words or not words[0]:
        raise SweepError(f"command {command!r} names no program")
    return tuple(words)


def program_name(words: Sequence[str]) -> str:
    """Name a run after its program: the first script or module among the words."""
    for before, word in zip(("", *words), words, strict=False):
        if before == "-m":
            return _slug(word.rpartition(".")[2])
        if re.fullmatch(r"[^{}\s]+\.(py|sh|bash|jl|R|pl|lua|m)", word):
            return _slug(Path(word).stem)
    return _slug(Path(words[0]).name)


def check_run_name(name: str) -> str:
    """Check a name for runs: a job name holds it, and the token after it."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise SweepError(
            f"name {name!r}: give at most 40 letters, digits, '.', '_' and '-', and begin with a "
            f"letter or digit, such as {_slug(str(name))!r}"
        )
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "run"
