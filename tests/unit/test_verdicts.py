"""Verdicts: each rule on samples that deserve it, and on such that just don't."""

from __future__ import annotations

import itertools
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexa_sdk.errors import InvalidInput
from nexa_sdk.monitoring import agent, verdicts
from nexa_sdk.monitoring.bins import binned
from nexa_sdk.monitoring.frames import COLUMNS, frame
from nexa_sdk.monitoring.picture import Painter
from nexa_sdk.monitoring.samples import SampleReader, Series

BEGIN = 1_700_000_000
BUSY = {"busy": 95.0, "sm_active": 90.0, "memory": 60_000.0, "power": 600.0}
IDLE = {"busy": 0.0, "sm_active": 0.0, "memory": 1000.0, "power": 70.0}


def lines(
    spans, *, cores: int = 8, ram_limit: float | None = None, gpus: int = 1, node: str = "n1", covers: float = 10.0, begin: int = BEGIN
) -> bytes:
    """Write samples: ``(seconds, fields of the node, fields of each GPU)``, one after another."""
    devices = [{"index": k, "uuid": f"GPU-{node}-{k}", "name": "H100", "memory": 81920.0} for k in range(gpus)]
    header = {"nexa": 1, "node": node, "cores": cores, "ram": 500_000.0, "ram_limit": ram_limit, "source": "nvml", "gpus": devices}
    written = [json.dumps(header).encode() + b"\n"]
    at = begin
    for seconds, of_node, of_gpus in spans:
        for _ in range(round(seconds / covers)):
            at += covers
            told = [of_node.get(name) for name, *_ in agent.NODE]
            told[:3] = [float(at), 0.0, covers]
            written.append(agent.encode((told, [[gpu.get(name) for name, *_ in agent.GPU] for gpu in of_gpus])))
    return b"".join(written)


def series(spans, *, task: str = "7_0", **given) -> Series:
    reader = SampleReader(task)
    reader.feed(lines(spans, gpus=len(spans[0][2]), **given))
    (one,) = reader.series
    return one


def rules(one: Series) -> list[str]:
    return [verdict.rule for verdict in verdicts.judge([one])]


MINUTE, HOUR = 60, 3600
FINE = {"job_cpu": 4.0, "cpu": 50.0, "iowait": 1.0, "job_ram": 30_000.0}


def test_a_gpu_that_works_deserves_no_words():
    assert rules(series([(HOUR, FINE, [BUSY])])) == []


def test_an_idle_gpu_and_what_it_costs():
    one = series([(10 * MINUTE, FINE, [BUSY] * 4), (40 * MINUTE, FINE, [BUSY] * 3 + [IDLE])])
    (verdict,) = verdicts.judge([one])
    assert (verdict.rule, verdict.gpu, verdict.node) == ("gpu-idle", 3, "n1")
    assert verdict.gpu_hours == pytest.approx(40 / 60)
    table = verdicts.tabulate([verdict], {"7_0": 5}, price=verdicts.read_price("2.40"))
    assert table["words"].tolist() == ["GPU 3 of n1 idle for 40 min ($1.60)"]
    assert table["trial"].tolist() == [5]
    assert table["cost"].tolist() == [Decimal("1.60")]
    assert verdicts.tabulate([verdict], {})["cost"].tolist() == [None], "no price is invented"


def test_short_pauses_are_none_and_long_ones_add_up():
    short = [(9 * MINUTE, FINE, [IDLE]), (MINUTE, FINE, [BUSY])] * 4
    assert rules(series(short)) == []
    long = [(11 * MINUTE, FINE, [IDLE]), (MINUTE, FINE, [BUSY])] * 3
    (verdict,) = verdicts.judge([series(long)])
    assert verdict.words == "GPU 0 of n1 idle for 33 min"
    assert verdicts.idle_gpu_hours([series(long), series(short)]) == pytest.approx(33 / 60)


def test_a_gpu_that_was_never_used():
    found = verdicts.judge([series([(3 * HOUR, FINE, [BUSY, IDLE])])])
    assert [verdict.words for verdict in found] == ["GPU 1 of n1 was never used, for 3.0 h"]
    assert rules(series([(MINUTE, FINE, [BUSY, IDLE])])) == [], "it may only be starting"


def test_unknown_is_not_idle():
    assert rules(series([(HOUR, FINE, [{}, BUSY])])) == []
    broken = series([(HOUR, FINE, [{}])])
    assert rules(broken) == []
    assert verdicts.idle_gpu_hours([broken]) == 0


def test_a_data_loader_that_starves_its_gpu():
    starved = {"busy": 35.0, "sm_active": 20.0, "memory": 60_000.0}
    (verdict,) = verdicts.judge([series([(HOUR, {**FINE, "job_cpu": 8.0}, [starved])])])
    assert verdict.words == "data loader bound: CPU 100 %, SM 20 %; more cores would feed the GPUs"
    assert rules(series([(HOUR, {**FINE, "job_cpu": 7.0}, [starved])])) == []
    assert rules(series([(4 * MINUTE, {**FINE, "job_cpu": 8.0}, [starved])])) == []
    before_hopper = {"busy": 35.0, "memory": 60_000.0}
    assert "GPU 35 %" in verdicts.judge([series([(HOUR, {**FINE, "job_cpu": 8.0}, [before_hopper])])])[0].words


def test_storage_that_starves_it():
    (verdict,) = verdicts.judge([series([(HOUR, {**FINE, "iowait": 35.0}, [{**BUSY, "busy": 20.0, "sm_active": 12.0}])])])
    assert verdict.words == "storage bound: cores wait for disks 35 % of the time, SM 12 %"


def test_kernels_that_fill_little_of_the_gpu():
    (verdict,) = verdicts.judge([series([(HOUR, {**FINE, "job_cpu": 1.0}, [{**BUSY, "busy": 98.0, "sm_active": 15.0}])], cores=2)])
    assert verdict.rule == "kernels-too-small"
    assert "kernels ran 98 % of the time, on 15 % of its multiprocessors" in verdict.words


def test_memory_that_a_smaller_gpu_would_have_too():
    (verdict,) = verdicts.judge([series([(HOUR, FINE, [{**BUSY, "memory": 22 * 1024.0}])])])
    assert verdict.words == "memory peaked at 22 of 80 GiB: a smaller GPU would do"
    four = series([(HOUR, FINE, [{**BUSY, "memory": 22 * 1024.0}] * 4)])
    (row,) = verdicts.tabulate(verdicts.judge([four]), {}, price=Decimal("2.50")).to_dict("records")
    assert row["words"] == "memory peaked at 22 of 80 GiB: a smaller GPU would do (these cost $10.00)"
    assert row["cost"] is None, "nothing of it was wasted"
    peak = [(HOUR, FINE, [{**BUSY, "memory": 22 * 1024.0}]), (10, FINE, [{**BUSY, "memory": 40 * 1024.0}])]
    assert rules(series(peak)) == [], "one moment's need is a need"
    both = [(HOUR, FINE, [{**BUSY, "memory": 22 * 1024.0}, {**BUSY, "memory": 50 * 1024.0}])]
    assert rules(series(both)) == []


def test_memory_that_is_all_but_full():
    (verdict,) = verdicts.judge([series([(HOUR, FINE, [{**BUSY, "memory": 79 * 1024.0}])])])
    assert verdict.words == "GPU 0 of n1: memory peaked at 79 of 80 GiB, and is all but full"


def test_ram_and_cores_that_nobody_used():
    found = {
        verdict.rule: verdict.words
        for verdict in verdicts.judge([series([(HOUR, {**FINE, "job_ram": 3000.0, "job_cpu": 1.3}, [BUSY])], ram_limit=65536.0, cores=16)])
    }
    assert found == {
        "ram-spare": "RAM peaked at 2.9 of 64 GiB: mem='5G' would do",
        "cores-spare": "the job kept 1.3 of its 16 cores busy at most: 2 would do",
    }
    one_busy_minute = [(HOUR, {**FINE, "job_cpu": 1.3}, [BUSY]), (2 * MINUTE, {**FINE, "job_cpu": 9.0}, [BUSY])]
    assert rules(series(one_busy_minute, cores=16)) == []


def test_what_agents_complained_of_is_said():
    (verdict,) = verdicts.judge([], {"7_3@n2": "nexa: no python3 on n2: nothing will be known of its utilization"})
    assert (verdict.rule, verdict.task, verdict.node) == ("unknown", "7_3", "n2")


def test_every_rule_is_documented():
    documented = {line.split()[0] for line in (verdicts.__doc__ or "").splitlines() if line[:1].isalpha() and "  " in line}
    source = Path(verdicts.__file__).read_text()
    for rule in (
        "gpu-never-used",
        "gpu-idle",
        "data-loader-bound",
        "storage-bound",
        "kernels-too-small",
        "gpu-memory-spare",
        "gpu-memory-full",
        "ram-spare",
        "cores-spare",
        "unknown",
    ):
        assert rule in documented
        assert f'"{rule}"' in source


@pytest.mark.parametrize("given", ["two", -1, float("nan"), True, "Infinity", [2]])
def test_a_price_that_is_none_is_refused(given):
    with pytest.raises(InvalidInput, match="gpu_hour_cost="):
        verdicts.read_price(given)


# ---- tables and pictures -------------------------------------------------------------------------


def test_a_table_has_a_row_for_each_gpu_of_each_sample_and_documented_columns():
    table = frame([series([(MINUTE, FINE, [BUSY, IDLE])]), series([(MINUTE, FINE, [])], task="7_1", node="n2")], {"7_0": 0})
    assert table.columns.tolist() == list(COLUMNS)
    assert len(table) == 6 * 2 + 6
    gpus = table[table["task"] == "7_0"]
    assert gpus["gpu"].tolist() == [0, 1] * 6
    assert gpus["gpu_power"].tolist() == [600.0, 70.0] * 6
    assert gpus["gpu_energy"].tolist() == [6000.0, 700.0] * 6
    assert (gpus["gpu_memory_total"] == 81920).all()
    assert str(table["time"].dtype) == "datetime64[ms, UTC]" or "UTC" in str(table["time"].dtype)
    without = table[table["task"] == "7_1"]
    assert without["gpu"].isna().all()
    assert without["trial"].isna().all()
    assert without["cpu"].tolist() == [50.0] * 6
    assert frame([]).columns.tolist() == list(COLUMNS)


def test_a_coarser_table_adds_up_to_the_same():
    spans = [(95, {**FINE, "cpu": 10.0}, [BUSY]), (205, {**FINE, "cpu": 90.0}, [{**IDLE, "memory": 70_000.0}])]
    one = series(spans, covers=5.0)
    fine, coarse = frame([one]), frame([one], every=60)
    assert coarse["seconds"].sum() == fine["seconds"].sum() == 300
    assert coarse["gpu_energy"].sum() == pytest.approx(fine["gpu_energy"].sum(), rel=1e-3)
    assert (coarse["cpu"] * coarse["seconds"]).sum() == pytest.approx((fine["cpu"] * fine["seconds"]).sum(), rel=1e-3)
    assert coarse["gpu_memory"].max() == fine["gpu_memory"].max()


@given(
    st.lists(
        st.tuples(st.floats(0, 1000), st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), st.floats(0.125, 5, width=32)),
        min_size=1,
        max_size=60,
    ),
    st.floats(1, 300),
)
@settings(deadline=None)
def test_spans_hold_the_least_the_mean_and_the_most(points, length):
    points.sort()
    time, values, covers = (np.array(column, dtype) for column, dtype in zip(zip(*points, strict=True), ("f8", "f4", "f4"), strict=True))
    edges = np.arange(0, 1000 + 2 * length, length) - length
    found = binned(time, values, covers, edges)
    middles = time - np.minimum(covers / 2, 0.5)
    for place, (begin, end) in enumerate(itertools.pairwise(edges)):
        inside = (middles >= begin) & (middles < end) & ~np.isnan(values)
        if not inside.any():
            assert math.isnan(found.mean[place])
            continue
        assert found.least[place] == values[inside].min()
        assert found.most[place] == values[inside].max()
        mean = float((values[inside].astype("f8") * covers[inside]).sum() / covers[inside].astype("f8").sum())
        assert found.mean[place] == pytest.approx(mean, rel=1e-3, abs=1.0)


def test_a_picture_that_grows_is_the_picture_drawn_anew():
    chance = np.random.default_rng(1)
    content = {
        node: lines(
            [(7, {**FINE, "job_cpu": float(chance.uniform(0, 8))}, [{**BUSY, "sm_active": float(chance.uniform(0, 100))} for _ in range(3)]) for _ in range(900)],
            node=node, gpus=3, covers=1.0, begin=BEGIN + 100 * k,
        )
        for k, node in enumerate(("n1", "n2"))
    }  # fmt: skip
    readers = {node: SampleReader("7_0") for node in content}
    grown = Painter()
    for begin in range(0, max(map(len, content.values())), 37_001):
        for node, reader in readers.items():
            reader.feed(content[node][begin : begin + 37_001])
        everything = [one for reader in readers.values() for one in reader.series]
        there, anew = grown.picture(everything), Painter().picture(everything)
        assert len(there.time) <= 301
        assert (there.time == anew.time).all()
        for ours, fresh in zip([*there.gpus, *there.nodes], [*anew.gpus, *anew.nodes], strict=True):
            assert ours.label == fresh.label
            for name in ("least", "mean", "most"):
                np.testing.assert_allclose(getattr(ours.curve, name), getattr(fresh.curve, name), rtol=1e-4)
    assert len(there.gpus) == 6
