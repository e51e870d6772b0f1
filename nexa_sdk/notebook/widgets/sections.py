"""Sections: parts of a view of which one is seen; each is made when it is first opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets

from nexa_sdk.notebook.view import close_widgets

if TYPE_CHECKING:
    from nexa_sdk.notebook.view import View

__all__ = ["Sections"]


class Sections(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Buttons with the names of the parts, and the part that was chosen under them.

    Parameters
    ----------
    view : View
        Whose status line tells what goes wrong.
    parts : mapping of str to ipywidgets.Widget or callable
        Widgets, or what returns the widget of a part: the first one's at once; the others may take long, and are
        called in a thread when they are opened. Either are closed with these.
    """

    def __init__(self, view: View, parts: Mapping[str, ipywidgets.Widget | Callable[[], ipywidgets.Widget]]) -> None:
        self._view = view
        self.parts = dict(parts)
        self._made: dict[str, Any] = {name: part for name, part in parts.items() if isinstance(part, ipywidgets.Widget)}
        self._renewed = dict.fromkeys(parts, 0)  # how often
        self._reading = ipywidgets.Label("reading …")
        self.choice = ipywidgets.ToggleButtons(options=list(parts), style={"button_width": "auto"})
        self.choice.observe(view.guard(lambda change: self._open(change["new"])), "value")
        self._place = ipywidgets.VBox([])
        super().__init__([self.choice, self._place])
        first = next(iter(self.parts))
        self._put(first, self._made[first] if first in self._made else self.parts[first](), 0)

    @property
    def opened(self) -> str:
        """The name of the part that is seen."""
        return str(self.choice.value)

    def renew(self, name: str) -> None:
        """Make a part anew when it is opened next; now, if it is."""
        self._renewed[name] += 1
        before = self._made.pop(name, None)
        if self.opened == name:
            self._open(name)
        if before is not None:
            close_widgets(before)

    def _open(self, name: str) -> None:
        if name in self._made:
            self._place.children = [self._made[name]]
            return
        self._place.children = [self._reading]
        times = self._renewed[name]
        self._view.work(f"open {name}", self.parts[name], lambda widget: self._put(name, widget, times))

    def _put(self, name: str, widget: Any, times: int) -> None:
        if times != self._renewed[name]:  # meanwhile it was to be made anew
            close_widgets(widget)
            if self.opened == name:
                self._open(name)
            return
        self._made[name] = widget
        if self.opened == name:
            self._place.children = [widget]

    def close(self) -> None:
        """Close all parts, those too that are not seen."""
        made, self._made = [*self._made.values(), self._reading], {}
        for widget in made:
            close_widgets(widget)
        super().close()
