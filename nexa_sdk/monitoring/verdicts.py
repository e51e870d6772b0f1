"""Verdicts: what a person would say who looks at the curves, each by a rule that stands here.

Every rule looks at the samples of one task on one node. What is not known decides nothing.

=================  ==================================================================================================
rule               says it when
=================  ==================================================================================================
gpu-never-used     a GPU was at work for less than 2 % of any sample, from first to last, for 2 minutes at least
gpu-idle           a GPU was at work for less than 2 % of any sample, for 10 minutes on end (spans are added up)
data-loader-bound  over all samples in which a GPU worked, the GPUs were at work for less than 40 % on average,
                   while the job kept 90 % or more of its cores busy; 5 minutes at least
storage-bound      as before, but its cores were busy for less than 90 %, and those of the node waited for disks for
                   20 % or more of the time
kernels-too-small  kernels ran for 80 % of the time or more, and multiprocessors worked for less than 30 % (known from
                   Hopper on); 5 minutes at least
gpu-memory-spare   no GPU of the task ever had more than 40 % of its memory in use; 5 minutes at least, and some work
gpu-memory-full    a GPU had 95 % or more of its memory in use: the next larger batch will not fit
ram-spare          the job never had more than 25 % of the memory in use that it may have, and 8 GiB or more lay idle
cores-spare        of 4 cores or more the job kept less than 25 % busy, even in its busiest minute; 5 minutes at least
unknown            the agent had something to complain of, or wrote nothing
=================  ==================================================================================================

How much a GPU is at work is `sm_active` where it is known, else `gpu_busy`. What idle GPUs cost is
their idle hours times a price that is given; no price is invented. Of GPUs with memory to spare it
is said what they cost in all, which is no waste, and in no column: a smaller type costs something, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import InvalidInput
from nexa_sdk.monitoring.bins import binned
from nexa_sdk.monitoring.samples import Series

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["RULES", "Verdict", "idle_gpu_hours", "judge", "read_price", "tabulate", "with_cost"]

IDLE = 2.0  # % below which a GPU does nothing
IDLE_FOR = 600.0  # s
NEVER_FOR = 120.0
LONG_ENOUGH = 300.0


@dataclass(frozen=True)
class Verdict:
    """What can be said of a task on a node.

    Attributes
    ----------
    rule : str
        As the module's table has it.
    words : str
    task, node : str
    gpu : int or None
    gpu_hours : float or None
        That were paid for, and idle.
    held_hours : float or None
        GPU-hours that were paid for, and could have been of a cheaper type.
    """

    rule: str
    words: str
    task: str = ""
    node: str = ""
    gpu: int | None = None
    gpu_hours: float | None = None
    held_hours: float | None = None


def judge(series: Sequence[Series], complaints: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge samples by all rules.

    Parameters
    ----------
    series : sequence of Series
    complaints : mapping of str to str, optional
        What the agents had to complain of, by ``<job>_<task>@<node>``.
    """
    found = [verdict for one in series if one.count() for rule in RULES for verdict in rule(_Look(one))]
    for name, words in (complaints or {}).items():
        task, _, node = name.partition("@")
        found.append(Verdict("unknown", words.splitlines()[-1], task, node))
    return sorted(found, key=lambda verdict: -(verdict.gpu_hours or 0.0))


def idle_gpu_hours(series: Sequence[Series]) -> float:
    """Add up the hours that GPUs did nothing in, by the rules gpu-idle and gpu-never-used."""
    looks = [_Look(one) for one in series if one.count()]
    return sum(verdict.gpu_hours or 0.0 for look in looks for verdict in _idle(look))


def read_price(given: Any) -> Decimal | None:
    """Read a price of a GPU-hour.

    Raises
    ------
    InvalidInput
        For what is no amount of money.
    """
    if given is None:
        return None
    try:
        price = Decimal(str(given))
    except ArithmeticError:
        price = Decimal("NaN")
    if isinstance(given, bool) or not price.is_finite() or price < 0:
        raise InvalidInput(f"gpu_hour_cost={given!r} is no price of a GPU-hour; give a number, as in gpu_hour_cost=2.49")
    return price


def tabulate(found: Sequence[Verdict], trials: Mapping[str, int], *, price: Decimal | None = None, currency: str = "USD") -> pd.DataFrame:
    """Tabulate verdicts: `rule`, `words`, `trial`, `task`, `node`, `gpu`, `gpu_hours` idle, and their `cost`."""
    import pandas as pd

    costs = [_cost(verdict.gpu_hours, price) for verdict in found]
    return pd.DataFrame(
        {
            "rule": [verdict.rule for verdict in found],
            "words": [with_cost(verdict, price, currency) for verdict in found],
            "trial": pd.array([trials.get(verdict.task) for verdict in found], dtype="Int64"),
            "task": [verdict.task for verdict in found],
            "node": [verdict.node for verdict in found],
            "gpu": pd.array([verdict.gpu for verdict in found], dtype="Int64"),
            "gpu_hours": pd.array([verdict.gpu_hours for verdict in found], dtype="Float64"),
            "cost": pd.Series(costs, dtype=object),
        }
    )


def _cost(gpu_hours: float | None, price: Decimal | None) -> Decimal | None:
    if price is None or gpu_hours is None:
        return None
    return (Decimal(repr(round(gpu_hours, 6))) * price).quantize(Decimal("0.01"))


def with_cost(verdict: Verdict, price: Decimal | None, currency: str = "USD") -> str:
    """Say a verdict, with what it costs where that is known: what was wasted, or what would be less with a cheaper GPU."""
    for hours, words in ((verdict.gpu_hours, "({})"), (verdict.held_hours, "(these cost {})")):
        if (cost := _cost(hours, price)) is not None:
            return f"{verdict.words} {words.format(f'${cost}' if currency == 'USD' else f'{cost} {currency}')}"
    return verdict.words


# ---- looking -------------------------------------------------------------------------------------


class _Look:
    """The curves of one task on one node."""

    def __init__(self, series: Series) -> None:
        import numpy as np

        self.series = series
        self.covers = np.nan_to_num(series.covers())
        self.seconds = float(self.covers.sum())
        self.gpus = [device.index for device in series.devices]

    def work(self) -> NDArray[np.float32]:
        """How much each GPU is at work, in %: of its multiprocessors where that is known."""
        import numpy as np

        active = self.series.values("sm_active")
        return np.where(np.isnan(active), self.series.values("busy"), active)

    def mean(self, values: NDArray[np.float32], among: NDArray[np.bool_] | None = None) -> float | None:
        """Return the mean over time, weighed by what samples cover; None where nothing is known."""
        import numpy as np

        weights = np.broadcast_to(self.covers.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        known = ~np.isnan(values)
        if among is not None:
            known &= among.reshape(-1, *[1] * (values.ndim - 1))
        total = float(weights[known].sum())
        return float((values[known] * weights[known]).sum() / total) if total else None

    def most(self, values: NDArray[np.float32]) -> float | None:
        import numpy as np

        return None if np.isnan(values).all() else float(np.nanmax(values))

    def say(
        self, rule: str, words: str, *, gpu: int | None = None, gpu_hours: float | None = None, held_hours: float | None = None
    ) -> Verdict:
        return Verdict(rule, words, self.series.task, self.series.node, gpu, gpu_hours, held_hours)

    @property
    def busy_cores(self) -> NDArray[np.float32]:
        """The job's cores that are busy, in % of those that it has; of the node's where the job's are not known."""
        import numpy as np

        of_job, cores = self.series.values("job_cpu"), self.series.header.cores
        if not cores or np.isnan(of_job).all():
            return self.series.values("cpu")
        return np.minimum(100.0, 100.0 * of_job / cores).astype(np.float32)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _gib(mebibytes: float) -> str:
    return f"{mebibytes / 1024:.0f}" if mebibytes >= 10240 else f"{mebibytes / 1024:.1f}"


# ---- rules ---------------------------------------------------------------------------------------


def _idle(look: _Look) -> Iterator[Verdict]:
    import numpy as np

    work = look.work()
    for place, gpu in enumerate(look.gpus):
        curve = work[:, place]
        if np.isnan(curve).all():
            continue
        is_idle = curve < IDLE
        if is_idle[~np.isnan(curve)].all() and look.seconds >= NEVER_FOR:
            words = f"GPU {gpu} of {look.series.node} was never used, for {_time(look.seconds)}"
            yield look.say("gpu-never-used", words, gpu=gpu, gpu_hours=look.seconds / 3600)
            continue
        spans = _spans(is_idle, look.covers)
        idle = sum(seconds for seconds in spans if seconds >= IDLE_FOR)
        if idle:
            words = f"GPU {gpu} of {look.series.node} idle for {_time(idle)}"
            yield look.say("gpu-idle", words, gpu=gpu, gpu_hours=idle / 3600)


def _spans(is_so: NDArray[np.bool_], covers: NDArray[np.float32]) -> list[float]:
    """Return how long it was so on end, each time."""
    import numpy as np

    turns = np.flatnonzero(np.diff(np.concatenate([[False], is_so, [False]]).astype(np.int8)))
    sums = np.concatenate([[0.0], np.cumsum(covers, dtype=np.float64)])
    return [float(sums[end] - sums[begin]) for begin, end in zip(turns[::2], turns[1::2], strict=True)]


def _starved(look: _Look) -> Iterator[Verdict]:
    import numpy as np

    if not look.gpus:
        return
    work = look.work()
    with np.errstate(invalid="ignore"):
        at_work: NDArray[np.bool_] = np.asarray((work >= IDLE).any(axis=1))
    used = (work >= IDLE).any(axis=0)
    if look.covers[at_work].sum() < LONG_ENOUGH:
        return
    gpu, cores = look.mean(work[:, used], at_work), look.mean(look.busy_cores, at_work)
    waits = look.mean(look.series.values("iowait"), at_work)
    if gpu is None or cores is None or gpu >= 40:
        return
    name = "SM" if not np.isnan(look.series.values("sm_active")).all() else "GPU"
    if cores >= 90:
        yield look.say("data-loader-bound", f"data loader bound: CPU {cores:.0f} %, {name} {gpu:.0f} %; more cores would feed the GPUs")
    elif waits is not None and waits >= 20:
        yield look.say("storage-bound", f"storage bound: cores wait for disks {waits:.0f} % of the time, {name} {gpu:.0f} %")


def _small_kernels(look: _Look) -> Iterator[Verdict]:
    import numpy as np

    for place, gpu in enumerate(look.gpus):
        active, busy = look.series.values("sm_active")[:, place], look.series.values("busy")[:, place]
        known = ~np.isnan(active) & ~np.isnan(busy)
        if look.covers[known].sum() < LONG_ENOUGH:
            continue
        ran, worked = look.mean(np.where(known, busy, np.nan)), look.mean(np.where(known, active, np.nan))
        if ran is not None and worked is not None and ran >= 80 and worked < 30:
            words = f"GPU {gpu} of {look.series.node}: kernels ran {ran:.0f} % of the time, on {worked:.0f} % of its multiprocessors"
            yield look.say("kernels-too-small", f"{words}; larger batches would fill it", gpu=gpu)


def _gpu_memory(look: _Look) -> Iterator[Verdict]:
    memory = look.series.values("memory")
    peaks = [(device, look.most(memory[:, place])) for place, device in enumerate(look.series.devices)]
    known = [(device, peak, device.memory) for device, peak in peaks if peak is not None and device.memory]
    for device, peak, total in known:
        if total and peak >= 0.95 * total:
            words = f"GPU {device.index} of {look.series.node}: memory peaked at {_gib(peak)} of {_gib(total)} GiB, and is all but full"
            yield look.say("gpu-memory-full", words, gpu=device.index)
    was_used = (look.most(look.work()) or 0.0) >= IDLE if look.gpus else False
    if known and was_used and look.seconds >= LONG_ENOUGH and all(peak <= 0.4 * total for _, peak, total in known if total):
        _, peak, total = max(known, key=lambda one: one[1])
        words = f"memory peaked at {_gib(peak)} of {_gib(total or 0)} GiB: a smaller GPU would do"
        yield look.say("gpu-memory-spare", words, held_hours=len(look.gpus) * look.seconds / 3600)


def _ram(look: _Look) -> Iterator[Verdict]:
    limit, peak = look.series.header.ram_limit, look.most(look.series.values("job_ram"))
    if limit is None or peak is None or look.seconds < LONG_ENOUGH:
        return
    if peak <= 0.25 * limit and limit - peak >= 8192:
        enough = max(1, int(-(-peak * 1.5 // 1024)))
        yield look.say("ram-spare", f"RAM peaked at {_gib(peak)} of {_gib(limit)} GiB: mem='{enough}G' would do")


def _cores(look: _Look) -> Iterator[Verdict]:
    import numpy as np

    cores, of_job = look.series.header.cores, look.series.values("job_cpu")
    if not cores or cores < 4 or look.seconds < LONG_ENOUGH or np.isnan(of_job).all():
        return
    time = look.series.time()
    minutes = time.min() + 60.0 * np.arange(int((time.max() - time.min()) // 60) + 2)
    busiest = look.most(binned(time, of_job, look.covers, minutes).mean)
    if busiest is not None and busiest < 0.25 * cores:
        yield look.say(
            "cores-spare", f"the job kept {busiest:.1f} of its {cores} cores busy at most: {max(1, int(np.ceil(busiest * 1.5)))} would do"
        )


RULES: tuple[Callable[[_Look], Iterator[Verdict]], ...] = (_idle, _starved, _small_kernels, _gpu_memory, _ram, _cores)
