"""Calls of LLM APIs in the ledger and in a report: once each, in any order; parts add up to the whole; FOCUS's columns."""

from __future__ import annotations

import csv
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ledger import NOON, charge, price

from nexa_sdk import CostReport
from nexa_sdk.cost_line import DAY
from nexa_sdk.cost_report import GROUPS
from nexa_sdk.errors import InvalidInput
from nexa_sdk.focus import COLUMNS
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.monitoring.ledger_file import LedgerFile
from nexa_sdk.monitoring.usage.calls import ApiCall, Told, tell
from nexa_sdk.monitoring.usage.token_prices import charge as charged
from nexa_sdk.token_price import Meter, TokenPrice

MINI = TokenPrice(
    currency="USD", source="genai-prices: openai gpt-4o-mini", read_at=1.0,
    meters=(Meter("cache_read_tokens", 10**6, Decimal("0.075")), Meter("input_tokens", 10**6, Decimal("0.15")), Meter("output_tokens", 10**6, Decimal("0.6"))),
)  # fmt: skip
ODD = TokenPrice(currency="EUR", source="calls.jsonl", read_at=2.0, meters=(Meter("cost", 1, Decimal(1)),))
PRICES = {"gpt-4o-mini": MINI, "ours": ODD, "nobody's": None}


def call(number: int = 0, at: int = NOON, model: str = "gpt-4o-mini", *, tokens: int = 1200, **more: Any) -> ApiCall:
    billed = {"input_tokens": tokens, "output_tokens": 96} if model == "gpt-4o-mini" else {"cost": Decimal("0.001") * tokens}
    known: dict[str, Any] = {
        "response": f"chatcmpl-{number:020}", "at": at, "provider": "openai", "model": model, "run": "", "trial": "", "user": "ada",
        "tag": "", "state": "COMPLETED", "why": "" if PRICES[model] else "nobody says it", "block": "b", "used": {"input_tokens": tokens, "output_tokens": 96},
        "billed": billed if PRICES[model] else {}, "price": PRICES[model],
    }  # fmt: skip
    return ApiCall(**{**known, **more})


@contextmanager
def fresh() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        yield Ledger(Path(folder) / "ledger.sqlite")


def write(ledger: Ledger, *calls: ApiCall) -> Told:
    with LedgerFile(ledger.path).writing() as connection:
        return tell(connection, calls)


def whole(ledger: Ledger) -> CostReport:
    return ledger.report(0, 2**42, attempts=True)


# ---- exactly once --------------------------------------------------------------------------------


def test_a_call_that_is_known_stays_as_it_is() -> None:
    with fresh() as ledger:
        assert write(ledger, call()) == Told(new=1)
        before = whole(ledger).lines
        assert write(ledger, call(), call(at=NOON + 5, tag="later", block="c")) == Told(known=2)
        assert write(ledger, call(tokens=7)) == Told(otherwise=1)
        assert whole(ledger).lines == before


def test_what_was_not_known_may_be_told_later_and_stays_whose_it_was() -> None:
    with fresh() as ledger:
        write(ledger, call(tag="mine", used={}, billed={}, price=None, why="cut", state="CANCELLED"))
        assert whole(ledger).total is None
        write(ledger, call(at=NOON + DAY, tag="other", price=None, why="nobody says it"))
        assert whole(ledger).tokens == {"input_tokens": 1200, "output_tokens": 96}
        write(ledger, call())
        (line,) = whole(ledger).lines
        assert (line.tag, line.start, line.price, line.why) == ("mine", NOON, MINI, "")
        assert ledger.report(0, 2**42).totals == {"USD": Decimal("0.0002376")}
        assert ledger.report(0, 2**42).calls == 1
        assert write(ledger, call(used={}, billed={}, price=None)) == Told(known=1), "and is not forgotten again"
        assert whole(ledger).lines == [line]


def test_a_call_that_only_fills_makes_none() -> None:
    with fresh() as ledger:
        assert write(ledger, call(only_fills=True)) == Told()
        assert whole(ledger).lines == []


CALLS = st.lists(
    st.builds(
        call,
        st.integers(0, 30),
        st.integers(NOON - 3 * DAY, NOON + 3 * DAY),
        st.sampled_from(list(PRICES)),
        tokens=st.integers(0, 10**6),
        provider=st.sampled_from(["openai", "azure"]),
        run=st.sampled_from(["a-00000000", ""]),
        tag=st.sampled_from(["eval", "", "$(rm -rf ~) 'x' \"y\"\n"]),
    ),
    max_size=20,
    unique_by=lambda one: one.response,
)


@settings(max_examples=30, deadline=None)
@given(CALLS, st.data())
def test_the_same_calls_told_any_number_of_times_change_nothing(calls: list[ApiCall], data: st.DataObject) -> None:
    with fresh() as ledger, fresh() as other:
        write(ledger, *calls)
        once = whole(ledger).lines
        assert len(once) == len(calls)
        for _ in range(3):
            write(ledger, *data.draw(st.permutations(calls)))
            for one in data.draw(st.permutations(calls)):
                write(other, one)
        assert whole(ledger).lines == once == whole(other).lines
        assert ledger.report(0, 2**42).totals == other.report(0, 2**42).totals == whole(ledger).totals


@settings(max_examples=40, deadline=None)
@given(
    CALLS, st.integers(0, 4), st.lists(st.sampled_from([name for name in GROUPS if name != "trial"]), min_size=1, max_size=3, unique=True)
)
def test_parts_add_up_to_the_whole_beside_runs(calls: list[ApiCall], attempts: int, names: list[str]) -> None:
    with fresh() as ledger:
        ledger.record([charge(task) for task in range(attempts)], price, asked=1.0)
        write(ledger, *calls)
        for report in (whole(ledger), ledger.report(0, 2**42)):
            table = report.by(*names)
            sums = table.groupby("currency")["cost"].sum() if len(table) else {}
            assert {currency: sums[currency] for currency in report.totals} == report.totals
            assert (report.attempts, report.calls) == (attempts, len(calls))
            if calls:
                assert table["calls"].sum() == len(calls)
                assert table["input_tokens"].sum() == report.tokens.get("input_tokens", 0) == sum(one.used["input_tokens"] for one in calls)
            assert all(cost is None or cost >= 0 for cost in table["cost"])
            charges = report.to_frame()
            assert sum(charges["x_Calls"]) == len(calls)
            for currency, total in report.totals.items():
                assert (
                    sum(cost for cost, unit in zip(charges["BilledCost"], charges["BillingCurrency"], strict=True) if unit == currency)
                    == total
                )


@settings(max_examples=40, deadline=None)
@given(CALLS, st.lists(st.integers(NOON - 4 * DAY, NOON + 4 * DAY), max_size=4))
def test_a_time_that_is_cut_adds_up_to_the_whole(calls: list[ApiCall], cuts: list[int]) -> None:
    ends = sorted({0, *cuts, 2**42})
    with fresh() as ledger:
        write(ledger, *calls)
        for each in (True, False):
            parts = [ledger.report(low, high, attempts=each) for low, high in pairwise(ends)]
            assert sum(part.calls for part in parts) == len(calls)
            for currency, total in whole(ledger).totals.items():
                assert sum(part.totals.get(currency, Decimal(0)) for part in parts) == total


def test_a_run_has_its_calls_and_a_cluster_none(home: Path) -> None:
    ledger = Ledger()
    ledger.record([charge()], price, asked=1.0)
    write(ledger, call(run="r-00000000", trial="0"), call(1))
    assert [line.trial for line in ledger.calls_of_run("r-00000000")] == ["0"]
    assert ledger.report(0, 2**42, cluster="work").calls == 0
    report = CostReport([*ledger.of_run("r-00000000"), *ledger.calls_of_run("r-00000000")])
    assert str(report) == "1 attempt, 0.03 GPU-hours, 0.13 CPU-hours, 1 API call, 1,200 tokens in, 96 out, 0.08 USD"
    assert report.shown()[1] == [
        ["COMPLETED", "1", "h100", "0.03", "0.13", "0.08 USD"],
        ["API calls", "1", "", "0.00", "0.00", "0.0002376 USD"],
    ]


# ---- how it shows itself -------------------------------------------------------------------------


def report_of(*calls: ApiCall) -> CostReport:
    with fresh() as ledger:
        write(ledger, *calls)
        return whole(ledger)


def test_a_report_of_calls_alone() -> None:
    report = report_of(call(), call(1), call(2, model="nobody's"))
    assert report.shown() == (
        ["provider", "model", "calls", "tokens in", "tokens out", "cost"],
        [["openai", "gpt-4o-mini", "2", "2,400", "192", "0.0004752 USD"], ["openai", "nobody's", "1", "1,200", "96", "unknown"]],
    )
    assert report.summary == [
        "3 API calls, 3,600 tokens in, 288 out, 0.0004752 USD, and 1 API call without a known price",
        "1 API call without a known price: nobody says it",
    ]
    assert "nobody&#x27;s" in report._repr_html_()
    assert pickle.loads(pickle.dumps(report)) == report
    assert report.where(model="gpt-4o-mini").total == Decimal("0.0004752")


def test_drawings() -> None:
    report = report_of(call(), call(1, at=NOON + DAY))
    assert list(report.plot().data[0].x) == ["2024-10-04", "2024-10-05"]
    assert sum(report.plot("model").data[0].y) == pytest.approx(0.0004752)
    assert report_of(call(model="nobody's")).plot("model").layout.yaxis.title.text == "tokens"


# ---- FOCUS ---------------------------------------------------------------------------------------


def test_a_charge_is_one_rate_times_one_amount(tmp_path: Path) -> None:
    report = report_of(call(tag="eval", billed={"cache_read_tokens": 1024, "input_tokens": 176, "output_tokens": 96}))
    table = report.to_frame()
    assert list(table.columns) == list(COLUMNS)
    assert table["SkuMeter"].tolist() == ["Cache Read Tokens", "Input Tokens", "Output Tokens"]
    assert table["ConsumedQuantity"].tolist() == [1024, 176, 96]
    assert set(table["ConsumedUnit"]) == {"Tokens"}
    assert set(table["PricingUnit"]) == {"1000000 Tokens"}
    for cost, rate, amount in zip(table["ListCost"], table["ListUnitPrice"], table["PricingQuantity"], strict=True):
        assert cost == rate * amount
    assert (table["ServiceCategory"][0], table["ProviderName"][0], table["x_Tag"][0], table["x_Model"][0]) == (
        "AI and Machine Learning", "openai", "eval", "gpt-4o-mini",
    )  # fmt: skip
    report.to_focus_csv(tmp_path / "bill.csv")
    with open(tmp_path / "bill.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == report.total
    with pytest.raises(InvalidInput, match="1 API calls have no known price, and FOCUS has no such charge: leave them out"):
        report_of(call(model="nobody's")).to_focus_csv(tmp_path / "bill.csv")


# ---- genai-prices --------------------------------------------------------------------------------


def test_the_parts_of_every_price_add_up_to_what_genai_prices_says() -> None:
    """Of all models of all providers, at several lengths: some are dearer from a length on."""
    from genai_prices import Usage, calc_price
    from genai_prices.data_snapshot import get_snapshot

    at = datetime(2026, 11, 1, 12, tzinfo=UTC)
    priced = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            for tokens in (1000, 300_000):
                used: dict[str, int | Decimal] = {"input_tokens": tokens, "cache_read_tokens": tokens // 2, "output_tokens": 500}
                found = charged(used, provider=provider.id, model=model.id, at=at.timestamp(), body={})
                if found.price is not None:
                    told = calc_price(Usage(**used), model.id, provider_id=provider.id, genai_request_timestamp=at)
                    exact = sum((meter.rate * amount / meter.per for meter, amount, _ in found.price.parts(found.billed)), Decimal(0))
                    assert abs(exact - told.total_price) < Decimal("1e-12")
                    assert abs(found.price.nanos_of(found.billed) - told.total_price * 10**9) <= len(found.billed)
                    priced += 1
    assert priced > 2000
