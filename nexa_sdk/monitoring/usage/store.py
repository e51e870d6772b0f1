"""Where calls are kept: in the ledger, or, within a trial, in a file of its run's folder.

A trial's node may not see the ledger, and a thousand trials would wait for one another there. So each process
of a trial appends JSON lines to ``<run>/usage/<trial's name>-<node>-<process>.jsonl``, and ``run.cost()`` takes
them into the ledger, once each.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from nexa_sdk import settings
from nexa_sdk.cost_line import CostLine
from nexa_sdk.errors import JournalError
from nexa_sdk.monitoring.ledger_file import LedgerFile
from nexa_sdk.monitoring.usage.calls import ApiCall, Told, lines_of_blocks, tell
from nexa_sdk.token_price import TokenPrice

__all__ = ["FOLDER", "keep", "kept", "place", "read_lines"]

FOLDER = "usage"


def place() -> Callable[[], Path]:
    """Return what says where calls are kept: a forked process of a trial has a file of its own."""
    results = os.environ.get("NEXA_RESULTS", "")
    if not (results and os.environ.get("NEXA_RUN")):
        ledger = settings.home() / "ledger.sqlite"
        return lambda: ledger
    path = Path(results)
    folder, node = path.parents[1] / FOLDER, re.sub(r"[^\w.-]", "_", os.uname().nodename)
    return lambda: folder / f"{path.stem}-{node}-{os.getpid()}.jsonl"


def keep(path: Path, calls: Sequence[ApiCall]) -> Told:
    """Write down calls.

    Raises
    ------
    JournalError
        It can't be written; nothing of it is kept then.
    """
    if path.suffix != ".jsonl":
        with LedgerFile(path).writing() as connection:
            return tell(connection, calls)
    text = "".join(f"{json.dumps(_written(call))}\n" for call in calls).encode()
    try:
        path.parent.mkdir(exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            whole = file.tell()
            written = file.write(text)
            if written != len(text):
                file.truncate(whole)
    except OSError as error:
        raise JournalError(f"{path} can't be written: {error.strerror}") from error
    if written != len(text):
        raise JournalError(f"{path} can't be written: the disk or the quota is full")
    return Told(new=len(calls))


def kept(path: Path, blocks: Sequence[str]) -> list[CostLine]:
    """Return a line for each call of some blocks.

    Raises
    ------
    JournalError
    """
    if path.suffix != ".jsonl":
        with LedgerFile(path).reading() as connection:
            return lines_of_blocks(connection, blocks)
    content = path.read_bytes() if path.exists() else b""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(LedgerFile.schema)
        tell(connection, read_lines(content))
        return lines_of_blocks(connection, blocks)


def read_lines(content: bytes) -> Iterator[ApiCall]:
    """Read what :func:`keep` wrote into a file; the last line may be half written."""
    for line in content.split(b"\n")[:-1]:
        try:
            yield _read(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"a line of what LLM APIs used can't be read: {error!r}") from error


def _written(call: ApiCall) -> dict[str, Any]:
    price = None if call.price is None else call.price.written() | {"read_at": call.price.read_at}
    return call._asdict() | {"used": _plain(call.used), "billed": _plain(call.billed), "price": price}


def _plain(amounts: Mapping[str, int | Decimal]) -> dict[str, int | str]:
    return {name: amount if isinstance(amount, int) else str(amount) for name, amount in amounts.items()}


def _read(written: dict[str, Any]) -> ApiCall:
    price = written["price"]
    return ApiCall(
        **written
        | {
            "used": _exact(written["used"].items()),
            "billed": _exact(written["billed"].items()),
            "price": None if price is None else TokenPrice.read(price, price["read_at"]),
        }
    )


def _exact(amounts: Iterable[tuple[str, int | str]]) -> dict[str, int | Decimal]:
    return {name: amount if isinstance(amount, int) else Decimal(amount) for name, amount in amounts}
