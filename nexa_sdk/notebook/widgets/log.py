"""A log as it grows: its end is seen, and stays so unless one has scrolled up."""

from __future__ import annotations

import html
import re
import threading
from pathlib import Path
from typing import Any, Protocol

import anywidget
import ipywidgets
import traitlets

from nexa_sdk.notebook import front_end

__all__ = ["LogPane", "PlainLogPane", "Shows", "log_pane", "plain"]

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")


def plain(text: str) -> str:
    """Return what a terminal would have left of a text: no colours, and of a progress bar its last state."""
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


class Shows(Protocol):
    """What shows a log."""

    def put(self, title: str, text: str, *, note: str = "") -> None:
        """Show a text, as its program wrote it.

        Parameters
        ----------
        title, text : str
        note : str
            What is to be said beside the title.
        """


def log_pane() -> Any:
    """Return a widget that shows a log, of the kind that the front end has."""
    return LogPane() if front_end.widgets() == "all" else PlainLogPane()


class LogPane(anywidget.AnyWidget):
    """A log of which only what is new is sent. A front end that shows it asks for all, so that none is saved."""

    # its text: of a path anywidget would watch the file, and hold every widget for as long as the kernel lives
    _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    title = traitlets.Unicode().tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._sending = threading.Lock()  # a front end is answered by another thread than the one that follows the log
        self.on_msg(self._asked)

    def put(self, title: str, text: str, *, note: str = "") -> None:
        """Show a text; see :meth:`Shows.put`."""
        with self._sending:
            before, self._text = self._text, plain(text)
            is_another = title != self.title
            self.title, self.note = title, note
            if is_another:
                self.send({"kind": "all", "text": self._text})
            elif self._text != before:
                same = _common(before, self._text)
                kept = len(before[:same].encode("utf-16-le", "surrogatepass")) // 2  # as JavaScript counts
                self.send({"kind": "more", "keep": kept, "text": self._text[same:]})

    def _asked(self, widget: Any, content: Any, buffers: Any) -> None:
        with self._sending:
            self.send({"kind": "all", "text": self._text})


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PlainLogPane(ipywidgets.HTML):  # type: ignore[misc]  # ipywidgets has no types
    """A log where only core widgets are: it is sent whole, and stands at its end."""

    def put(self, title: str, text: str, *, note: str = "") -> None:
        """Show a text; see :meth:`Shows.put`."""
        beside = f" · {html.escape(note)}" if note else ""
        # a column that begins at its end stays there while it grows
        self.value = (
            f"<div><b>{html.escape(title)}</b>{beside}</div>"
            '<div style="display:flex;flex-direction:column-reverse;max-height:22em;overflow:auto;'
            'border:1px solid var(--jp-border-color2, var(--vscode-panel-border, #ccc));padding:.4em" '
            f'tabindex="0" role="log" aria-live="off" aria-label="{html.escape(title, quote=True)}">'
            f'<pre style="margin:0;white-space:pre-wrap;overflow-wrap:anywhere">{html.escape(plain(text))}</pre></div>'
        )
