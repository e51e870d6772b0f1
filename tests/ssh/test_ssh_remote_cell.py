"""A cell on a Slurm behind a login node, and on bare machines, over lines that go."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from hosts import Hosts
from loopback import Line

from nexa_sdk import Cluster
from nexa_sdk.errors import ClusterError
from nexa_sdk.remote_cell import RemoteCell
from nexa_sdk.transports.ssh.transport import SshTransport

MINUTES = "0:05:00"


def test_a_cell_goes_with_the_project_and_saving_the_notebook_changes_nothing(remote: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("def double(x):\n    return 2 * x\n")
    Path("study.ipynb").write_text("{}")
    code = "import mine, time\nprint('there')\ntime.sleep(1)\ny = mine.double(x)"

    def launch() -> RemoteCell:
        return remote.remote(code, inputs={"x": b"1" * 3_000_000}, outputs=["y"], time=MINUTES, python=sys.executable)

    first = launch()
    Path("study.ipynb").write_text('{"saved": 1}')
    assert launch().id == first.id
    found = first.result(timeout=240)
    assert found["y"] == b"1" * 6_000_000  # more than one command brings
    assert "there\n" in capsys.readouterr().out


def test_a_line_that_is_cut_while_it_shows_loses_nothing(remote: Cluster, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time\nfor i in range(40):\n    print('line', i, flush=True)\n    display(i)\n    time.sleep(0.1)\ny = i"
    cell = remote.remote(code, outputs=["y"], time=MINUTES, python=sys.executable)

    def cut() -> None:
        for _ in range(2):
            time.sleep(1.5)
            line.arm("down", 200, down_for=2)

    threading.Thread(target=cut, daemon=True).start()
    assert cell.result(timeout=240) == {"y": 39}
    told = capsys.readouterr()
    assert told.out == "".join(f"line {i}\n{i}\n" for i in range(40))
    assert line.cuts
    assert "The cell goes on, and so does what it shows, once the host is back" in told.err


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_line_that_is_cut_while_it_is_launched_doubles_nothing(remote: Cluster, line: Line, tmp_path: Path, share: float) -> None:
    code = f"open({str(tmp_path / 'count')!r}, 'a').write('.')\ny = len(x)"
    inputs = {"x": bytes(600_000)}

    def launch() -> RemoteCell:
        return remote.remote(code, inputs=inputs, outputs=["y"], time=MINUTES, python=sys.executable)

    remote.transport.run(["true"], env={"PATH": "/bin:/usr/bin"}, timeout=120)
    line.arm("up", int(share * 700_000), down_for=1)
    deadline = time.monotonic() + 240
    while True:
        try:
            cell = launch()
            break
        except ClusterError:
            assert time.monotonic() < deadline
            time.sleep(1)
    assert line.cuts
    line.disarm()
    assert cell.result(timeout=240) == {"y": 600_000}
    assert (tmp_path / "count").read_text() == "."


def test_a_look_is_one_command(remote: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    run, noted = SshTransport._run, []

    def noting(self: SshTransport, argv, **options):
        noted.append(argv[3] if argv[0] == "sh" else argv[0])
        return run(self, argv, **options)

    cell = remote.remote("print('hello')\ny = 1", outputs=["y"], time=MINUTES, python=sys.executable)
    cell.run.wait(timeout=240, progress=False)
    monkeypatch.setattr(SshTransport, "_run", noting)
    assert cell.result(timeout=240) == {"y": 1}
    assert noted.count("nexa-read") == 2, "one look at what it wrote and showed, one for the outputs"


@pytest.mark.usefixtures("ssh")
def test_on_a_bare_machine(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cluster.hosts("gpu1", "gpu2").remote(
        "import socket\nprint('hello')\ny = x + [socket.gethostname()]", inputs={"x": [1]}, outputs=["y"], time=MINUTES
    )
    found = cell.result(timeout=240)["y"]
    assert found[0] == 1
    assert found[1] in ("gpu1", "gpu2")
    for name in ("gpu1", "gpu2"):
        # what supervised it may be writing its last words there
        hosts[name].enter("sh", "-c", "for k in $(seq 600); do rm -rf /root/.nexa && exit; sleep 0.1; done; exit 1")
    assert capsys.readouterr().out == "hello\n"
