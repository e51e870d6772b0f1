"""The ledger: exactly once per attempt, whatever is told how often and in which order; parts add up to the whole."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexa_sdk import CostReport
from nexa_sdk.cost_line import DAY
from nexa_sdk.cost_report import GROUPS
from nexa_sdk.errors import InvalidInput, JournalError
from nexa_sdk.monitoring.ledger import Charge, Ledger, read_moment
from nexa_sdk.rates import Price

NOON = 20_000 * DAY + DAY // 2
PRICES = {
    "h100": Price(Decimal("2.49"), Decimal("0.013"), None, "USD", "mine", 1.0),
    "a100": Price(Decimal("1.07"), None, Decimal("0.5"), "EUR", "mine", 1.0),
    "": Price(None, Decimal("0.03"), None, "USD", "mine", 1.0),
}


def price(charge: Charge) -> Price | None:
    return PRICES.get(charge.gpu_type)


def charge(
    task: int = 0, start: int = NOON, length: int = 60_000, *, run: str = "r-00000000", is_over: bool = True, gpu_type: str = "h100", **more
) -> Charge:
    known = {
        "kind": "compute", "cluster": "work", "run": run, "trial": str(task), "user": "ada", "account": "ml", "partition": "gpu",
        "gpu_type": gpu_type, "state": "COMPLETED" if is_over else "RUNNING", "job": f"17_{task}", "raw": str(100 + task), "start": start,
        "end": start + length, "is_over": is_over, "length": length, "gpus": 2 if gpu_type else 0, "cpus": 8, "nodes": 1, "is_accounted": True,
    }  # fmt: skip
    return Charge(**{**known, **more})


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger()


@contextmanager
def fresh() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        yield Ledger(Path(folder) / "ledger.sqlite")


def everything(ledger: Ledger) -> CostReport:
    return ledger.report(0, 2**42, attempts=True)


# ---- exactly once --------------------------------------------------------------------------------


def test_a_charge_comes_back_as_a_line(ledger: Ledger) -> None:
    ledger.record([charge()], price, asked=1.0)
    (line,) = ledger.of_run("r-00000000")
    assert (line.job, line.trial, line.state, line.gpu_ms, line.cpu_ms, line.node_ms) == (
        "17_0",
        "0",
        "COMPLETED",
        120_000,
        480_000,
        60_000,
    )
    assert line.price == PRICES["h100"]
    assert line.nanos == round((Decimal("2.49") * 120 + Decimal("0.013") * 480) / 3600 * 10**9)


def test_a_running_attempt_gives_way_to_what_is_said_later(ledger: Ledger) -> None:
    ledger.record([charge(length=10_000, is_over=False)], price, asked=10.0)
    ledger.record([charge(length=60_000)], price, asked=60.0)
    ledger.record([charge(length=20_000, is_over=False)], price, asked=20.0)  # another kernel's, that was late
    (line,) = ledger.of_run("r-00000000")
    assert (line.state, line.gpu_ms) == ("COMPLETED", 120_000)


def test_a_start_that_was_corrected_makes_no_second_attempt(ledger: Ledger) -> None:
    ledger.record([charge(start=NOON, length=10_000, is_over=False)], price, asked=10.0)
    ledger.record([charge(start=NOON + 3000, length=57_000)], price, asked=60.0)
    (line,) = ledger.of_run("r-00000000")
    assert line.start == NOON + 3000


def test_accounting_counts_before_a_runs_own_records(ledger: Ledger) -> None:
    own = charge(start=NOON + 200, length=59_000, raw="17_0", is_accounted=False)
    ledger.record([own], price, asked=1.0)
    ledger.record([charge()], price, asked=2.0)
    ledger.record([own], price, asked=3.0)
    (line,) = ledger.of_run("r-00000000")
    assert line.start == NOON


def test_a_price_that_was_known_once_stays(ledger: Ledger) -> None:
    dear = Price(Decimal(99), None, None, "USD", "later", 2.0)
    ledger.record([charge(length=0, is_over=False)], price, asked=1.0)
    ledger.record([charge(start=NOON + 1, length=60_000)], lambda _: dear, asked=2.0)  # its start was corrected, too
    (line,) = ledger.of_run("r-00000000")
    assert line.price == PRICES["h100"]


def test_a_price_that_was_unknown_may_be_told_later(ledger: Ledger) -> None:
    ledger.record([charge()], lambda _: None, asked=1.0)
    report = everything(ledger)
    assert (report.total, report.money_text, report.unknown.attempts) == (None, "price unknown", 1)
    ledger.record([charge()], price, asked=2.0)
    assert everything(ledger).total is not None


def test_a_cost_beyond_all_measure_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="more than a ledger holds"):
        ledger.record([charge(length=10**10, gpus=1000)], lambda _: Price(Decimal(10**7), None, None, "USD", "mine", 0.0), asked=1.0)
    assert everything(ledger).lines == []


snapshots = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 10**6), st.booleans(), st.sampled_from(list(PRICES))), max_size=12
)


def told(seeds: list[tuple[int, int, int, bool, str]]) -> list[Charge]:
    """Return executions of tasks, one after another; only the last of a task may be running."""
    last = {task: k for k, (task, *_) in enumerate(seeds)}
    found, clock = [], {}
    for k, (task, gap, length, is_over, gpu_type) in enumerate(seeds):
        start = clock.get(task, NOON) + gap + 1
        clock[task] = start + length
        found.append(charge(task, start, length, is_over=is_over or last[task] != k, gpu_type=gpu_type))
    return found


@settings(max_examples=30, deadline=None)
@given(snapshots, st.data())
def test_the_same_accounting_told_any_number_of_times_changes_nothing(seeds, data) -> None:
    charges = told(seeds)
    with fresh() as ledger:
        ledger.record(charges, price, asked=100.0)
        once = everything(ledger).lines
        assert len(once) == len(charges)
        for _ in range(3):
            by_task = [[one for one in charges if one.job == job] for job in sorted({one.job for one in charges})]
            again = [one for of_task in data.draw(st.permutations(by_task)) for one in of_task]
            ledger.record(again, price, asked=data.draw(st.sampled_from([50.0, 100.0, 150.0])))
        assert everything(ledger).lines == once


@settings(max_examples=30, deadline=None)
@given(snapshots, st.randoms())
def test_what_kernels_saw_on_the_way_may_be_told_in_any_order(seeds, random) -> None:
    """Each has seen what there was at its time: what had ended, what ran, and not what came later."""
    charges = [one._replace(is_over=True, state="COMPLETED") for one in told(seeds)]
    end = max((one.end for one in charges), default=NOON) + 1
    views = []
    for moment in [*sorted(random.sample(range(NOON, end), min(4, end - NOON))), end]:
        seen = [one for one in charges if one.start <= moment]
        cut = [
            one if one.end <= moment else one._replace(is_over=False, state="RUNNING", end=moment, length=moment - one.start)
            for one in seen
        ]
        views.append((moment / 1000, cut))
    random.shuffle(views)
    with fresh() as ledger, fresh() as straight:
        for asked, view in views:
            ledger.record(view, price, asked=asked)
        straight.record(charges, price, asked=end / 1000)
        assert everything(ledger).lines == everything(straight).lines


# ---- parts and the whole -------------------------------------------------------------------------

parties = st.lists(
    st.builds(
        charge,
        st.integers(0, 50),
        st.integers(NOON - 3 * DAY, NOON + 3 * DAY),
        st.integers(0, 3 * DAY),
        run=st.sampled_from(["a-00000000", "b-00000000", ""]),
        gpu_type=st.sampled_from([*PRICES, "unpriced"]),
        user=st.sampled_from(["ada", "bob"]),
        account=st.sampled_from(["ml", ""]),
        state=st.sampled_from(["COMPLETED", "FAILED", "REQUEUED"]),
    ),
    max_size=20,
    unique_by=lambda one: one.job,
)


@settings(max_examples=40, deadline=None)
@given(parties, st.lists(st.sampled_from([name for name in GROUPS if name != "trial"]), min_size=1, max_size=3, unique=True))
def test_parts_add_up_to_the_whole_for_any_grouping(charges: list[Charge], names: list[str]) -> None:
    with fresh() as ledger:
        ledger.record(charges, price, asked=1.0)
        for report in (everything(ledger), ledger.report(0, 2**42)):
            table = report.by(*names)
            sums = table.groupby("currency")["cost"].sum() if len(table) else {}
            assert {currency: sums[currency] for currency in report.totals} == report.totals
            assert table["attempts"].sum() == report.attempts == len(charges)
            assert sum(line.gpu_ms for line in report.lines) == sum(one.gpus * one.length for one in charges)
            assert all(cost is None or cost >= 0 for cost in table["cost"])
            assert all(min(line.gpu_ms, line.cpu_ms, line.node_ms, line.nanos or 0) >= 0 for line in report.lines)


@settings(max_examples=40, deadline=None)
@given(parties, st.lists(st.integers(NOON - 4 * DAY, NOON + 7 * DAY), max_size=4))
def test_a_time_that_is_cut_adds_up_to_the_whole(charges: list[Charge], cuts: list[int]) -> None:
    ends = sorted({0, *cuts, 2**42})
    with fresh() as ledger:
        ledger.record(charges, price, asked=1.0)
        whole = everything(ledger)
        for attempts in (True, False):
            parts = [ledger.report(low, high, attempts=attempts) for low, high in pairwise(ends)]
            for currency, total in whole.totals.items():
                assert sum(part.totals.get(currency, Decimal(0)) for part in parts) == total
            for name in ("attempts", "gpu_ms", "cpu_ms", "node_ms"):
                assert sum(getattr(line, name) for part in parts for line in part.lines) == sum(getattr(line, name) for line in whole.lines)


def test_days_are_those_of_utc(ledger: Ledger) -> None:
    ledger.record([charge(start=NOON, length=DAY)], price, asked=1.0)
    table = everything(ledger).by("day")
    assert table.index.tolist() == ["2024-10-04", "2024-10-05"]
    assert table["gpu_hours"].tolist() == [24, 24]
    assert table["attempts"].tolist() == [1, 0]
    only = CostReport.between("2024-10-05", "2024-10-06")
    assert only.gpu_hours == 24
    assert only.title == "Cost from 2024-10-05 to 2024-10-06"


def test_a_trial_is_asked_of_attempts_alone(ledger: Ledger) -> None:
    ledger.record([charge(0), charge(1)], price, asked=1.0)
    with pytest.raises(InvalidInput, match="ask for a line for each attempt: attempts=True"):
        ledger.report(0, 2**42).by("trial")
    assert everything(ledger).by("trial").index.tolist() == ["0", "1"]


# ---- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_time",
    ["2024-10-04", "2024-10-04T00:00", date(2024, 10, 4), datetime(2024, 10, 4), datetime(2024, 10, 4, 2, tzinfo=UTC) - timedelta(hours=2)],
)
def test_a_moment(given_time: object) -> None:
    assert read_moment("since", given_time) == 20_000 * DAY


@pytest.mark.parametrize("given_time", ["7 days", "7d", "1 week", "168 hours", timedelta(days=7)])
def test_so_long_ago(given_time: object) -> None:
    assert abs(read_moment("since", given_time) / 1000 - (time.time() - 7 * 86400)) < 60


@pytest.mark.parametrize("given_time", ["900000 days", "999999 weeks", timedelta.max])
def test_longer_ago_than_any_date(ledger: Ledger, given_time: object) -> None:
    assert ledger.between(given_time).title.startswith("Cost from 1-01-01 to 20")


@pytest.mark.parametrize("given_time", ["yesterday", "", 17, None, "2024-13-01"])
def test_no_moment(given_time: object) -> None:
    with pytest.raises(InvalidInput, match="is no time"):
        read_moment("since", given_time)


def test_a_time_that_ends_before_it_begins(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="the first comes later"):
        ledger.between("2024-10-05", "2024-10-04")


# ---- the file ------------------------------------------------------------------------------------


def test_several_kernels_at_once(ledger: Ledger) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from test_ledger import *
ledger = Ledger()
for k in range(20):
    ledger.record([charge(task, length=1000 * (k + 1)) for task in range(int(sys.argv[1]), int(sys.argv[1]) + 3)], price, asked=float(k))
"""
    kernels = [subprocess.Popen([sys.executable, "-c", code, str(first), str(Path(__file__).parent)]) for first in (0, 1, 2)]
    assert [kernel.wait(timeout=240) for kernel in kernels] == [0, 0, 0]
    report = everything(ledger)
    assert report.attempts == 5
    assert {line.gpu_ms for line in report.lines} == {40_000}


def test_a_file_that_is_no_ledger_is_said(ledger: Ledger) -> None:
    ledger.path.parent.mkdir(parents=True, exist_ok=True)
    ledger.path.write_text("no database, but some text" * 1000)
    with pytest.raises(JournalError, match=r"the ledger .*ledger.sqlite: file is not a database"):
        everything(ledger)


def test_a_newer_ledger_is_left_alone(ledger: Ledger) -> None:
    import sqlite3

    everything(ledger)
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="is of a newer nexa_sdk"):
        everything(ledger)
