"""Read what nodes and GPUs do from a Prometheus that gathers it already, by DCGM's exporter and the node exporter.

Two requests, whatever the size: one for all metrics of GPUs, one for those of nodes
(``/api/v1/query_range``, Prometheus HTTP API; the names of DCGM's exporter, etc/dcp-metrics-included.csv).
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nexa_sdk.errors import ClusterError, Unreachable
from nexa_sdk.monitoring.samples import GPU_FIELDS, NODE_FIELDS, Device, Header, Series

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Prometheus", "Wanted"]

TIMEOUT = 30.0  # seconds
MOST_POINTS = 1000  # of a curve: Prometheus refuses above 11,000, and a screen shows no more
FINEST = 15.0  # seconds between points: exporters are rarely asked more often
RECENT = 300.0  # seconds that an answer of "now" may be old

# DCGM's metric, our field, what it is multiplied by
_GPU_METRICS = {
    "DCGM_FI_DEV_GPU_UTIL": ("busy", 1.0),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("copying", 1.0),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_active", 100.0),  # a share
    "DCGM_FI_PROF_SM_OCCUPANCY": ("sm_occupancy", 100.0),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor", 100.0),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram", 100.0),
    "DCGM_FI_DEV_FB_USED": ("memory", 1.0),  # MiB
    "DCGM_FI_DEV_FB_FREE": ("free", 1.0),
    "DCGM_FI_DEV_FB_RESERVED": ("reserved", 1.0),
    "DCGM_FI_DEV_POWER_USAGE": ("power", 1.0),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature", 1.0),
}
# our field, and how PromQL works it out from the node exporter's metrics for instances {i}
_NODE_QUERIES = {
    "cpu": '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{{mode=~"idle|iowait",{i}}}[{w}])) * 2)',
    "iowait": '100 * avg by (instance) (rate(node_cpu_seconds_total{{mode="iowait",{i}}}[{w}]))',
    "ram": "(node_memory_MemTotal_bytes{{{i}}} - node_memory_MemAvailable_bytes{{{i}}}) / 1048576",
    "load": "node_load1{{{i}}}",
    "disk_read": "sum by (instance) (rate(node_disk_read_bytes_total{{{i}}}[{w}])) / 1024",
    "disk_write": "sum by (instance) (rate(node_disk_written_bytes_total{{{i}}}[{w}])) / 1024",
    "net_received": 'sum by (instance) (rate(node_network_receive_bytes_total{{device!="lo",{i}}}[{w}])) / 1024',
    "net_sent": 'sum by (instance) (rate(node_network_transmit_bytes_total{{device!="lo",{i}}}[{w}])) / 1024',
}


class Wanted(NamedTuple):
    """A task whose nodes are asked about.

    Attributes
    ----------
    task : str
        ``<job>_<task>``.
    nodes : str
        As Slurm writes them: ``n1`` or ``n[1-3,7]``.
    begin, end : float
        Seconds since the epoch.
    """

    task: str
    nodes: str
    begin: float
    end: float


class Prometheus:
    """A Prometheus.

    Parameters
    ----------
    address : str
        ``http://host:9090``.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def series(self, wanted: Sequence[Wanted], *, ids: Callable[[], Mapping[str, str]] = dict) -> list[Series]:
        """Return the curves of tasks' nodes while these ran.

        All GPUs of a node are a task's, unless the exporter knows its job (label ``hpc_job``). What is
        wanted of a task for several of its trials is one curve: it has its GPUs once.

        Parameters
        ----------
        wanted : sequence of Wanted
        ids : callable, optional
            Returns the id that a task has alone, by ``<job>_<task>``: an exporter hears of that one. It
            is called where one knows jobs; a task of an array that it does not tell of has no GPUs.

        Raises
        ------
        Unreachable
            Nobody answers there.
        ClusterError
            What answers is no Prometheus, or refuses the question.
        """
        if not wanted:
            return []
        nodes = sorted({node for one in wanted for node in expand_nodes(one.nodes)})
        begin, end = min(one.begin for one in wanted), max(one.end for one in wanted)
        step = max(FINEST, math.ceil((end - begin) / MOST_POINTS))
        curves = self._curves(nodes, begin, end, step)
        known = dict(ids()) if any(curve.job for curve in curves) else {}
        tasks = Counter(task.partition("_")[0] for task in {one.task for one in wanted})
        for task in {one.task for one in wanted} - known.keys():
            if tasks[job := task.partition("_")[0]] == 1:  # one alone has its array's
                known[task] = job
        found = []
        for one in _joined(wanted):
            for node in expand_nodes(one.nodes):
                there = [curve for curve in curves if curve.node == node and curve.job in ("", one.task, known.get(one.task))]
                knows_job = any(curve.job for curve in there)
                mine = [curve for curve in there if curve.job or curve.gpu is None or not knows_job]
                told = _assemble(one.task, node, mine, one.begin, one.end, step)
                if told is not None:
                    found.append(told)
        return found

    def now(self) -> list[Series]:
        """Return what every node and GPU does now: one sample each."""
        at = time.time()
        curves = self._curves([], at - RECENT, at, FINEST)
        latest = []
        for node in sorted({curve.node for curve in curves}):
            told = _assemble("", node, [curve for curve in curves if curve.node == node], at - RECENT, at, FINEST, last_alone=True)
            if told is not None:
                latest.append(told)
        return latest

    def _curves(self, nodes: Sequence[str], begin: float, end: float, step: float) -> list[_Curve]:
        import numpy as np

        names = "|".join(_GPU_METRICS)
        which = "|".join(re.escape(node) for node in nodes)
        # A string in PromQL has backslash escapes, as in Go; label values are matched whole.
        host = "," + _matcher("Hostname", f"({which})([.].*)?") if nodes else ""
        told = self._ask(f'{{__name__=~"{names}"{host}}}', begin, end, step)
        curves = []
        for result in told:
            labels = result["metric"]
            field, factor = _GPU_METRICS.get(str(labels.get("__name__")), ("", 1.0))
            if field:
                times, values = _points(result)
                node = _short(str(labels.get("Hostname") or labels.get("instance", "")))
                gpu = _Gpu(_integer(labels.get("gpu")), str(labels.get("UUID", "")), str(labels.get("modelName", "")))
                curves.append(_Curve(node, gpu, field, str(labels.get("hpc_job", "")), times, values * np.float32(factor)))
        window = f"{max(60, int(4 * step))}s"
        instances = _matcher("instance", f"({which})([.][^:]*)?(:[0-9]+)?") if nodes else 'instance!=""'
        queries = [
            f'label_replace({query.format(i=instances, w=window)}, "field", "{name}", "", "")' for name, query in _NODE_QUERIES.items()
        ]
        for result in self._ask(" or ".join(queries), begin, end, step):
            times, values = _points(result)
            node = _short(str(result["metric"].get("instance", "")))
            curves.append(_Curve(node, None, str(result["metric"].get("field", "")), "", times, values))
        return curves

    def _ask(self, query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        form = urllib.parse.urlencode({"query": query, "start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}).encode()
        request = urllib.request.Request(f"{self.address}/api/v1/query_range", form)  # noqa: S310  http and https alone, see the profile
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                told = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ClusterError(f"the Prometheus at {self.address} refused: {_words(error)}") from error
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(
                f"no Prometheus answers at {self.address}: {reason}. Look at prometheus = in the cluster's description"
            ) from error
        except ValueError as error:
            raise ClusterError(f"what answers at {self.address} is no Prometheus: it sends no JSON") from error
        if not isinstance(told, dict) or told.get("status") != "success":
            raise ClusterError(f"the Prometheus at {self.address} refused: {told.get('error', told) if isinstance(told, dict) else told!r}")
        try:
            return [
                result for result in told["data"]["result"] if isinstance(result["metric"], dict) and isinstance(result["values"], list)
            ]
        except (KeyError, TypeError) as error:
            raise ClusterError(f"what the Prometheus at {self.address} answers is no matrix: {str(told)[:200]}") from error


def _joined(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Join the times of a task on the same nodes that touch: of trials that share it. After a requeue there is time between."""
    found: list[Wanted] = []
    for one in sorted(wanted):
        last = found[-1] if found else None
        if last is not None and last[:2] == one[:2] and one.begin <= last.end + FINEST:
            found[-1] = last._replace(end=max(last.end, one.end))
        else:
            found.append(one)
    return found


def _words(error: urllib.error.HTTPError) -> str:
    try:
        told = json.loads(error.read())
        return f"{error.code} {told['error']}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"


def _matcher(label: str, pattern: str) -> str:
    quoted = pattern.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}=~"{quoted}"'


# ---- curves --------------------------------------------------------------------------------------


class _Gpu(NamedTuple):
    number: int
    uuid: str
    name: str


class _Curve(NamedTuple):
    node: str
    gpu: _Gpu | None
    field: str
    job: str
    times: NDArray[np.float64]
    values: NDArray[np.float32]


def _points(result: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    import numpy as np

    pairs = [(float(at), float(value)) for at, value in result["values"]]  # "NaN" and "+Inf" are text that float() reads
    array = np.array(pairs, np.float64).reshape(-1, 2)
    return array[:, 0], np.where(np.isfinite(array[:, 1]), array[:, 1], np.nan).astype(np.float32)


def _integer(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() else 0


def _short(host: str) -> str:
    """Return a host's name as Slurm has it: without port and domain; addresses stay whole."""
    name = re.sub(r":[0-9]+$", "", host)
    return name if re.fullmatch(r"[0-9.]+|\[.*\]", name) else name.partition(".")[0]


def _assemble(
    task: str, node: str, curves: Iterable[_Curve], begin: float, end: float, step: float, *, last_alone: bool = False
) -> Series | None:
    """Put curves of one node onto one axis of time; None where there are none."""
    import numpy as np

    cut = [
        curve._replace(times=curve.times[inside], values=curve.values[inside])
        for curve in curves
        for inside in [(curve.times >= begin) & (curve.times <= end)]
        if inside.any()
    ]
    if last_alone:
        cut = [curve._replace(times=np.array([end]), values=curve.values[-1:]) for curve in cut]
    if not cut:
        return None
    time_axis = np.unique(np.concatenate([curve.times for curve in cut]))
    gpus = sorted({curve.gpu for curve in cut if curve.gpu is not None})
    fields = {name: np.full(len(time_axis), np.nan, np.float32) for name in NODE_FIELDS}
    fields.update({name: np.full((len(time_axis), len(gpus)), np.nan, np.float32) for name in (*GPU_FIELDS, "free", "reserved")})
    for curve in cut:
        places = np.searchsorted(time_axis, curve.times)
        if curve.gpu is None:
            if curve.field in fields:
                fields[curve.field][places] = curve.values
        else:
            fields[curve.field][places, gpus.index(curve.gpu)] = curve.values
    totals = fields["memory"] + fields["free"] + np.nan_to_num(fields["reserved"])
    memory = [None if np.isnan(column).all() else float(np.nanmax(column)) for column in totals.T]
    devices = tuple(Device(gpu.number, gpu.uuid, gpu.name, total) for gpu, total in zip(gpus, memory, strict=True))
    covers = np.full(len(time_axis), step, np.float32)
    header = Header(node, source="prometheus", devices=devices)
    return Series(task, header, _Given(fields, time_axis, covers), len(gpus))


class _Given(NamedTuple):
    fields: dict[str, NDArray[np.float32]]
    times: NDArray[np.float64]
    lengths: NDArray[np.float32]

    def values(self, name: str, begin: int = 0) -> NDArray[np.float32]:
        return self.fields[name][begin:].copy()

    def time(self, begin: int = 0) -> NDArray[np.float64]:
        return self.times[begin:]

    def covers(self, begin: int = 0) -> NDArray[np.float32]:
        return self.lengths[begin:]

    def count(self) -> int:  # type: ignore[override]
        return len(self.times)


def expand_nodes(text: str) -> list[str]:
    """Write out a list of nodes as Slurm abbreviates it: ``n[08-10],login`` is n08, n09, n10, login."""
    found = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part):
            if not piece.startswith("["):
                names = [name + piece for name in names]
                continue
            numbers = []
            for span in piece[1:-1].split(","):
                low, _, high = span.partition("-")
                if low.isdecimal() and (high or low).isdecimal():
                    numbers += [str(number).zfill(len(low)) for number in range(int(low), int(high or low) + 1)]
            names = [name + number for name in names for number in numbers]
        found += names
    return found
