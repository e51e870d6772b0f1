"""What recording costs a call of an LLM API, and what a report over 10⁶ calls takes: one table.

Run by name::

    python tests/bench/bench_usage.py [--calls 200] [--rounds 7] [--rows 1000000]

The clients are real, over a server on loopback that answers at once, or after a tenth of a second, which is
sooner than a provider does. Each round takes all in turn, in one process; ratios are of one round. ``none`` is
the client alone. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from replies import serving

from nexa_sdk import track_usage
from nexa_sdk.cost_line import DAY
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.monitoring.ledger_file import LedgerFile
from nexa_sdk.monitoring.usage.calls import ApiCall, tell
from nexa_sdk.token_price import Meter, TokenPrice

MESSAGES: Any = [{"role": "user", "content": "hello"}]
FIRST = 20_454 * DAY  # 2026-01-01
PRICE = TokenPrice(
    currency="USD", source="genai-prices", read_at=0.0, meters=(Meter("input_tokens", 10**6, Decimal("0.15")), Meter("output_tokens", 10**6, Decimal("0.6")))
)  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def overhead(calls: int, rounds: int) -> None:
    with serving() as server, httpx2.Client(proxy=server.url) as http:
        client = openai.OpenAI(api_key="k", base_url="http://api.openai.com/v1", http_client=http)
        claude = anthropic.Anthropic(api_key="k", base_url="http://api.anthropic.com", http_client=http)

        def stream() -> None:
            for _ in client.chat.completions.create(
                model="gpt-4o-mini", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            ):
                pass

        ways: dict[str, Callable[[], object]] = {
            "openai, chat": lambda: client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES),
            "openai, stream": stream,
            "anthropic, message": lambda: claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=MESSAGES),
        }
        track_usage(), [way() for way in ways.values()]
        print(f"{'':36}{'none':>10}{'recorded':>10}{'ratio':>8}{'written':>10}   ms a call, medians of {rounds} rounds of {calls} calls")
        for (name, way), delay in product(ways.items(), (0.0, 0.1)):
            server.delay = delay
            count = calls if not delay else calls // 10
            figures: list[tuple[float, float, float]] = []
            for _ in range(rounds):
                alone = timed(lambda: [way() for _ in range(count)])  # noqa: B023
                usage = track_usage()
                with usage:
                    recorded = timed(lambda: [way() for _ in range(count)])  # noqa: B023
                    written = recorded + timed(usage.report)
                figures.append((alone, recorded, written))
            alone, recorded, written = (1000 * statistics.median(one) / count for one in zip(*figures, strict=True))
            ratio = statistics.median(one[1] / one[0] for one in figures)
            print(
                f"{name}{f', after {1000 * delay:.0f} ms' if delay else '':{36 - len(name)}}{alone:10.3f}{recorded:10.3f}{ratio:8.2f}{written:10.3f}"
            )
        client.close()
        claude.close()


def made(rows: int) -> list[ApiCall]:
    draw = random.Random(1)
    found = []
    for n in range(rows):
        run = n // 500
        used = {"input_tokens": draw.randrange(4000), "output_tokens": draw.randrange(500)}
        found.append(
            ApiCall(
                f"chatcmpl-{n:020}", FIRST + run * 365 * DAY // (rows // 500 + 1) + draw.randrange(DAY), "openai", f"model-{run % 7 + n % 2}",
                f"run-{run:08x}", "", f"user{run % 5}", f"tag{run % 3}", "COMPLETED", "", "b", used, used, PRICE,
            )
        )  # fmt: skip
    return found


def reports(rows: int, rounds: int, folder: Path) -> None:
    calls = made(rows)
    ledger = Ledger(folder / "ledger.sqlite")

    def write() -> None:
        with LedgerFile(ledger.path).writing() as connection:
            tell(connection, calls)

    writing = timed(write)
    plain = sqlite3.connect(folder / "plain.sqlite")
    plain.execute(
        "CREATE TABLE plain (at INTEGER, model TEXT, run TEXT, user TEXT, tag TEXT, tokens_in INTEGER, tokens_out INTEGER, cost REAL)"
    )
    rows_of = ((c.at, c.model, c.run, c.user, c.tag, *c.used.values(), (c.nanos or 0) / 1e9) for c in calls)
    plain.executemany("INSERT INTO plain VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows_of)
    plain.commit()
    year = (FIRST, FIRST + 366 * DAY)
    grouped = "SELECT model, run, user, tag, at / 86400000, count(*), sum(tokens_in), sum(tokens_out), sum(cost) FROM plain GROUP BY 1, 2, 3, 4, 5"
    ways: dict[str, Callable[[], object]] = {
        "a report of a year": lambda: ledger.report(*year),
        "… by model, as a DataFrame": lambda: ledger.report(*year).by("model"),
        "… of a month, by day": lambda: ledger.report(FIRST + 31 * DAY, FIRST + 59 * DAY).by("day"),
        "SQLite: GROUP BY over a plain table; floats": lambda: plain.execute(grouped).fetchall(),
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            figures[name].append(1000 * timed(way))
    size = ledger.path.stat().st_size / 2**20
    print(f"\n{rows:,} calls, written in {writing:.1f} s, {size:.0f} MiB; {len(ledger.report(*year)):,} lines of a report")
    for name, values in figures.items():
        print(f"{name:50}{statistics.median(values):8.0f} ms")
    ours, theirs = figures["a report of a year"], figures["SQLite: GROUP BY over a plain table; floats"]
    print(f"{'report ÷ SQLite':50}{statistics.median(one / other for one, other in zip(ours, theirs, strict=True)):8.2f}")
    plain.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10**6)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nx-"))
    try:
        overhead(args.calls, args.rounds)
        reports(args.rows, args.rounds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
