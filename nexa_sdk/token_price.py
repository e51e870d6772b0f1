"""TokenPrice: what a call of an LLM API costs, meter by meter. A value; all money is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

from nexa_sdk.rates import NANO, Price

__all__ = ["Amounts", "Meter", "TokenPrice", "added"]

# How much of what: {"input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 96}, by genai-prices' names.
Amounts = Mapping[str, int | Decimal]


class Meter(NamedTuple):
    """One of the things that a call pays for.

    Attributes
    ----------
    name : str
        As genai-prices has it: ``"output_tokens"``.
    per : int
        How many of them the rate is for: 1,000,000.
    rate : Decimal
    """

    name: str
    per: int
    rate: Decimal


@dataclass(frozen=True, kw_only=True)
class TokenPrice(Price):
    """What a model's tokens cost, wherefrom that is known, and since when.

    Attributes
    ----------
    meters : tuple of Meter
        What is charged. Each counts what no other does: what came from a cache is no ``input_tokens`` here.
    """

    gpu_hour: Decimal | None = None
    cpu_hour: Decimal | None = None
    node_hour: Decimal | None = None
    meters: tuple[Meter, ...] = ()

    def parts(self, billed: Amounts) -> Iterator[tuple[Meter, int | Decimal, int]]:
        """Say what each meter counts, and what that costs in billionths of the currency."""
        for meter in self.meters:
            if amount := billed.get(meter.name, 0):
                yield meter, amount, _rounded(meter.rate * amount * NANO / meter.per)

    def nanos_of(self, billed: Amounts) -> int:
        """Price what a call is charged for, in billionths of the currency."""
        return sum(nanos for _, _, nanos in self.parts(billed))

    def converted(self, currency: str, rate: Decimal) -> TokenPrice:
        """Return it in another currency, of which one unit of its own is worth so many."""
        meters = tuple(meter._replace(rate=meter.rate * rate) for meter in self.meters)
        return replace(self, meters=meters, currency=currency, source=self.source_at(currency, rate))

    def written(self) -> dict[str, Any]:
        """Return it as JSON's values, without the time that it was read at."""
        meters = [[meter.name, meter.per, str(meter.rate)] for meter in self.meters]
        return {"currency": self.currency, "source": self.source, "meters": meters}

    @classmethod
    def read(cls, written: Mapping[str, Any], read_at: float) -> TokenPrice:
        """Read what :meth:`written` returned."""
        meters = tuple(Meter(name, per, Decimal(rate)) for name, per, rate in written["meters"])
        return cls(currency=written["currency"], source=written["source"], read_at=read_at, meters=meters)


def _rounded(exact: Decimal) -> int:
    numerator, denominator = exact.as_integer_ratio()
    return (2 * numerator + denominator) // (2 * denominator)


def added(sums: dict[str, int | Decimal], amounts: Amounts) -> dict[str, int | Decimal]:
    """Add amounts to sums, in place."""
    for name, amount in amounts.items():
        sums[name] = sums.get(name, 0) + amount
    return sums
