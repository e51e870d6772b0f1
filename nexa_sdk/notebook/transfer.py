"""The progress of files on their way: one updated output in a notebook, one line in a terminal."""

from __future__ import annotations

import html
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.output import Output

if TYPE_CHECKING:
    from nexa_sdk.transports.moving import Moved

__all__ = ["TransferProgress", "transfer_text"]

AFTER, EVERY = 0.5, 0.25  # seconds: what ends before is not worth a line, and between two updates


def transfer_text(title: str, moved: Moved) -> str:
    """Say in one line how far it is."""
    left = round(moved.remaining)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"
    return f"{title}: {moved.share:.0%}, {moved.size / 1e6:,.1f} MB, {moved.rate / 1e6:,.1f} MB/s, {clock} left"


class TransferProgress:
    """Shows how far a transfer is.

    Parameters
    ----------
    title : str
    shown : bool
    """

    def __init__(self, title: str, *, shown: bool) -> None:
        self._title = title
        self._output = Output() if shown and front_end.in_notebook() else None
        self._terminal = sys.stderr if shown and self._output is None and sys.stderr.isatty() else None
        self._next = time.monotonic() + AFTER
        self._is_shown = False

    def update(self, moved: Moved) -> None:
        """Show it, if it is time."""
        if time.monotonic() < self._next or (self._output is None and self._terminal is None):
            return
        self._next = time.monotonic() + EVERY
        self._is_shown = True
        text = transfer_text(self._title, moved)
        if self._output is not None:
            bar = f'<progress max="1" value="{moved.share:.3f}" style="width:100%"></progress>'
            self._output.show({"text/html": f"<div>{html.escape(text)}<br>{bar}</div>", "text/plain": text})
        elif self._terminal is not None:
            filled = round(24 * moved.share)
            line = f"[{'#' * filled}{'.' * (24 - filled)}] {text}"
            self._terminal.write(f"\r\x1b[K{line}")
            self._terminal.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._is_shown:
            return
        if self._output is not None:
            text = f"{self._title}: {'done' if kind is None else 'stopped; what arrived is kept'}"
            self._output.show({"text/html": f"<div>{html.escape(text)}</div>", "text/plain": text})
        elif self._terminal is not None:
            self._terminal.write("\r\x1b[K")  # what came of it is said by the result
            self._terminal.flush()
