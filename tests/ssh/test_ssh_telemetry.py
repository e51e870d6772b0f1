"""Utilization through a login node: read on by one command, a launch of two commands as ever, and a line that goes."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from loopback import Line
from until import wait_until

from nexa_sdk import Cluster, Sweep, attach
from nexa_sdk.errors import ConnectionLost, Unreachable

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

from stand_in import library_folder  # noqa: E402

WAITS = "for k in $(seq 6000); do [ ! -e go ] || exit 0; sleep 0.1; done"


def launch(remote: Cluster, tmp_path: Path):
    env = {"LD_LIBRARY_PATH": str(library_folder())}
    sweep = Sweep(["sh", "-c", WAITS], {"x": [1, 2]}, style="env")
    return remote.plan(sweep, time="0:05:00", gpus=1, telemetry=0.2, env=env, workdir=tmp_path)


def test_samples_come_over_the_line_as_they_grow(remote: Cluster, tmp_path: Path, commands: list[str]) -> None:
    plan = launch(remote, tmp_path)
    remote.transport.environment()
    assert plan.script
    commands.clear()
    run = plan.submit()
    assert len(commands) <= 2, "the agent goes along with the script"
    wait_until(lambda: len(run.utilization()) > 10)
    commands.clear()
    before = len(run.utilization())
    run.watched.read_on()
    assert commands.count("bash") == 2, "each look is one command"
    wait_until(lambda: set(run.utilization()["trial"].dropna()) == {0, 1})
    assert set(remote.utilization()["task"]) == set(run.status()["job"])
    (tmp_path / "go").touch()
    run.wait(timeout=240, progress=False)
    table = run.utilization()
    assert len(table) > before
    assert len(attach(run.id, cluster=remote).utilization()) == len(table), "read on piece by piece, or all at once"
    assert set(table["gpu_busy"]) == {90.0}


def test_a_line_that_is_cut_within_an_answer_costs_no_sample(remote: Cluster, line: Line, tmp_path: Path) -> None:
    run = launch(remote, tmp_path).submit()
    wait_until(lambda: len(run.utilization()) > 4)
    for after in (1, 200, 400, 700):
        time.sleep(0.5)
        cuts = line.cuts
        line.arm("down", after)
        while line.cuts == cuts:
            with contextlib.suppress(ConnectionLost, Unreachable):
                run.watched.read_on()
    line.disarm()
    (tmp_path / "go").touch()
    run.wait(timeout=240, progress=False)
    table = run.utilization()
    assert table.attrs["lost_lines"] == 0
    assert len(table) == len(attach(run.id, cluster=remote).utilization())
    assert not table.duplicated(["time", "task", "gpu"]).any()
