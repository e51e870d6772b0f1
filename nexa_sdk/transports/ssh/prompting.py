"""Ask the person at the notebook for a passphrase or a one-time code."""

from __future__ import annotations

import getpass
import sys
import threading
from typing import Protocol

from nexa_sdk.errors import LoginFailed

__all__ = ["Ask", "ask"]


class Ask(Protocol):
    """Asks for something; `shown` is whether the answer may be seen while it is typed."""

    def __call__(self, question: str, *, shown: bool = False) -> str: ...


def ask(question: str, *, shown: bool = False) -> str:
    """Ask where somebody can answer: in the cell that runs, or in the terminal.

    Raises
    ------
    LoginFailed
        Nobody is there: a background thread asks, or there is neither terminal nor notebook.
    """
    if threading.current_thread() is not threading.main_thread():
        raise LoginFailed(f"the login asks {question.strip()!r}, and nobody is there to answer: connect again in a cell of its own")
    if not _in_kernel() and not (sys.stdin is not None and sys.stdin.isatty()):
        raise LoginFailed(
            f"the login asks {question.strip()!r}, and there is no terminal to answer in; use an agent or a key without a passphrase"
        )
    try:
        return input(question) if shown else getpass.getpass(question)
    except (EOFError, NotImplementedError) as error:  # a front end that has no place to type into
        raise LoginFailed(f"the login asks {question.strip()!r}, and this front end takes no input: {error}") from error


def _in_kernel() -> bool:
    """Whether a notebook's kernel runs this: its front end can be asked."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
