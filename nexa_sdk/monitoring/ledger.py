"""The ledger: what every attempt took and cost, written down once, at the price of its launch.

It can be lost: prices stand in the journal as well, and what was used in the scheduler's accounting.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nexa_sdk import settings
from nexa_sdk.cost_line import DAY, CostLine
from nexa_sdk.cost_report import CostReport
from nexa_sdk.errors import InvalidInput
from nexa_sdk.monitoring.ledger_file import LedgerFile
from nexa_sdk.monitoring.usage.calls import ApiCall, lines_between, lines_of_run, tell
from nexa_sdk.rates import NANO, Price

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Charge", "Ledger", "read_moment"]

MOST_NANOS = 2**63 - 1
EARLIEST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp()) * 1000  # of what a date can say


class Charge(NamedTuple):  # 10⁵ of them may be told of at once
    """What one attempt took, as far as known.

    Attributes
    ----------
    kind, cluster, run, trial, user, account, partition, gpu_type, state, job : str
        As :class:`nexa_sdk.cost_line.CostLine` has them.
    raw : str
        What tells its job from others of its cluster, and stays when it is requeued.
    start, end : int
        Milliseconds since the epoch; of what runs, until when it was seen.
    is_over : bool
    length : int
        Milliseconds in which it had its resources.
    gpus, cpus, nodes : int
    is_accounted : bool
        By the scheduler's accounting, which counts before the run's own records.
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
    raw: str
    start: int
    end: int
    is_over: bool
    length: int
    gpus: int
    cpus: int
    nodes: int
    is_accounted: bool


class _Amounts(NamedTuple):
    """What a charge took, and when: what its days are made of."""

    start: int
    end: int
    party: int
    gpu_ms: int
    cpu_ms: int
    node_ms: int
    nanos: int | None


class _Known(NamedTuple):
    """A charge that is written down already."""

    price: int
    is_over: bool
    asked: float
    is_accounted: bool
    raw: str
    amounts: _Amounts

    @property
    def start(self) -> int:
        return self.amounts.start


class Ledger:
    """The ledger in a file; made when first written to."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or settings.home() / "ledger.sqlite"
        self._file = LedgerFile(self.path)

    # ---- what is written -----------------------------------------------------------------------

    def launch(self, run: str, *, cluster: str, program: str, resources: str, rates: Sequence[Mapping[str, Any]], at: float) -> None:
        """Write down what is launched, and the prices of now; what is there already stays."""
        with self._file.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO launches VALUES (?, ?, ?, ?, ?, ?)", (run, cluster, program, resources, json.dumps(rates), at)
            )

    def record(self, charges: Iterable[Charge], price: Callable[[Charge], Price | None], *, asked: float) -> None:
        """Write down what attempts took; the same may be told any number of times, in any order.

        An attempt is its job and its start. What has ended stays ended, a price that was known once
        stays, and what was said of a running attempt gives way to what is said later.

        Parameters
        ----------
        price : callable
            Says what a charge costs that has no price yet.
        asked : float
            When this was known, in seconds since the epoch.
        """
        told: dict[tuple[str, str], list[Charge]] = {}
        for charge in charges:
            told.setdefault((charge.cluster, charge.job), []).append(charge)
        if not told:
            return
        with self._file.writing() as connection:
            book = _Book(connection)
            for (cluster, job), of_job in told.items():
                book.write(cluster, job, of_job, price, asked)
            book.close()

    def record_calls(self, calls: Iterable[ApiCall]) -> None:
        """Write down calls of LLM APIs; the same may be told any number of times."""
        if found := list(calls):
            with self._file.writing() as connection:
                tell(connection, found)

    # ---- what is read --------------------------------------------------------------------------

    def alike(self, *, cluster: str, program: str, resources: str, limit: int = 20) -> list[str]:
        """Return the newest runs of the same program with the same resources."""
        if not self.path.exists():
            return []
        with self._file.reading() as connection:
            rows = connection.execute(
                "SELECT run FROM launches WHERE program = ? AND cluster = ? AND resources = ? ORDER BY at DESC LIMIT ?",
                (program, cluster, resources, limit),
            )
            return [row[0] for row in rows]

    def rates(self, run: str) -> list[dict[str, Any]] | None:
        """Return the prices of a launch; None where it is not known."""
        with self._file.reading() as connection:
            row = connection.execute("SELECT rates FROM launches WHERE run = ?", (run,)).fetchone()
        return None if row is None else list(json.loads(row[0]))

    def runs(self) -> set[str]:
        """Name the runs of which anything is written down."""
        with self._file.reading() as connection:
            return {row[0] for row in connection.execute("SELECT DISTINCT run FROM parties")}

    def running(self) -> set[str]:
        """Name the runs of which something is written down as not over yet."""
        where = "state = 'RUNNING' AND EXISTS (SELECT 1 FROM charges WHERE party = parties.id)"
        with self._file.reading() as connection:
            return {row[0] for row in connection.execute(f"SELECT DISTINCT run FROM parties WHERE {where}")}

    def of_run(self, run: str) -> list[CostLine]:
        """Return a line for each attempt of a run, the first to start first."""
        with self._file.reading() as connection:
            parties = _parties(connection, "run = ?", (run,))
            marks = ",".join("?" * len(parties))
            rows = connection.execute(f"SELECT {_LINE} FROM charges WHERE party IN ({marks}) ORDER BY start, raw", list(parties)).fetchall()
        return [_line(parties, row) for row in rows]

    def calls_of_run(self, run: str) -> list[CostLine]:
        """Return a line for each call of an LLM API that a run's trials made, the first first."""
        with self._file.reading() as connection:
            return lines_of_run(connection, run)

    def calls_between(self, low: int, high: int, *, each: bool = False) -> list[CostLine]:
        """Return a line for all calls that share a day and who made them, or for each; times in milliseconds since the epoch."""
        with self._file.reading() as connection:
            return list(lines_between(connection, low, high, each=each))

    def between(self, first: object, last: object = None, *, attempts: bool = False) -> CostReport:
        """Return what was used between two times; see :meth:`nexa_sdk.cost_report.CostReport.between`."""
        low, high = read_moment("first", first), read_moment("last", last) if last is not None else int(time.time() * 1000) + 1
        if low >= high:
            raise InvalidInput(f"nothing is between {first} and {last if last is not None else 'now'}: the first comes later")
        return self.report(low, high, attempts=attempts)

    def report(self, low: int, high: int, *, attempts: bool = False, cluster: str | None = None) -> CostReport:
        """Return what was used between two times in milliseconds since the epoch, on one cluster or on all."""
        with self._file.reading() as connection:
            where = ("place IN (SELECT id FROM places WHERE cluster = ?)", (cluster,)) if cluster is not None else ("1", ())
            parties = _parties(connection, *where)
            lines = list(_attempts(connection, parties, low, high) if attempts else _days(connection, parties, low, high))
            if cluster is None:
                lines += lines_between(connection, low, high, each=attempts)
        title = f"Cost from {_day_text(low)} to {_day_text(high)}{f' on {cluster}' if cluster is not None else ''}"
        return CostReport(lines, title=title)


class _Book:
    """The tables within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids: dict[tuple[Any, ...], int] = {}
        self._prices: dict[int, Price] = {}
        self._price_ids: dict[Price, int] = {}
        self._days: dict[tuple[int, int], list[int]] = {}  # what is to be added to them

    def write(self, cluster: str, job: str, charges: Sequence[Charge], price: Callable[[Charge], Price | None], asked: float) -> None:
        """Write down the attempts of one task."""
        place = self._id("places", ("cluster",), (cluster,))
        rows = self._connection.execute(
            "SELECT p.price, c.is_over, c.asked, c.is_accounted, c.raw, c.start, c.end, c.party, c.gpu_ms, c.cpu_ms, c.node_ms, c.nanos "
            "FROM charges c JOIN parties p ON p.id = c.party WHERE c.job = ? AND c.place = ?",
            (job, place),
        ).fetchall()
        known = [_Known._make([*row[:5], _Amounts._make(row[5:])]) for row in rows]
        if any(one.is_accounted for one in known) and not charges[0].is_accounted:
            return  # accounting has told of this task, and knows better
        displaced = [one for one in known if charges[0].is_accounted and not one.is_accounted]
        starts = {(charge.raw, charge.start) for charge in charges}
        # Said of an attempt that ran, and is said no more: its start was corrected.
        displaced += [one for one in known if not one.is_over and one.asked <= asked and (one.raw, one.start) not in starts]
        for one in displaced:
            self._connection.execute("DELETE FROM charges WHERE raw = ? AND start = ? AND place = ?", (one.raw, one.start, place))
            self._count(one.amounts, -1)
        earlier = {(one.raw, one.start): one for one in known}
        kept = [one.price for one in displaced if one.price]
        for charge in charges:
            before = earlier.get((charge.raw, charge.start))
            if before is not None and (before.is_over, before.asked) > (charge.is_over, asked):
                continue
            if before is not None:
                self._count(before.amounts, -1)
            price_id = before.price if before is not None else 0
            self._put(place, charge, price_id or (kept[0] if kept else 0), price, asked)

    def _put(self, place: int, charge: Charge, price_id: int, price: Callable[[Charge], Price | None], asked: float) -> None:
        found = self._price(price_id) if price_id else price(charge)
        if found is not None and not price_id:
            price_id = self._price_id(found)
        party = self._id(
            "parties",
            ("kind", "place", "run", "user", "account", "partition", "gpu_type", "state", "price"),
            (charge.kind, place, charge.run, charge.user, charge.account, charge.partition, charge.gpu_type, charge.state, price_id),
        )
        amounts = [charge.length * count for count in (charge.gpus, charge.cpus, charge.nodes)]
        nanos = None if found is None else found.nanos(*amounts)
        if nanos is not None and nanos > MOST_NANOS:
            raise InvalidInput(
                f"{charge.job} would cost {Decimal(nanos).scaleb(-9):,.0f}: more than a ledger holds of one attempt; look at {found}"
            )
        taken = _Amounts._make([charge.start, charge.end, party, *amounts, nanos])
        self._count(taken, 1)
        self._connection.execute(
            "INSERT OR REPLACE INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                place,
                charge.raw,
                charge.start,
                charge.end,
                charge.is_over,
                party,
                charge.job,
                charge.trial,
                *amounts,
                nanos,
                asked,
                charge.is_accounted,
            ),
        )

    def _count(self, taken: _Amounts, sign: int) -> None:
        """Add a charge to its days, or take it away."""
        for day, attempts, *amounts in _by_day(taken):
            found = self._days.setdefault((day, taken.party), [0] * 5)
            for k, amount in enumerate((attempts, *amounts)):
                found[k] += sign * amount

    def close(self) -> None:
        """Write down what the days have become."""
        self._connection.executemany(
            "INSERT INTO days VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET attempts = attempts + excluded.attempts, "
            "gpu_ms = gpu_ms + excluded.gpu_ms, cpu_ms = cpu_ms + excluded.cpu_ms, node_ms = node_ms + excluded.node_ms, "
            "units = units + excluded.units, nanos = nanos + excluded.nanos",
            ((day, party, *sums[:4], *divmod(sums[4], NANO)) for (day, party), sums in self._days.items()),
        )
        self._connection.executemany(
            "DELETE FROM days WHERE day = ? AND party = ? AND attempts = 0 AND gpu_ms = 0 AND cpu_ms = 0 AND node_ms = 0", self._days
        )

    def _price_id(self, price: Price) -> int:
        if price not in self._price_ids:
            self._price_ids[price] = self._id("prices", ("written",), (_write_price(price),))
        return self._price_ids[price]

    def _price(self, price_id: int) -> Price:
        if price_id not in self._prices:
            (written,) = self._connection.execute("SELECT written FROM prices WHERE id = ?", (price_id,)).fetchone()
            self._prices[price_id] = _read_price(written)
        return self._prices[price_id]

    def _id(self, table: str, columns: Sequence[str], values: tuple[Any, ...]) -> int:
        """Return the number of a row that many share; it is made where it is not there."""
        key = (table, *values)
        if key not in self._ids:
            where = " AND ".join(f"{column} = ?" for column in columns)
            row = self._connection.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
            if row is None:
                marks = ", ".join("?" * len(columns))
                made = self._connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)
                row = (made.lastrowid,)
            self._ids[key] = int(row[0])
        return self._ids[key]


class _Party(NamedTuple):
    """What many charges share."""

    kind: str
    cluster: str
    run: str
    user: str
    account: str
    partition: str
    gpu_type: str
    state: str
    price: Price | None


_LINE = "party, trial, job, start, end, gpu_ms, cpu_ms, node_ms, nanos"


def _parties(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> dict[int, _Party]:
    clusters = dict(connection.execute("SELECT id, cluster FROM places").fetchall())
    prices = {number: _read_price(written) for number, written in connection.execute("SELECT id, written FROM prices")}
    rows = connection.execute(
        f"SELECT id, kind, place, run, user, account, partition, gpu_type, state, price FROM parties WHERE {where}", values
    )
    return {
        number: _Party(kind, clusters[place], run, user, account, partition, gpu_type, state, prices.get(price))
        for number, kind, place, run, user, account, partition, gpu_type, state, price in rows
    }


def _line(parties: Mapping[int, _Party], row: Sequence[Any]) -> CostLine:
    party, trial, job, start, end, gpu_ms, cpu_ms, node_ms, nanos = row
    who = parties[party]
    return CostLine(
        who.kind, who.cluster, who.run, trial, who.user, who.account, who.partition, who.gpu_type, who.state, job, start, end, 1,
        gpu_ms, cpu_ms, node_ms, nanos, who.price,
    )  # fmt: skip


def _by_day(taken: _Amounts) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Say what a charge took on each day: day, attempts, milliseconds of GPUs, cores and nodes, and billionths."""
    day = taken.start // DAY
    if taken.end <= (day + 1) * DAY:
        yield day, 1, taken.gpu_ms, taken.cpu_ms, taken.node_ms, taken.nanos or 0
        return
    line = _NOBODY._replace(
        start=taken.start, end=taken.end, gpu_ms=taken.gpu_ms, cpu_ms=taken.cpu_ms, node_ms=taken.node_ms, nanos=taken.nanos
    )
    for part in line.by_day():
        yield part.start // DAY, part.attempts, part.gpu_ms, part.cpu_ms, part.node_ms, part.nanos or 0


_NOBODY = CostLine("", "", "", "", "", "", "", "", "", "", 0, 0, 1, 0, 0, 0, None, None)


def _attempts(connection: sqlite3.Connection, parties: Mapping[int, _Party], low: int, high: int) -> Iterator[CostLine]:
    """Return a line for each attempt, cut at both ends."""
    rows = connection.execute(f"SELECT {_LINE} FROM charges WHERE end >= ? AND start < ? ORDER BY start, raw", (low, high))
    for row in rows:
        if row[0] in parties and (part := _line(parties, row).within(low, high)) is not None:
            yield part


def _days(connection: sqlite3.Connection, parties: Mapping[int, _Party], low: int, high: int) -> Iterator[CostLine]:
    """Return a line for all that share a day and a party: whole days are added up already, and only the ends are cut here."""
    first, last = -(-low // DAY), high // DAY  # whole days
    sums: dict[tuple[int, int], list[int]] = {}
    if first < last:
        whole = connection.execute(
            "SELECT day, party, attempts, gpu_ms, cpu_ms, node_ms, units, nanos FROM days WHERE day >= ? AND day < ?", (first, last)
        )
        sums = {(day, party): [*amounts, units * NANO + nanos] for day, party, *amounts, units, nanos in whole if party in parties}
        ends = [(low, first * DAY), (last * DAY, high)]
    else:
        ends = [(low, high)]
    for begin, end in ends:
        rows = connection.execute(f"SELECT {_LINE} FROM charges WHERE end >= ? AND start < ?", (begin, end)) if begin < end else ()
        for row in rows:
            if row[0] not in parties or (part := _line(parties, row).within(begin, end)) is None:
                continue
            for piece in part.by_day():
                found = sums.setdefault((piece.start // DAY, row[0]), [0] * 5)
                for k, amount in enumerate((piece.attempts, piece.gpu_ms, piece.cpu_ms, piece.node_ms, piece.nanos or 0)):
                    found[k] += amount
    for (day, party), (attempts, gpu_ms, cpu_ms, node_ms, nanos) in sorted(sums.items()):
        who = parties[party]
        start, stop = max(low, day * DAY), min(high, (day + 1) * DAY)
        yield CostLine(
            who.kind, who.cluster, who.run, "", who.user, who.account, who.partition, who.gpu_type, who.state, "", start, stop, attempts,
            gpu_ms, cpu_ms, node_ms, nanos if who.price is not None else None, who.price,
        )  # fmt: skip


def _write_price(price: Price) -> str:
    return json.dumps({name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(price).items()})


def _read_price(written: str) -> Price:
    values = json.loads(written)
    hours = {name: None if values[name] is None else Decimal(values[name]) for name in ("gpu_hour", "cpu_hour", "node_hour")}
    return Price(**{**values, **hours})


_AGO = re.compile(r"(\d+)\s*(d|days?|h|hours?|w|weeks?)", re.IGNORECASE)


def read_moment(name: str, given: object) -> int:
    """Read a point in time, in milliseconds since the epoch: a date is its beginning in UTC; a length is so long ago.

    Raises
    ------
    InvalidInput
    """
    if isinstance(given, timedelta):
        return max(EARLIEST, int((time.time() - given.total_seconds()) * 1000))
    if isinstance(given, str):
        if match := _AGO.fullmatch(given.strip()):
            unit = {"d": "days", "h": "hours", "w": "weeks"}[match[2][0].lower()]
            return read_moment(name, timedelta(**{unit: min(int(match[1]), 10**6)}))
        try:
            given = datetime.fromisoformat(given.strip())
        except ValueError:
            raise InvalidInput(f"{name}={given!r} is no time; write '2026-11-01', '2026-11-01T12:00', in UTC, or '7 days'") from None
    if isinstance(given, date) and not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day, tzinfo=UTC)
    if not isinstance(given, datetime):
        raise InvalidInput(f"{name}={given!r} is no time; give '2026-11-01', a date, a datetime, or a timedelta: so long ago")
    if given.tzinfo is None:
        given = given.replace(tzinfo=UTC)
    return int(given.timestamp() * 1000)


def _day_text(milliseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%d" if milliseconds % DAY == 0 else "%Y-%m-%d %H:%M UTC")
