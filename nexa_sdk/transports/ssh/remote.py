"""Commands as a remote shell reads them: from its stdin, to the last byte or not at all."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence

__all__ = ["COMMAND", "Started", "find_start", "render"]

# What sshd hands to the user's login shell, whichever that is: always this. The script comes by stdin
# and ends with a NUL, so that one which a broken line cuts short is never begun; what follows the
# NUL is the command's own stdin.
COMMAND = """exec bash --norc -c 'IFS= read -r -d "" script && eval "$script"'"""


class Started:
    """A command on its way: its script, and the mark by which its process is told.

    Attributes
    ----------
    script : bytes
    mark : bytes
        What it prints first, with its process id behind: a login's own words come before.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None) -> None:
        nonce = uuid.uuid4().hex
        self.mark = f"nexa-{nonce} ".encode()
        self.script = f"printf 'nexa-%s %s\\n' {nonce} $$\n{render(argv, env)}\nexit\n".encode(errors="surrogateescape") + b"\0"


def render(argv: Sequence[str], env: Mapping[str, str] | None) -> str:
    """Write a command for bash; `env` is all of its environment, None the session's own."""
    words = [*argv] if env is None else ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *argv]
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if "\0" in word:
        raise ValueError(f"{word!r} holds a NUL, which no argument can")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,@%+-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def find_start(started: Started, output: bytes) -> tuple[int, int] | None:
    """Find a command's process id in what it has printed, and where its own output begins."""
    at = output.find(started.mark)
    end = output.find(b"\n", at) if at >= 0 else -1
    return (int(output[at + len(started.mark) : end]), end + 1) if end >= 0 else None
