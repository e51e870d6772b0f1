"""Reports over a ledger of 10⁶ attempts, beside plain pandas and plain SQLite over the same rows: one table.

Run by name::

    python tests/bench/bench_cost.py [--rows 1000000] [--rounds 5]

``report`` is all of a year by run, user, day and GPU type, as ``CostReport.between`` returns it, and its sum
by one of these; ``a month`` is one of twelve. pandas reads the rows from SQLite and multiplies floats, which
is not exact. Figures are taken in turn, in one process; quote medians and ratios. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd

from nexa_sdk.cost_line import DAY
from nexa_sdk.monitoring.ledger import Charge, Ledger
from nexa_sdk.rates import Price

FIRST = 20_454 * DAY  # 2026-01-01
PRICES = {
    "h100": Price(Decimal("2.49"), Decimal("0.01"), None, "USD", "rates.toml", 0.0),
    "a100": Price(Decimal("1.29"), Decimal("0.01"), None, "USD", "rates.toml", 0.0),
}


def charges(rows: int) -> list[Charge]:
    draw = random.Random(1)
    found = []
    for n in range(rows):
        run, task = divmod(n, 500)
        start = FIRST + (run * 365 * DAY) // (rows // 500 + 1) + draw.randrange(DAY)
        length = draw.randrange(60_000, 7_200_000)
        found.append(
            Charge(
                "compute", "work", f"sweep-{run:08x}", str(task), f"user{run % 40}", f"account{run % 8}", "gpu", ("h100", "a100")[run % 2],
                "COMPLETED" if draw.random() < 0.95 else "FAILED", f"{run}_{task}", str(n), start, start + length, True, length, 1, 8, 1, True,
            )
        )  # fmt: skip
    return found


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


PLAIN = "SELECT run, user, gpu_type, state, start / 86400000 AS day, gpu_ms, cpu_ms, usd_hour FROM plain"
GROUPED = (
    "SELECT run, user, gpu_type, state, start / 86400000 AS day, count(*), sum(gpu_ms), sum(cpu_ms), sum(gpu_ms * usd_hour) "
    "FROM plain GROUP BY 1, 2, 3, 4, 5"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nx-"))
    try:
        measure(folder, args.rows, args.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, rows: int, rounds: int) -> None:
    made = charges(rows)
    ledger = Ledger(folder / "ledger.sqlite")
    writing = timed(lambda: ledger.record(made, lambda charge: PRICES[charge.gpu_type], asked=1.0))
    plain = sqlite3.connect(folder / "plain.sqlite")
    plain.execute(
        "CREATE TABLE plain (run TEXT, user TEXT, gpu_type TEXT, state TEXT, start INTEGER, gpu_ms INTEGER, cpu_ms INTEGER, usd_hour REAL)"
    )
    plain.executemany(
        "INSERT INTO plain VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ((c.run, c.user, c.gpu_type, c.state, c.start, c.length, 8 * c.length, float(PRICES[c.gpu_type].gpu_hour or 0)) for c in made),
    )
    plain.commit()
    year = (FIRST, FIRST + 366 * DAY)
    month = (FIRST + 31 * DAY, FIRST + 59 * DAY)

    def with_pandas() -> object:
        frame = pd.read_sql_query(PLAIN, plain)
        frame["cost"] = frame["gpu_ms"] * frame["usd_hour"] / 3_600_000
        return frame.groupby(["run", "user", "gpu_type", "state", "day"])[["gpu_ms", "cpu_ms", "cost"]].sum()

    commands: dict[str, Callable[[], object]] = {
        "report": lambda: ledger.report(*year),
        "by day": lambda: ledger.report(*year).by("day"),
        "by run": lambda: ledger.report(*year).by("run"),
        "shown": lambda: ledger.report(*year)._repr_html_(),
        "a month": lambda: ledger.report(*month).by("user"),
        "attempts": lambda: ledger.report(*year, attempts=True).total,
        "pandas": with_pandas,
        "sqlite": lambda: plain.execute(GROUPED).fetchall(),
    }
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, work in commands.items():
            figures[name].append(timed(work))
    print(f"{rows:,} attempts, {rounds} rounds; written in {writing / 1000:.1f} s; {len(ledger.report(*year)):,} lines of a report")
    print(f"ledger {ledger.path.stat().st_size / 2**20:.0f} MiB, plain table {(folder / 'plain.sqlite').stat().st_size / 2**20:.0f} MiB")
    for name, values in figures.items():
        print(f"{NAMES[name]:58} {statistics.median(values):8.0f} ms {min(values):8.0f} ms")
    for name in ("pandas", "sqlite"):
        ratio = statistics.median(ours / theirs for ours, theirs in zip(figures["report"], figures[name], strict=True))
        print(f"report ÷ {name:49} {ratio:8.2f}")
    plain.close()


NAMES = {
    "report": "nexa_sdk: a report of a year",
    "by day": "nexa_sdk: … by day, as a DataFrame",
    "by run": "nexa_sdk: … by run, as a DataFrame",
    "shown": "nexa_sdk: … as a notebook shows it",
    "a month": "nexa_sdk: a report of a month, by user",
    "attempts": "nexa_sdk: a line for each attempt of a year, and the total",
    "pandas": "pandas: read the rows, group them by the same; floats",
    "sqlite": "SQLite: GROUP BY over a plain table; floats",
}


if __name__ == "__main__":
    main()
