"""What a picture of utilization shows: curves on one axis of time, as wide as a screen. Pure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nexa_sdk.monitoring.bins import Binned, binned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nexa_sdk.monitoring.samples import Series

__all__ = ["Painter", "Picture", "Row"]

COLUMNS = 300  # spans of time that a picture has at most
RECENT = 100  # samples that tell how far apart they are
SPARSE = 1.5  # seconds from one sample to the next, from which on a span of time is as long as that, or longer
_LENGTHS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)  # s


@dataclass(frozen=True)
class Row:
    """A GPU, or a node.

    Attributes
    ----------
    label : str
    curve : Binned
        In %, each ``(spans,)``: how much a GPU is at work; how many of a node's cores that the job has are busy.
    mean : float
        Of the whole curve; NaN where nothing is known.
    is_gpu : bool
    last : dict of str to float
        The last sample's values that are known: `work`; `memory`, `memory_total`, `power` and `temperature`
        of a GPU; `ram` and `ram_total` of a node.
    """

    label: str
    curve: Binned
    mean: float
    is_gpu: bool
    last: dict[str, float]


@dataclass(frozen=True)
class Picture:
    """What is to be drawn.

    Attributes
    ----------
    time : array
        The middles of the spans, in seconds since the epoch.
    gpus, nodes : list of Row
    last : float
        When the last sample was taken; 0 where there is none.
    """

    time: NDArray[np.float64]
    gpus: list[Row]
    nodes: list[Row]
    last: float


@dataclass
class _Kept:
    """What was gathered of one series, so that only what is new has to be."""

    series: Series
    length: float
    origin: float
    count: int
    begin: int  # the first span
    curves: Binned  # the job's cores first, then each GPU
    whole: int  # so many spans are over
    resume: int  # and from this sample on comes what is later
    last: list[float]  # of each curve


class Painter:
    """Makes pictures of samples that grow: spans that are over are gathered once."""

    def __init__(self, columns: int = COLUMNS) -> None:
        self.columns = columns
        self._kept: dict[int, _Kept] = {}
        self._firsts: dict[int, float] = {}  # when each series began

    def picture(self, series: Sequence[Series]) -> Picture:
        """Gather samples."""
        import numpy as np

        series = [one for one in series if one.count()]
        if not series:
            return Picture(np.empty(0), [], [], 0.0)
        for one in series:
            if id(one) not in self._kept:
                self._firsts[id(one)] = _first(one)
        first = min(self._firsts[id(one)] for one in series)
        last = max(float(one.time(one.count() - 1)[0]) for one in series)
        least = _apart(series)
        length = next(
            (length for length in _LENGTHS if length >= least and (last - first) / length <= self.columns - 1),
            math.ceil((last - first) / self.columns),
        )
        origin = math.floor(first / length) * length
        spans = int((last - origin) // length) + 1
        kept = {}
        gpus: dict[tuple[str, str], list[Row]] = {}
        nodes: dict[str, list[Row]] = {}
        for one in series:
            gathered = kept[id(one)] = self._gather(one, self._kept.get(id(one)), length, origin)
            curves = Binned(*(_placed(columns, gathered.begin, spans) for columns in gathered.curves))
            of_node, *of_gpus = _rows(one, curves, gathered.last)
            nodes.setdefault(one.node, []).append(of_node)
            for device, row in zip(one.devices, of_gpus, strict=True):
                gpus.setdefault((one.node, device.uuid or str(device.index)), []).append(row)
        self._kept = kept
        self._firsts = {key: self._firsts[key] for key in kept}
        time = (origin + length * (np.arange(spans) + 0.5)).astype(np.float64)
        return Picture(time, _unique([_joined(rows) for rows in gpus.values()]), [_joined(rows) for rows in nodes.values()], last)

    def _gather(self, one: Series, before: _Kept | None, length: float, origin: float) -> _Kept:
        import numpy as np

        count = one.count()
        kept = before if before is not None and (before.length, before.origin) == (length, origin) and before.count <= count else None
        if kept is not None and kept.count == count:
            return kept
        start = kept.resume if kept is not None else 0
        time, covers = one.time(start), one.covers(start)
        middles = time - np.minimum(covers / 2, 0.5)
        if kept is not None and float(middles.min()) < origin + length * (kept.begin + kept.whole):  # a clock was set back
            kept, start = None, 0
            time, covers = one.time(), one.covers()
            middles = time - np.minimum(covers / 2, 0.5)
        at = kept.begin + kept.whole if kept is not None else max(0, int((float(middles.min()) - origin) // length))
        spans = max(1, int((float(middles.max()) - origin) // length) + 1 - at)
        among = (origin + length * np.arange(at, at + spans + 1)).astype(np.float64)
        values = _curves(one, start)
        curves = binned(time, values, covers, among)
        begin = at
        if kept is not None:
            begin = kept.begin
            curves = Binned(*(np.concatenate([old[: kept.whole], new]) for old, new in zip(kept.curves, curves, strict=True)))
        # The last span still grows, and what belongs to those before has come: from there on it is gathered again.
        whole = len(curves.mean) - 1
        is_later = middles >= origin + length * (begin + whole)
        is_clear = whole > 0 and bool(is_later[int(is_later.argmax()) :].all())
        resume = start + int(is_later.argmax()) if is_clear else 0
        return _Kept(one, length, origin, count, begin, curves, whole if is_clear else 0, resume, values[-1].tolist())


def _first(one: Series) -> float:
    return float(one.time()[0] - min(1.0, one.covers()[0]))


def _apart(series: Sequence[Series]) -> float:
    """Return how long a span is at least, so that few are empty between one sample and the next: a curve of single points is not seen."""
    import numpy as np

    apart = [float(np.median(np.diff(one.time(max(0, one.count() - RECENT))))) for one in series if one.count() > 1]
    least = min(apart, default=0.0)
    return SPARSE * least if least > SPARSE else 0.0


def _curves(one: Series, begin: int) -> NDArray[np.float32]:
    """Return in %, from a sample on, how busy the job's cores are, and how much each GPU is at work; ``(n, 1 + GPUs)``."""
    import numpy as np

    cores = one.header.cores
    busy = one.values("job_cpu", begin) * np.float32(100 / cores) if cores else None
    if busy is None or np.isnan(busy).all():
        busy = one.values("cpu", begin)
    found = np.empty((len(busy), 1 + one.gpus), np.float32)
    found[:, 0] = np.minimum(busy, 100)
    if one.gpus:
        found[:, 1:] = one.values("sm_active", begin)
        unknown = np.isnan(found[:, 1:])
        if unknown.any():
            found[:, 1:][unknown] = one.values("busy", begin)[unknown]
    return found


def _placed(columns: NDArray[np.float32], begin: int, spans: int) -> NDArray[np.float32]:
    import numpy as np

    found = np.full((spans, *columns.shape[1:]), np.nan, np.float32)
    found[begin : begin + len(columns)] = columns
    return found


def _rows(one: Series, curves: Binned, work: list[float]) -> list[Row]:
    """Make a row of the node, and one of each GPU."""
    final = one.count() - 1
    last = [{"work": work[0], "ram": float(one.values("ram", final)[0]), "ram_total": _or_nan(one.header.ram)}]
    labels = [one.node]
    if one.gpus:
        told = zip(*(one.values(name, final)[0].tolist() for name in ("memory", "power", "temperature")), strict=True)
        for place, (device, (memory, power, temperature)) in enumerate(zip(one.devices, told, strict=True), start=1):
            total = _or_nan(device.memory)
            last.append({"work": work[place], "memory": memory, "memory_total": total, "power": power, "temperature": temperature})
            labels.append(f"{one.node} · {device.index}")
    means = _means(curves.mean)
    return [
        Row(
            label,
            Binned(curves.least[:, place], curves.mean[:, place], curves.most[:, place]),
            means[place],
            is_gpu=place > 0,
            last={name: value for name, value in last[place].items() if not math.isnan(value)},
        )
        for place, label in enumerate(labels)
    ]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _means(curves: NDArray[np.float32]) -> list[float]:
    import numpy as np

    known = ~np.isnan(curves)
    with np.errstate(invalid="ignore"):
        return (np.where(known, curves, 0).sum(axis=0) / known.sum(axis=0)).tolist()  # type: ignore[no-any-return]


def _joined(rows: Sequence[Row]) -> Row:
    """Make one row of those of one GPU, or node: tasks that had it one after another, or shared it."""
    import numpy as np

    if len(rows) == 1:
        return rows[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # spans of which nothing is known
        curve = Binned(
            np.nanmin([row.curve.least for row in rows], axis=0),
            np.nanmean([row.curve.mean for row in rows], axis=0),
            np.nanmax([row.curve.most for row in rows], axis=0),
        )
    return Row(rows[-1].label, curve, _means(curve.mean[:, None])[0], rows[-1].is_gpu, rows[-1].last)


def _unique(rows: list[Row]) -> list[Row]:
    """Tell GPUs of one node apart that their jobs each call 0."""
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        again = seen[row.label] = seen.get(row.label, -1) + 1
        found.append(row if not again else replace(row, label=f"{row.label} ({again + 1})"))
    return found
