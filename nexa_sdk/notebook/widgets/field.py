"""Field: an input with a label, and what is wrong with it in words beneath."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

from nexa_sdk import display

__all__ = ["Field"]


class Field(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """An input; `say` marks it.

    Parameters
    ----------
    label : str
    widget : ipywidgets.Widget
        With a `value`; it gets the label as its description.
    width : str, optional
    words : ipywidgets.HTML, optional
        Where the words stand, if not beneath it.
    """

    def __init__(self, label: str, widget: Any, *, width: str = "17em", words: Any = None) -> None:
        self.input = widget
        widget.description = label
        widget.style.description_width = "7.5em"
        widget.layout.width = "auto"
        self._words = words if words is not None else ipywidgets.HTML(layout={"margin": "0 0 0 8em"})
        self._words.layout.display = "none"
        super().__init__([widget] if words is not None else [widget, self._words], layout={"width": width, "max_width": "100%"})

    def say(self, words: str) -> None:
        """Say what is wrong; nothing takes it back."""
        style = f"{display.readable(display.WRONG)};line-height:1.3;overflow-wrap:anywhere;max-height:6.5em;overflow-y:auto"
        told = f'<div role="alert" style="{style}">✗ {html.escape(words)}</div>' if words else ""
        if self._words.value != told:
            self._words.value = told
            self._words.layout.display = "" if words else "none"
