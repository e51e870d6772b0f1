"""What goes wrong on this machine: folders that go, supervisors that die, kernels that are interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from until import wait_until

from nexa_sdk import Cluster, Job, Sweep, attach, runs
from nexa_sdk.errors import JournalError, RunNotFound
from nexa_sdk.journal import Journal
from nexa_sdk.run import Run
from nexa_sdk.scheduling.base import ArrayHandle
from nexa_sdk.scheduling.local import LocalScheduler
from nexa_sdk.states import State

UNTIL_GO = "print('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.05)"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask every half second, although nothing changes: these tests wait for questions."""
    monkeypatch.setattr("nexa_sdk.scheduling.watcher.GROWTH", 1.0)


def states(run: Run) -> list[str]:
    return run.status()["state"].tolist()


def cmdline(pid: int) -> bytes:
    """Return a process's command; nothing of one that is gone, or dead and not yet buried."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def supervisors(run: Run) -> list[int]:
    everyone = [int(pid) for pid in os.listdir("/proc") if pid.isdecimal()]
    return [pid for pid in everyone if b"supervisor.py" in (words := cmdline(pid)) and run.folder.encode() in words]


def kill_supervisor(run: Run) -> None:
    os.kill(min(supervisors(run)), signal.SIGKILL)  # a child of it that is about to begin a trial is still called like it


@pytest.fixture
def watched() -> Iterator[Callable[[Run], list[float]]]:
    """Listen to a run as a live table does, and return when it was called."""
    subscriptions = []

    def listen(run: Run) -> list[float]:
        heard: list[float] = []
        subscriptions.append(run.subscribe(lambda: heard.append(time.monotonic())))
        return heard

    yield listen
    for subscription in subscriptions:
        subscription.close()


def goes_on(heard: list[float]) -> bool:
    """Wait until a listener is called again."""
    before = len(heard)
    wait_until(lambda: len(heard) > before)
    return True


# ---- many trials, and numbers of other libraries ---------------------------------------------------


def test_cancelling_every_second_one_of_60_000_trials(local: Cluster) -> None:
    run = local.launch(Sweep(["sleep", "300"], {"x": range(60_000)}, style="env"), time="0:10:00", throttle=1)
    wait_until(lambda: states(run)[0] == "RUNNING")
    run.cancel(range(1, 60_000, 2))
    wait_until(lambda: states(run).count("CANCELLED") >= 30_000, 60)
    assert states(run) == ["RUNNING", "CANCELLED", *["PENDING", "CANCELLED"] * 29_999]
    run.cancel()
    run.wait(check=False, timeout=240, progress=False)
    assert states(run) == ["CANCELLED"] * 60_000


def test_numpys_numbers_are_numbers(local: Cluster, program) -> None:
    assert Job(gpus=np.int64(1)) == Job(gpus=1)
    run = local.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [1, 0, 2]}), time="0:05:00").wait(check=False)
    table = run.status()
    failed = table[table["state"] == "FAILED"]
    run.retry(failed.index[0]).wait(check=False)
    assert run.status()["attempt"].tolist() == [2, 1, 1]
    run.retry(failed.index).wait(check=False)
    assert run.status()["attempt"].tolist() == [3, 1, 2]

    waiting = local.launch(Sweep(program("time.sleep(300)", "wait.py"), {"x": range(3)}), time="0:05:00", throttle=1)
    waiting.cancel(np.int64(1))
    wait_until(lambda: states(waiting) == ["RUNNING", "CANCELLED", "PENDING"])


# ---- a run's folder goes -----------------------------------------------------------------------------


def test_a_run_whose_folder_is_gone_is_unknown_and_the_others_go_on(local: Cluster, program, watched) -> None:
    command = program(UNTIL_GO)
    lost, other = (local.launch(Sweep(command, {"x": [n, n]}), time="0:05:00", throttle=1) for n in (1, 2))
    heard = watched(lost), watched(other)
    wait_until(lambda: states(lost) == states(other) == ["RUNNING", "PENDING"] and "begun" in str(lost.logs(0)))
    shutil.rmtree(lost.folder)
    assert states(lost) == ["UNKNOWN", "UNKNOWN"]
    assert states(other) == ["RUNNING", "PENDING"]
    assert goes_on(heard[0])
    assert goes_on(heard[1])
    Path("go").touch()
    assert other.wait(timeout=240) is other
    assert states(other) == ["COMPLETED", "COMPLETED"]
    assert goes_on(heard[0])
    assert states(lost) == ["UNKNOWN", "UNKNOWN"]
    wait_until(lambda: not supervisors(lost))


def test_a_folder_that_was_out_of_sight_is_read_again(local: Cluster, program, watched, tmp_path: Path) -> None:
    run = local.launch(Sweep(program(UNTIL_GO), {"x": [1, 2]}), time="0:05:00", throttle=1)
    heard = watched(run)
    wait_until(lambda: states(run) == ["RUNNING", "PENDING"] and "begun" in str(run.logs(0)))
    os.rename(run.folder, tmp_path / "elsewhere")
    assert states(run) == states(attach(run.id)) == ["UNKNOWN", "UNKNOWN"]
    assert goes_on(heard)
    os.rename(tmp_path / "elsewhere", run.folder)
    assert states(run) == states(attach(run.id)) == ["RUNNING", "PENDING"]
    Path("go").touch()
    run.wait(timeout=240)
    assert states(run) == ["COMPLETED", "COMPLETED"]


# ---- a supervisor dies ---------------------------------------------------------------------------------


def test_half_a_line_of_a_dead_supervisor_hides_nothing(local: Cluster, program, home: Path) -> None:
    run = local.launch(Sweep(program("print('begun', flush=True); time.sleep(300)"), {"x": [1, 2]}), time="0:05:00", throttle=1)
    wait_until(lambda: states(run) == ["RUNNING", "PENDING"] and "begun" in str(run.logs(0)))
    kill_supervisor(run)
    (events,) = Path(run.folder, "local").glob("*.events")
    with open(events, "ab") as file:
        file.write(b'{"task": 0, "sta')
    wait_until(lambda: states(run) == ["NODE_FAIL", "NODE_FAIL"])
    handle = ArrayHandle(run.status()["job"][0].partition("_")[0], run.folder, 2)
    for _ in range(2):  # whoever comes later reads it from its beginning
        found = LocalScheduler(home / "local").poll([handle])[handle.job_id]
        assert [found[task].state for task in (0, 1)] == [State.NODE_FAIL] * 2
        assert found[0].start is not None


def test_only_what_is_the_dead_runs_own_is_killed(local: Cluster, program) -> None:
    run = local.launch(Sweep(program("print(os.getpid(), flush=True); time.sleep(300)")), time="0:05:00")
    logs, local_folder = Path(run.folder, "logs"), Path(run.folder, "local")
    wait_until(lambda: any(log.read_text().endswith("\n") for log in logs.iterdir()))
    own = int(next(logs.iterdir()).read_text())
    # After a reboot another's session may have the number that was written down, its leader long gone.
    with subprocess.Popen(["sh", "-c", "sleep 300 & echo $!"], start_new_session=True, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        sleeping = int(stranger.stdout.readline())
        try:
            stranger.wait()
            assert os.getsid(sleeping) == stranger.pid
            kill_supervisor(run)
            (events,) = local_folder.glob("*.events")
            (begun,) = map(json.loads, events.read_text().splitlines())
            assert begun["pid"] not in (own, stranger.pid)
            events.write_text(json.dumps({**begun, "pid": stranger.pid}) + "\n")
            wait_until(lambda: states(run) == ["NODE_FAIL"])
            ended, _, _ = select.select([stranger.stdout], [], [], 0.3)  # its pipe closes when it is killed
            assert not ended
            assert cmdline(sleeping)
            wait_until(lambda: not cmdline(own))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sleeping, signal.SIGKILL)


# ---- what programs write -------------------------------------------------------------------------------


def test_a_program_given_as_a_long_word(local: Cluster) -> None:
    code = f"text = '{'x' * 300}'; print(len(text))"  # longer than a file's name can be
    assert str(local.launch(Sweep([sys.executable, "-c", code]), time="0:05:00").wait().logs(0)) == "300\n"


def test_a_line_of_results_that_nobody_can_read_is_left_out(local: Cluster, program) -> None:
    code = """
        with open(os.environ["NEXA_RESULTS"], "w") as f:
            for line in (json.dumps({"loss": 1}), "[" * 100000, '{"a":' * 100000, "\\0", json.dumps({"loss": 2}), '{"loss": '): print(line, file=f)
    """
    run = local.launch(Sweep(program(code)), time="0:05:00").wait()
    assert run.results()["loss"].tolist() == [2]
    assert run.results(every_line=True)["loss"].tolist() == [1, 2]


def test_following_a_log_breaks_no_character(local: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    # The pauses within characters are longer than those between two looks at the log.
    code = """
        for byte in "é🙂".encode():
            if byte & 0xC0 == 0x80: time.sleep(0.6)
            os.write(1, bytes([byte]))
        print("end")
    """
    run = local.launch(Sweep(program(code)), time="0:05:00")
    run.logs(0, follow=True)
    assert capsys.readouterr().out == "é🙂end\n"


# ---- kernels, loops and threads ----------------------------------------------------------------------------


def test_an_interrupt_of_the_kernel_ends_an_await_and_not_the_run(local: Cluster, home: Path) -> None:
    manager, client = start_new_kernel(startup_timeout=240, kernel_name="python3")
    try:
        launch = "from nexa_sdk import *\nrun = Cluster('local').launch(Sweep('sleep 300'), time='0:10:00')"
        client.execute_interactive(launch, timeout=240, output_hook=lambda _: None)
        # The loop itself says, from within the await, that it is there.
        client.execute("import asyncio\nasyncio.get_running_loop().call_later(0.5, lambda: print('awaiting', flush=True))\nawait run")
        while "awaiting" not in client.get_iopub_msg(timeout=240)["content"].get("text", ""):
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=240)
        assert reply["content"]["status"] == "error"
        assert reply["content"]["ename"] in ("KeyboardInterrupt", "CancelledError")
        after = {"status": "aborted"}
        while after["status"] == "aborted":  # a kernel drops what comes right after an error: who waited in its queue was meant, too
            look = "assert run.status()['state'].tolist() == ['RUNNING']"
            after = client.execute_interactive(look, timeout=240, output_hook=lambda _: None)["content"]
        assert after["status"] == "ok", after
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    (run_id,) = runs().index
    assert states(attach(run_id)) == ["RUNNING"]


def test_an_await_whose_loop_is_closed_while_others_hear_ends_nobodys_news(local: Cluster, program, watched) -> None:
    run = local.launch(Sweep(program(UNTIL_GO)), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"])
    armed, hearing, closed = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        if armed.is_set() and not hearing.is_set():
            hearing.set()
            assert closed.wait(240)

    slow_one = run.subscribe(slow)
    heard = watched(run)

    async def cancelled() -> None:
        awaiting = asyncio.create_task(run.finished())
        await asyncio.sleep(0.6)  # by now it listens, behind the slow one
        armed.set()
        await asyncio.to_thread(hearing.wait, 240)
        awaiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await awaiting

    asyncio.run(cancelled())
    closed.set()
    for _ in range(2):
        assert goes_on(heard)
    slow_one.close()
    Path("go").touch()
    assert asyncio.run(run.finished()) is run


def test_a_loop_that_is_closed_with_an_await_in_it_ends_nobodys_news(local: Cluster, program, watched) -> None:
    run = local.launch(Sweep(program(UNTIL_GO)), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"])
    before = watched(run)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # that a task is left pending is meant
    left = loop.create_task(run.finished())
    loop.run_until_complete(asyncio.sleep(0.6))
    loop.close()
    after = watched(run)  # called after the one that was left
    for _ in range(2):
        assert goes_on(before)
        assert goes_on(after)
    Path("go").touch()
    assert asyncio.run(run.finished()) is run
    assert not left.done()


# ---- what is the same, and what is not -----------------------------------------------------------------------


def test_an_edited_config_that_a_parameter_names_is_launched_anew(local: Cluster, program) -> None:
    command = program("print(open(sys.argv[2]).read())")
    Path("small.json").write_text('{"width": 8}')
    Path("notes.json").write_text("{}")

    def launch() -> Run:
        return local.launch(Sweep(command, {"config": ["small.json"]}), time="0:05:00").wait()

    first = launch()
    Path("notes.json").write_text('{"nobody": "names it"}')
    assert launch().id == first.id
    Path("small.json").write_text('{"width": 9}')
    edited = launch()
    assert edited.id != first.id
    assert str(edited.logs(0)) == '{"width": 9}\n'


def test_what_a_program_leaves_in_its_folder_is_no_new_code(local: Cluster, program) -> None:
    code = """
        for folder in ("lightning_logs/version_0", "outputs/2024/.hydra", "wandb/run"):
            os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/hparams.yaml", "w") as f: print("lr:", time.time(), file=f)
    """
    command = program(code)

    def launch() -> Run:
        return local.launch(Sweep(command, {"x": [1, 2]}), time="0:05:00").wait()

    first = launch()
    assert Path("lightning_logs/version_0/hparams.yaml").exists()
    assert launch().id == first.id


def test_two_processes_that_launch_the_same_at_once_have_one_run(program) -> None:
    program("pass")
    code = f"""
import os, sys
from nexa_sdk import *
me, other = sys.argv[1:]
for k in range(10):
    plan = Cluster("local").plan(Sweep([{sys.executable!r}, "train.py"], {{"x": [k]}}), time="0:05:00")
    plan.digest
    open(f"ready-{{k}}-{{me}}", "w").close()
    while not os.path.exists(f"ready-{{k}}-{{other}}"): pass
    print("run", plan.submit().id, flush=True)
"""
    both = [subprocess.Popen([sys.executable, "-c", code, *who], stdout=subprocess.PIPE, text=True) for who in (("a", "b"), ("b", "a"))]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    first, second = ([line.split()[1] for line in text.splitlines() if line.startswith("run ")] for text in said)
    assert first == second
    assert sorted(runs().index) == sorted(set(first))
    assert len(runs()) == 10


def test_a_journal_that_is_removed_is_said_and_nobody_waits_for_ever(local: Cluster, program) -> None:
    # The program removes it when somebody waits.
    code = f"""
        while not os.path.exists("wait"): time.sleep(0.05)
        time.sleep(1)
        os.unlink({str(Journal().path)!r})
        {UNTIL_GO.replace(chr(10), chr(10) + " " * 8)}
    """
    run = local.launch(Sweep(program(code)), time="0:05:00")
    Path("wait").touch()
    try:
        with pytest.raises((JournalError, RunNotFound), match=f"{run.id}.*removed"):
            run.wait(timeout=240, progress=False)
        with pytest.raises((JournalError, RunNotFound), match=f"{run.id}.*removed"):
            run.status()
        with pytest.raises(RunNotFound, match=run.id):
            attach(run.id)
    finally:
        Path("go").touch()
        wait_until(lambda: not supervisors(run))
