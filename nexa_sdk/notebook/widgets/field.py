"""Field: an input with a label, and what is wrong with it in words beneath."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

__all__ = ["Field"]

_WRONG = "var(--jp-error-color0, var(--vscode-errorForeground, #b71c1c))"


class Field(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """An input; `say` marks it.

    Parameters
    ----------
    label : str
    widget : ipywidgets.Widget
        With a `value`; it gets the label as its description.
    """

    def __init__(self, label: str, widget: Any, *, width: str = "17em") -> None:
        self.input = widget
        widget.description = label
        widget.style.description_width = "7.5em"
        widget.layout.width = "auto"
        self._words = ipywidgets.HTML(layout={"display": "none", "margin": "0 0 0 8em"})
        super().__init__([widget, self._words], layout={"width": width, "max_width": "100%"})

    def say(self, words: str) -> None:
        """Say what is wrong; nothing takes it back."""
        told = f'<div role="alert" style="color:{_WRONG};line-height:1.3">✗ {html.escape(words)}</div>' if words else ""
        if self._words.value != told:
            self._words.value = told
            self._words.layout.display = "" if words else "none"
