"""CostLine: what one attempt, or several that have much in common, took and cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nexa_sdk.rates import Price
    from nexa_sdk.token_price import Amounts

__all__ = ["API", "COMPUTE", "DAY", "CostLine"]

# Kinds of line. Another (a GPU that stood idle) is another word here, in the same ledger.
COMPUTE = "compute"
API = "api"  # calls of an LLM API

DAY = 86_400_000  # milliseconds
NOTHING: Amounts = {}


class CostLine(NamedTuple):  # a report may have 10⁶ of them
    """What one attempt, or several that have much in common, took and cost.

    Attributes
    ----------
    kind : str
        What was used: ``"compute"``, or ``"api"`` for calls of an LLM API.
    cluster, run, trial, user, account, partition, gpu_type : str
        Empty where it is not known. A packed task's trials share its line: ``"4-7"``.
    state : str
        How it ended; RUNNING is so far.
    job : str
        As ``squeue -j`` takes it; empty where it is several.
    start, end : int
        Milliseconds since the epoch. Where it is several, the day that they ran in.
    attempts : int
        How many attempts, or calls; one that spans several days counts in the first.
    gpu_ms, cpu_ms, node_ms : int
        Milliseconds × GPUs, cores and nodes.
    nanos : int or None
        What it costs, in billionths of the currency; None where no price is known.
    price : Price or None
        Of calls, a :class:`nexa_sdk.token_price.TokenPrice`.
    provider, model, tag : str
        Of calls: whose API, what answered, and the user's own word.
    why : str
        Of calls: why no price is known.
    used : mapping of str to int or Decimal
        Of calls: ``{"input_tokens": …, "output_tokens": …}``; cached tokens are part of the input's.
    billed : mapping of str to int or Decimal
        Of calls: what each meter of the price counts.
    """

    kind: str
    cluster: str
    run: str
    trial: str
    user: str
    account: str
    partition: str
    gpu_type: str
    state: str
    job: str
    start: int
    end: int
    attempts: int
    gpu_ms: int
    cpu_ms: int
    node_ms: int
    nanos: int | None
    price: Price | None
    provider: str = ""
    model: str = ""
    tag: str = ""
    why: str = ""
    used: Amounts = NOTHING
    billed: Amounts = NOTHING

    @property
    def currency(self) -> str | None:
        """What `nanos` are billionths of."""
        return self.price.currency if self.price is not None else None

    @property
    def day(self) -> date:
        """The day that it began, in UTC."""
        return datetime.fromtimestamp(self.start / 1000, UTC).date()

    @property
    def is_failure(self) -> bool:
        """Whether it ended without completing: what it took has to be taken again."""
        return self.state not in ("COMPLETED", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "PENDING", "UNKNOWN")

    def within(self, first: int, last: int) -> CostLine | None:
        """Return the part of it from one time to another, in milliseconds; None where there is none.

        The parts of a line add up to it exactly: what falls before a time is rounded, and a part
        is the difference of two such.
        """
        if self.start == self.end:
            return self if first <= self.start < last else None
        if self.start >= first and self.end <= last:
            return self
        low, high = max(self.start, first), min(self.end, last)
        if low >= high:
            return None

        length = self.end - self.start

        def part(amount: int) -> int:
            return amount * (high - self.start) // length - amount * (low - self.start) // length

        def parts(amounts: Amounts) -> Amounts:
            return {
                name: amount * (high - self.start) // length - amount * (low - self.start) // length for name, amount in amounts.items()
            }

        return self._replace(
            start=low,
            end=high,
            attempts=self.attempts if low == self.start else 0,
            gpu_ms=part(self.gpu_ms),
            cpu_ms=part(self.cpu_ms),
            node_ms=part(self.node_ms),
            nanos=None if self.nanos is None else part(self.nanos),
            used=parts(self.used),
            billed=parts(self.billed),
        )

    def by_day(self) -> Iterator[CostLine]:
        """Cut it at the ends of days, in UTC."""
        first = self.start // DAY
        if self.end <= (first + 1) * DAY:
            yield self
            return
        for day in range(first, -(-self.end // DAY)):
            if (part := self.within(day * DAY, (day + 1) * DAY)) is not None:
                yield part
