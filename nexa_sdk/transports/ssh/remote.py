"""Commands as a remote shell reads them: whole, or not at all."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping, Sequence

__all__ = ["Started", "find_start", "render"]

LONGEST = 1 << 15  # bytes of a script that goes along with the request; the kernel takes arguments of 128 KiB

# What sshd hands to the user's login shell, whichever that is: nothing in it means another thing to
# csh or fish. A short script goes along, so that it needs no round trip of its own.
_SHORT = """exec bash --norc -c 'eval "$(base64 -d <<< {script})"'"""
# A long one comes by stdin and ends with a NUL: one that a broken line cuts short is never begun.
_LONG = """exec bash --norc -c 'IFS= read -r -d "" script && eval "$script"'"""


class Started:
    """A command on its way.

    Attributes
    ----------
    command : str
        What sshd is asked to run.
    stdin : bytes
        What comes before the command's own stdin.
    mark : bytes
        What it prints first, with its process id behind: a login's own words come before.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None) -> None:
        nonce = uuid.uuid4().hex
        self.mark = f"nexa-{nonce} ".encode()
        script = f"printf 'nexa-%s %s\\n' {nonce} $$\n{render(argv, env)}\nexit\n".encode(errors="surrogateescape")
        is_short = len(script) <= LONGEST
        self.command = _SHORT.format(script=base64.b64encode(script).decode()) if is_short else _LONG
        self.stdin = b"" if is_short else script + b"\0"


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
