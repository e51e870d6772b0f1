"""The main job through a login node, over a line that can be cut."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback import Line
from until import wait_until

from nexa_sdk import Budget, Cluster, Sweep, attach
from nexa_sdk.errors import (
    BudgetExceeded,
    ClusterNotFound,
    CommandTimeout,
    ConnectionLost,
    HostKeyChanged,
    HostKeyUnknown,
    InvalidInput,
    LoginFailed,
    Unreachable,
)

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


# ---- the main job --------------------------------------------------------------------------------


def test_the_main_job(remote: Cluster, tmp_path: Path) -> None:
    code = 'echo "hello $x"; echo "{\\"got\\": $x}" >> "$NEXA_RESULTS"; [ "$x" != 3 ] || [ -e mended ]'
    run = remote.launch(Sweep(["sh", "-c", code], {"x": [1, 2, 3]}, style="env"), time="0:05:00", workdir=tmp_path)
    run.wait(check=False, timeout=240, progress=False)
    assert run.folder.startswith(str(tmp_path / "remote"))
    assert run.status()["state"].tolist() == ["COMPLETED", "COMPLETED", "FAILED"]
    assert run.results()["got"].tolist() == [1, 2, 3]
    assert str(run.logs(1)) == "hello 2\n"
    (tmp_path / "mended").touch()
    run.retry().wait(timeout=240, progress=False)
    assert len(run.attempts()) == 4
    again = remote.launch(Sweep(["sh", "-c", code], {"x": [1, 2, 3]}, style="env"), time="0:05:00", workdir=tmp_path)
    assert again.id == run.id


def test_cancelling(remote: Cluster, tmp_path: Path) -> None:
    run = remote.launch(Sweep(["sleep", "300"], {"x": [1, 2]}, style="env"), time="0:10:00", workdir=tmp_path)
    run.cancel(1)
    wait_until(lambda: run.status()["state"][1] == "CANCELLED")
    assert run.status()["state"][0] in ("PENDING", "RUNNING")
    run.cancel()
    wait_until(lambda: run.is_finished or (not run.try_refresh() and run.is_finished))


def test_secrets_reach_the_trials_and_no_argument_list(remote: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    run = remote.launch(Sweep(["sh", "-c", "echo ${#TOKEN}"]), time="0:05:00", workdir=tmp_path, secrets=["TOKEN"])
    run.wait(timeout=240, progress=False)
    assert str(run.logs(0)) == "6\n"
    assert not list(Path(run.folder, "secrets").iterdir())


def test_a_launch_takes_two_commands_and_a_poll_one(remote: Cluster, tmp_path: Path, commands: list[str]) -> None:
    plan = remote.plan(Sweep(["true"], {"n": list(range(2500))}, style="env"), time="0:05:00", workdir=tmp_path, options={"hold": True})
    remote.scheduler.checks(plan.job, folder=plan.folder, tasks=plan.task_count)  # what is asked once
    commands.clear()
    run = plan.submit()
    assert len(commands) <= 2 + (len(plan.arrays) - 1)
    run.refresh()
    commands.clear()
    run.refresh()
    assert len(commands) == 1
    run.cancel()


def test_a_poll_is_one_command_though_trials_end(remote: Cluster, tmp_path: Path, commands: list[str]) -> None:
    run = remote.launch(Sweep(["sleep", "{n}"], {"n": [1, 4, 10]}), time="0:05:00", workdir=tmp_path)
    run.refresh()
    counts = []
    deadline = time.monotonic() + 240
    while not all(attempt.status.state.is_terminal for attempt in run.refresh()):
        assert time.monotonic() < deadline
        counts.append(len(commands))
        commands.clear()
        time.sleep(0.2)
    assert set(counts[1:]) == {1}
    assert run.status()["state"].tolist() == ["COMPLETED"] * 3


def test_another_laptop_finds_the_run(remote: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = remote.launch(Sweep(["sleep", "2"], {"x": [1, 2]}, style="env"), time="0:05:00", workdir=tmp_path)
    monkeypatch.setenv("NEXA_HOME", str(tmp_path / "another"))
    found = attach(run.id, cluster=Cluster(remote.url, runs=tmp_path / "remote"))
    found.wait(timeout=240, progress=False)
    assert found.status()["state"].tolist() == ["COMPLETED"] * 2


# ---- the line ------------------------------------------------------------------------------------


def test_a_line_that_went_is_opened_again(remote: Cluster, line: Line) -> None:
    transport = remote.transport
    assert transport.run(["echo", "1"], env=PATH, timeout=120).stdout == "1\n"
    line.cut()
    assert transport.run(["echo", "2"], env=PATH, timeout=120).stdout == "2\n"
    assert transport.connection.logins == 2


def test_a_line_that_goes_while_a_command_runs_is_an_error_of_its_own(remote: Cluster, line: Line, tmp_path: Path) -> None:
    remote.transport.run(["true"], env=PATH, timeout=120)
    mark = tmp_path / "mark"

    def cut() -> None:
        wait_until(mark.exists)
        line.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    with pytest.raises(ConnectionLost, match="it may go on, or have been done"):
        remote.transport.run(["sh", "-c", f"touch {mark}; sleep 60"], env=PATH, timeout=50)
    cutting.join()


def test_who_is_not_there_is_said_with_the_time_since_when(remote: Cluster, line: Line) -> None:
    remote.transport.run(["true"], env=PATH, timeout=120)
    line.close()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 is not reachable since \d\d:\d\d:\d\d: ") as first:
        remote.transport.run(["true"], env=PATH, timeout=120)
    time.sleep(1.1)
    with pytest.raises(Unreachable) as second:
        remote.transport.run(["true"], env=PATH, timeout=120)
    assert str(first.value).split(": ")[0] == str(second.value).split(": ")[0]


def test_a_waiting_run_outlives_cuts_and_so_does_a_log(
    remote: Cluster, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.5; done"
    run = remote.launch(Sweep(["sh", "-c", code]), time="0:05:00", workdir=tmp_path)
    wait_until(lambda: str(run.logs(0)).startswith("line 1"))
    told = io.StringIO()

    def cut() -> None:
        for lines in (1, 3, 5):
            wait_until(lambda lines=lines: told.getvalue().count("\n") >= lines)
            line.cut()

    monkeypatch.setattr(sys, "stdout", told)
    cutting = threading.Thread(target=cut)
    cutting.start()
    run.logs(0, follow=True)
    cutting.join()
    assert told.getvalue() == "".join(f"line {n}\n" for n in range(1, 9))
    run.wait(timeout=240, progress=False)


def test_a_hundred_logs_are_followed_by_one_command_at_a_time(remote: Cluster, tmp_path: Path, commands: list[str]) -> None:
    folder = tmp_path / "log's $(x)"
    folder.mkdir()
    offsets = {str(folder / f"{n}.log"): 0 for n in range(100)}
    content = dict.fromkeys(offsets, b"")
    remote.transport.run(["true"], env=PATH, timeout=120)
    commands.clear()
    for step in range(5):
        for n, path in enumerate(offsets):
            if n % 5 == step:
                with open(path, "ab") as file:
                    file.write(f"{n}\n\nnexa".encode() * (1 if n else 300_000) + bytes([n, 255]))
        found = remote.transport.read_on(offsets)
        for path, piece in found.items():
            content[path] += piece
            offsets[path] += len(piece)
    while found := remote.transport.read_on(offsets):  # the long one comes in pieces
        for path, piece in found.items():
            content[path] += piece
            offsets[path] += len(piece)
    assert all(content[path] == Path(path).read_bytes() for path in offsets)
    assert len(commands) == 5 + 1, "and the last found nothing new"


def test_what_takes_too_long_is_ended_at_the_other_end(remote: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CommandTimeout, match="did not answer within 3 seconds"):
        remote.transport.run(["sh", "-c", f"sleep 60; touch {mark}"], env=PATH, timeout=3)

    def goes_on() -> bool:
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                found |= os.fsencode(mark) in (folder / "cmdline").read_bytes()
        return found

    wait_until(lambda: not goes_on(), 40)
    assert not mark.exists()


def test_a_hundred_at_once_share_one_login_and_ten_sessions(remote: Cluster) -> None:
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: remote.transport.run(["echo", str(n)], env=PATH, timeout=240).stdout, range(100)))
    assert answers == [f"{n}\n" for n in range(100)]
    assert remote.transport.connection.logins == 1


def test_a_machine_that_slept_does_not_trust_its_line(remote: Cluster) -> None:
    connection = remote.transport.connection
    slept = 0.0
    connection._suspended = lambda: slept
    remote.transport.run(["true"], env=PATH, timeout=120)
    asked: list[object] = []
    connection.check = lambda transport: asked.append(transport) or transport.close()  # nobody answers any more
    remote.transport.run(["true"], env=PATH, timeout=120)
    assert not asked
    slept = 3600.0
    remote.transport.run(["true"], env=PATH, timeout=120)
    assert len(asked) == 1
    assert connection.logins == 2


def test_large_input_and_output(remote: Cluster) -> None:
    content = bytes(range(256)) * 20_000
    code, output, errors = remote.transport._run(["tee", "/dev/stderr"], env=PATH, stdin=content, timeout=60)
    assert (code, output, errors) == (0, content, content)


def test_files(remote: Cluster, tmp_path: Path) -> None:
    names = ["a b", "ü'\"$(x)", "-rf", "plain"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 3)
    transport = remote.transport
    assert transport.read_many(str(tmp_path), [*names, "none"]) == {name: name.encode() * 3 for name in names}
    assert transport.read(str(tmp_path / "plain"), offset=5) == b"plainplain"
    assert transport.read(str(tmp_path / "none")) == b""
    assert set(names) <= set(transport.list(str(tmp_path)))
    assert transport.list(str(tmp_path / "none")) == []
    transport.remove([str(tmp_path / name) for name in [*names, "none"]])
    assert not set(names) & set(transport.list(str(tmp_path)))


# ---- who may in ----------------------------------------------------------------------------------


def test_an_unknown_host_is_trusted_by_its_fingerprint_alone(box, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host *\n  UserKnownHostsFile {tmp_path}/known\n{box.config.read_text().replace(f'{box.folder}/known', f'{tmp_path}/known')}"
    )
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}")
    with pytest.raises(HostKeyUnknown) as caught:
        cluster.transport.run(["true"], env=PATH, timeout=120)
    with pytest.raises(InvalidInput, match="nothing was accepted"):
        Cluster.trust(cluster.url, "SHA256:" + "A" * 43)
    Cluster.trust(cluster.url, caught.value.fingerprint)
    cluster.transport.run(["true"], env=PATH, timeout=120)
    (tmp_path / "known").write_text((tmp_path / "known").read_text().replace("AAAAC3", "AAAAC3")[:-6] + "AAAAA\n")
    cluster.transport.connection.close()
    with pytest.raises(HostKeyChanged, match="HAS CHANGED"):
        cluster.transport.run(["true"], env=PATH, timeout=120)


def test_a_key_with_a_passphrase_is_asked_for_once(box, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    key = tmp_path / "locked"
    subprocess.run(["cp", box.folder / "id", key], check=True)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
    config = tmp_path / "ssh_config"
    config.write_text(box.config.read_text().replace(f"{box.folder}/id", str(key)))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    transport = Cluster(f"ssh://127.0.0.1:{line.port}").transport
    with pytest.raises(LoginFailed, match="Passphrase of"):  # there is no terminal here
        transport.run(["true"], env=PATH, timeout=120)
    questions: list[str] = []
    answers = iter(["wrong", "open sesame"])
    transport.connection._login._ask = lambda question, **_: questions.append(question) or next(answers)
    transport.run(["true"], env=PATH, timeout=120)
    line.cut()
    transport.run(["true"], env=PATH, timeout=120)
    assert questions == [f"Passphrase of {key}: "] * 2
    assert transport.for_bulk().run(["echo", "bulk"], env=PATH, timeout=120).stdout == "bulk\n"
    assert len(questions) == 2


def test_who_has_no_key_is_told_what_was_tried(box, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(box.config.read_text().replace(f"{box.folder}/id", "/nonexistent/key"))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    with pytest.raises(LoginFailed, match=r"it takes publickey.*; tried publickey.*/nonexistent/key"):
        Cluster(f"ssh://127.0.0.1:{line.port}").transport.run(["true"], env=PATH, timeout=120)


def test_jump_hosts_and_a_proxy_command(box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "ssh_config"
    text = box.config.read_text().replace("Match host box,127.0.0.1", "Match host box,127.0.0.1,one,two,far,by-command")
    same = f"  HostName 127.0.0.1\n  Port {box.port}\n"
    config.write_text(
        f"Host one\n{same}Host two\n{same}Host far\n{same}  ProxyJump one,two\nHost by-command\n{same}  ProxyCommand nc %h %p\n{text}"
    )
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    assert Cluster("ssh://far").transport.run(["echo", "far"], env=PATH, timeout=120).stdout == "far\n"
    if shutil.which("nc"):
        assert Cluster("ssh://by-command").transport.run(["echo", "by"], env=PATH, timeout=120).stdout == "by\n"


def test_where_there_is_no_slurm_nothing_runs(remote: Cluster, tmp_path: Path) -> None:
    remote.transport._environment = {"HOME": str(tmp_path), "PATH": str(tmp_path)}
    with pytest.raises(ClusterNotFound, match="no Slurm"):
        remote.launch(Sweep(["touch", str(tmp_path / "ran")]), time="0:05:00", workdir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_process_that_is_forked_leaves_the_line_to_its_parent(remote: Cluster) -> None:
    transport = remote.transport
    transport.run(["true"], env=PATH, timeout=120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: that is what happens
        child = os.fork()
    if not child:  # pytest's own: nothing here may raise
        try:
            same = transport.run(["echo", "child"], env=PATH, timeout=120).stdout == "child\n"
            os._exit(0 if same and transport.connection.logins == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert transport.run(["echo", "parent"], env=PATH, timeout=120).stdout == "parent\n"
    assert transport.connection.logins == 1


def test_only_a_person_knocks_again_where_nobody_was_let_in(box, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(box.config.read_text().replace(f"{box.folder}/id", str(tmp_path / "key")))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    transport = Cluster(f"ssh://127.0.0.1:{line.port}").transport

    def refused() -> str:
        with pytest.raises(LoginFailed) as caught:
            transport.run(["true"], env=PATH, timeout=120)
        return str(caught.value)

    first, passed = refused(), line.passed["up"]
    with ThreadPoolExecutor(1) as poller:
        assert poller.submit(refused).result() == first
    assert line.passed["up"] == passed, "no byte was sent"
    assert refused() == first
    assert line.passed["up"] > passed
    shutil.copy(box.folder / "id", tmp_path / "key")
    assert transport.run(["echo", "in"], env=PATH, timeout=120).stdout == "in\n"


def test_a_proxy_command_ends_with_its_line_and_a_dead_hop_is_opened_again(box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(box.port)
    same = f"  HostName 127.0.0.1\n  Port {box.port}\n"
    relay = "import os,socket,sys,threading as t;s=socket.create_connection(sys.argv[1:]);t.Thread(target=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,65536),b'')],daemon=True).start();[os.write(1,d) for d in iter(lambda:s.recv(65536),b'')]"
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host hop\n  HostName 127.0.0.1\n  Port {line.port}\nHost far\n{same}  ProxyJump hop\n"
        f'Host by-command\n{same}  ProxyCommand {sys.executable} -c "{relay}" %h %p\n'
        + box.config.read_text().replace("Match host box,127.0.0.1", "Match host box,127.0.0.1,hop,far,by-command")
    )
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    by_command = Cluster("ssh://by-command").transport
    assert by_command.run(["echo", "by"], env=PATH, timeout=120).stdout == "by\n"
    process = by_command.connection.open().sock._process
    by_command.connection.close()
    wait_until(lambda: process.poll() is not None, 10)
    far = Cluster("ssh://far").transport
    assert far.run(["echo", "far"], env=PATH, timeout=120).stdout == "far\n"
    line.cut()
    assert far.run(["echo", "again"], env=PATH, timeout=120).stdout == "again\n"
    line.close()
    with pytest.raises(Unreachable, match="hop"):
        far.run(["true"], env=PATH, timeout=120)


@pytest.mark.filterwarnings("ignore::nexa_sdk.errors.BudgetWarning")
def test_a_budget_is_held_there_and_raised_from_here(remote: Cluster, tmp_path: Path) -> None:
    rates = tmp_path / "config" / "nexa" / "rates.toml"
    rates.parent.mkdir(parents=True, exist_ok=True)
    rates.write_text("currency = 'USD'\ncpu_hour = 3600\n")  # a dollar a second
    sweep = Sweep(["sleep", "2"], {"x": list(range(5))}, style="env")
    with pytest.raises(BudgetExceeded, match="it could cost 300 USD"):
        remote.launch(sweep, time="0:01:00", workdir=tmp_path, budget="100 USD")
    run = remote.launch(sweep, time="0:01:00", workdir=tmp_path, throttle=1, budget=Budget("3 USD", until_spent=True))
    run.wait(check=False, timeout=240, progress=False)
    stopped = run.status().query("state == 'CANCELLED'")
    assert len(stopped) >= 2
    assert set(stopped["reason"]) == {"not begun: the budget of 3 USD is spent"}
    run.retry(budget="500 USD").wait(timeout=240, progress=False)
    use = run.budget()
    assert use is not None
    assert (use.limit, use.is_spent) == (500, False)
