"""Calls of LLM APIs in the ledger: exactly one row a response, by the id that its provider gave it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from nexa_sdk.cost_line import API, DAY, CostLine
from nexa_sdk.rates import NANO
from nexa_sdk.token_price import Amounts, TokenPrice, added

if TYPE_CHECKING:
    import sqlite3

__all__ = ["ApiCall", "Told", "lines_between", "lines_of_blocks", "lines_of_responses", "lines_of_run", "tell"]

_CALLER = ("provider", "model", "run", "trial", "user", "tag", "state", "why", "price")


class ApiCall(NamedTuple):
    """One response of an LLM API.

    Attributes
    ----------
    response : str
        What tells it from all others: the id that its provider gave it.
    at : int
        When it came, in milliseconds since the epoch.
    provider, model : str
        As genai-prices names the provider, else its host; as the response names the model.
    run, trial, user, tag, state, why : str
        As :class:`nexa_sdk.cost_line.CostLine` has them.
    block : str
        Which ``track_usage()`` it came in.
    used, billed : mapping of str to int or Decimal
        Empty where it did not say its tokens.
    price : TokenPrice or None
    only_fills : bool
        Whether it says what another response of the same id did not know yet, and is none by itself.
    """

    response: str
    at: int
    provider: str
    model: str
    run: str
    trial: str
    user: str
    tag: str
    state: str
    why: str
    block: str
    used: Amounts
    billed: Amounts
    price: TokenPrice | None
    only_fills: bool = False

    @property
    def nanos(self) -> int | None:
        """What it costs, in billionths of the currency; None where no price is known."""
        return None if self.price is None else self.price.nanos_of(self.billed)


class Told(NamedTuple):
    """What came of telling the ledger of calls: how many are new, were known, and were known otherwise."""

    new: int = 0
    known: int = 0
    otherwise: int = 0


# ---- what is written -----------------------------------------------------------------------------


def tell(connection: sqlite3.Connection, calls: Iterable[ApiCall]) -> Told:
    """Write down calls; one that is known stays as it is, unless it says now what was not known.

    What may be told later are tokens that a response did not say, and a price that nobody knew.
    """
    book = _Book(connection)
    outcomes = [book.write(call) for call in calls]
    book.close()
    return Told(*(outcomes.count(kind) for kind in ("new", "known", "otherwise")))


class _Book:
    """The tables of calls within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids: dict[tuple[Any, ...], int] = {}
        self._prices: dict[TokenPrice, int] = {}
        self._days: dict[tuple[int, int], _Day] = {}

    def write(self, call: ApiCall) -> str:
        known = self._connection.execute(
            "SELECT at, caller, block, used, billed, nanos FROM calls WHERE response = ?", (call.response,)
        ).fetchone()
        if known is None and call.only_fills:
            return "unknown"
        if known is None:
            self._put(call, call.at, call.block)
            return "new"
        at, caller, block, used, billed, nanos = known
        before = _read(used)
        has_more = bool(call.used) and not before
        if not has_more and (nanos is not None or call.nanos is None or before != call.used):
            return "otherwise" if call.used and before != call.used else "known"
        self._count(at, caller, before, _read(billed), nanos, -1)
        self._connection.execute("DELETE FROM calls WHERE response = ?", (call.response,))
        self._put(self._as_before(call, caller), at, block)
        return "known"

    def _as_before(self, call: ApiCall, caller: int) -> ApiCall:
        """Leave a call with those that it was written down for first."""
        run, trial, user, tag = self._connection.execute("SELECT run, trial, user, tag FROM callers WHERE id = ?", (caller,)).fetchone()
        return call._replace(run=run, trial=trial, user=user, tag=tag)

    def _put(self, call: ApiCall, at: int, block: str) -> None:
        price = 0 if call.price is None else self._price_id(call.price)
        caller = self._caller((*call[2:10], price))
        self._count(at, caller, call.used, call.billed, call.nanos, 1)
        values = (call.response, at, caller, block, _write(call.used), _write(call.billed), call.nanos)
        self._connection.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _count(self, at: int, caller: int, used: Amounts, billed: Amounts, nanos: int | None, sign: int) -> None:
        """Add a call to its day, or take it away."""
        key = (at // DAY, caller)
        if key not in self._days:
            self._days[key] = _day(self._connection, *key)
        day = self._days[key]
        day.count(sign, used, billed, nanos)

    def close(self) -> None:
        """Write down what the days have become."""
        for (day, caller), sums in self._days.items():
            if sums.calls:
                row = (day, caller, sums.calls, _write(sums.used), _write(sums.billed), *divmod(sums.nanos, NANO))
                self._connection.execute("INSERT OR REPLACE INTO call_days VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            else:
                self._connection.execute("DELETE FROM call_days WHERE day = ? AND caller = ?", (day, caller))

    def _price_id(self, price: TokenPrice) -> int:
        if price not in self._prices:
            written = json.dumps(price.written())
            self._connection.execute("INSERT OR IGNORE INTO token_prices (written, read_at) VALUES (?, ?)", (written, price.read_at))
            (self._prices[price],) = self._connection.execute("SELECT id FROM token_prices WHERE written = ?", (written,)).fetchone()
        return self._prices[price]

    def _caller(self, values: tuple[Any, ...]) -> int:
        if values not in self._ids:
            where = " AND ".join(f"{name} = ?" for name in _CALLER)
            row = self._connection.execute(f"SELECT id FROM callers WHERE {where}", values).fetchone()
            if row is None:
                marks = ", ".join("?" * len(_CALLER))
                row = (self._connection.execute(f"INSERT INTO callers ({', '.join(_CALLER)}) VALUES ({marks})", values).lastrowid,)
            self._ids[values] = int(row[0])
        return self._ids[values]


class _Day:
    """What the calls of one caller come to on a day."""

    def __init__(self, calls: int = 0, used: Amounts | None = None, billed: Amounts | None = None, nanos: int = 0) -> None:
        self.calls = calls
        self.used = dict(used or {})
        self.billed = dict(billed or {})
        self.nanos = nanos

    def count(self, sign: int, used: Amounts, billed: Amounts, nanos: int | None) -> None:
        self.calls += sign
        added(self.used, {name: sign * amount for name, amount in used.items()})
        added(self.billed, {name: sign * amount for name, amount in billed.items()})
        self.nanos += sign * (nanos or 0)


def _day(connection: sqlite3.Connection, day: int, caller: int) -> _Day:
    row = connection.execute(
        "SELECT calls, used, billed, units, nanos FROM call_days WHERE day = ? AND caller = ?", (day, caller)
    ).fetchone()
    return _Day() if row is None else _Day(row[0], _read(row[1]), _read(row[2]), row[3] * NANO + row[4])


def _write(amounts: Amounts) -> str:
    """Write amounts as JSON; a fraction, as of seconds of sound, as text, for it is exact."""
    return json.dumps({name: amount if isinstance(amount, int) else str(amount) for name, amount in amounts.items() if amount})


def _read(written: str) -> dict[str, int | Decimal]:
    return {name: amount if isinstance(amount, int) else Decimal(amount) for name, amount in json.loads(written).items()}


# ---- what is read --------------------------------------------------------------------------------

_LINE = "caller, response, at, used, billed, nanos"


def lines_between(connection: sqlite3.Connection, low: int, high: int, *, each: bool) -> Iterator[CostLine]:
    """Return a line for all calls that share a day and a caller, or for each."""
    callers = _callers(connection, "1", ())
    if each:
        yield from _each(connection, callers, "at >= ? AND at < ?", (low, high))
        return
    first, last = -(-low // DAY), high // DAY  # whole days, which are added up already
    sums: dict[tuple[int, int], _Day] = {}
    if first < last:
        rows = connection.execute(
            "SELECT day, caller, calls, used, billed, units, nanos FROM call_days WHERE day >= ? AND day < ?", (first, last)
        )
        for day, caller, calls, used, billed, units, nanos in rows:
            sums[day, caller] = _Day(calls, _read(used), _read(billed), units * NANO + nanos)
        ends = [(low, first * DAY), (last * DAY, high)]
    else:
        ends = [(low, high)]
    for begin, end in ends:
        rows = connection.execute(f"SELECT {_LINE} FROM calls WHERE at >= ? AND at < ?", (begin, end))
        for caller, _, at, used, billed, nanos in rows:
            sums.setdefault((at // DAY, caller), _Day()).count(1, _read(used), _read(billed), nanos)
    for (day, caller), found in sorted(sums.items()):
        who = callers[caller]
        start, end = max(low, day * DAY), min(high, (day + 1) * DAY)
        nanos = None if who.price is None else found.nanos
        yield who._replace(start=start, end=end, attempts=found.calls, nanos=nanos, used=found.used, billed=found.billed)


def lines_of_run(connection: sqlite3.Connection, run: str) -> list[CostLine]:
    """Return a line for each call of a run's trials."""
    return _of_callers(connection, "run = ?", (run,))


def lines_of_blocks(connection: sqlite3.Connection, blocks: Sequence[str]) -> list[CostLine]:
    """Return a line for each call that came in blocks."""
    return _among(connection, "block", blocks)


def lines_of_responses(connection: sqlite3.Connection, responses: Sequence[str]) -> list[CostLine]:
    """Return a line for each of some responses."""
    return _among(connection, "response", responses)


def _among(connection: sqlite3.Connection, column: str, values: Sequence[str]) -> list[CostLine]:
    callers = _callers(connection, "1", ())
    found: list[CostLine] = []
    for first in range(0, len(values), 500):  # SQLite has a limit on the marks of a statement
        some = values[first : first + 500]
        found += _each(connection, callers, f"{column} IN ({', '.join('?' * len(some))})", tuple(some))
    return sorted(found, key=lambda line: line.start)


def _of_callers(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> list[CostLine]:
    callers = _callers(connection, where, values)
    marks = ", ".join("?" * len(callers))
    return list(_each(connection, callers, f"caller IN ({marks})", tuple(callers)))


def _each(connection: sqlite3.Connection, callers: dict[int, CostLine], where: str, values: tuple[Any, ...]) -> Iterator[CostLine]:
    rows = connection.execute(f"SELECT {_LINE} FROM calls WHERE {where} ORDER BY at, response", values)
    for caller, response, at, used, billed, nanos in rows:
        yield callers[caller]._replace(job=response, start=at, end=at, nanos=nanos, used=_read(used), billed=_read(billed))


def _callers(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> dict[int, CostLine]:
    """Return the lines of callers, without what they used."""
    written = connection.execute("SELECT id, written, read_at FROM token_prices")
    prices = {number: TokenPrice.read(json.loads(text), read_at) for number, text, read_at in written}
    rows = connection.execute(f"SELECT id, {', '.join(_CALLER)} FROM callers WHERE {where}", values)
    return {
        number: _NOBODY._replace(
            run=run, trial=trial, user=user, state=state, provider=provider, model=model, tag=tag, why=why, price=prices.get(price)
        )
        for number, provider, model, run, trial, user, tag, state, why, price in rows
    }


_NOBODY = CostLine(API, "", "", "", "", "", "", "", "", "", 0, 0, 1, 0, 0, 0, None, None)
