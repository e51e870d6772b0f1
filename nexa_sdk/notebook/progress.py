"""Progress: how far a run is, while a cell waits for it."""

from __future__ import annotations

import html
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nexa_sdk.notebook import front_end, run_picture
from nexa_sdk.notebook.output import Output

if TYPE_CHECKING:
    from nexa_sdk.run import Run

__all__ = ["Progress"]


class Progress:
    """The progress of a waiting cell: one updated output in a notebook, one line in a terminal."""

    def __init__(self, run: Run, *, shown: bool) -> None:
        self.run = run
        self._output = Output() if shown and front_end.in_notebook() else None
        self._terminal = sys.stderr if shown and self._output is None and sys.stderr.isatty() else None
        self._before = ""

    def update(self, note: str = "") -> None:
        """Show how far the run is, and why it may not be up to date."""
        text = f"{self.run.id}: " + ", ".join(f"{count:,} {state.value}" for state, count in self.run.counts().items())
        text += f" (not up to date: {note})" if note else ""
        if text == self._before:
            return
        self._before = text
        if self._output is not None:
            below = f"<div>not up to date: {html.escape(note)}</div>" if note else ""
            self._output.show({"text/html": f"<div>{self.run._repr_html_()}{run_picture.bar(self.run)}{below}</div>", "text/plain": text})
        elif self._terminal is not None:
            done = sum(count for state, count in self.run.counts().items() if state.is_terminal)
            filled = round(24 * done / max(1, self.run.trial_count))
            self._terminal.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text}")
            self._terminal.flush()

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.update()
        if self._terminal is not None:
            self._terminal.write("\n")
