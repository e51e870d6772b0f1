"""What a cost shows: sums, currencies, FOCUS's columns, tables and drawings."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from nexa_sdk import CostReport, Job
from nexa_sdk.cost_line import DAY, CostLine
from nexa_sdk.errors import FileError, InvalidInput
from nexa_sdk.estimate import Estimate, Experience
from nexa_sdk.focus import COLUMNS
from nexa_sdk.rates import Price, money
from nexa_sdk.token_price import Meter, TokenPrice

USD = Price(Decimal("2.49"), Decimal("0.01"), None, "USD", "rates.toml, clusters.work", 1_700_000_000.0)
EUR = Price(Decimal("1.5"), None, None, "EUR", "rates.toml, clusters.other", 1_700_000_000.0)
START = 20_000 * DAY


def line(trial: int = 0, hours: int = 1, *, price: Price | None = USD, **more: object) -> CostLine:
    ms = hours * 3_600_000
    amounts = (2 * ms, 8 * ms, ms)
    known = CostLine(
        "compute", "work", "lr-0a1b2c3d", str(trial), "ada", "ml", "gpu", "h100", "COMPLETED", f"17_{trial}", START, START + ms, 1, *amounts,
        None if price is None else price.nanos(*amounts), price,
    )  # fmt: skip
    return known._replace(**more)


REPORT = CostReport([line(0), line(1, 3, state="FAILED"), line(2, 30)], title="Cost of lr-0a1b2c3d")


def test_sums() -> None:
    assert REPORT.gpu_hours == 68
    assert REPORT.cpu_hours == 272
    assert REPORT.total == Decimal("2.49") * 68 + Decimal("0.01") * 272
    assert REPORT.currency == "USD"
    assert REPORT.failed.gpu_hours == 6
    assert str(REPORT) == "3 attempts, 68.00 GPU-hours, 272.00 CPU-hours, 172.04 USD"
    assert CostReport().total is None


def test_money_is_never_a_float() -> None:
    table = REPORT.by("trial")
    assert {type(value) for value in table["cost"]} == {Decimal}
    assert {type(value) for value in REPORT.to_frame()["BilledCost"]} == {Decimal}


def test_currencies_are_kept_apart() -> None:
    mixed = CostReport([line(0), line(1, price=EUR)])
    assert (mixed.total, mixed.currency) == (None, None)
    assert mixed.totals == {"EUR": Decimal(3), "USD": Decimal("5.06")}
    assert mixed.money_text == "3.00 EUR + 5.06 USD"
    assert mixed.by("run")["currency"].tolist() == ["EUR", "USD"]
    with pytest.raises(InvalidInput, match="there is no rate for EUR"):
        mixed.in_currency("USD", {})
    dollars = mixed.in_currency("USD", {"EUR": "1.10"})
    assert (dollars.total, dollars.currency) == (Decimal("8.36"), "USD")
    assert dollars.lines[1].price.source == "rates.toml, clusters.other, at 1.10 USD for 1 EUR"
    for wrong in (0, -1, "much", 1.1, True):
        with pytest.raises(InvalidInput, match="the rate of EUR is"):
            mixed.in_currency("USD", {"EUR": wrong})


def test_what_has_no_price_is_said_to_have_none() -> None:
    report = CostReport([line(0), line(1, price=None)])
    assert report.total is None
    assert report.totals == {"USD": Decimal("5.06")}
    assert report.money_text == "5.06 USD, and 2.00 GPU-hours without a known price"
    assert report.by("trial")["cost"].tolist() == [Decimal("5.06"), None]


def test_an_unknown_word_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="a cost has no 'users'; did you mean 'user'"):
        REPORT.by("users")
    with pytest.raises(InvalidInput, match="by what"):
        REPORT.by()


def test_a_part_of_it() -> None:
    assert REPORT.where(state="FAILED").attempts == 1
    assert REPORT.where(day="2024-10-05").gpu_hours == 12


# ---- FOCUS ---------------------------------------------------------------------------------------

# What FOCUS 1.2 demands of these columns where a charge is usage: https://focus.finops.org/focus-specification/v1-2/
NOT_NULL = [
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
    "SkuId", "SkuPriceId",
]  # fmt: skip


def test_a_charge_is_one_rate_times_one_amount() -> None:
    table = REPORT.to_frame()
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 6
    assert sum(table["BilledCost"]) == REPORT.total
    assert table["x_Attempts"].sum() == 3
    assert table["ConsumedUnit"].tolist() == ["GPU-Hours", "CPU-Hours"] * 3
    for cost, rate, amount in zip(table["ListCost"], table["ListUnitPrice"], table["PricingQuantity"], strict=True):
        assert cost == rate * amount
    assert not table[NOT_NULL].isna().any().any()
    assert all(name.startswith("x_") or name[0].isupper() for name in table.columns)
    assert json.loads(table["Tags"][0]) == {"run": "lr-0a1b2c3d", "trial": "0", "user": "ada"}
    assert str(table["ChargePeriodStart"][0]) == "2024-10-04 00:00:00+00:00"
    assert str(table["BillingPeriodEnd"][0]) == "2024-11-01 00:00:00+00:00"


def test_a_cost_that_is_split_adds_up() -> None:
    odd = Price(Decimal("0.333333"), Decimal("0.000777"), Decimal("0.1"), "USD", "mine", 0.0)
    amounts = (1_234_567, 7_654_321, 99_999)
    one = line(price=odd, gpu_ms=amounts[0], cpu_ms=amounts[1], node_ms=amounts[2], nanos=odd.nanos(*amounts))
    table = CostReport([one]).to_frame()
    assert sum(table["BilledCost"]) * 10**9 == one.nanos
    assert table["ConsumedUnit"].tolist() == ["GPU-Hours", "CPU-Hours", "Node-Hours"]


def test_a_charge_is_of_one_billing_period() -> None:
    begin = int(datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp() * 1000)
    whole = line(0)._replace(start=begin, end=begin + 4 * 3_600_000)
    table = CostReport([whole]).to_frame()
    assert table["BillingPeriodStart"].dt.strftime("%Y-%m").drop_duplicates().tolist() == ["2026-11", "2026-12"]
    assert (table["ChargePeriodStart"] >= table["BillingPeriodStart"]).all()
    assert (table["ChargePeriodEnd"] <= table["BillingPeriodEnd"]).all()
    assert (table["BilledCost"].sum(), table["x_Attempts"].sum()) == (money(whole.nanos), whole.attempts)
    assert CostReport([whole._replace(start=begin, end=begin + 2 * 3_600_000)]).to_frame()["BillingPeriodStart"].nunique() == 1


def test_what_is_free_has_no_cost_that_was_rounded_away_elsewhere() -> None:
    price = replace(USD, gpu_hour=Decimal("2.49"), cpu_hour=Decimal("0.02"), node_hour=Decimal(0))
    lengths = [1001 + 7919 * k * k % 9_999_973 for k in range(1000)]
    nanos = sum(price.nanos(length, 3 * length, length) for length in lengths)
    total = sum(lengths)
    day = line(0, price=price)._replace(gpu_ms=total, cpu_ms=3 * total, node_ms=total, nanos=nanos)
    table = CostReport([day]).to_frame().set_index("SkuMeter")["BilledCost"]
    assert table.sum() == money(nanos)
    assert table["Node Hours"] == 0


def test_the_csv_holds_what_the_frame_holds(tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    REPORT.to_focus_csv(path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert sum(Decimal(row["BilledCost"]) for row in rows) == REPORT.total
    assert rows[0]["ChargePeriodStart"] == "2024-10-04T00:00:00Z"
    assert not any("E" in row["PricingQuantity"] for row in rows)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["bill.csv"]


def test_a_csv_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nosuch" / "bill.csv", tmp_path / "folder"):
        with pytest.raises(FileError, match="it can't be written: "):
            REPORT.to_focus_csv(path, leave_out_unknown=True)
    assert not list(tmp_path.rglob("*.part"))


def test_the_csv_refuses_what_has_no_price(tmp_path: Path) -> None:
    report = CostReport([line(0), line(1, price=None)])
    with pytest.raises(InvalidInput, match="1 attempts have no known price"):
        report.to_focus_csv(tmp_path / "bill.csv")
    assert not (tmp_path / "bill.csv").exists()
    report.to_focus_csv(tmp_path / "bill.csv", leave_out_unknown=True)
    assert (tmp_path / "bill.csv").read_text().count("\n") == 3


def test_the_public_validator_takes_the_csv(tmp_path: Path) -> None:
    """Of PyPI's validator 1.0.0: it knows FOCUS 1.0, and looks for four columns and a category by the names of a draft."""
    validator = shutil.which("focus-validator")
    if validator is None:
        pytest.skip("focus-validator is not on PATH: install 'focus-validator==1.0.0' 'multimethod<2' into an environment of its own")
    path = tmp_path / "bill.csv"
    price = TokenPrice(currency="USD", source="genai-prices", read_at=1.0, meters=(Meter("output_tokens", 10**6, Decimal("0.6")),))
    more = {"provider": "openai", "model": "gpt-4o-mini", "tag": "eval", "used": {"output_tokens": 96}, "billed": {"output_tokens": 96}}
    call = line(kind="api", cluster="", gpu_ms=0, cpu_ms=0, node_ms=0, nanos=57_600, price=price, **more)
    CostReport([line(0), line(1, 30, state="FAILED", account="")._replace(trial=""), call]).to_focus_csv(path, with_draft_names=True)
    site = subprocess.run(
        [Path(validator).resolve().parent / "python", "-c", "import focus_validator as f; print(f.__file__)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    where = Path(site).parents[1]  # it finds its list of currencies from there alone
    told = subprocess.run([validator, "--data-file", path, "--validate-version", "1.0"], cwd=where, capture_output=True, text=True)
    assert "Validation succeeded" in told.stdout, told.stdout + told.stderr


# ---- how it shows itself -------------------------------------------------------------------------


def test_a_plain_table() -> None:
    shown = REPORT._repr_html_()
    assert ">FAILED</td>" in shown
    assert "attempts that did not complete: 1 attempt, 6.00 GPU-hours, 24.00 CPU-hours, 15.18 USD" in shown
    assert "<script" not in shown
    hostile = CostReport([line(run="<b>x</b>"), line(run="<i>y</i>")])._repr_html_()
    assert "<b>x" not in hostile
    assert "&lt;b&gt;x" in hostile


def test_a_long_table_is_cut_and_says_so() -> None:
    shown = CostReport([line(run=f"r{k:03}") for k in range(50)])._repr_html_()
    assert "… and 30 more lines" in shown
    assert len(shown) < 20_000


def test_a_repr_needs_no_pandas() -> None:
    code = "import sys; from nexa_sdk.cost_report import CostReport; repr(CostReport()), CostReport()._repr_html_(); print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_drawings() -> None:
    pytest.importorskip("plotly")
    bars = REPORT.plot()
    assert list(bars.data[0].x) == ["2024-10-04", "2024-10-05"]
    assert sum(bars.data[0].y) == pytest.approx(float(REPORT.total))
    assert REPORT.plot("state").layout.yaxis.title.text == "USD"
    tree = REPORT.plot("run", treemap=True).data[0]
    assert list(tree.labels) == ["work", "ada", "lr-0a1b2c3d"]
    assert tree.values[0] == pytest.approx(float(REPORT.total))
    unknown = CostReport([line(0), line(1, price=None)]).plot("trial")
    assert (list(unknown.data[0].y), unknown.layout.yaxis.title.text) == ([2, 2], "GPU-hours")
    with pytest.raises(InvalidInput, match="EUR and USD can't be drawn in one picture"):
        CostReport([line(0), line(1, price=EUR)]).plot()


# ---- looking ahead -------------------------------------------------------------------------------


def expected(job: Job, seconds: list[float], *, trials: int = 10, tasks: int | None = None) -> Estimate:
    count = tasks if tasks is not None else trials
    return Estimate.of_job(job, trials=trials, tasks=count, rounds=1, price=USD).expecting(job, Experience.of(seconds, runs=2), rounds=1)


def test_what_to_expect() -> None:
    estimate = expected(Job(time="1:00:00", gpus=1), [600.0] * 8 + [60.0, 1200.0])
    assert estimate.at_most.total == Decimal("25.0")
    assert estimate.experience == Experience(10, 2, timedelta(seconds=606), timedelta(seconds=600), timedelta(seconds=600 + 6))
    assert estimate.expected.gpu_hours == Decimal(6060) / 3600
    assert "from 10 trials of 2 earlier runs" in str(estimate)
    assert [name for name, _ in estimate.cases] == ["at most", "expected", "expected, low", "expected, high"]


def test_no_trial_is_expected_to_outlive_its_walltime() -> None:
    estimate = expected(Job(time="0:10:00", gpus=1), [3600.0, 3600.0])
    assert estimate.expected == estimate.at_most
    assert estimate.expected_wall_clock == timedelta(minutes=10)


def test_packed_trials_run_one_after_another_or_side_by_side() -> None:
    in_turn = expected(Job(time="1:00:00", gpus=2, pack=5), [60.0], trials=10, tasks=2)
    assert in_turn.expected.gpu_hours == Decimal(2 * 5 * 60 * 2) / 3600
    at_once = expected(Job(time="1:00:00", gpus=5, pack=5, side_by_side=True), [60.0], trials=10, tasks=2)
    assert at_once.expected.gpu_hours == Decimal(2 * 60 * 5) / 3600


def test_an_estimate_is_no_bill(tmp_path: Path) -> None:
    estimate = expected(Job(time="1:00:00", gpus=1), [60.0])
    table = estimate.to_frame()
    assert table["x_Case"].tolist() == ["at most", "expected", "expected, low", "expected, high"]
    assert table["ListCost"][0] == estimate.total
    assert isinstance(table["x_PriceReadAt"][0], datetime)
    with pytest.raises(InvalidInput, match="an estimate is no charge"):
        estimate.to_focus_csv(tmp_path / "bill.csv")


def test_an_estimate_in_another_currency() -> None:
    estimate = expected(Job(time="1:00:00", gpus=1), [600.0])
    euros = estimate.in_currency("EUR", {"USD": "0.9"})
    assert (euros.total, euros.currency, euros.price.gpu_hour) == (estimate.total * Decimal("0.9"), "EUR", USD.gpu_hour * Decimal("0.9"))
    assert euros.expected.total == estimate.expected.total * Decimal("0.9")
    assert euros.gpu_hours == estimate.gpu_hours
    assert "0.9 EUR for 1 USD" in str(euros)
    assert euros.in_currency("EUR", {}) == euros
    with pytest.raises(InvalidInput, match="there is no rate for USD"):
        estimate.in_currency("EUR", {})
    report = replace(CostReport([line(0)]), estimate=estimate).in_currency("EUR", {"USD": "0.9"})
    assert report.currency == report.estimate.currency == "EUR"


def test_an_estimate_says_what_it_does_not_know() -> None:
    estimate = expected(Job(time="1:00:00", gpus=1), [600.0])
    assert not estimate.unknown
    unpriced = Estimate.of_job(Job(time="1:00:00", gpus=1), trials=1, tasks=1, rounds=1, price=None)
    assert (bool(unpriced.unknown), unpriced.money_text) == (True, "price unknown")
    unbounded = Estimate.of_job(Job(gpus=1), trials=1, tasks=1, rounds=1, price=USD)
    assert (bool(unbounded.unknown), unbounded.money_text) == (True, "unbounded")
    for ask in (lambda: estimate.by("gpu_type"), lambda: estimate.where(user="ada"), estimate.plot):
        with pytest.raises(InvalidInput, match="nothing has run yet"):
            ask()


def test_what_may_come_on_top_is_said() -> None:
    notes = expected(Job(time="1:00:00", retry="by-cause", requeue=True), [60.0]).notes
    assert "retry= may run failed trials again, which comes on top" in notes
    assert "what Slurm requeues is paid for each time" in notes


def test_a_report_is_a_value() -> None:
    assert replace(REPORT, title="other").lines is REPORT.lines
    with pytest.raises(AttributeError):
        REPORT.title = "other"
