"""A file of JSON lines with calls of LLM APIs, into the ledger: all of it, or nothing.

A line is one of

- ``{"id": "…", "provider": "openai", "model": "gpt-4o-mini", "at": "2026-11-01T12:00:00Z", "input_tokens": 1200,
  "output_tokens": 96}``, and where they are known ``cache_read_tokens``, ``cache_write_tokens`` and others that
  genai-prices has, ``service_tier``, ``tag``, ``run``, ``trial``, ``user``, and ``cost`` with ``currency`` where a
  price was paid that nobody else knows. Cached tokens are part of ``input_tokens``. Fields of other names are
  left aside; one that is nearly one of these is taken for a slip of the pen.
- The body of a response, as it came.
- A line of the results of a batch, of OpenAI's or Anthropic's.
"""

from __future__ import annotations

import getpass
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from nexa_sdk import settings
from nexa_sdk.cost_report import CostReport
from nexa_sdk.errors import FileError, InvalidInput
from nexa_sdk.monitoring.ledger_file import LedgerFile
from nexa_sdk.monitoring.usage.answers import LATEST, LONGEST, clean, identity, read_body
from nexa_sdk.monitoring.usage.calls import ApiCall, lines_of_responses, tell
from nexa_sdk.monitoring.usage.recorder import Label, call_of
from nexa_sdk.monitoring.usage.token_prices import MOST, charge, check_installed, check_provider, is_counted
from nexa_sdk.states import State
from nexa_sdk.token_price import Meter, TokenPrice

__all__ = ["import_usage"]

_WORDS = ("id", "provider", "model", "tag", "run", "trial", "user", "service_tier")
_FIELDS = (*_WORDS, "at", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost", "currency")
_NEEDED = ("id", "model", "input_tokens", "output_tokens")
DEAREST = 10**6  # units of a currency for one call: more is a slip of the pen


def import_usage(path: Path, *, provider: str | None = None, tag: str | None = None, at: float | None = None) -> CostReport:
    """Write the calls of a file into the ledger; the same file any number of times counts once.

    Parameters
    ----------
    path : Path
    provider, tag : str, optional
        Of lines that say none.
    at : float, optional
        When, in seconds since the epoch: of lines that do not say it.

    Returns
    -------
    CostReport
        What the ledger has of these calls.

    Raises
    ------
    FileError
        For the first line that can't be meant, with its number; nothing is written then.
    """
    check_installed()
    default = check_provider(provider) if provider is not None else None
    reader = _Reader(path, default, tag or "", at)
    calls = list(reader.read())
    with LedgerFile(settings.home() / "ledger.sqlite").writing() as connection:
        told = tell(connection, calls)
    with LedgerFile(settings.home() / "ledger.sqlite").reading() as connection:
        lines = lines_of_responses(connection, list(dict.fromkeys(call.response for call in calls)))
    notes = [f"{told.new:,} of {len(calls):,} calls are new"]
    if told.otherwise:
        notes.append(f"{told.otherwise:,} were known with other tokens: the ledger's stay")
    if reader.failed:
        notes.append(f"{reader.failed:,} lines are of requests that failed: they used nothing")
    return CostReport(lines, title=f"API usage of {path.name}", notes=tuple(notes))


class _Reader:
    """A file, read line by line."""

    def __init__(self, path: Path, provider: str | None, tag: str, at: float | None) -> None:
        self._path = path
        self._provider = provider
        self._label = Label(Path, tag=tag)
        self._at = at
        self._number = 0
        self._providers: dict[str, str] = {}
        self.failed = 0

    def read(self) -> Iterator[ApiCall]:
        try:
            with open(self._path, "rb") as file:
                for self._number, line in enumerate(file, start=1):
                    if line.strip():
                        yield from self._read(line)
        except OSError as error:
            raise FileError(f"it can't be read: {error.strerror}", path=self._path) from None

    def _read(self, line: bytes) -> Iterator[ApiCall]:
        try:
            record = json.loads(line, parse_float=Decimal, parse_constant=self._no_number)
        except FileError:
            raise
        except (ValueError, RecursionError) as error:
            self._fail(f"this is no JSON: {error}")
        if not isinstance(record, dict):
            self._fail("this is no object, as in {…}")
        body, is_batch = _unwrapped(record)
        if body is None:
            self.failed += 1
        elif isinstance(body.get("usage", body.get("usageMetadata")), Mapping):
            yield self._of_body(body, record, is_batch=is_batch)
        elif body is record:
            yield self._of_fields(record)
        else:
            self._fail("this result of a batch does not say its tokens")

    def _of_body(self, body: dict[str, Any], record: Mapping[str, Any], *, is_batch: bool) -> ApiCall:
        try:
            answer = read_body(body)
        except ValueError as error:
            self._fail(str(error))
        if answer is None or not answer.id:
            self._fail("this response has no id, and would count again with each import; add one")
        if not answer.model:
            self._fail("this response does not say its model; add one")
        if is_batch:
            answer.body["service_tier"] = "batch"
        at = answer.created if answer.created is not None else self._moment(record)
        owner = self._owner(record)
        call = call_of(answer, self._label, response=answer.id, provider=owner, at=at)
        if call.why.startswith("its tokens can't be read"):
            self._fail(call.why)
        return call

    def _of_fields(self, record: Mapping[str, Any]) -> ApiCall:
        self._check_names(record)
        for name in _NEEDED:
            if record.get(name) is None:
                self._fail(f"{name} is missing")
        words = {name: self._word(name, record[name]) for name in _WORDS if record.get(name) is not None}
        counts = {name: self._count(name, value) for name, value in record.items() if value is not None and is_counted(name)}
        used = {name: count for name, count in counts.items() if count}
        at, owner = self._moment(record), self._owner(record)
        price = self._price(record)
        if price is not None:
            billed: dict[str, int | Decimal] = {"cost": self._cost(record["cost"])}
            why = ""
        else:
            tier = {"service_tier": words["service_tier"]} if "service_tier" in words else {}
            billed, price, why = charge(used, provider=owner, model=words["model"], at=at, body=tier)  # type: ignore[assignment]
        return ApiCall(
            response=identity(words["id"], record.get("created")),
            at=int(at * 1000),
            provider=owner,
            model=words["model"],
            run=words.get("run", ""),
            trial=words.get("trial", ""),
            user=words.get("user", getpass.getuser()),
            tag=words.get("tag", self._label.tag),
            state=State.COMPLETED.value,
            why=why,
            block="",
            used=used,
            billed=billed,
            price=price,
        )

    # ---- fields --------------------------------------------------------------------------------

    def _check_names(self, record: Mapping[str, Any]) -> None:
        for name in record:
            if name in _FIELDS or is_counted(name):
                continue
            near = [one for one in get_close_matches(name, _FIELDS, n=1, cutoff=0.85) if one not in record]
            if near:
                self._fail(f"{name!r} is not known; did you mean {near[0]!r}?")

    def _word(self, name: str, value: Any) -> str:
        if name == "trial" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip() or clean(value) != value:
            self._fail(f"{name} is text, of {LONGEST} characters at most, not {_shown(value)}")
        return value

    def _count(self, name: str, value: Any) -> int | Decimal:
        is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
        if not is_number or (name.endswith("_tokens") and not isinstance(value, int)):
            self._fail(f"{name} is a whole number, not {_shown(value)}")
        if not 0 <= value <= MOST:
            self._fail(f"{name} is {_shown(value)}: from 0 to {MOST:,} can be")
        return value  # type: ignore[no-any-return]

    def _moment(self, record: Mapping[str, Any]) -> float:
        value = record.get("at")
        if value is None and self._at is not None:
            return self._at
        if value is None:
            self._fail("at is missing: when it was, as in '2026-11-01T12:00:00Z'")
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                self._fail(f"at is no time: {_shown(value)}; write it as in '2026-11-01T12:00:00Z'")
            seconds: Any = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        else:
            seconds = value if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else 0
        if not 0 < seconds < LATEST:
            self._fail(f"at is no time: {_shown(value)}; write '2026-11-01T12:00:00Z', or seconds since 1970")
        return float(seconds)

    def _owner(self, record: Mapping[str, Any]) -> str:
        value = record.get("provider")
        if value is None and self._provider is None:
            self._fail("provider is missing: write it into the line, or give one for all of them")
        if value is None:
            return str(self._provider)
        name = self._word("provider", value)
        if name not in self._providers:
            try:
                self._providers[name] = check_provider(name)
            except InvalidInput as error:
                if record.get("cost") is None:
                    self._fail(f"{error}; with a cost of its own it may have any")
                self._providers[name] = name
        return self._providers[name]

    def _cost(self, value: Any) -> Decimal:
        is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
        if not is_number and not (isinstance(value, str) and re.fullmatch(r"\d{1,20}(\.\d{1,20})?", value)):
            self._fail(f"cost is an amount of money, 0 or more, not {_shown(value)}")
        if not 0 <= Decimal(value) <= DEAREST:
            self._fail(f"cost is {_shown(value)}: from 0 to {DEAREST:,} can be")
        return Decimal(value)

    def _price(self, record: Mapping[str, Any]) -> TokenPrice | None:
        """Return the price of a call of which the line says what it cost: that is, so much of its currency."""
        if record.get("cost") is None:
            return None
        currency = record.get("currency", "USD")
        if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
            self._fail(f"currency is three letters, as in 'USD', not {_shown(currency)}")
        return TokenPrice(currency=currency, source=self._path.name, read_at=time.time(), meters=(Meter("cost", 1, Decimal(1)),))

    def _no_number(self, text: str) -> NoReturn:
        self._fail(f"{text} is no number")

    def _fail(self, words: str) -> NoReturn:
        raise FileError(words, path=self._path, line=self._number)


def _unwrapped(record: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """Take a response out of a line of a batch's results; None where its request failed."""
    if "custom_id" not in record:
        return record, False
    response, result = record.get("response"), record.get("result")
    if isinstance(response, dict):
        body = response.get("body")
        has_failed = record.get("error") is not None or response.get("status_code", 200) >= 400
    elif isinstance(result, dict):
        body = result.get("message")
        has_failed = result.get("type") != "succeeded"
    else:
        body, has_failed = None, True
    return (None if has_failed or not isinstance(body, dict) else body), True


def _shown(value: Any) -> str:
    """Show a value in a message, in short: a line may hold what is nobody's business."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, default=str)[:40]
