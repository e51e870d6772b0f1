"""CellOutput: what a remote cell writes and shows, in the cell that waits for it."""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING

from nexa_sdk.display import MUTED, state_badge
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.output import Output
from nexa_sdk.remote.tape import Begun, Cleared, Shown, Text, overwritten
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.scheduling.base import TaskStatus

__all__ = ["CellOutput"]


class CellOutput:
    """Where a remote cell shows itself: a line on how it stands, and below what it wrote and showed, in order.

    Parameters
    ----------
    heading : str
        What the line begins with.
    """

    def __init__(self, heading: str) -> None:
        self._heading = heading
        self._is_notebook = front_end.in_notebook()
        self._line = Output()
        self._state: State | None = None
        self._words = self._problem = ""
        self._before = ""
        if not self._is_notebook:
            print(heading, file=sys.stderr)
        self._draw()

    # ---- the line ------------------------------------------------------------------------------

    def head(self, heading: str) -> None:
        """Let the line begin otherwise."""
        self._heading = heading
        self._draw()

    def stands(self, status: TaskStatus | None, problem: str = "") -> None:
        """Say how it stands, as far as that is known, and why that may not be up to date."""
        self._problem = problem
        if status is not None:
            self._state = status.state
            node = f"on {status.node}" if status.node and not status.state.is_terminal else ""
            self._words = f"({status.reason})" if status.reason else node
        if problem and not self._is_notebook:
            print(f"{problem}. The cell goes on, and so does what it shows, once the host is back …", file=sys.stderr)
        self._draw()

    def ended(self, outputs: str, *, is_failed: bool = False) -> None:
        """Say that its code came to its end, and what comes back."""
        self._state = State.FAILED if is_failed else State.COMPLETED
        self._words, self._problem = f"· brings {outputs}" if outputs else "", ""
        self._draw()

    def _draw(self) -> None:
        state = self._state
        text = " · ".join(filter(None, [self._heading, f"{state.value if state is not None else ''} {self._words}".strip()]))
        text += f" · not up to date: {self._problem}. The cell goes on" if self._problem else ""
        if text == self._before:
            return
        self._before = text
        if not self._is_notebook:
            return
        badge = state_badge(state) if state is not None else ""
        parts = [html.escape(self._heading), f"{badge} {html.escape(self._words)}".strip()]
        if self._problem:
            parts.append(
                f"not up to date: {html.escape(self._problem)}. The cell goes on, and so does what it shows, once the host is back"
            )
        shown = " · ".join(filter(None, parts))
        self._line.show({"text/html": f'<div style="color:{MUTED};font-size:90%">{shown}</div>', "text/plain": text})

    # ---- what it shows -------------------------------------------------------------------------

    def take(self, event: Text | Shown | Cleared | Begun) -> None:
        """Show something further."""
        match event:
            case Text(text):
                sys.stdout.write(overwritten(text))
                sys.stdout.flush()
            case Shown():
                self._show(event)
            case Cleared(wait):
                self._clear(wait=wait)
            case Begun():
                pass

    def _show(self, event: Shown) -> None:
        if not self._is_notebook:
            print(event.data.get("text/plain", ""))
            return
        from IPython.display import display

        display(  # type: ignore[no-untyped-call]
            event.data, raw=True, metadata=event.metadata, display_id=event.display_id, update=event.is_update
        )

    def _clear(self, *, wait: bool) -> None:
        if not self._is_notebook:
            return
        from IPython.display import clear_output

        clear_output(wait=wait)  # type: ignore[no-untyped-call]
        self._line, self._before = Output(), ""
        self._draw()
