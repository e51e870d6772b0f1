"""Login nodes of their own, and what happens to them: cut off, hung, rebooted, slow, full, or guarded by a one-time code."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import Degraded, Host
from jupyter_client.manager import start_new_kernel
from until import wait_until

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import ClusterError, LoginFailed, SubmissionRejected, Unreachable
from nexa_sdk.journal import Journal
from nexa_sdk.run import Run

TELL = ["sh", "-c", 'echo "$n" >> "$HOME/begun"; sleep 2']


def begun(host: Host) -> Counter[str]:
    """Return how often each trial began, as the host itself has it."""
    path = host.path("/root/begun")
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture
def login(slurm_login: Host, ssh: Path) -> Host:
    slurm_login.path("/root/begun").unlink(missing_ok=True)
    return slurm_login


@pytest.fixture
def cluster(login: Host) -> Cluster:
    cluster = Cluster("ssh://login")
    cluster.transport.connection.close()  # another test may have left it in any state
    return cluster


def sweep(name: str, count: int = 3) -> Sweep:
    return Sweep(TELL, {"n": [f"{name}-{n}" for n in range(count)]}, style="env", name=name)


def launch(cluster: Cluster, name: str) -> Run:
    return cluster.launch(sweep(name), time="0:05:00", workdir="/root")


# ---- hosts as they are ---------------------------------------------------------------------------


def test_slurm_that_only_a_login_shell_finds_on_a_host_without_python(bare: Host, ssh: Path) -> None:
    run = launch(Cluster("ssh://bare"), "bare")
    run.wait(timeout=240, progress=False)
    assert run.folder.startswith("/root/.nexa/runs/")
    assert begun(bare) == {f"bare-{n}": 1 for n in range(3)}


def test_a_host_behind_another(inner: Host, ssh: Path) -> None:
    answer = Cluster("ssh://inner").transport.run(["hostname"], env={"PATH": "/usr/bin:/bin"}, timeout=120)
    assert answer.stdout == "inner\n"


def test_a_one_time_code_is_asked_for_once(guarded: Host, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Cluster("ssh://guarded").transport
    connection = transport.connection
    with pytest.raises(LoginFailed, match="there is no terminal"):
        connection.open()
    before, questions = guarded.codes_asked, []
    connection._login._ask = lambda question, **_: questions.append(question) or "123456"
    for n in range(5):
        assert transport.run(["echo", str(n)], env={"PATH": "/usr/bin:/bin"}, timeout=120).stdout == f"{n}\n"
    assert connection.renew() is connection, "bulk data goes by the same line, else it would ask again"
    assert len(questions) == 1
    assert guarded.codes_asked == before + 1
    connection._login._ask = lambda *_, **__: "000000"
    connection.close()
    with pytest.raises(LoginFailed):
        connection.open()


# ---- what happens to them ------------------------------------------------------------------------


def test_a_cut_cable_under_a_waiting_run(cluster: Cluster, login: Host) -> None:
    run = launch(cluster, "cable")
    run.refresh()
    login.cut()
    began = time.monotonic()
    words = run.try_refresh(max_age=0)
    assert time.monotonic() - began < 60
    assert "login" in words
    wait_until(lambda: "is not reachable since" in run.try_refresh(max_age=0))
    assert run.last_known[0].status.state in ("PENDING", "RUNNING", "UNKNOWN"), "what can't be asked is not said to have ended"
    login.heal()
    run.wait(timeout=240, progress=False)
    assert begun(login) == {f"cable-{n}": 1 for n in range(3)}


def test_a_live_table_says_since_when_and_recovers_by_itself(login: Host, ssh: Path) -> None:
    manager, client = start_new_kernel(startup_timeout=240, kernel_name="python3")
    shown: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] in ("display_data", "update_display_data"):
            shown.append(message["content"]["data"]["text/html"])

    def cell(code: str) -> None:
        client.execute_interactive(code, output_hook=note, timeout=240, allow_stdin=False)

    def come_to(condition: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 240
        while not (shown and condition(shown[-1])):
            assert time.monotonic() < deadline, shown[-1:]
            cell("import time; time.sleep(0.5)")

    try:
        cell(
            "from nexa_sdk import *\n"
            f"run = Cluster('ssh://login').launch(Sweep({TELL!r}, {{'n': ['view-0', 'view-1']}}, style='env', name='view'),"
            " time='0:05:00', workdir='/root', options={'begin': 'now+50'})\nview = run.watch()"
        )
        come_to(lambda html: "PENDING" in html)
        login.cut()
        come_to(lambda html: "not reachable since" in html)
        assert "PENDING" in shown[-1]
        login.heal()
        come_to(lambda html: "not reachable" not in html and "2 COMPLETED" in html)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert begun(login) == {"view-0": 1, "view-1": 1}


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(0.02, marks=pytest.mark.full),
        pytest.param(0.06, marks=pytest.mark.full),
        0.12,
        pytest.param(0.25, marks=pytest.mark.full),
    ],
)
def test_a_cable_that_is_cut_during_a_launch_and_heals(cluster: Cluster, login: Host, after: float) -> None:
    name = f"launch{int(after * 100)}"
    plan = cluster.plan(sweep(name), time="0:05:00", workdir="/root")
    timers = [threading.Timer(after, login.cut), threading.Timer(after + 15, login.heal)]
    for timer in timers:
        timer.start()
    try:
        run = plan.submit()
    except ClusterError:
        timers[1].join()
        run = plan.submit()
    timers[1].join()
    run.wait(timeout=240, progress=False)
    assert begun(login) == {f"{name}-{n}": 1 for n in range(3)}


def test_a_host_that_hangs(cluster: Cluster, login: Host) -> None:
    run = launch(cluster, "hung")
    login.hang()
    words = run.try_refresh(max_age=0)
    assert words
    login.unhang()
    wait_until(lambda: not run.try_refresh(max_age=0))
    run.wait(timeout=240, progress=False)
    assert begun(login) == {f"hung-{n}": 1 for n in range(3)}


def test_a_host_that_accepts_and_then_says_nothing(cluster: Cluster, login: Host) -> None:
    login.hang()
    with pytest.raises(Unreachable, match="no SSH at login"):
        cluster.transport.run(["true"], env={}, timeout=60)


def test_an_sshd_that_is_killed_with_all_its_sessions(cluster: Cluster, login: Host) -> None:
    run = launch(cluster, "killed")
    login.kill_sshd(everything=True)
    assert run.try_refresh(max_age=0)
    login.start_sshd()
    run.wait(timeout=240, progress=False)
    assert begun(login) == {f"killed-{n}": 1 for n in range(3)}


def test_a_login_node_that_is_rebooted_under_a_waiting_run(cluster: Cluster, login: Host) -> None:
    run = cluster.launch(sweep("reboot"), time="0:05:00", workdir="/root", options={"begin": "now+25"})
    assert [attempt.status.state for attempt in run.refresh()] == ["PENDING"] * 3
    state = login.path("/root/box/state/job_state")
    wait_until(lambda: state.exists() and run.id.encode() in state.read_bytes())  # Slurm saves it every few seconds
    login.reboot()
    run.wait(timeout=240, progress=False)
    assert begun(login) == {f"reboot-{n}": 1 for n in range(3)}


def test_far_away_and_lossy(cluster: Cluster, login: Host) -> None:
    with Degraded(login, delay=0.1, loss=0.05):
        run = launch(cluster, "far")
        run.wait(timeout=240, progress=False)
        assert run.logs(0) is not None
    assert begun(login) == {f"far-{n}": 1 for n in range(3)}


def test_a_full_disk_is_said_and_nothing_is_submitted(login: Host) -> None:
    login.small_disk("/root/small", "64k")
    cluster = Cluster("ssh://login", runs="/root/small")
    login.enter("sh", "-c", "dd if=/dev/zero of=/root/small/filler bs=1k count=200 2> /dev/null; true")
    with pytest.raises(SubmissionRejected, match="No space left"):
        launch(cluster, "full")
    assert not cluster.scheduler.find(f"{Journal().runs()[0].id}-0", "/root/small")
    assert not begun(login)


def test_two_kernels_with_one_journal_launch_the_same_at_once(login: Host) -> None:
    code = (
        "from nexa_sdk import *\n"
        f"run = Cluster('ssh://login').launch(Sweep({TELL!r}, {{'n': ['two-0', 'two-1', 'two-2']}}, style='env', name='two'),"
        " time='0:05:00', workdir='/root')\n"
        "run.wait(timeout=240, progress=False)\nprint(run.id)"
    )
    kernels = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [kernel.communicate(timeout=400) for kernel in kernels]
    assert [kernel.returncode for kernel in kernels] == [0, 0], ends
    assert len({out.split()[-1] for out, _ in ends}) == 1
    assert begun(login) == {f"two-{n}": 1 for n in range(3)}
