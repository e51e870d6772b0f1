"""Where prices come from: sources behind one small interface. None is ever made up.

::

    # rates.toml
    currency = "USD"                        # ISO 4217; of all tables that say no other
    gpu_hour = 2.00                         # any GPU, of a cluster that has no table of its own
    [clusters.work]                         # as Cluster(…) takes it
    cpu_hour = 0.02                         # a core-hour
    node_hour = 0                           # 0 is free; what is left out is not charged
    gb_month = 0.05                         # a GB that lies for a month
    [clusters.work.gpus]                    # a GPU-hour, by the type that the cluster names
    h100 = 2.49
    [clusters.work.partitions.spot]         # a partition's table counts alone, as a whole
    gpus = { h100 = 1.20 }
    [catalog]                               # gpuhunt's, for what no table prices
    providers = ["runpod", "lambdalabs"]    # only these

Three sources are asked in turn: this file, ``$NEXA_RATES``, else ``nexa/rates.toml`` in
``$XDG_CONFIG_HOME`` or ``~/.config``; the rates of a cluster's description (``clusters.toml``); and
gpuhunt's catalogs, which say what a GPU is rented for elsewhere. Those are read from the folder that
``GPUHUNT_CATALOG_DIR`` names, and never downloaded: a launch waits for no server that it does not need.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from nexa_sdk import settings
from nexa_sdk.errors import InvalidInput, RatesError, nearest
from nexa_sdk.rates import RateCard, Rates, RateTable
from nexa_sdk.toml_lines import Place, TomlFile, shown

__all__ = ["Catalog", "GivenRates", "PriceSource", "RateFile", "Wanted", "rates_of"]

_SINGLE = ("gpu_hour", "cpu_hour", "node_hour", "gb_month")
_TABLE = ("currency", *_SINGLE, "gpus")
_CURRENCY = re.compile(r"[A-Z]{3}")
DEAREST = Decimal(10) ** 7  # an hour: a slip of the pen is dearer


@dataclass(frozen=True)
class Wanted:
    """What prices are asked of.

    Attributes
    ----------
    cluster : sequence of str
        Its names: what ``Cluster(…)`` was given, and what that stands for.
    gpu_types : sequence of str
        The types of GPU that are meant, where a source knows too many to name them all.
    """

    cluster: Sequence[str] = ()
    gpu_types: Sequence[str] = ()


class PriceSource(Protocol):
    """Somebody who knows prices: a file, a catalog, a provider's live offers."""

    def card(self, wanted: Wanted) -> RateCard | None:
        """Say what is known; None where nothing is."""


def rates_of(wanted: Wanted, *, given: PriceSource | None = None) -> Rates:
    """Ask all sources.

    Parameters
    ----------
    given : PriceSource, optional
        What a cluster's description says.

    Raises
    ------
    RatesError
        The file of prices can't be meant.
    """
    file = RateFile.find()
    catalog = Catalog.find(file.providers if file is not None else ())
    cards = (source.card(wanted) for source in (file, given, catalog) if source is not None)
    return Rates(tuple(card for card in cards if card is not None))


@dataclass(frozen=True)
class GivenRates:
    """USD of a GPU-hour by type, as a cluster's description gives it."""

    gpus: Mapping[str, Decimal]
    source: str

    def card(self, wanted: Wanted) -> RateCard | None:
        """Say what the description gives."""
        if not self.gpus:
            return None
        table = RateTable(gpus={kind.lower(): rate for kind, rate in self.gpus.items()})
        return RateCard(self.source, time.time(), "USD", table)


class RateFile(TomlFile):
    """The user's file of prices, read whole and checked.

    Raises
    ------
    RatesError
        For what can't be meant, with its line.
    """

    Error = RatesError

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_at = time.time()
        known = (*_TABLE, "clusters", "catalog")
        for key in self.content:
            if key not in known:
                self.fail((key,), f"{key!r} is not known here; {nearest(key, known)}")
        self.currency = self._currency((), self.content, None)
        self._top = self._table((), self.content)
        clusters = self.table(("clusters",), self.content.get("clusters", {}))
        self._clusters = {name: self._cluster(("clusters", name), given) for name, given in clusters.items()}
        self.providers = self._providers(self.content.get("catalog"))

    @classmethod
    def find(cls) -> RateFile | None:
        """Return the user's file; None where there is none.

        Raises
        ------
        RatesError
        """
        path = settings.rates_file()
        if os.environ.get("NEXA_RATES") and not path.exists():
            raise RatesError("there is no such file, and $NEXA_RATES names it; make it, or unset the variable", path=path)
        return cls(path) if path.exists() else None

    def card(self, wanted: Wanted) -> RateCard | None:
        """Say what the file has of a cluster; where it names none, what it has of all."""
        name = next((name for name in wanted.cluster if name in self._clusters), None)
        if name is not None:
            currency, table, partitions = self._clusters[name]
            return RateCard(f"{self.path.name}, clusters.{name}", self.read_at, currency, table, partitions)
        if self._top == RateTable() or self.currency is None:
            return None
        return RateCard(self.path.name, self.read_at, self.currency, self._top)

    # ---- tables --------------------------------------------------------------------------------

    def _cluster(self, place: Place, given: Any) -> tuple[str, RateTable, dict[str, RateTable]]:
        table = self.table(place, given)
        self._check_keys(place, table, (*_TABLE, "partitions"))
        currency = self._currency(place, table, self.currency)
        partitions = self.table((*place, "partitions"), table.get("partitions", {}))
        found = {}
        for name, inner in partitions.items():
            where = (*place, "partitions", name)
            self._check_keys(where, self.table(where, inner), ("gpus", *_SINGLE))
            found[name] = self._table(where, inner)
        own = self._table(place, table)
        if currency is None:
            self.fail(place, f"{place[-1]} has no currency; add one, as in currency = 'USD', here or at the top")
        return currency, own, found

    def _check_keys(self, place: Place, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                self.fail((*place, key), f"{key!r} is not known here; {nearest(key, known)}")

    def _table(self, place: Place, table: Mapping[str, Any]) -> RateTable:
        gpus = self.table((*place, "gpus"), table.get("gpus", {}))
        by_type: dict[str, str] = {}
        for kind in gpus:
            if (other := by_type.setdefault(kind.lower(), kind)) != kind:
                self.fail((*place, "gpus", kind), f"{kind!r} and {other!r} are the same type of GPU; leave one out")
        single = {name: self._rate((*place, name), table[name]) for name in _SINGLE if name in table}
        if not place and (single or gpus) and self.currency is None:
            self.fail((next(iter([*single, "gpus"])),), "prices have no currency; add one at the top, as in currency = 'USD'")
        return RateTable(gpus={kind.lower(): self._rate((*place, "gpus", kind), rate) for kind, rate in gpus.items()}, **single)

    def _currency(self, place: Place, table: Mapping[str, Any], default: str | None) -> str | None:
        given = table.get("currency", default)
        if given is not None and not (isinstance(given, str) and _CURRENCY.fullmatch(given)):
            self.fail((*place, "currency"), f"currency = {shown(given)} is no currency; write its three letters, as in 'USD'")
        return given

    def _rate(self, place: Place, given: Any) -> Decimal:
        is_number = isinstance(given, (int, Decimal)) and not isinstance(given, bool)
        if not is_number or not Decimal(given).is_finite():
            self.fail(place, f"{place[-1]} is a price, a number, not {shown(given)}")
        if given < 0:
            self.fail(place, f"{place[-1]} = {given}: a price is 0 or more")
        if given > DEAREST:
            self.fail(place, f"{place[-1]} = {given}: a price is {DEAREST:,} at most; choose a currency of larger units")
        return Decimal(given)

    def _providers(self, given: Any) -> tuple[str, ...]:
        if given is None:
            return ()
        table = self.table(("catalog",), given)
        self._check_keys(("catalog",), table, ("providers",))
        providers = table.get("providers", [])
        if not isinstance(providers, list) or not all(isinstance(name, str) and name for name in providers):
            self.fail(("catalog", "providers"), f"providers is a list of names, as in ['runpod'], not {shown(providers)}")
        return tuple(providers)


class Catalog:
    """What GPUs are rented for elsewhere, as gpuhunt's catalogs have it: the cheapest offer on demand, for one of its GPUs.

    Parameters
    ----------
    folder : Path
        Where the catalogs lie, as ``GPUHUNT_CATALOG_DIR`` has it: gpuhunt itself reads that.
    providers : sequence of str
        Only these; all, unless given.
    """

    def __init__(self, folder: Path, providers: Sequence[str] = ()) -> None:
        self.folder = folder
        self.providers = providers

    @classmethod
    def find(cls, providers: Sequence[str]) -> Catalog | None:
        """Return the catalogs of ``GPUHUNT_CATALOG_DIR``; None where it names no folder."""
        folder = os.environ.get("GPUHUNT_CATALOG_DIR")
        return cls(Path(folder), providers) if folder else None

    def card(self, wanted: Wanted) -> RateCard | None:
        """Say what GPUs of the wanted types are rented for.

        Raises
        ------
        InvalidInput
            gpuhunt is not installed, or has no such catalog.
        """
        types = [kind for kind in wanted.gpu_types if kind]
        if not types:
            return None
        offers = self._offers()
        found = {kind.lower(): offer for kind in types if (offer := _cheapest(offers, kind)) is not None}
        if not found:
            return None
        names = ", ".join(dict.fromkeys(f"{offer.provider} {offer.instance_name}" for offer in found.values()))
        gpus = {kind: _per_gpu(offer) for kind, offer in found.items()}
        return RateCard(f"gpuhunt: {names}, on demand", time.time(), "USD", RateTable(gpus=gpus))

    def _offers(self) -> list[Any]:
        try:
            import gpuhunt
        except ImportError:
            raise InvalidInput("the 'gpuhunt' package is not installed; install it by: pip install 'nexa_sdk[prices]'") from None
        there = sorted(path.stem for path in self.folder.glob("*.csv"))
        missing = [name for name in self.providers if name not in there]
        if not there:
            raise InvalidInput(f"{self.folder}, which GPUHUNT_CATALOG_DIR names, has no catalog; fill it, or unset the variable")
        if missing:
            raise InvalidInput(f"{self.folder} has no catalog {missing[0]}.csv; {nearest(missing[0], there)}")
        catalog = gpuhunt.Catalog(balance_resources=False, auto_reload=False)
        try:
            return list(catalog.query(provider=list(self.providers) or there, min_gpu_count=1, spot=False))
        except (ValueError, KeyError, OSError) as error:
            raise InvalidInput(f"gpuhunt's catalogs in {self.folder} can't be read: {error}") from error


def _cheapest(offers: Iterable[Any], kind: str) -> Any | None:
    fitting = [offer for offer in offers if offer.gpu_name and offer.price > 0 and _is_same(offer, kind)]
    return min(fitting, key=_per_gpu, default=None)


def _per_gpu(offer: Any) -> Decimal:
    price, count = Decimal(repr(offer.price)), int(offer.gpu_count)
    return (price / count).quantize(Decimal("1e-6"))


_VENDORS = ("nvidia", "amd", "tesla", "geforce", "instinct")


def _is_same(offer: Any, kind: str) -> bool:
    """Whether an offer's GPU is of a type as Slurm calls it: ``h100``, ``nvidia_a100-sxm4-80gb``."""
    words = [word for word in re.split(r"[-_\s]+", kind.lower()) if word and word not in _VENDORS]
    memory = next((int(match[1]) for word in words if (match := re.fullmatch(r"(\d+)gb?", word))), None)
    if not words or (memory is not None and offer.gpu_memory is not None and round(offer.gpu_memory) != memory):
        return False
    return bool(re.sub(r"\W", "", offer.gpu_name.lower()) == words[0])
