"""Rates: what a GPU-hour, a core-hour and a node-hour cost, and what so many of them come to. Values; all money is exact.

Money of a single attempt is kept in billionths of its currency, rounded once: so the parts of any
sum add up to the whole, whichever way they are grouped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from nexa_sdk.errors import nearest

__all__ = ["METERS", "NANO", "Price", "RateCard", "RateTable", "Rates", "money"]

NANO = 10**9
HOUR = 3_600_000  # milliseconds
METERS: tuple[str, ...] = ("gpu", "cpu", "node")


def money(nanos: int) -> Decimal:
    """Return billionths of a currency as an amount of it."""
    return Decimal(nanos).scaleb(-9)


@dataclass(frozen=True)
class Price:
    """What an allocation costs, wherefrom that is known, and since when.

    Attributes
    ----------
    gpu_hour, cpu_hour, node_hour : Decimal or None
        None is not charged.
    currency : str
        As ISO 4217 has it: ``"USD"``.
    source : str
        Who says so.
    read_at : float
        When it was read, in seconds since the epoch.
    """

    gpu_hour: Decimal | None
    cpu_hour: Decimal | None
    node_hour: Decimal | None
    currency: str
    source: str
    read_at: float

    def of(self, meter: str) -> Decimal | None:
        """Return the rate of ``"gpu"``, ``"cpu"`` or ``"node"``."""
        return {"gpu": self.gpu_hour, "cpu": self.cpu_hour, "node": self.node_hour}[meter]

    def nanos(self, gpu_ms: int, cpu_ms: int, node_ms: int) -> int:
        """Price milliseconds of GPUs, cores and nodes, in billionths of the currency."""
        return sum(
            _rounded(amount * numerator * NANO, denominator * HOUR)
            for amount, (numerator, denominator) in zip((gpu_ms, cpu_ms, node_ms), self._ratios, strict=True)
        )

    def converted(self, currency: str, rate: Decimal) -> Price:
        """Return it in another currency, of which one unit of its own is worth so many."""
        hours = {f"{meter}_hour": None if (old := self.of(meter)) is None else old * rate for meter in METERS}
        return Price(**hours, currency=currency, source=self.source_at(currency, rate), read_at=self.read_at)

    def source_at(self, currency: str, rate: Decimal) -> str:
        """Say who says so, and by which rate it was converted."""
        return f"{self.source}, at {rate} {currency} for 1 {self.currency}"

    @cached_property
    def _ratios(self) -> list[tuple[int, int]]:
        return [(self.of(meter) or Decimal(0)).as_integer_ratio() for meter in METERS]


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


@dataclass(frozen=True)
class RateTable:
    """What one place charges: a cluster, or one of its partitions. Where there is none for a meter, it is not charged.

    Attributes
    ----------
    gpus : mapping of str to Decimal
        By type of GPU, in small letters; a GPU-hour.
    gpu_hour : Decimal or None
        Of any other type.
    cpu_hour, node_hour, gb_month : Decimal or None
        Of a core, of a whole node, and of a GB that lies for a month.
    """

    gpus: Mapping[str, Decimal] = field(default_factory=dict)
    gpu_hour: Decimal | None = None
    cpu_hour: Decimal | None = None
    node_hour: Decimal | None = None
    gb_month: Decimal | None = None

    def gpu_rate(self, gpu_type: str) -> Decimal | None:
        """Return what a GPU-hour of a type costs; an empty type is one that nobody named."""
        return self.gpus.get(gpu_type.lower(), self.gpu_hour)

    def written(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        single = {name: str(rate) for name in _SINGLE if (rate := getattr(self, name)) is not None}
        return {**single, **({"gpus": {name: str(rate) for name, rate in self.gpus.items()}} if self.gpus else {})}

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> RateTable:
        """Read what :meth:`written` returned."""
        single = {name: Decimal(written[name]) for name in _SINGLE if name in written}
        return cls(gpus={name: Decimal(rate) for name, rate in written.get("gpus", {}).items()}, **single)


_SINGLE = ("gpu_hour", "cpu_hour", "node_hour", "gb_month")


@dataclass(frozen=True)
class RateCard:
    """What one source says of a cluster, when it was read.

    Attributes
    ----------
    source : str
    read_at : float
        Seconds since the epoch.
    currency : str
    table : RateTable
        Of the cluster.
    partitions : mapping of str to RateTable
        What a partition's table says is all that counts in it.
    """

    source: str
    read_at: float
    currency: str
    table: RateTable
    partitions: Mapping[str, RateTable] = field(default_factory=dict)

    def table_of(self, partition: str) -> RateTable:
        """Return what counts in a partition."""
        return self.partitions.get(partition, self.table)

    def price(self, *, partition: str, gpu_type: str, gpus: int) -> Price | None:
        """Return what an allocation costs; None where this does not say it."""
        table = self.table_of(partition)
        gpu_hour = table.gpu_rate(gpu_type) if gpus else None
        deciding = gpu_hour if gpus else table.cpu_hour
        # A price of nodes says it of all within; but where types of GPUs are priced, one of another type is not free.
        if deciding is None and (table.node_hour is None or (gpus and table.gpus)):
            return None
        return Price(gpu_hour, table.cpu_hour, table.node_hour, self.currency, self.source, self.read_at)

    def written(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        partitions = {name: table.written() for name, table in self.partitions.items()}
        return {
            "source": self.source,
            "read_at": self.read_at,
            "currency": self.currency,
            **self.table.written(),
            **({"partitions": partitions} if partitions else {}),
        }

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> RateCard:
        """Read what :meth:`written` returned."""
        partitions = {name: RateTable.read(table) for name, table in written.get("partitions", {}).items()}
        return cls(written["source"], written["read_at"], written["currency"], RateTable.read(written), partitions)


@dataclass(frozen=True)
class Rates:
    """What all sources say of a cluster; the first that prices an allocation counts."""

    cards: tuple[RateCard, ...] = ()

    def price(self, *, partition: str = "", gpu_type: str = "", gpus: int = 0) -> Price | None:
        """Return what an allocation costs; None where nobody says it.

        Parameters
        ----------
        partition : str
            Several, as ``"gpu,low"``, cost the same or it is not known what.
        gpu_type : str
            As the cluster calls it; empty where it is not said.
        gpus : int
            How many.
        """
        found = [self._price(name, gpu_type, gpus) for name in partition.split(",")]
        return found[0] if all(price == found[0] for price in found) else None

    def _price(self, partition: str, gpu_type: str, gpus: int) -> Price | None:
        prices = (card.price(partition=partition, gpu_type=gpu_type, gpus=gpus) for card in self.cards)
        return next((price for price in prices if price is not None), None)

    def gb_month(self, partition: str = "") -> tuple[Decimal, RateCard] | None:
        """Return what a GB costs that lies for a month, and who says so."""
        found = ((card.table_of(partition).gb_month, card) for card in self.cards)
        return next(((rate, card) for rate, card in found if rate is not None), None)

    def why_unknown(self, *, partition: str = "", gpu_type: str = "", gpus: int = 0) -> str:
        """Say why an allocation has no price, and how it gets one."""
        where = f" in partition {partition}" if partition else ""
        if not self.cards:
            return "no price is known; write one into the file of rates"
        if "," in partition:
            return f"partitions {partition} may cost different prices; give one"
        known = dict.fromkeys(self._types(partition))
        if gpus and gpu_type and known:
            return f"no price is known of a GPU of type {gpu_type!r}{where}; {nearest(gpu_type.lower(), known)}"
        if gpus and known:
            return f"a GPU's price depends on its type{where}; give gpu_type= (known: {', '.join(known)})"
        return f"no price is known of a {'GPU' if gpus else 'core'}{where}; write {'gpu' if gpus else 'cpu'}_hour into the file of rates"

    def _types(self, partition: str) -> Iterator[str]:
        for card in self.cards:
            yield from card.table_of(partition).gpus

    def written(self) -> list[dict[str, Any]]:
        """Return it as JSON's values, for ``plan.json``: what is charged is what was said at the launch."""
        return [card.written() for card in self.cards]

    @classmethod
    def read(cls, written: list[dict[str, Any]]) -> Rates:
        """Read what :meth:`written` returned."""
        return cls(tuple(RateCard.read(card) for card in written))
