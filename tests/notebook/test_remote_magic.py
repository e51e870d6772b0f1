"""%%nexa remote in a real kernel: outputs, errors, interrupts, restarts and kernels that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from traitlets.config import Config

from nexa_sdk import Cluster, attach
from nexa_sdk.errors import BadUsage, CellFailed, InvalidInput
from nexa_sdk.journal import Journal
from nexa_sdk.plan import Plan


class Kernel:
    """A real kernel with the extension, and what its cells show."""

    def __init__(self) -> None:
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(startup_timeout=240, kernel_name="python3")
        self.run("%load_ext nexa_sdk")

    def begin(self, code: str) -> str:
        return self.client.execute(code)

    def message(self, seconds: float = 240) -> dict:
        return self.client.get_iopub_msg(timeout=seconds)

    def shown(self, asked: str) -> list[dict]:
        """Return the outputs of a cell until it is idle, as a notebook would save them."""
        outputs: list[dict] = []
        while True:
            message = self.message()
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
            if kind == "stream" and outputs and outputs[-1].get("name") == content["name"]:
                outputs[-1]["text"] += content["text"]
            elif kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"kind": kind, **content})
            elif kind == "update_display_data":
                for output in outputs:
                    if output.get("transient") == content["transient"]:
                        output["data"] = content["data"]

    def shows(self, asked: str, words: str) -> None:
        """Wait until a cell shows something."""
        while True:
            message = self.message()
            if message["parent_header"].get("msg_id") == asked and words in str(message["content"]):
                return

    def run(self, code: str) -> list[dict]:
        return self.shown(self.begin(code))

    def text(self, code: str) -> str:
        return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in self.run(code))

    def restart(self) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=240)
        self.run("%load_ext nexa_sdk")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    one = Kernel()
    yield one
    one.close()


def wait_for(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


LONG = "%%nexa remote -o y --time 0:10:00\nopen('begun', 'a').write('.')\nimport time\nwhile not __import__('os').path.exists('go'): time.sleep(0.1)\nprint('gone on')\ny = 4"


def test_text_pictures_and_outputs_arrive_and_an_error_is_the_cells_own(kernel: Kernel) -> None:
    kernel.run("import numpy as np\nx = np.arange(100_000.0)\ndef fit(v): return v.sum()")
    outputs = kernel.run(
        "%%nexa remote -i x,fit -o model --time 0:01:00\nimport sys, time\nfor i in range(3):\n    print(f'\\r{i + 1}/3', end='', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.3)\nprint()\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nmodel = fit(x)\nnp.sqrt(model) > 0"
    )
    line, progress, value, figure = outputs
    assert "COMPLETED" in line["data"]["text/html"]
    assert "given x 800 kB" in line["data"]["text/plain"]
    assert "brings model" in line["data"]["text/plain"]
    assert progress["text"].endswith("\r3/3\n")
    assert value["data"]["text/plain"] == "np.True_"
    assert "image/png" in figure["data"]
    assert kernel.text("float(model)") == "4999950000.0"
    *_, error = kernel.run("%%nexa remote --time 0:01:00\ndef f():\n    return {}['nothing']\nf()")
    assert (error["kind"], error["ename"]) == ("error", "CellFailed")
    assert error["evalue"].startswith("KeyError: 'nothing' (line 3, remote-"), "line 1 is the magic's"
    assert '  File "<cell>", line 4, in <module>' in error["traceback"]
    assert "    return {}['nothing']" in error["traceback"]
    assert not any("nexa_sdk" in line for line in error["traceback"])


def test_interrupting_the_cell_cancels_the_job(kernel: Kernel) -> None:
    asked = kernel.begin(LONG)
    wait_for(lambda: Path("begun").exists())
    kernel.manager.interrupt_kernel()
    outputs = kernel.shown(asked)
    assert outputs[-1]["ename"] == "KeyboardInterrupt"
    assert len(outputs[-1]["traceback"]) == 1
    (record,) = Journal().runs()
    assert any(f"Interrupted: {record.id} is cancelled" in output.get("text", "") for output in outputs)
    assert attach(record.id).wait(timeout=240, check=False, progress=False).counts() == {"CANCELLED": 1}


def test_a_detached_cell_is_attached_after_a_restart(kernel: Kernel) -> None:
    (shown,) = kernel.run(LONG.replace("--time", "--detach --time"))
    (record,) = Journal().runs()
    assert f"%nexa remote --attach {record.id}" in shown["data"]["text/html"]
    kernel.restart()
    asked = kernel.begin(f"%nexa remote --attach {record.id}")
    kernel.shows(asked, "RUNNING")
    kernel.manager.interrupt_kernel()
    assert any("Detached. The cell goes on" in output.get("text", "") for output in kernel.shown(asked))
    Path("go").touch()
    line, text = kernel.run(f"%nexa remote --attach {record.id}")
    assert "COMPLETED" in line["data"]["text/plain"]
    assert text["text"] == "gone on\n"
    assert kernel.text("y") == "4"


def test_a_kernel_that_dies_meanwhile_doubles_nothing(kernel: Kernel) -> None:
    kernel.begin(LONG)
    wait_for(lambda: Path("begun").exists())
    pid = kernel.manager.provisioner.process.pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    kernel.restart()
    asked = kernel.begin(LONG)
    time.sleep(1)
    Path("go").touch()
    outputs = kernel.shown(asked)
    assert "Launched nothing" in outputs[1]["text"]
    assert Path("begun").read_text() == "."
    assert kernel.text("y") == "4"
    kernel.run(LONG)
    assert Path("begun").read_text() == "..", "its end was told: this is another execution"


# ---- what a line means ---------------------------------------------------------------------------


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}))
    shell.run_line_magic("load_ext", "nexa_sdk")
    shell.push({"data": [1], "fit": len, "helper": 3})
    return shell


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%%nexa remote -i dta\n1", "-i dta: there is no Python name 'dta'; did you mean 'data'?"),
        ("%%nexa remote -i data\ny = data + helper", r"the cell uses helper, .* Name it \(-i data,helper\)"),
        ("%%nexa remote -i data -o modl\nmodel = data", "the cell does not define 'modl'; did you mean 'model'?"),
        ("%%nexa remote\n1 +", "line 2 of the cell is no Python"),
        ("%%nexa remote\n ", "the cell is empty"),
        ("%nexa remote -i data", "needs a cell below it"),
        ("%nexa remote --attach x --detach", "--attach takes up what was launched, and --detach would launch"),
        ("%%nexa remote --tim 1\n1", "there is no option --tim; did you mean '--time'?"),
    ],
)
def test_what_can_not_be_meant_is_said(ip: InteractiveShell, home: Path, cell: str, words: str) -> None:
    error = ip.run_cell(cell).error_in_exec
    assert isinstance(error, (BadUsage, InvalidInput))
    with pytest.raises(InvalidInput, match=words):
        raise error
    assert not home.exists()


def test_a_dry_run_shows_the_plan_and_names_are_given(ip: InteractiveShell, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ip.run_cell("%%nexa remote -i data -o y --time 0:01:00 --dry-run\ny = data").result
    assert isinstance(plan, Plan)
    assert "import nexa_cell" in plan.script
    assert not home.exists()
    ip.run_cell("%%nexa remote -i data -o y --time 0:01:00 --out cell\ny = [*data, 2]\nprint('there')").raise_error()
    assert ip.user_ns["y"] == [1, 2]
    assert ip.user_ns["cell"].run.id == Journal().runs()[0].id
    told = capsys.readouterr()
    assert " to local · given data 17 bytes\n" in told.err
    assert "there\n" in told.out
    failed = ip.run_cell("%%nexa remote --time 0:01:00\n1 / 0")
    assert isinstance(failed.error_in_exec, CellFailed)
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_the_names_that_the_cell_defines_are_offered(ip: InteractiveShell) -> None:
    text = "%%nexa remote -o mod"
    whole = f"{text}\nmodel = fit(data)\nmodels = [model"
    with provisionalcompleter():
        assert [found.text for found in ip.Completer.completions(whole, len(text))] == ["model", "models"]


def test_a_console_attaches(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    from nexa_sdk.cli import main

    cell = local.remote("print('hello')\n2 + 2", time="0:01:00")
    assert main(["remote", "--attach", cell.id]) == 0
    assert capsys.readouterr().out.startswith("hello\n4\n")
    assert main(["remote"]) == 2
