"""UtilizationChart: a picture of utilization as a plotly figure that goes on to grow, and sends only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nexa_sdk.notebook import top_picture
from nexa_sdk.notebook.widgets.figure import figure_widget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nexa_sdk.monitoring.picture import Picture

__all__ = ["UtilizationChart"]

BLOCK = 30  # spans of time in one trace of a heat map: what is over is not sent again


class UtilizationChart:
    """The live form of :func:`nexa_sdk.notebook.top_picture.figure`; a zoom survives an update.

    It can be updated from any thread.

    Attributes
    ----------
    widget : plotly.graph_objects.FigureWidget
        Some 5 MB of script travel with it to the front end.
    """

    def __init__(self) -> None:
        self.widget = figure_widget()
        self._shape: tuple[object, ...] | None = None
        self._places: dict[Key, int] = {}  # of the traces in the figure
        self._sent: dict[Key, NDArray[np.float32]] = {}

    def update(self, picture: Picture, title: str) -> None:
        """Show a picture, sending what has changed since the last one."""
        with self.widget.lock:
            try:
                self._update(picture, title)
            except BaseException:
                self._shape = None  # who knows what of it was sent: all of it is, next time
                raise

    def _update(self, picture: Picture, title: str) -> None:
        import numpy as np

        begin = float(picture.time[0]) if len(picture.time) else 0.0
        step = float(picture.time[1] - picture.time[0]) if len(picture.time) > 1 else 1.0
        shape = (title, [row.label for row in picture.gpus], [row.label for row in picture.nodes], begin, step)
        curves = dict(_curves(picture))
        if shape != self._shape:
            self._shape, self._places, self._sent = shape, {}, {}
            with self.widget.batch_update():
                self.widget.data = []
                self.widget.layout = top_picture.figure(picture, title)["layout"]
        if missing := [key for key in curves if key not in self._places]:
            for key in missing:
                self._places[key] = len(self._places)
            self.widget.add_traces(
                [{**_looks(key, picture), **_times(key, begin, step), key.what: _sendable(curves[key])} for key in missing]
            )
            self._sent |= {key: curves[key] for key in missing}
        with self.widget.batch_update():
            for key, values in curves.items():
                if not np.array_equal(self._sent[key], values, equal_nan=True):
                    self._sent[key] = values
                    self.widget.data[self._places[key]][key.what] = _sendable(values)


class Key(NamedTuple):
    """Which trace it is: a row's line, or a block of a heat map."""

    is_gpu: bool
    what: Literal["y", "z"]
    number: int  # of the row, or of the first span of time
    kind: Literal["mean", "least", "most"] = "mean"


def _curves(picture: Picture) -> Iterator[tuple[Key, NDArray[np.float32]]]:
    """Return each trace's numbers, in %: a line's, ``(spans,)``, or those of a block, ``(rows, spans)``."""
    import numpy as np

    for is_gpu, rows in ((True, picture.gpus), (False, picture.nodes)):
        if len(rows) > top_picture.MOST_LINES:
            means = np.array([row.curve.mean for row in rows])
            for first in range(0, means.shape[1], BLOCK):
                yield Key(is_gpu, "z", first), means[:, first : first + BLOCK]
            continue
        for number, row in enumerate(rows):
            if is_gpu and len(rows) == 1:  # of one alone the least and the most around it
                yield Key(is_gpu, "y", number, "least"), row.curve.least
                yield Key(is_gpu, "y", number, "most"), row.curve.most
            yield Key(is_gpu, "y", number), row.curve.mean


def _looks(key: Key, picture: Picture) -> dict[str, Any]:
    axis = "y2" if picture.gpus and not key.is_gpu else "y"
    rows = picture.gpus if key.is_gpu else picture.nodes
    if key.what == "z":
        return top_picture.heat_map(rows, axis, is_shown=key.number == 0 and (key.is_gpu or len(picture.gpus) <= top_picture.MOST_LINES))
    row = rows[key.number]
    name = row.label if key.is_gpu else f"{row.label} cores"
    return top_picture.line(key.kind, name, axis, key.number, dash="solid" if key.is_gpu or not picture.gpus else "dot")


def _times(key: Key, begin: float, step: float) -> dict[str, Any]:
    """Return when a trace's first span is, and how far the next."""
    first = begin + step * (key.number if key.what == "z" else 0)
    return {"x0": datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3], "dx": 1000 * step}


def _sendable(values: NDArray[np.float32]) -> Any:
    return values if values.ndim == 1 else top_picture.whole_numbers(values)
