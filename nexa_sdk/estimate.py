"""Estimate: what trials will cost. A value that looks ahead: an upper bound, and what to expect."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk.cost_report import CostReport, exchange
from nexa_sdk.errors import InvalidInput
from nexa_sdk.rates import Price
from nexa_sdk.walltime import format_walltime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from nexa_sdk.job import Job

__all__ = ["Estimate", "Experience", "Takes"]


@dataclass(frozen=True)
class Takes:
    """What tasks take of GPUs, cores and nodes, in hours, and what that costs.

    Attributes
    ----------
    gpu_hours, cpu_hours, node_hours : Decimal
    total : Decimal or None
        Money; None where no price is known.
    """

    gpu_hours: Decimal
    cpu_hours: Decimal
    node_hours: Decimal
    total: Decimal | None

    @classmethod
    def of(cls, seconds: Decimal, *, gpus: int, cpus: int, nodes: int, price: Price | None, more: Decimal = Decimal(0)) -> Takes:
        """Price so many seconds of a task; `more` is what else it costs. Hours are divided into last: seconds are exact."""
        taken = [seconds * count for count in (gpus, cpus, nodes)]
        hours = [amount / 3600 for amount in taken]
        if price is None:
            return cls(hours[0], hours[1], hours[2], None)
        rates = (price.gpu_hour, price.cpu_hour, price.node_hour)
        paid = sum((amount * rate for amount, rate in zip(taken, rates, strict=True) if rate is not None), Decimal(0))
        return cls(hours[0], hours[1], hours[2], paid / 3600 + more)


@dataclass(frozen=True)
class Experience:
    """How long completed trials of the same program took before.

    Attributes
    ----------
    trials, runs : int
        How many, of how many runs.
    mean, low, high : timedelta
        Of a trial; nine in ten took at least `low`, and nine in ten at most `high`.
    """

    trials: int
    runs: int
    mean: timedelta
    low: timedelta
    high: timedelta

    @classmethod
    def of(cls, seconds: Sequence[float], *, runs: int) -> Experience | None:
        """Take the mean and the tenths at both ends; None where nothing ran yet."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        tenth = len(ordered) // 10
        low, mean, high = ordered[tenth], sum(ordered) / len(ordered), ordered[-1 - tenth]
        return cls(len(ordered), runs, *(timedelta(seconds=length) for length in (mean, min(low, mean), max(high, mean))))


@dataclass(frozen=True)
class Estimate(CostReport):
    """What trials will cost.

    `gpu_hours`, `cpu_hours` and `total` are upper bounds: each task runs to its walltime. They are
    None where nothing bounds them, or no price is known; a price is never made up.

    Attributes
    ----------
    trials, tasks : int
        A task carries one trial, or several when packed.
    gpu_type : str or None
    at_most : Takes or None
        None where there is no walltime.
    expected, expected_low, expected_high : Takes or None
        From earlier runs of the same program, if all trials are like the mean of those, like the
        shortest tenth and like the longest.
    experience : Experience or None
        Those earlier runs.
    price : Price or None
    wall_clock, expected_wall_clock : timedelta or None
        From the first task's start to the last one's end, at most and expectedly; the wait in the
        queue is not in it.
    """

    trials: int = 1
    tasks: int = 1
    gpu_type: str | None = None
    at_most: Takes | None = None
    expected: Takes | None = None
    expected_low: Takes | None = None
    expected_high: Takes | None = None
    experience: Experience | None = None
    price: Price | None = None
    wall_clock: timedelta | None = None
    expected_wall_clock: timedelta | None = None
    has_gpus: bool = field(default=True, repr=False)

    @classmethod
    def of_job(cls, job: Job, *, trials: int, tasks: int, rounds: int, price: Price | None, notes: tuple[str, ...] = ()) -> Estimate:
        """Bound what trials take by the walltime.

        Parameters
        ----------
        tasks : int
            How many there are, over all arrays.
        rounds : int
            How often a task begins where another has ended, as the throttle has it.
        """
        notes = (*notes, *_more_than_planned(job))
        bound = cls(title="Estimated cost", trials=trials, tasks=tasks, gpu_type=job.gpu_type, price=price, has_gpus=bool(job.gpu_count))
        if job.limit is None:
            return replace(bound, notes=("there is no walltime, so nothing bounds it; give time=", *notes))
        seconds = Decimal(tasks) * int(job.limit.total_seconds())
        most = Takes.of(seconds, gpus=job.gpu_count, cpus=job.cpu_count, nodes=job.nodes or 1, price=price)
        if not job.throttle:
            notes = (*notes, "wall-clock if all tasks run at once; throttle= says how many do")
        return replace(bound, at_most=most, wall_clock=rounds * job.limit, notes=notes)

    def expecting(self, job: Job, experience: Experience | None, *, rounds: int) -> Estimate:
        """Add what to expect from earlier runs of the same program."""
        if experience is None:
            return replace(self, notes=(*self.notes, "nothing is known of earlier runs of this program"))
        in_turn = 1 if job.side_by_side else Decimal(self.trials) / self.tasks

        def takes(length: timedelta) -> Takes:
            task = Decimal(str(length.total_seconds())) * in_turn
            if job.limit is not None:
                task = min(task, Decimal(str(job.limit.total_seconds())))
            return Takes.of(self.tasks * task, gpus=job.gpu_count, cpus=job.cpu_count, nodes=job.nodes or 1, price=self.price)

        length = experience.mean * float(in_turn)
        return replace(
            self,
            expected=takes(experience.mean),
            expected_low=takes(experience.low),
            expected_high=takes(experience.high),
            experience=experience,
            expected_wall_clock=rounds * (min(length, job.limit) if job.limit is not None else length),
        )

    # ---- what a CostReport says ----------------------------------------------------------------

    @cached_property
    def totals(self) -> dict[str, Decimal]:
        """The upper bound, by currency."""
        return {self.price.currency: self.at_most.total} if self.price and self.at_most and self.at_most.total is not None else {}

    @property
    def total(self) -> Decimal | None:
        """The upper bound."""
        return next(iter(self.totals.values()), None)

    @property
    def currency(self) -> str | None:
        """What it is paid in; None where no price is known."""
        return self.price.currency if self.price is not None else None

    @property
    def gpu_hours(self) -> Decimal | None:
        """GPU-hours, at most; None where nothing bounds them."""
        if not self.has_gpus:
            return Decimal(0)
        return self.at_most.gpu_hours if self.at_most is not None else None

    @property
    def gpu_seconds(self) -> Decimal | None:
        """Seconds × GPUs, at most."""
        return None if self.gpu_hours is None else self.gpu_hours * 3600

    @property
    def cpu_hours(self) -> Decimal | None:
        """Core-hours, at most; None where nothing bounds them."""
        return self.at_most.cpu_hours if self.at_most is not None else None

    @property
    def unknown(self) -> CostReport:
        """The estimate itself where its price or its bound is not known; else nothing, which is false."""
        return self if self.total is None else CostReport(title=f"{self.title}, of it without a known price")

    @property
    def money_text(self) -> str:
        """What it costs at most, in words."""
        return self._money(self.at_most) if self.at_most is not None else "unbounded"

    def in_currency(self, currency: str, rates: Mapping[str, object]) -> Estimate:
        """Return it in another currency; see :meth:`CostReport.in_currency`."""
        worth = exchange(currency, rates, [self.price.currency] if self.price is not None else [])
        if self.price is None or self.price.currency == currency:
            return self
        rate = worth[self.price.currency]

        def converted(takes: Takes | None) -> Takes | None:
            return takes if takes is None or takes.total is None else replace(takes, total=takes.total * rate)

        return replace(
            self,
            price=self.price.converted(currency, rate),
            at_most=converted(self.at_most),
            expected=converted(self.expected),
            expected_low=converted(self.expected_low),
            expected_high=converted(self.expected_high),
        )

    def _check_group(self, name: str) -> None:
        raise InvalidInput(f"an estimate can't be told apart by {name}: nothing has run yet; to_frame() has its cases")

    def to_frame(self) -> pd.DataFrame:
        """Return it as a row for each case: at most, expected, and the ends of what is expected."""
        from nexa_sdk.focus import estimate_frame

        return estimate_frame(self)

    def to_focus_csv(self, path: str | os.PathLike[str], *, leave_out_unknown: bool = False, with_draft_names: bool = False) -> None:
        """Refuse: an estimate is no charge."""
        raise InvalidInput(
            f"an estimate is no charge: {os.fspath(path)} would be taken for a bill; run.cost().to_focus_csv(path) writes one"
        )

    def __bool__(self) -> bool:
        return True

    @property
    def cases(self) -> list[tuple[str, Takes]]:
        """What is known ahead, by its name."""
        named = [("at most", self.at_most), ("expected", self.expected), ("expected, low", self.expected_low)]
        return [(name, takes) for name, takes in [*named, ("expected, high", self.expected_high)] if takes is not None]

    @property
    def summary(self) -> list[str]:
        """What is to be said of it besides its table, a line for each."""
        return [*str(self).splitlines(), *self.notes]

    def __str__(self) -> str:
        return "\n".join([self._bound_text, *([self._expected_text] if self.expected is not None else [])])

    @property
    def _bound_text(self) -> str:
        if self.at_most is None:
            what = "GPU-hours" if self.has_gpus else "CPU-hours"
            per = f"{_rates_text(self.price)}, {self.price.source}" if self.price is not None else "price unknown"
            return f"no walltime bounds the {what}, {per}"
        gpus = f"{self.at_most.gpu_hours:,.2f} GPU-hours, " if self.at_most.gpu_hours else ""
        clock = f", {format_walltime(self.wall_clock)} of wall-clock" if self.wall_clock is not None else ""
        return f"at most {gpus}{self.at_most.cpu_hours:,.2f} CPU-hours, {self._money(self.at_most)}{self._priced}{clock}"

    @property
    def _expected_text(self) -> str:
        assert self.expected is not None
        assert self.experience is not None
        amount = f"{self.expected.gpu_hours:,.2f} GPU-hours" if self.expected.gpu_hours else f"{self.expected.cpu_hours:,.2f} CPU-hours"
        ends = ""
        if self.price is not None and self.expected_low is not None and self.expected_high is not None:
            ends = f", {self._money(self.expected)} ({self.expected_low.total:,.2f} to {self.expected_high.total:,.2f})"
        seen = f"{self.experience.trials:,} trial{'s' if self.experience.trials != 1 else ''} of {self.experience.runs:,} earlier run"
        return f"expected {amount}{ends}, from {seen}{'s' if self.experience.runs != 1 else ''}"

    def _money(self, takes: Takes) -> str:
        return "price unknown" if takes.total is None or self.price is None else f"{takes.total:,.2f} {self.price.currency}"

    @property
    def _priced(self) -> str:
        return f" ({_rates_text(self.price)}, {self.price.source})" if self.price is not None else ""

    def __repr__(self) -> str:
        return f"<Estimate of {self.trials:,} trials: {'; '.join(self.summary)}>"

    def shown(self) -> tuple[list[str], list[list[Any]]]:
        """Return a small table: a row for each case."""
        rows = [
            [name, f"{self.trials:,}", self.gpu_type or "", f"{takes.gpu_hours:,.2f}", f"{takes.cpu_hours:,.2f}", self._money(takes)]
            for name, takes in self.cases
        ]
        unbounded = ["at most", f"{self.trials:,}", self.gpu_type or "", "unbounded" if self.has_gpus else "0.00", "unbounded", "unknown"]
        return ["", "trials", "GPU type", "GPU-hours", "CPU-hours", "cost"], rows if self.at_most is not None else [unbounded, *rows]


def _rates_text(price: Price) -> str:
    named = ((price.gpu_hour, "GPU"), (price.cpu_hour, "core"), (price.node_hour, "node"))
    return ", ".join(f"{rate} {price.currency} a {what}-hour" for rate, what in named if rate is not None)


def _more_than_planned(job: Job) -> list[str]:
    """Say what may run more than once."""
    found = []
    if job.retry is not None:
        found.append("retry= may run failed trials again, which comes on top")
    if job.requeue:
        found.append("what Slurm requeues is paid for each time")
    return found
