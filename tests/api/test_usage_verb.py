"""%nexa usage, %%nexa usage and nexa usage: recording a notebook, the ledger's sums, an import; and trials that call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import openai
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from replies import Replies
from test_track_usage import ASK, CHAT, KERNEL
from traitlets.config import Config

from nexa_sdk import Cluster, CostReport, Sweep
from nexa_sdk.cli import main
from nexa_sdk.errors import BadUsage, NexaError

LINE = {
    "id": "call-000000000001", "provider": "openai", "model": "gpt-4o-mini", "at": "2026-11-01T12:00:00Z",
    "input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 96,
}  # fmt: skip


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: openai.OpenAI) -> InteractiveShell:
    """Return a real IPython with the extension, and a client."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}))
    shell.run_line_magic("load_ext", "nexa_sdk")
    shell.user_ns.update(client=client, ask=ASK)
    return shell


def value(ip: InteractiveShell, code: str) -> Any:
    result = ip.run_cell(code)
    result.raise_error()
    return result.result


def error(ip: InteractiveShell, code: str) -> BaseException | None:
    result = ip.run_cell(code)
    return result.error_in_exec or result.error_before_exec


CALL = "client.chat.completions.create(**ask)"


def test_a_cell_is_recorded(ip: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    report = value(ip, f"%%nexa usage --tag eval --out spent\nmade = {CALL}\n{CALL}\n!true\nmade.usage.total_tokens")
    assert isinstance(report, CostReport)
    assert (report.total, report.title) == (2 * CHAT, "API usage of eval")
    assert ip.user_ns["spent"] is report
    assert ip.user_ns["made"].usage.prompt_tokens == 1200
    assert "1296" in capsys.readouterr().out
    assert value(ip, f"%%nexa usage --by model\n{CALL};").index.tolist() == ["gpt-4o-mini-2024-07-18"]
    value(ip, CALL)
    assert value(ip, "%nexa usage").total == 3 * CHAT
    assert value(ip, "%nexa usage --tag eval --by tag,day")["calls"].tolist() == [2]


def test_a_cell_that_fails_fails_and_leaves_what_was_recorded(ip: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(error(ip, f"%%nexa usage\n{CALL}\nprint('before')\n1 / 0"), ZeroDivisionError)
    assert capsys.readouterr().out.count("ZeroDivisionError") <= 2, "one traceback"
    assert isinstance(error(ip, "%%nexa usage\nx = ="), SyntaxError)
    assert isinstance(error(ip, "%%nexa usage\nawait something()"), BadUsage)
    assert value(ip, "%nexa usage").total == CHAT


def test_a_notebook_is_recorded_from_start_to_stop(ip: InteractiveShell) -> None:
    usage = value(ip, "%nexa usage start --tag all")
    assert repr(usage) == "<Usage all: recording; report() tells what it cost>"
    value(ip, CALL)
    assert value(ip, f"%%nexa usage --tag part\n{CALL}").total == CHAT
    value(ip, f"import threading\nthread = threading.Thread(target=lambda: {CALL})\nthread.start(), thread.join()")
    assert "it is recorded already" in str(error(ip, "%nexa usage start"))
    report = value(ip, "%nexa usage stop")
    assert report.by("tag")["calls"].to_dict() == {"all": 2, "part": 1}
    value(ip, CALL)
    assert value(ip, "%nexa usage").calls == 3
    assert "nothing is recorded; %nexa usage start begins it" in str(error(ip, "%nexa usage stop"))


def test_a_notebook_that_is_executed_and_saved(server: Replies, tmp_path: Path) -> None:
    setup = KERNEL.replace("sys.argv[1]", repr(server.url))
    cells = [
        "%load_ext nexa_sdk",
        setup,
        "%%nexa usage\nask(2)",
        "await __import__('asyncio').sleep(0)\n%nexa usage start",
        "ask(1)",
        "%nexa usage stop",
    ]
    made = new_notebook(
        cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    path = tmp_path / "saved.ipynb"
    nbformat.write(made, path)
    outputs = [cell.outputs[0].data for cell in made.cells if cell.cell_type == "code" and cell.outputs]
    assert "2 API calls, 2,400 tokens in, 192 out, 0.0003216 USD" in outputs[0]["text/plain"]
    assert "<td" in outputs[0]["text/html"]
    assert "1 API call, 1,200 tokens in" in outputs[-1]["text/plain"]
    assert "nobody keeps" not in path.read_text()
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("usage begin", "'begin': write start or stop, or no word"),
        ("usage start --since 2026-11-01", "--since does not go with start; there go --tag, --provider"),
        ("usage stop --tag x", "--tag does not go with stop; there go --by, --focus"),
        ("usage --provider openai", "--provider does not go with what the ledger has; there go --since, --until, --by, --focus, --tag"),
        ("usage --import a.jsonl --since 2026-11-01", "--since does not go with --import"),
        ("usage start --import a.jsonl", "start and --import: write one of them"),
        ("usage --by modle", "a cost has no 'modle'; did you mean 'model'?"),
        ("usage --since yesterday", "is no time"),
        ("usage start --provider opneai", "did you mean 'openai'?"),
        ("usage --improt a.jsonl", "did you mean '--import'?"),
    ],
)
def test_a_line_that_cannot_be_meant(ip: InteractiveShell, line: str, words: str) -> None:
    found = error(ip, f"%nexa {line}")
    assert isinstance(found, NexaError)
    assert words in str(found)


def test_a_cell_and_a_word(ip: InteractiveShell) -> None:
    assert "start and a cell: write one of them" in str(error(ip, f"%%nexa usage start\n{CALL}"))


# ---- the console ---------------------------------------------------------------------------------


def test_the_console_imports_and_sums(capsys: pytest.CaptureFixture[str]) -> None:
    Path("calls.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | {"id": "call-000000000002", "model": "gpt-77"}) + "\n")
    assert main(["usage", "--import", "calls.jsonl", "--tag", "logs"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("API usage of calls.jsonl\nprovider  model        calls  tokens in  tokens out  cost\n")
    assert "2 of 2 calls are new" in out
    assert main(["usage", "--since", "2026-11-01", "--by", "model", "--csv"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "model,attempts,gpu_hours,cpu_hours,cost,currency,calls,input_tokens,output_tokens"
    assert main(["usage", "--since", "2026-11-01", "--json"]) == 0
    assert sum(json.loads(line)["x_Calls"] for line in capsys.readouterr().out.splitlines()) == 2
    assert main(["usage", "--since", "2026-11-01", "--focus", "bill.csv"]) == 1
    assert "1 API calls have no known price" in capsys.readouterr().err
    assert main(["cost", "--since", "2026-11-01", "--recorded", "--by", "kind"]) == 0
    assert "api" in capsys.readouterr().out
    Path("calls.jsonl").write_text(json.dumps(LINE) + "\n{}\n")
    assert main(["usage", "--import", "calls.jsonl"]) == 1
    assert capsys.readouterr().err == "nexa: calls.jsonl, line 2: id is missing\n"
    assert main(["usage", "start"]) == 2
    assert "nexa usage start goes with a notebook" in capsys.readouterr().err


TRIAL = """
count = int(sys.argv[-1])
with track_usage(tag="eval") as usage:
    ask(count)
    if os.fork() == 0:
        ask(1)
        sys.exit(0)
    os.wait()
assert usage.report().calls == count, "of this process"
"""


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "slurm"])
def test_what_trials_call_is_part_of_what_their_run_costs(where: str, server: Replies, request: pytest.FixtureRequest) -> None:
    cluster: Cluster = request.getfixturevalue(where)
    program = KERNEL.replace("sys.argv[1]", repr(server.url)) + TRIAL
    Path("evaluate.py").write_text(program)
    paths = os.pathsep.join(filter(None, sys.path))
    sweep = Sweep([sys.executable, "evaluate.py"], grid={"count": [1, 2, 3]})
    run = cluster.launch(sweep, time="0:05:00", env={"PYTHONPATH": paths})
    run.wait(timeout=240, progress=False)
    of_cluster = cluster.cost("1 day")
    assert (of_cluster.calls, of_cluster.where(kind="api").by("run")["calls"].to_dict()) == (9, {run.id: 9}), "whoever asks first"
    report = run.cost()
    assert (report.attempts, report.calls, report.totals) == (3, 9, {"USD": 9 * CHAT})
    calls = report.where(kind="api")
    assert calls.by("trial")["calls"].to_dict() == {"0": 2, "1": 3, "2": 4}
    assert calls.by("tag")["calls"].to_dict() == {"eval": 9}
    assert len(list(Path(run.folder, "usage").iterdir())) == 6, "a file for each process"
    first, second, *_ = sorted(Path(run.folder, "usage").iterdir())
    first.write_text(first.read_text() + '{"response": "half')
    second.write_text('{"response": 1}\n' + second.read_text())
    report = run.cost()
    assert report.calls == 9
    assert "a line of what LLM APIs used can't be read: KeyError('price')" in report.notes
    assert CostReport.between("1 day").where(run=run.id).calls == 9


def test_without_genai_prices_the_console_says_how_to_get_it(tmp_path: Path) -> None:
    Path("calls.jsonl").write_text(json.dumps(LINE))
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "genai_prices.py").write_text("raise ImportError")
    words = [sys.executable, "-m", "nexa_sdk", "usage", "--import", "calls.jsonl"]
    paths = os.pathsep.join([str(blocked), *filter(None, sys.path)])
    found = subprocess.run(words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert found.returncode == 1
    assert "pip install 'nexa_sdk[usage]'" in found.stderr
