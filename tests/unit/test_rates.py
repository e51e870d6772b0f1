"""Prices: what the user's file can say, how a mistake is told, which source counts, and what hours come to."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import InvalidInput, RatesError
from nexa_sdk.monitoring.costs import estimate_batch_cost
from nexa_sdk.monitoring.prices import RateFile, Wanted, rates_of
from nexa_sdk.rates import Price, RateCard, Rates, RateTable, money

WORK = """\
# mine
currency = "USD"
gpu_hour = 2.00
[clusters.work]
currency = "EUR"
cpu_hour = 0.02
node_hour = 0
gb_month = 0.05
[clusters.work.gpus]
H100 = 2.49
[clusters.work.partitions.spot]
gpus = { h100 = 1.20 }
[catalog]
providers = ["runpod"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    return path


# ---- the file ------------------------------------------------------------------------------------


def test_a_whole_file(file: Path) -> None:
    file.write_text(WORK)
    card = RateFile(file).card(Wanted(["work"]))
    assert card is not None
    assert (card.source, card.currency) == ("rates.toml, clusters.work", "EUR")
    assert card.table == RateTable(gpus={"h100": Decimal("2.49")}, cpu_hour=Decimal("0.02"), node_hour=Decimal(0), gb_month=Decimal("0.05"))
    assert card.partitions == {"spot": RateTable(gpus={"h100": Decimal("1.20")})}
    other = RateFile(file).card(Wanted(["other", "slurm"]))
    assert other is not None
    assert (other.currency, other.table.gpu_hour, other.table.gpus) == ("USD", Decimal("2.00"), {})
    assert RateCard.read(json.loads(json.dumps(card.written()))) == card, "it comes back from plan.json as it was"


def test_no_file_is_no_price(file: Path) -> None:
    assert rates_of(Wanted(["work"])).cards == ()
    assert rates_of(Wanted(["work"])).price(gpu_type="h100", gpus=1) is None


def test_a_file_that_the_variable_names_and_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXA_RATES", str(tmp_path / "nosuch.toml"))
    with pytest.raises(RatesError, match=r"nosuch.toml: there is no such file, and \$NEXA_RATES names it"):
        rates_of(Wanted())


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("curency = 'USD'\n", 1, "'curency' is not known here; did you mean 'currency'?"),
        ("currency = 'USD'\n[clusters.work]\n\ngpu_hours = 2\n", 4, "'gpu_hours' is not known here; did you mean 'gpu_hour'?"),
        ("currency = 'USD'\n[clusters.work]\ngpu_hour = -2.5\n", 3, "gpu_hour = -2.5: a price is 0 or more"),
        ("currency = 'USD'\n[clusters.work.gpus]\nh100 = 1\na100 = -1\n", 4, "a100 = -1: a price is 0 or more"),
        ("currency = 'USD'\n[clusters.work.gpus]\nh100 = 1\nH100 = 2\n", 4, "'H100' and 'h100' are the same type of GPU; leave one out"),
        ("currency = 'USD'\n[clusters.work.gpus]\nh100 = '2.49'\n", 3, "h100 is a price, a number, not '2.49'"),
        ("currency = 'USD'\n[clusters.work.gpus]\nh100 = true\n", 3, "h100 is a price, a number, not true"),
        ("currency = 'USD'\n[clusters.work.gpus]\nh100 = nan\n", 3, "h100 is a price, a number, not nan"),
        ("currency = 'USD'\ngpu_hour = 1e12\n", 2, "a price is 10,000,000 at most"),
        ("currency = 'USD'\n[clusters.work]\ngpus = 2\n", 3, "gpus is a table, [clusters.work.gpus], not 2"),
        ("currency = 'USD'\nclusters = 2\n", 2, "clusters is a table, [clusters], not 2"),
        ("currency = 'usd'\n", 1, "currency = 'usd' is no currency; write its three letters"),
        ("gpu_hour = 2\n", 1, "prices have no currency; add one at the top"),
        ("[clusters.work]\ngpu_hour = 2\n", 1, "work has no currency; add one"),
        ("currency = 'USD'\n[clusters.work.partitions.spot]\ncurrency = 'EUR'\n", 3, "'currency' is not known here"),
        ("currency = 'USD'\n[catalog]\nproviders = 'runpod'\n", 3, "providers is a list of names"),
        ("currency = 'USD'\n[catalog]\nspot = true\n", 3, "'spot' is not known here"),
        ("currency = 'USD'\ngpu_hour = 2 USD\n", 2, "this is no TOML"),
    ],
)
def test_a_mistake_names_its_file_and_line(file: Path, text: str, line: int, words: str) -> None:
    file.write_text(text)
    with pytest.raises(RatesError) as caught:
        RateFile(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert words in str(caught.value)
    assert caught.value.line == line


# ---- which price counts --------------------------------------------------------------------------


def price(rates: Rates, partition: str = "", gpu_type: str = "", gpus: int = 1) -> Price | None:
    return rates.price(partition=partition, gpu_type=gpu_type, gpus=gpus)


def test_a_partitions_table_counts_alone(file: Path) -> None:
    file.write_text(WORK)
    rates = Rates((RateFile(file).card(Wanted(["work"])),))
    usual, spot = price(rates, "gpu", "h100"), price(rates, "spot", "H100")
    assert usual is not None
    assert spot is not None
    assert (usual.gpu_hour, usual.cpu_hour, usual.node_hour) == (Decimal("2.49"), Decimal("0.02"), Decimal(0))
    assert (spot.gpu_hour, spot.cpu_hour, spot.node_hour) == (Decimal("1.20"), None, None)
    assert price(rates, "gpu,spot", "h100") is None
    assert rates.why_unknown(partition="gpu,spot", gpu_type="h100", gpus=1) == "partitions gpu,spot may cost different prices; give one"


def test_an_unknown_type_of_gpu_is_said_with_the_nearest(file: Path) -> None:
    file.write_text("currency = 'USD'\n[clusters.work.gpus]\nh100 = 2.49\na100 = 1\n")
    rates = Rates((RateFile(file).card(Wanted(["work"])),))
    assert price(rates, gpu_type="h10") is None
    assert rates.why_unknown(gpu_type="h10", gpus=1) == "no price is known of a GPU of type 'h10'; did you mean 'h100'?"
    assert rates.why_unknown(gpus=1) == "a GPU's price depends on its type; give gpu_type= (known: h100, a100)"
    assert price(rates, gpus=0) is None
    assert rates.why_unknown(gpus=0) == "no price is known of a core; write cpu_hour into the file of rates"


@pytest.mark.parametrize("gpu_type", ["a100", "h10", None])
def test_a_gpu_without_a_price_is_not_free_where_nodes_have_one(file: Path, gpu_type: str | None) -> None:
    file.write_text(WORK)
    estimate = estimate_batch_cost(gpus_per_node=8, duration_hours=10, gpu_type=gpu_type, cluster="work")
    assert estimate.total is None
    assert ("did you mean 'h100'" if gpu_type == "h10" else "h100") in " ".join(estimate.notes)
    file.write_text("currency = 'EUR'\nnode_hour = 9\n")  # nodes alone have a price, with all that is in them
    assert estimate_batch_cost(nodes=2, gpus_per_node=8, duration_hours=10, gpu_type=gpu_type).total == 180


def test_a_clusters_description_counts_after_the_file(file: Path, tmp_path: Path) -> None:
    (file.parent / "clusters.toml").write_text('[clusters.mine]\nhost = "local"\n[clusters.mine.rates]\nH100 = 2.10\na100 = 1.05\n')
    file.write_text("currency = 'USD'\n[clusters.mine.gpus]\nh100 = 3\n")
    plan = Cluster("mine").rates()
    first, second = price(plan, gpu_type="h100"), price(plan, gpu_type="a100")
    assert first is not None
    assert second is not None
    assert (first.gpu_hour, first.source) == (Decimal(3), "rates.toml, clusters.mine")
    assert (second.gpu_hour, second.source, second.currency) == (Decimal("1.05"), "clusters.toml, clusters.mine.rates", "USD")


# ---- gpuhunt's catalogs --------------------------------------------------------------------------

CATALOG = """\
instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags
h1,US,2.99,16,188,1,H100,80,False,,nvidia,
h8,US,20.00,128,1504,8,H100,80,False,,nvidia,
h1s,US,1.10,16,188,1,H100,80,True,,nvidia,
a4,US,1.00,16,188,1,A100,40,False,,nvidia,
a8,US,1.50,16,188,1,A100,80,False,,nvidia,
c,US,0.10,16,188,0,,,False,,,
"""


# It leaves the files open that it read.
left_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gpuhunt")
    folder = tmp_path / "catalogs"
    folder.mkdir()
    (folder / "runpod.csv").write_text(CATALOG)
    monkeypatch.setenv("GPUHUNT_CATALOG_DIR", str(folder))
    return folder


@left_open
@pytest.mark.parametrize(
    ("gpu_type", "hourly", "name"),
    [("h100", "2.5", "h8"), ("nvidia_h100_80gb_hbm3", "2.5", "h8"), ("A100", "1", "a4"), ("nvidia_a100-sxm4-80gb", "1.5", "a8")],
)
def test_a_catalog_says_what_a_gpu_is_rented_for(catalogs: Path, gpu_type: str, hourly: str, name: str) -> None:
    found = price(rates_of(Wanted(gpu_types=[gpu_type])), gpu_type=gpu_type)
    assert found is not None
    assert (found.gpu_hour, found.currency) == (Decimal(hourly), "USD")
    assert found.source == f"gpuhunt: runpod {name}, on demand"
    assert found.read_at > 1_600_000_000


@left_open
def test_the_file_counts_before_a_catalog(catalogs: Path, file: Path) -> None:
    file.write_text("currency = 'EUR'\n[gpus]\nh100 = 9\n")
    rates = rates_of(Wanted(gpu_types=["h100", "a100"]))
    assert price(rates, gpu_type="h100").gpu_hour == 9
    assert price(rates, gpu_type="a100").gpu_hour == 1
    assert price(rates, gpu_type="b200") is None


def test_a_catalog_that_is_not_there(catalogs: Path, file: Path) -> None:
    file.write_text("currency = 'USD'\n[catalog]\nproviders = ['runpods']\n")
    with pytest.raises(InvalidInput, match=r"has no catalog runpods.csv; did you mean 'runpod'\?"):
        rates_of(Wanted(gpu_types=["h100"]))
    (catalogs / "runpod.csv").unlink()
    file.unlink()
    with pytest.raises(InvalidInput, match="GPUHUNT_CATALOG_DIR names, has no catalog"):
        rates_of(Wanted(gpu_types=["h100"]))


# ---- what hours come to --------------------------------------------------------------------------

amounts = st.integers(0, 10**12)
hourly = st.one_of(st.none(), st.decimals(0, 10**6, places=6))


@given(hourly, hourly, hourly, amounts, amounts, amounts)
def test_the_cost_of_an_attempt_is_exact_to_a_billionth(
    gpu: Decimal | None, cpu: Decimal | None, node: Decimal | None, gpu_ms: int, cpu_ms: int, node_ms: int
) -> None:
    from fractions import Fraction

    nanos = Price(gpu, cpu, node, "USD", "mine", 0.0).nanos(gpu_ms, cpu_ms, node_ms)
    rates = zip((gpu_ms, cpu_ms, node_ms), (gpu, cpu, node), strict=True)
    exact = sum(Fraction(amount) * Fraction(rate or 0) / 3_600_000 for amount, rate in rates)
    assert abs(Fraction(nanos, 10**9) - exact) <= Fraction(3, 2 * 10**9)
    assert nanos >= 0
    assert money(nanos) * 10**9 == nanos


# ---- the specification's function ----------------------------------------------------------------


def test_a_batch_at_a_given_price() -> None:
    cost = estimate_batch_cost(nodes=2, gpus_per_node=8, duration_hours=1.5, gpu_type="h100", gpu_hour_cost=2.49, trials=10)
    assert (cost.gpu_hours, cost.total, cost.currency) == (Decimal("240.0"), Decimal("597.6"), "USD")
    assert cost.to_frame()["ListCost"].tolist() == [Decimal("597.6")]
    assert str(cost) == "at most 240.00 GPU-hours, 30.00 CPU-hours, 597.60 USD (2.49 USD a GPU-hour, gpu_hour_cost)"
    assert estimate_batch_cost(gpus_per_node=1, walltime="0:20:00", gpu_hour_cost="3").total == 1


def test_a_batch_of_numpys_numbers() -> None:
    cost = estimate_batch_cost(
        nodes=np.int64(2),
        gpus_per_node=np.int32(8),
        duration_hours=np.float32(1.5),
        gpu_hour_cost=np.float32(2.49),
        trials=10,
        currency="eur",
    )  # type: ignore[arg-type]
    assert (cost.gpu_hours, cost.total, cost.currency) == (Decimal("240.0"), Decimal("597.6"), "EUR")


def test_a_batch_without_a_price_is_unknown() -> None:
    cost = estimate_batch_cost(nodes=1, gpus_per_node=1, walltime="2:00:00", gpu_type="h100")
    assert (cost.gpu_hours, cost.total, cost.currency) == (Decimal(2), None, None)
    assert "price unknown" in str(cost)
    assert cost.notes == ("no price is known; write one into the file of rates",)


def test_a_batch_on_a_cluster_of_the_file(file: Path) -> None:
    file.write_text(WORK)
    cost = estimate_batch_cost(gpus_per_node=2, cpus_per_node=10, duration_hours=2, gpu_type="h100", cluster="work", storage_gb_months=100)
    assert (cost.total, cost.currency) == (Decimal("2.49") * 4 + Decimal("0.02") * 20 + 5, "EUR")
    assert estimate_batch_cost(gpus_per_node=2, duration_hours=2, gpu_type="h100", cluster="work", partition="spot").total == Decimal("4.8")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"duration_hours": 1, "walltime": "1:00:00"}, "give one of duration_hours"),
        ({}, "give one of duration_hours"),
        ({"duration_hours": -1}, "duration_hours=-1: give 0 or more"),
        ({"duration_hours": 0}, "duration_hours=0: give more"),
        ({"duration_hours": float("nan")}, "duration_hours=nan: give 0 or more"),
        ({"duration_hours": True}, "duration_hours=True: give a number"),
        ({"duration_hours": "soon"}, "duration_hours='soon': give a number"),
        ({"walltime": 60}, "60 is ambiguous"),
        ({"walltime": "UNLIMITED"}, "walltime='UNLIMITED' bounds nothing"),
        ({"duration_hours": 1, "nodes": 0}, "nodes=0: give a whole number, 1 or more"),
        ({"duration_hours": 1, "trials": 1.5}, r"trials=1\.5: give a whole number"),
        ({"duration_hours": 1, "gpus_per_node": -1}, "gpus_per_node=-1"),
        ({"duration_hours": 1, "gpu_hour_cost": 2}, "no GPU is used"),
        ({"duration_hours": 1, "gpus_per_node": 1, "gpu_hour_cost": -2}, "gpu_hour_cost=-2: give 0 or more"),
        ({"duration_hours": 1, "gpus_per_node": 1, "gpu_hour_cost": 2, "currency": "dollar"}, "currency='dollar' is no currency"),
        ({"duration_hours": 1, "currency": "EUR"}, "is that of gpu_hour_cost="),
    ],
)
def test_a_batch_that_cant_be_meant(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        estimate_batch_cost(**wrong)  # type: ignore[arg-type]


# ---- a plan --------------------------------------------------------------------------------------


def test_a_plan_shows_its_price_and_keeps_it(file: Path) -> None:
    file.write_text(dedent("currency = 'USD'\n[clusters.local]\ncpu_hour = 0.04\n"))
    plan = Cluster("local").plan(Sweep("true", {"x": range(4)}), time="0:30:00", throttle=2)
    cost = plan.cost()
    assert (cost.total, cost.cpu_hours, cost.gpu_hours) == (Decimal("0.08"), 2, 0)
    assert "0.08 USD (0.04 USD a core-hour, rates.toml, clusters.local), 01:00:00 of wall-clock" in plan._repr_mimebundle_()["text/plain"]
    assert plan.written()["rates"][0]["cpu_hour"] == "0.04"
    digest = plan.digest
    file.write_text("currency = 'USD'\n[clusters.local]\ncpu_hour = 40\n")
    assert plan.cost().total == Decimal("0.08"), "what was shown is what is launched"
    other = Cluster("local").plan(Sweep("true", {"x": range(4)}), time="0:30:00", throttle=2)
    assert other.digest == digest, "a price makes no other run of it"


def test_a_plan_without_a_walltime_is_unbounded(file: Path) -> None:
    file.write_text("currency = 'USD'\n[clusters.local]\ncpu_hour = 0.04\n")
    cost = Cluster("local").plan(Sweep("true")).cost()
    assert (cost.total, cost.cpu_hours, cost.gpu_hours) == (None, None, 0)
    assert "there is no walltime, so nothing bounds it; give time=" in cost.notes
    assert "no walltime bounds the CPU-hours, 0.04 USD a core-hour" in str(cost)


def test_the_wall_clock_of_a_throttled_plan_of_several_arrays() -> None:
    from nexa_sdk.scheduling.base import Limits

    cluster = Cluster("local")
    cluster.limits = lambda: Limits(array_size=4)  # type: ignore[method-assign]
    cost = cluster.plan(Sweep("true", {"x": range(10)}), time="1:00:00", throttle=3).cost()
    assert cost.wall_clock is not None
    assert cost.wall_clock.total_seconds() == 3600 * (2 + 2 + 1)
    assert (
        cluster.plan(Sweep("true", {"x": range(10)}), time="1:00:00", throttle=4, canary=True).cost().wall_clock.total_seconds() == 4 * 3600
    )
