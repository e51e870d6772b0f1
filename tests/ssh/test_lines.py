"""Who may in, and what travels, over a line to an sshd behind which there is no Slurm."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from loopback import Line, Loopback
from until import wait_until

from nexa_sdk import Cluster
from nexa_sdk.errors import ClusterError, HostKeyUnknown, InvalidInput, LoginFailed, Unreachable
from nexa_sdk.transports.ssh import login
from nexa_sdk.transports.ssh.transport import _READ_ON

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.fixture
def end(plain_box: Loopback) -> Loopback:
    return plain_box


@pytest.fixture
def cluster(line: Line, tmp_path: Path) -> Cluster:
    return Cluster(f"ssh://127.0.0.1:{line.port}", runs=tmp_path / "runs")


def change(box: Loopback, folder: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Use the box's configuration with something else in it."""
    text = box.config.read_text()
    assert old in text
    (folder / "ssh_config").write_text(text.replace(old, new))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(folder / "ssh_config"))


def test_a_fingerprint_that_is_an_empty_text_accepts_nothing(
    plain_box: Loopback, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(plain_box, tmp_path, monkeypatch, f"{plain_box.folder}/known", f"{tmp_path}/known")
    with pytest.raises(InvalidInput, match="not an empty text: nothing was accepted"):
        Cluster.trust(cluster.url, "")
    with pytest.raises(HostKeyUnknown):
        cluster.transport.run(["true"], env=PATH, timeout=120)


def test_no_secret_of_a_login_stands_in_an_argument_list(cluster: Cluster, tmp_path: Path) -> None:
    transport = cluster.transport
    transport.environment()
    transport._environment["HF_TOKEN"] = "s3cret-of-the-profile"
    os.mkfifo(tmp_path / "log")
    reading = threading.Thread(target=transport.read_ends, args=([str(tmp_path / "log")],), kwargs={"lines": 1})
    reading.start()

    def scripts() -> list[str]:
        """Return what commands at the other end were asked to run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                found += [base64.b64decode(word).decode() for word in re.findall(rb"base64 -d <<< ([\w+/=]+)", words)]
        return [script for script in found if str(tmp_path) in script]

    try:
        wait_until(scripts)
        assert "s3cret" not in "".join(scripts())
    finally:
        (tmp_path / "log").write_text("")
        reading.join()


def test_a_log_of_more_than_two_gib_is_followed_by_whichever_awk_there_is(cluster: Cluster, tmp_path: Path) -> None:
    log, size = tmp_path / "log", 2_200_000_000
    with log.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"new")
    for awk in filter(None, map(shutil.which, ("mawk", "gawk", "original-awk"))):
        (tmp_path / "awk").unlink(missing_ok=True)
        (tmp_path / "awk").symlink_to(awk)
        program = ["env", f"PATH={tmp_path}:{PATH['PATH']}", "sh", "-c", _READ_ON, "nexa-read", "1000", "mark"]
        told = cluster.transport.run(program, env=PATH, stdin=f"{size} {log}\n".encode(), timeout=120)
        assert told.stdout == f"\nmark {log}\nnew", awk


@pytest.mark.parametrize("step", ["into", "_by_key"])
def test_a_line_that_goes_during_the_login_is_opened_again_by_a_poller(
    cluster: Cluster, line: Line, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    transport = cluster.transport
    known = transport.connection._login
    usual = getattr(known, step)

    def cut(*arguments: object) -> object:
        line.cut()
        return usual(*arguments)

    with ThreadPoolExecutor(1) as poller:
        monkeypatch.setattr(known, step, cut)
        with pytest.raises(Unreachable, match="not reachable since") as caught:
            poller.submit(transport.run, ["true"], env=PATH, timeout=120).result()
        assert not isinstance(caught.value, LoginFailed)
        monkeypatch.setattr(known, step, usual)
        assert poller.submit(transport.run, ["echo", "in"], env=PATH, timeout=120).result().stdout == "in\n"


@pytest.mark.parametrize("named", ["id", "id.pub"])
def test_an_agent_lets_in_by_the_key_whose_public_half_is_named(
    plain_box: Loopback, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    change(plain_box, tmp_path, monkeypatch, "IdentityAgent none", f"IdentityAgent {tmp_path}/agent")
    config = tmp_path / "ssh_config"
    config.write_text(config.read_text().replace(f"{plain_box.folder}/id", str(tmp_path / named)))
    shutil.copy(plain_box.folder / "id.pub", tmp_path / "id.pub")
    with subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until((tmp_path / "agent").exists)
            agents = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
            subprocess.run(["ssh-add", "-q", plain_box.folder / "id"], check=True, env=agents)
            assert cluster.transport.run(["echo", "in"], env=PATH, timeout=120).stdout == "in\n"
        finally:
            agent.terminate()


@pytest.mark.parametrize("by", ["IdentityAgent", "SSH_AUTH_SOCK"])
def test_an_agent_that_does_not_answer_is_left_aside(
    plain_box: Loopback, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    path = tmp_path / "agent"
    change(plain_box, tmp_path, monkeypatch, "IdentityAgent none", f"IdentityAgent {path if by == 'IdentityAgent' else 'SSH_AUTH_SOCK'}")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    monkeypatch.setattr(login, "AN_AGENT", 0.5)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        assert cluster.transport.run(["echo", "in"], env=PATH, timeout=120).stdout == "in\n"


def test_a_way_that_leads_through_the_host_itself_is_said(plain_box: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(plain_box, tmp_path, monkeypatch, "Match host", "Host one\n  ProxyJump two\nHost two\n  ProxyJump one\nMatch host")
    transport = Cluster("ssh://one").transport
    for _ in range(2):
        with pytest.raises(ClusterError, match="the way to one leads through one itself: mend ProxyJump"):
            transport.run(["true"], env=PATH, timeout=120)


def test_who_waits_while_a_host_is_asked_in_vain_asks_it_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh_config").write_text("Host *\n  ConnectTimeout 120\n")
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(tmp_path / "ssh_config"))
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(8) as callers:
        silent.settimeout(240)
        transport = Cluster(f"ssh://127.0.0.1:{silent.getsockname()[1]}").transport

        def ask() -> str:
            with pytest.raises(Unreachable, match="not reachable since") as caught:
                transport.run(["true"], env=PATH, timeout=120)
            return str(caught.value)

        answers = [callers.submit(ask)]
        line, _ = silent.accept()
        answers += [callers.submit(ask) for _ in range(7)]
        time.sleep(2)  # they wait for the first
        asked = 1
        while not all(answer.done() for answer in answers):
            line.close()
            silent.settimeout(1)
            with contextlib.suppress(TimeoutError):
                line, _ = silent.accept()
                asked += 1
        assert asked < 4, "but for those that this machine held up"
        assert len({answer.result() for answer in answers}) < 4
        later = callers.submit(ask)
        silent.settimeout(240)
        silent.accept()[0].close()
        assert "not reachable" in later.result(), "who comes later asks again"


def test_a_command_that_is_interrupted_on_its_way_is_ended_there(plain_box: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(plain_box.config))
    line = Line(plain_box.port, delay=0.3)
    transport = Cluster(f"ssh://127.0.0.1:{line.port}").transport
    transport.run(["true"], env=PATH, timeout=120)
    words, begin = ["sleep", f"60.{os.getpid()}"], transport._begin

    def goes_on() -> bool:
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                found |= (folder / "cmdline").read_bytes() == "".join(f"{word}\0" for word in words).encode()
        return found

    def once(*arguments: object) -> None:
        monkeypatch.setattr(transport, "_begin", begin)
        begin(*arguments)
        time.sleep(0.45)  # it has begun there, and nothing of that has arrived here
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(transport, "_begin", once)
    with pytest.raises(KeyboardInterrupt):
        transport.run(words, env=PATH, timeout=60)
    wait_until(lambda: not goes_on())
    time.sleep(1)  # nor does it come later
    assert not goes_on()
    line.close()


def test_sessions_that_are_interrupted_as_they_are_opened_do_not_stay_open(plain_box: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(plain_box.config))
    line = Line(plain_box.port, delay=0.3)
    transport = Cluster(f"ssh://127.0.0.1:{line.port}").transport
    transport.run(["true"], env=PATH, timeout=120)
    usual = paramiko.Transport.open_session

    def interrupted(*arguments: object, **options: object) -> object:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # the answer is under way
        return usual(*arguments, **options)  # type: ignore[arg-type]

    for _ in range(11):  # more than sshd allows at once
        monkeypatch.setattr(paramiko.Transport, "open_session", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.run(["true"], env=PATH, timeout=120)
        monkeypatch.setattr(paramiko.Transport, "open_session", usual)
    assert transport.run(["echo", "in"], env=PATH, timeout=120).stdout == "in\n"
    assert transport.connection.logins == 1, "over the same line"
    line.close()
