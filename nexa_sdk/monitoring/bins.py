"""Samples as a screen shows them: least, mean and most of each span of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Binned", "binned", "edges"]


class Binned(NamedTuple):
    """Spans of time, and what a value was in each; NaN where nothing is known. Each is ``(spans,)`` or ``(spans, columns)``."""

    least: NDArray[np.float32]
    mean: NDArray[np.float32]
    most: NDArray[np.float32]


def edges(begin: float, end: float, count: int) -> NDArray[np.float64]:
    """Divide a time into spans of the same length, of whole seconds at least; returns their ``count + 1`` edges at most."""
    import numpy as np

    length = max(1.0, np.ceil((end - begin) / max(1, count)))
    spans = max(1, int(np.ceil((end - begin) / length)))
    return np.linspace(begin, begin + length * spans, spans + 1)


def binned(time: NDArray[np.float64], values: NDArray[np.float32], covers: NDArray[np.float32], among: NDArray[np.float64]) -> Binned:
    """Gather samples into spans.

    Parameters
    ----------
    time : array, (n,)
        The ends of the samples, in seconds.
    values : array, (n,) or (n, columns)
    covers : array, (n,)
        Seconds that each stands for: the mean weighs by them.
    among : array
        The spans' edges, rising.
    """
    import numpy as np

    shape = (len(among) - 1, *values.shape[1:])
    found = Binned(*(np.full(shape, np.nan, np.float32) for _ in range(3)))
    # A sample belongs where its middle lies; one that ends on an edge is the span's before it.
    places = np.searchsorted(among, time - np.minimum(covers / 2, 0.5), side="right") - 1
    is_inside = (places >= 0) & (places < shape[0])
    if not is_inside.all():
        places, values, covers = places[is_inside], values[is_inside], covers[is_inside]
    if not len(places):
        return found
    if (np.diff(places) < 0).any():  # a clock that was set back
        order = np.argsort(places, kind="stable")
        places, values, covers = places[order], values[order], covers[order]
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    spans = places[starts]
    weights = np.broadcast_to(covers.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
    is_known = ~np.isnan(values)
    if is_known.all():
        total, sums = np.add.reduceat(weights, starts, axis=0), np.add.reduceat(values * weights, starts, axis=0)
    else:
        total = np.add.reduceat(np.where(is_known, weights, 0), starts, axis=0)
        sums = np.add.reduceat(np.where(is_known, values * weights, 0), starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found.mean[spans] = np.where(total > 0, sums / total, np.nan)
    found.least[spans] = np.fmin.reduceat(values, starts, axis=0)
    found.most[spans] = np.fmax.reduceat(values, starts, axis=0)
    return found
