"""TaskGrid: all trials of a run as squares in the colours of their states; some thousands stay readable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from nexa_sdk import display
from nexa_sdk.states import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TaskGrid"]

_STATES = list(State)
_CODES = {state: code for code, state in enumerate(_STATES)}


class TaskGrid(anywidget.AnyWidget):
    """A grid of trials; one of them can be chosen, by a click or by the keyboard.

    A front end that shows it asks for all states, a byte a trial; afterwards only what has changed is
    sent, five bytes a trial.

    Attributes
    ----------
    chosen : int
        The trial; -1 while none is.
    """

    # its text: of a path anywidget would watch the file, and hold every widget for as long as the kernel lives
    _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    count = traitlets.Int().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    palette: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, choose: Callable[[int], None]) -> None:
        import numpy as np

        marks = [_mark(state) for state in _STATES]
        super().__init__(palette=[[state.value, display.colour(state), mark] for state, mark in zip(_STATES, marks, strict=True)])
        self._codes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._sending = threading.Lock()  # a front end is answered by another thread than the one that hears of the run
        self.on_msg(self._asked)
        self.observe(lambda change: choose(change["new"]), "chosen")

    def update(self, states: Sequence[State]) -> int:
        """Show the states, trial by trial; return how many had changed."""
        import numpy as np

        codes = np.fromiter(map(_CODES.__getitem__, states), np.uint8, len(states))
        with self._sending:
            if len(codes) != len(self._codes):
                self._codes = codes
                self.count = len(codes)
                self._send_all()
                return len(codes)
            changed = np.flatnonzero(codes != self._codes)
            if len(changed):
                self._codes = codes
                if 5 * len(changed) > len(codes):
                    self._send_all()
                else:
                    self.send({"kind": "some"}, [changed.astype("<u4").tobytes(), codes[changed].tobytes()])
            return len(changed)

    def _asked(self, widget: Any, content: Any, buffers: Any) -> None:
        with self._sending:
            self._send_all()

    def _send_all(self) -> None:
        self.send({"kind": "all"}, [self._codes.tobytes()])


def _mark(state: State) -> str:
    """Say what is drawn into a square, so that colour alone tells nothing."""
    if state.is_failure:
        return "cross"
    return {State.RUNNING: "dot", State.COMPLETING: "dot", State.COMPLETED: "", State.UNKNOWN: "question"}.get(state, "hollow")
