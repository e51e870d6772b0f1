"""Question: a button whose act can't be taken back asks first, in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import ipywidgets

if TYPE_CHECKING:
    from nexa_sdk.notebook.view import View

__all__ = ["Question"]


class Question(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Where a view asks before it acts; empty while nothing is asked.

    Parameters
    ----------
    view : View
    """

    def __init__(self, view: View) -> None:
        super().__init__([])
        self._view = view

    def ask(
        self, words: str, yes: str, act: Callable[[], Any], then: Callable[[Any], None], *, doing: str, off: Iterable[Any] = ()
    ) -> None:
        """Ask, and act upon yes, once.

        Parameters
        ----------
        words : str
            What is asked, as HTML that is safe.
        yes : str
            What stands on the button.
        act, then : callable
            As :meth:`nexa_sdk.notebook.view.View.work` takes them.
        doing : str
            What the status line says meanwhile.
        off : iterable of widgets
            Can't be used meanwhile.
        """
        agree = ipywidgets.Button(description=yes, button_style="warning", layout={"width": "auto"})
        leave = ipywidgets.Button(description="Leave it", layout={"width": "auto"})

        def agreed(_: Any) -> None:
            if agree.comm is None:
                return  # a second click
            self.close_question()
            self._view.work(doing, act, then, words=doing, off=off)

        agree.on_click(self._view.guard(agreed))
        leave.on_click(self._view.guard(lambda _: self.close_question()))
        self._replace([ipywidgets.HTML(words), ipywidgets.HBox([agree, leave], layout={"flex_flow": "row wrap"})])

    def close_question(self) -> None:
        """Ask nothing any more."""
        self._replace([])

    def _replace(self, children: list[Any]) -> None:
        from nexa_sdk.notebook.view import close_widgets

        before: list[Any] = list(self.children)  # type: ignore[has-type]
        self.children = children
        for child in before:
            close_widgets(child)
