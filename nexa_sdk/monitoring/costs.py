"""What a batch will cost: the specification's function, over the same values as ``plan.cost()``."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from decimal import Decimal
from numbers import Integral, Real

from nexa_sdk.errors import InvalidInput
from nexa_sdk.estimate import Estimate, Takes
from nexa_sdk.monitoring.prices import Wanted, rates_of
from nexa_sdk.rates import Price
from nexa_sdk.walltime import parse_walltime

__all__ = ["estimate_batch_cost"]

Number = int | float | str | Decimal


def estimate_batch_cost(
    *,
    nodes: int = 1,
    gpus_per_node: int = 0,
    duration_hours: Number | None = None,
    walltime: str | timedelta | None = None,
    gpu_type: str | None = None,
    gpu_hour_cost: Number | None = None,
    trials: int = 1,
    cpus_per_node: int = 1,
    storage_gb_months: Number = 0,
    cluster: str | None = None,
    partition: str | None = None,
    currency: str | None = None,
) -> Estimate:
    """Estimate what trials cost that all run as long as is said.

    Parameters
    ----------
    nodes, gpus_per_node, cpus_per_node : int
        Of each trial.
    duration_hours : number, optional
    walltime : str or timedelta, optional
        ``"2:00:00"``, ``"90m"``; instead of `duration_hours`.
    gpu_type : str, optional
        ``"h100"``.
    gpu_hour_cost : number, optional
        What a GPU-hour costs; unless given, what the file of prices or gpuhunt's catalogs say, see
        :mod:`nexa_sdk.monitoring.prices`. Where nobody says it, the cost is unknown.
    trials : int
    storage_gb_months : number
        GB × months that data lies.
    cluster, partition : str, optional
        Whose prices, as the file of prices names them.
    currency : str, optional
        Of `gpu_hour_cost`; USD unless given.

    Raises
    ------
    InvalidInput
    """
    seconds = _seconds(duration_hours, walltime)
    counts = {"nodes": nodes, "gpus_per_node": gpus_per_node, "trials": trials, "cpus_per_node": cpus_per_node}
    for name, count in counts.items():
        least = 0 if name == "gpus_per_node" else 1
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:  # one of numpy's is whole as well
            raise InvalidInput(f"{name}={count!r}: give a whole number, {least} or more")
    nodes, gpus_per_node, trials, cpus_per_node = (int(count) for count in counts.values())
    gpus, cpus = nodes * gpus_per_node, nodes * cpus_per_node
    gb_months = _amount("storage_gb_months", storage_gb_months)
    if gpu_hour_cost is not None:
        if not gpus:
            raise InvalidInput("gpu_hour_cost= is given, and no GPU is used; add gpus_per_node=")
        rate = _amount("gpu_hour_cost", gpu_hour_cost)
        price: Price | None = Price(rate, None, None, _currency(currency), "gpu_hour_cost", time.time())
        if gb_months:
            raise InvalidInput("storage_gb_months= needs the file of prices, and gpu_hour_cost= is given instead; leave one out")
        notes: list[str] = []
        stored = Decimal(0)
    else:
        if currency is not None:
            raise InvalidInput(f"currency={currency!r} is that of gpu_hour_cost=, which is not given; a file of prices has its own")
        rates = rates_of(Wanted([cluster] if cluster else [], [gpu_type] if gpu_type else []))
        asked = {"partition": partition or "", "gpu_type": gpu_type or "", "gpus": gpus}
        price = rates.price(**asked)  # type: ignore[arg-type]
        notes = [] if price is not None else [rates.why_unknown(**asked)]  # type: ignore[arg-type]
        storage = rates.gb_month(partition or "")
        if gb_months and (storage is None or (price is not None and storage[1].currency != price.currency)):
            price, notes = None, [*notes, "no price is known of a GB-month in the same currency; write gb_month into the file of rates"]
        stored = gb_months * storage[0] if storage is not None else Decimal(0)
    most = Takes.of(seconds * trials, gpus=gpus, cpus=cpus, nodes=nodes, price=price, more=stored)
    return Estimate(
        title="Estimated cost",
        notes=tuple(notes),
        trials=trials,
        tasks=trials,
        gpu_type=gpu_type,
        at_most=most,
        price=price,
        has_gpus=bool(gpus),
    )


def _currency(given: str | None) -> str:
    if given is None:
        return "USD"
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z]{3}", given):
        raise InvalidInput(f"currency={given!r} is no currency; write its three letters, as in 'USD'")
    return given.upper()


def _seconds(duration_hours: Number | None, walltime: str | timedelta | None) -> Decimal:
    if (duration_hours is None) == (walltime is None):
        raise InvalidInput("give one of duration_hours=2.5 and walltime='2:30:00'")
    if duration_hours is not None:
        hours = _amount("duration_hours", duration_hours)
        if not hours:
            raise InvalidInput("duration_hours=0: give more")
        return hours * 3600
    try:
        length = parse_walltime(walltime)
    except ValueError as error:
        raise InvalidInput(f"walltime: {error}") from None
    if length is None:
        raise InvalidInput(f"walltime={walltime!r} bounds nothing; give a length")
    return Decimal(int(length.total_seconds()))


def _amount(name: str, given: Number) -> Decimal:
    """Take a number for what was written: 2.49 is 2.49, not the binary fraction next to it."""
    if isinstance(given, bool) or not isinstance(given, (Real, str, Decimal)):
        raise InvalidInput(f"{name}={given!r}: give a number")
    try:
        amount = Decimal(str(given))
    except ArithmeticError:
        raise InvalidInput(f"{name}={given!r}: give a number") from None
    if not amount.is_finite() or amount < 0:
        raise InvalidInput(f"{name}={given!r}: give 0 or more")
    return amount
