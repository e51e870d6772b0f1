"""Utilization as a DataFrame: a row for each GPU of each sample, and one where there are no GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nexa_sdk.monitoring.bins import binned
from nexa_sdk.monitoring.samples import GPU_FIELDS, NODE_FIELDS, Series

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "frame"]

# What a table has, in this order; the same words stand in the documentation of run.utilization().
COLUMNS = {
    "time": "the sample's end, UTC; by the node's clock, mended by the file server's where they differ by 2 s or more",
    "seconds": "s that the row stands for",
    "trial": "the trial; missing for a task that carries several, and for a look at a machine",
    "task": "<job>_<task>, as squeue -j takes it",
    "node": "",
    "gpu": "the GPU's number on its node; missing where there is none",
    "gpu_name": "",
    "gpu_busy": "% of the time in which any kernel ran: not how much of the GPU worked",
    "sm_active": "% of its multiprocessors at work, from Hopper on",
    "sm_occupancy": "% of the warps that could be in flight, from Hopper on",
    "tensor": "% of the time in which tensor pipes worked, from Hopper on",
    "dram": "% of its memory's bandwidth, from Hopper on",
    "gpu_copying": "% of the time in which its memory was read or written",
    "gpu_memory": "MiB in use",
    "gpu_memory_total": "MiB that there are",
    "gpu_power": "W, the mean",
    "gpu_energy": "J of this row",
    "gpu_temperature": "°C",
    "gpu_processes": "how many programs use it",
    "cpu": "% of all cores of the node",
    "iowait": "% of all cores of the node: idle, and waiting for a disk",
    "ram": "MiB in use on the node, page cache left aside",
    "load": "of the last minute",
    "disk_read": "KiB/s of the node's own disks",
    "disk_write": "KiB/s",
    "net_received": "KiB/s, InfiniBand included",
    "net_sent": "KiB/s",
    "job_cpu": "cores that the job keeps busy on the node",
    "job_cores": "cores that it has there",
    "job_ram": "MiB of the job, page cache left aside",
    "job_ram_peak": "MiB of the job at most, page cache included",
    "job_ram_limit": "MiB that it may have",
}
_OF_GPUS = {
    "gpu_busy": "busy",
    "gpu_copying": "copying",
    "gpu_memory": "memory",
    "gpu_power": "power",
    "gpu_temperature": "temperature",
    "gpu_processes": "processes",
    **{name: name for name in ("sm_active", "sm_occupancy", "tensor", "dram")},
}
_AMOUNTS = ("memory", "temperature", "processes", "ram", "job_ram", "job_ram_peak")  # of which the most counts


def frame(series: Sequence[Series], trials: Mapping[str, int] | None = None, *, every: float | None = None) -> pd.DataFrame:
    """Tabulate samples.

    Parameters
    ----------
    series : sequence of Series
    trials : mapping of str to int, optional
        The trial that each task carries.
    every : float, optional
        Seconds that a row is to stand for: means of rates, the most of amounts. Unless given, each sample.

    Returns
    -------
    pandas.DataFrame
        With the columns of :data:`COLUMNS`.
    """
    import numpy as np
    import pandas as pd

    parts = [_part(one, trials or {}, every) for one in series if one.count()]
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        pieces = [part[name] for part in parts]
        columns[name] = np.concatenate(pieces) if pieces else np.empty(0, object if name in _WORDS else np.float32)
    for name, values in columns.items():
        if values.dtype == np.float32:  # as they were measured, to the last digit: 610.3, not 610.299988
            columns[name] = np.round(values.astype(np.float64), 2)
    table = pd.DataFrame(columns)
    table["time"] = pd.to_datetime(np.round(columns["time"].astype(np.float64) * 1000).astype("int64"), unit="ms", utc=True)
    for name in ("trial", "gpu", "gpu_processes"):
        table[name] = pd.array(columns[name].astype(np.float64), dtype="Float64").astype("Int64")
    for name in _WORDS:
        table[name] = table[name].astype("category" if len(table) else object)
    return table.sort_values(["time", "node", "task", "gpu"], kind="stable", ignore_index=True)


_WORDS = ("task", "node", "gpu_name")


def _part(one: Series, trials: Mapping[str, int], every: float | None) -> dict[str, NDArray[Any]]:
    import numpy as np

    time, covers, fields = _resampled(one, every)
    width = max(1, one.gpus)
    unknown = np.full((len(time), width), np.nan, np.float32)
    of_gpus = {name: fields[field] if one.gpus else unknown for name, field in _OF_GPUS.items()}
    devices = one.devices
    header = one.header

    def constant(value: float | None) -> NDArray[np.float32]:
        return np.full(len(time) * width, np.nan if value is None else value, np.float32)

    found: dict[str, NDArray[Any]] = {
        "time": np.repeat(time, width),
        "seconds": np.repeat(covers, width),
        "trial": constant(trials.get(one.task)),
        "task": np.full(len(time) * width, one.task, object),
        "node": np.full(len(time) * width, one.node, object),
        "gpu": np.tile(np.array([float(device.index) for device in devices] or [np.nan], np.float32), len(time)),
        "gpu_name": np.tile(np.array([device.name for device in devices] or [""], object), len(time)),
        "gpu_memory_total": np.tile(
            np.array([np.nan if device.memory is None else device.memory for device in devices] or [np.nan], np.float32), len(time)
        ),
        "gpu_energy": (of_gpus["gpu_power"] * covers[:, None]).ravel(),
        "job_cores": constant(header.cores),
        "job_ram_limit": constant(header.ram_limit),
    }
    found.update({name: values.ravel() for name, values in of_gpus.items()})
    found.update({name: np.repeat(fields[name], width) for name in NODE_FIELDS})
    return found


def _resampled(one: Series, every: float | None) -> tuple[NDArray[np.float64], NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Return times, what each covers, and all fields; at another resolution, if wanted."""
    import numpy as np

    time, covers = one.time(), one.covers()
    fields = {name: one.values(name) for name in (*NODE_FIELDS, *(GPU_FIELDS if one.gpus else ()))}
    if every is None:
        return time, covers, fields
    begin = np.floor((time.min() - 1) / every) * every  # the same edges for every node
    among = begin + every * np.arange(int(np.ceil((time.max() - begin) / every)) + 2)
    total = binned(time, np.ones_like(covers), covers, among)
    known = ~np.isnan(total.mean)
    gathered = {}
    for name, values in fields.items():
        span = binned(time, values, covers, among)
        gathered[name] = (span.most if name in _AMOUNTS else span.mean)[known]
    places = np.searchsorted(among, time - np.minimum(covers / 2, 0.5), side="right") - 1
    sums = np.bincount(places.clip(0, len(among) - 2), weights=covers, minlength=len(among) - 1)
    return among[1:][known], sums[known].astype(np.float32), gathered
