"""A plotly figure as a widget that loses nothing, however busy the front end is, and is as wide as its column."""

from __future__ import annotations

import copy
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["figure_widget"]


def figure_widget(figure: go.Figure | None = None) -> go.FigureWidget:
    """Return a widget of a figure; it can be changed from any thread that holds its ``lock``.

    Some 5 MB of script travel with it to the front end.
    """
    return _figure_class()(figure)


@cache  # plotly is imported when the first is made
def _figure_class() -> Any:
    import plotly.graph_objects as go
    import traitlets

    class Figure(go.FigureWidget):  # type: ignore[misc]
        """A figure that takes a message of the front end, or is changed by a thread, one at a time.

        Plotly sends by setting a trait and emptying it at once. While a message comes in, traitlets gather
        changes and keep the last of each: what another thread sends in that moment would be lost. So would be
        what a front end gets before it has loaded plotly's script: the script beside this file keeps it.
        """

        _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        _script = traitlets.Unicode(str(go.FigureWidget._esm)).tag(sync=True)

        def __init__(self, figure: go.Figure | None) -> None:
            self._lock = threading.RLock()
            super().__init__(figure)

        @property
        def lock(self) -> Any:
            return self._lock

        def set_state(self, sync_data: dict[str, Any]) -> None:
            with self._lock:
                super().set_state(sync_data)

        def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
            """Return the figure as it is, for a front end that comes later; plotly has it there as it was made."""
            with self._lock:
                if key is None and "_layout_obj" in self.__dict__:
                    now = {"_widget_data": self._data, "_widget_layout": self._layout_obj._props}
                    self._trait_values.update(copy.deepcopy(now))
                state: dict[str, Any] = super().get_state(key, drop_defaults)
                return state

    return Figure
