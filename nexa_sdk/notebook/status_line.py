"""StatusLine: where a view says what is not as it should be; no front end shows what a callback raises."""

from __future__ import annotations

import html
import time
import traceback
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.errors import ClusterError, NexaError

if TYPE_CHECKING:
    import ipywidgets

__all__ = ["StatusLine"]

_LONGEST = 20_000  # characters of a traceback: its end tells


class StatusLine:
    """One line under a view."""

    def __init__(self) -> None:
        self.words = ""
        self._details = ""
        self._since = ""
        self._is_trouble = False
        self._widget: Any = None

    @property
    def widget(self) -> ipywidgets.HTML:
        """The line, as a widget; a screen reader is told when it changes."""
        if self._widget is None:
            import ipywidgets

            self._widget = ipywidgets.HTML(self.html())
        return self._widget

    def say(self, words: str) -> None:
        """Tell what goes on."""
        self._set(words, "", is_trouble=False)

    def clear(self) -> None:
        """Say nothing any more."""
        self._since = ""
        if self.words:
            self._set("", "", is_trouble=False)

    def clear_stale(self) -> None:
        """Take back that what is shown is not up to date; other words stay."""
        if self._since:
            self.clear()

    def tell(self, error: BaseException) -> None:
        """Tell what went wrong: an error of ours in its words, another with a way to see where."""
        if isinstance(error, NexaError):
            self._set(str(error), "", is_trouble=True)
        else:
            told = "".join(traceback.format_exception(error))[-_LONGEST:]
            self._set(f"{type(error).__name__}: {error}", told, is_trouble=True)

    def tell_stale(self, error: BaseException) -> None:
        """Tell that what is shown is not up to date, and since when."""
        self._since = self._since or time.strftime("%H:%M:%S")
        if not isinstance(error, NexaError):
            self.tell(error)
            return
        since = f" since {self._since}" if isinstance(error, ClusterError) else ""
        self._set(f"not up to date{since}: {error}", "", is_trouble=True)

    def _set(self, words: str, details: str, *, is_trouble: bool) -> None:
        self.words, self._details, self._is_trouble = words, details, is_trouble
        if self._widget is not None:
            self._widget.value = self.html()

    def html(self) -> str:
        """Return the line as HTML; a traceback unfolds."""
        words = html.escape(self.words)
        if self._details:
            words = f"<details><summary>{words}</summary><pre>{html.escape(self._details)}</pre></details>"
        colour = display.readable(display.WRONG) if self._is_trouble else "color:inherit"
        return f'<div role="status" style="line-height:1.4;{colour}">{words}</div>'
