"""What is known of what a run's nodes, tasks and GPUs do: from its agents' files, or from a Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nexa_sdk.errors import InvalidInput
from nexa_sdk.monitoring import frames
from nexa_sdk.monitoring.telemetry import Telemetry
from nexa_sdk.monitoring.verdicts import Verdict, idle_gpu_hours, judge, read_price, tabulate, with_cost
from nexa_sdk.scheduling.base import ArrayHandle

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

    from nexa_sdk.monitoring.samples import Series
    from nexa_sdk.rates import Price
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.base import Usage
    from nexa_sdk.transports.base import Transport

__all__ = ["Watched"]

ACCOUNTING = 30.0  # seconds between two questions to it
OF_NO_GPU = ("ram-spare", "cores-spare", "unknown")  # rules that look at none
NOTHING = (
    "nothing is known of the utilization of {run}: it was launched without telemetry. Launch with telemetry=True (--telemetry), or give it "
    "to every launch: job = {{telemetry = true}} in the cluster's description"
)


class Watched:
    """The samples of a run.

    Parameters
    ----------
    run : Run
    transport : Transport
    prometheus : callable
        Returns the address of a Prometheus that knows the run's nodes, or None.
    usage : callable
        Asks accounting about arrays; see :meth:`nexa_sdk.scheduling.base.Scheduler.usage`.
    """

    def __init__(
        self,
        run: Run,
        *,
        transport: Transport,
        prometheus: Callable[[], str | None],
        usage: Callable[[Sequence[ArrayHandle]], list[Usage] | None],
    ) -> None:
        self._run = run
        self._prometheus = prometheus
        self._usage = usage
        self._ids: dict[str, str] = {}
        self._ids_at = -1e9
        self._telemetry = Telemetry(transport, run.folder)
        self._lock = threading.Lock()
        self._asked: list[Series] = []
        self.version = 0
        """Grows whenever something new was read."""

    @cached_property
    def address(self) -> str | None:
        """The Prometheus that is asked; None where the agents' files are read."""
        return None if self._run.job.sampled_every is not None else self._prometheus()

    def read_on(self) -> bool:
        """Fetch what is new; whether there was anything.

        Raises
        ------
        ClusterError
        InvalidInput
            When nobody watched the run.
        """
        if not self.is_known:
            raise InvalidInput(NOTHING.format(run=self._run.id))
        with self._lock:
            if self.address is None:
                is_new = self._telemetry.read_on()
                self.version += is_new
                return is_new
            from nexa_sdk.monitoring.prometheus import Prometheus, Wanted

            self._run.refresh(max_age=5.0)
            wanted = [
                Wanted(attempt.job, attempt.status.node, attempt.status.start, attempt.status.end or time.time())
                for attempt in self._run.known_attempts
                if attempt.status.node and attempt.status.start is not None
            ]
            self._asked = Prometheus(self.address).series(wanted, ids=self._own_ids)
            self.version += 1
            return True

    def series(self, trials: int | Sequence[int] | None = None) -> list[Series]:
        """Return what was fetched, of these trials or of all."""
        tasks = None if trials is None else self._tasks(trials)
        if self.address is None:
            return self._telemetry.series(tasks)
        return [one for one in self._asked if tasks is None or one.task in tasks]

    def _own_ids(self) -> dict[str, str]:
        """Return the id that each task has alone, as far as accounting knows it by now."""
        attempts = self._run.known_attempts
        lacking = {one.array.token: one.array for one in attempts if one.status.node and one.job not in self._ids}
        if lacking and time.monotonic() - self._ids_at > ACCOUNTING:
            handles = [ArrayHandle(str(array.job_id), self._run.folder, array.size, array.token) for array in lacking.values()]
            self._ids |= {usage.job: usage.raw for usage in self._usage(handles) or ()}
            self._ids_at = time.monotonic()
        return self._ids

    def frame(self, trials: int | Sequence[int] | None = None, *, every: float | None = None) -> pd.DataFrame:
        """Fetch what is new, and tabulate all; see :meth:`nexa_sdk.Run.utilization`."""
        if every is not None and not (isinstance(every, (int, float)) and not isinstance(every, bool) and every > 0):
            raise InvalidInput(f"every={every!r} is no time; give seconds, as in every=60")
        self._run.try_refresh()  # which trial a task carries; without it that stays open
        self.read_on()
        table = frames.frame(self.series(trials), self.trials, every=every)
        table.attrs.update(complaints=self.complaints, lost_lines=self._telemetry.lost_lines)
        return table

    def verdicts(
        self,
        trials: int | Sequence[int] | None = None,
        *,
        gpu_hour_cost: float | str | Decimal | None = None,
        price: Price | None = None,
    ) -> pd.DataFrame:
        """Fetch what is new, and judge all; see :meth:`nexa_sdk.Run.verdicts`."""
        given = read_price(gpu_hour_cost)
        self._run.try_refresh()
        self.read_on()
        found = self.judged(trials)
        if given is None and price is not None:
            return tabulate(found, self.trials, price=price.gpu_hour, currency=price.currency)
        return tabulate(found, self.trials, price=given)

    def said(self, trials: int | Sequence[int] | None = None, *, price: Price | None = None) -> list[str]:
        """Judge what was fetched, in words, the dearest first, with what it costs where that is known; nobody is asked."""
        gpu_hour, currency = (price.gpu_hour, price.currency) if price is not None else (None, "")
        return [with_cost(verdict, gpu_hour, currency) for verdict in self.judged(trials)]

    @property
    def is_known(self) -> bool:
        """Whether anybody watches or watched the run."""
        return self._run.job.sampled_every is not None or self.address is not None

    def judged(self, trials: int | Sequence[int] | None = None) -> list[Verdict]:
        """Judge what was fetched; nobody is asked."""
        series = self.series(trials)
        unclear = {(one.task, one.node) for one in series if self._has_others(one)}
        found = judge(series, self.complaints)
        return [one for one in found if one.rule in OF_NO_GPU or (one.task, one.node) not in unclear]

    def idle_gpu_hours(self) -> float | None:
        """Add up the idle hours of GPUs in what was fetched; None where none was seen, or those of others may be among them."""
        series = self.series()
        return None if self.sees_others or not any(one.gpus for one in series) else idle_gpu_hours(series)

    @property
    def sees_others(self) -> bool:
        """Whether GPUs of others may be among what was fetched."""
        return any(self._has_others(one) for one in self.series())

    def _has_others(self, series: Series) -> bool:
        """Whether GPUs of others may be among these: a Prometheus that does not know whose they are tells of all of a node."""
        job = self._run.job
        return self.address is not None and series.gpus > -(-job.gpu_count // (job.nodes or 1))

    @property
    def complaints(self) -> dict[str, str]:
        """What agents had to complain of."""
        return self._telemetry.complaints

    @property
    def trials(self) -> dict[str, int]:
        """The trial of each task that carries one, as last known; nobody is asked."""
        return {attempt.job: attempt.trial for attempt in self._run.known_attempts if attempt.slot is None and attempt.job_id}

    def _tasks(self, trials: int | Sequence[int]) -> list[str]:
        wanted = {trials} if isinstance(trials, int) else set(trials)
        if not self._run.known_attempts:
            self._run.refresh(max_age=5.0)
        unknown = sorted(wanted - {attempt.trial for attempt in self._run.known_attempts})
        if unknown:
            raise InvalidInput(f"there is no trial {unknown[0]!r}: {self._run.id} has trials 0 to {self._run.trial_count - 1}")
        return [attempt.job for attempt in self._run.known_attempts if attempt.trial in wanted and attempt.job_id]
