"""What runs cost on the embedded cluster: from the supervisors' events; the verb; when things are lost."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from nexa_sdk import Cluster, CostReport, Sweep, attach
from nexa_sdk.cli import main
from nexa_sdk.errors import BadUsage
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.run import Run
from nexa_sdk.verbs import Session, perform


@pytest.fixture(autouse=True)
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "nexa" / "rates.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[clusters.local]\ncurrency = 'USD'\ncpu_hour = 3600\n")  # a dollar a second
    return path


def events(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for path in Path(run.folder, "local").glob("*.events") for line in path.read_text().splitlines()]


def launched(local: Cluster, program) -> Run:
    code = "time.sleep(0.3); sys.exit(int(sys.argv[2]))"
    return local.launch(Sweep(program(code), {"code": [0, 1, 0]}), time="0:05:00", throttle=2).wait(check=False, timeout=240)


def test_what_the_supervisor_wrote_down_to_the_millisecond(local: Cluster, program) -> None:
    run = launched(local, program)
    report = run.cost()
    begun = {event["task"]: event["time"] for event in events(run) if event["state"] == "RUNNING"}
    lengths = [round((event["time"] - begun[event["task"]]) * 1000) for event in events(run) if event["state"] != "RUNNING"]
    assert sum(line.cpu_ms for line in report.lines) == sum(lengths)
    assert report.total == Decimal(sum(lengths)) / 1000
    assert report.by("state")["attempts"].to_dict() == {"COMPLETED": 2, "FAILED": 1}
    assert report.notes == ()
    assert run.cost().lines == report.lines


def test_every_attempt_counts(local: Cluster, program) -> None:
    run = launched(local, program)
    run.retry().wait(check=False, timeout=240)
    report = run.cost()
    assert report.by("trial")["attempts"].to_dict() == {"0": 1, "1": 2, "2": 1}
    assert report.failed.attempts == 2


def test_what_runs_counts_so_far(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("time.sleep(60)")), time="0:05:00")
    while run.status()["state"].tolist() != ["RUNNING"]:
        pass
    first = run.cost()
    assert first.by("state")["attempts"].to_dict() == {"RUNNING": 1}
    assert first.lines[0].cpu_ms <= run.cost().lines[0].cpu_ms
    run.cancel().wait(check=False, timeout=240)
    assert run.cost().by("state")["attempts"].to_dict() == {"CANCELLED": 1}


def test_packed_trials_share_their_tasks_line(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("pass"), {"x": range(5)}), time="0:05:00", pack=3).wait(timeout=240)
    assert run.cost().by("trial").index.tolist() == ["0-2", "3-4"]


def test_the_ledger_is_made_anew(local: Cluster, program, rates: Path) -> None:
    run = launched(local, program)
    before = run.cost()
    rates.write_text("[clusters.local]\ncurrency = 'EUR'\ncpu_hour = 1\n")
    Ledger().path.unlink()
    assert local.cost("1 hour", attempts=True).lines == before.lines
    assert CostReport.between("1 hour", attempts=True).lines == before.lines
    # The run's folder is gone as well: the journal knows when its trials began and ended.
    Ledger().path.unlink()
    shutil.rmtree(run.folder)
    again = attach(run.id).cost()
    assert again.totals == before.totals


def test_what_accounting_has_forgotten_counts_as_the_ledger_has_it(local: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    total = launched(local, program).cost().total
    assert total
    monkeypatch.setattr(type(local.scheduler), "usage_since", lambda *_, **__: [])
    assert local.cost("1 day").total == local.cost("1 day", everyone=True).total == total
    assert local.cost("1 day", attempts=True).attempts == 3


def test_a_run_that_was_launched_without_prices_takes_those_of_now(local: Cluster, program, rates: Path) -> None:
    text = rates.read_text()
    rates.unlink()
    run = launched(local, program)
    assert run.cost().total is None
    assert "price unknown" in str(run.cost())
    rates.write_text(text)
    assert run.cost().total is not None


# ---- the verb ------------------------------------------------------------------------------------


def say(line: str) -> object:
    return perform(Session("%nexa"), line.split())


def test_the_verb(local: Cluster, program, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = launched(local, program)
    assert isinstance(say("cost"), CostReport)
    assert say("cost").total == run.cost().total
    assert say(f"cost {run.id} --by trial").index.tolist() == ["0", "1", "2"]
    assert say("cost --since 1h --by run")["cost"].tolist() == [run.cost().total]
    assert say("cost --since 1h --recorded").total == run.cost().total
    assert main(["cost", run.id]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Cost of {run.id}\nstate      attempts")
    assert "attempts that did not complete: 1 attempt" in shown
    assert "the plan said: at most 0.25 CPU-hours, 900.00 USD" in shown
    assert main(["cost", "--since", "1 hour", "--by", "state", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "state,attempts,gpu_hours,cpu_hours,cost,currency"
    assert main(["cost", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["BillingCurrency"] == "USD"
    assert main(["cost", "--focus", str(tmp_path / "bill.csv")]) == 0
    assert (tmp_path / "bill.csv").read_text().count("\n") == 4


def test_the_verb_leaves_out_what_has_no_price_if_that_is_asked_for(
    local: Cluster, program, rates: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rates.unlink()
    launched(local, program)
    for verb in ("cost", "cost --since 1h"):
        assert main([*verb.split(), "--focus", str(tmp_path / "bill.csv")]) == 1
        assert "leave them out with leave_out_unknown=True (--leave-out-unknown)" in capsys.readouterr().err
        assert main([*verb.split(), "--focus", str(tmp_path / "bill.csv"), "--leave-out-unknown"]) == 0
        assert (tmp_path / "bill.csv").read_text().startswith("BilledCost,")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cost --leave-out-unknown", "--leave-out-unknown goes with --focus"),
        ("cost --until 2026-01-01", "--until goes with --since"),
        ("cost some-run --since 1h", "give one of them"),
        ("cost --since 1h --recorded --everyone", "--recorded asks no cluster"),
    ],
)
def test_a_line_that_cant_be_meant(line: str, words: str) -> None:
    with pytest.raises(BadUsage, match=words):
        say(line)


def test_a_preview_says_the_price(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    program("pass")
    assert main(["preview", "train.py", "x=1,2", "--time", "0:30:00"]) == 0
    assert "at most 1.00 CPU-hours, 3,600.00 USD (3600 USD a core-hour, rates.toml, clusters.local)" in capsys.readouterr().out
