"""What happens to a sync: cut lines, a cut cable, a full disk, Ctrl-C, one-time codes, hosts without rsync."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hosts import Host
from loopback import Line, Loopback
from tables import note_row
from until import wait_until

from nexa_sdk import Cluster, syncing
from nexa_sdk.errors import CommandFailed, CommandTimeout
from nexa_sdk.manifest import OURS
from nexa_sdk.transports.moving import Limit
from nexa_sdk.transports.ssh.files import _mark
from nexa_sdk.transports.tree import Tree

LARGE, SMALL = 6_000_000, 40  # bytes of the one large file, and how many small ones


@pytest.fixture
def end(plain_box: Loopback) -> Loopback:
    return plain_box


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with one large file and many small ones."""
    root = tmp_path / "project"
    (root / "package").mkdir(parents=True)
    (root / "large.bin").write_bytes(random.Random(1).randbytes(LARGE))
    for n in range(SMALL):
        (root / "package" / f"module{n}.py").write_text(f"VALUE = {n}\n" * 500)
    return root


def digests(root: Path) -> dict[str, str]:
    paths = [path for path in root.rglob("*") if path.is_file() and OURS not in path.parts]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def use_sftp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "version_here", lambda: "openrsync: protocol version 29")


# ---- cut lines -----------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "share" in metafunc.fixturenames:
        drawn = random.Random(metafunc.config.getoption("--seed"))
        count = 40 if metafunc.config.getoption("--full") else 8
        metafunc.parametrize("share", [(n + drawn.random()) / count for n in range(count)], ids=lambda share: f"{share:.3f}")


def test_a_cut_line_is_taken_up_and_all_arrives(
    line: Line, project: Path, tmp_path: Path, share: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = "SFTP" if int(share * 1000) % 2 else "rsync"
    if by == "SFTP":
        use_sftp(monkeypatch)
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    cluster.transport.environment()
    line.arm("up", max(1, int(share * LARGE)), down_for=1.0 if share > 0.5 else 0.0)
    synced = cluster.sync(project, str(there))
    note_row(request.node, "cut syncs", f"by {by}", {"missed": not line.cuts, "differs": digests(there) != digests(project)})
    assert line.cuts == 1
    assert synced.by == by
    assert digests(there) == digests(project)


@pytest.mark.parametrize("by", ["rsync", "SFTP"])
def test_what_arrived_in_part_is_not_sent_again(
    line: Line, project: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "SFTP":
        use_sftp(monkeypatch)
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    cluster.transport.environment()
    before = line.passed["up"]
    line.arm("up", LARGE * 3 // 4)
    cluster.sync(project, str(there))
    assert line.cuts == 1
    assert line.passed["up"] - before < LARGE * 1.6, "it began anew"
    assert digests(there) == digests(project)


def test_what_two_syncs_left_half_there_is_found_out(line: Line, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sftp(monkeypatch)
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    content, status = (project / "large.bin").read_bytes(), os.stat(project / "large.bin")
    (there / OURS / "partial").mkdir(parents=True)
    twice = content[:1_000_000] * 2  # each wrote the same
    (there / OURS / "partial" / _mark(b"large.bin", LARGE, status.st_mtime_ns)).write_bytes(twice)
    cluster.sync(project, str(there), progress=False)
    assert digests(there) == digests(project)


def test_what_arrived_in_part_and_is_too_long_begins_anew(
    line: Line, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sftp(monkeypatch)
    cluster, there, back = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there", tmp_path / "back"
    status = os.stat(project / "large.bin")
    for folder, mtime in ((there, status.st_mtime_ns), (back, int(status.st_mtime) - 1)):  # SFTP gives a young copy an older time
        (folder / OURS / "partial").mkdir(parents=True)
        with (folder / OURS / "partial" / _mark(b"large.bin", LARGE, mtime)).open("wb") as file:
            file.truncate(LARGE + 1)
    cluster.sync(project, str(there), progress=False)
    assert digests(there) == digests(project)
    mover = syncing.choose_mover(cluster.transport, Tree(cluster.transport, str(there)).find(["large.bin"])[1])
    mover.pull(str(there), [b"large.bin"], os.fsencode(back), told=lambda _: None, limit=Limit(None))
    assert digests(back)["large.bin"] == digests(project)["large.bin"]


def test_a_line_that_is_cut_again_and_again(line: Line, project: Path, tmp_path: Path) -> None:
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    cluster.transport.environment()
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.02):
            if line.cuts < 7 and not line._limits:
                line.arm("up", LARGE // 8)

    saboteur = threading.Thread(target=cut)
    saboteur.start()
    try:
        cluster.sync(project, str(there))
    finally:
        over.set()
        saboteur.join()
    assert line.cuts >= 5
    assert digests(there) == digests(project)


def test_a_sync_of_what_changed_after_a_cut_that_was_for_good(
    line: Line, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "TRIES", 1)
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    cluster.transport.environment()
    line.arm("up", LARGE // 2)
    with pytest.raises(Exception, match="was lost while files went over it"):
        cluster.sync(project, str(there))
    (project / "package/module0.py").unlink()
    (project / "package/module1.py").write_text("changed")
    (project / "large.bin").write_bytes(random.Random(2).randbytes(LARGE))
    cluster.sync(project, str(there))
    assert digests(there) == digests(project)


@pytest.mark.parametrize("by", ["rsync", "SFTP"])
def test_a_time_limit_ends_it_and_the_same_again_goes_on(
    line: Line, project: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "SFTP":
        use_sftp(monkeypatch)
    cluster, there = Cluster(f"ssh://127.0.0.1:{line.port}"), tmp_path / "there"
    cluster.transport.environment()
    with monkeypatch.context() as patch:
        patch.setattr(syncing, "Limit", lambda seconds: Limit(seconds, clock=lambda: line.passed["up"] / 1e6))  # a MB a second
        with pytest.raises(CommandTimeout, match="not all files had arrived after 2 seconds; those that had stay"):
            cluster.sync(project, str(there), timeout=2)
    wait_until(lambda: not rsyncs_in(there))
    cluster.sync(project, str(there))
    assert digests(there) == digests(project)


# ---- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_ends_both_sides_and_keeps_what_arrived(line: Line, project: Path, tmp_path: Path) -> None:
    (project / "large.bin").write_bytes(random.Random(1).randbytes(10 * LARGE))
    there = tmp_path / "there"
    code = f"from nexa_sdk import Cluster; Cluster('ssh://127.0.0.1:{line.port}').sync({str(project)!r}, {str(there)!r})"
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: line.passed["up"] > LARGE or kernel.poll() is not None)
    kernel.send_signal(signal.SIGINT)
    _, said = kernel.communicate(timeout=240)
    assert kernel.returncode
    assert "KeyboardInterrupt" in said
    wait_until(lambda: not rsyncs_in(there))
    kept = list((there / OURS / "partial").iterdir())
    assert sum(path.stat().st_size for path in kept) > LARGE // 2
    before = line.passed["up"]
    Cluster(f"ssh://127.0.0.1:{line.port}").sync(project, str(there))
    assert line.passed["up"] - before < 9.9 * LARGE
    assert digests(there) == digests(project)


def rsyncs_in(folder: Path) -> list[str]:
    """Name the processes that are rsync and work in a folder, or for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if b"rsync" in words and (os.readlink(process / "cwd") == str(folder) or os.fsencode(folder) in words):
                found.append(str(words))
    return found


# ---- hosts ---------------------------------------------------------------------------------------


def test_a_one_time_code_is_asked_for_once_and_not_by_the_sync(guarded: Host, ssh: Path, project: Path) -> None:
    cluster = Cluster("ssh://guarded")
    connection, questions = cluster.transport.connection, []
    connection._login._ask = lambda question, **_: questions.append(question) or "123456"
    connection.close()
    before = guarded.codes_asked
    cluster.transport.environment()
    for n in range(3):
        (project / "package/module0.py").write_text(f"changed {n}")
        cluster.sync(project, "code")
        assert digests(guarded.path("/root/code")) == digests(project)
    assert len(questions) == 1
    assert guarded.codes_asked == before + 1


def test_a_host_behind_another(inner: Host, ssh: Path, project: Path) -> None:
    Cluster("ssh://inner").sync(project, "code")
    assert digests(inner.path("/root/code")) == digests(project)


@pytest.fixture
def gpu1(hosts, ssh: Path) -> Host:
    host: Host = hosts["gpu1"]
    host.enter("rm", "-rf", "/root/code")
    return host


def test_without_rsync_there_files_go_by_sftp_and_it_is_said(gpu1: Host, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu1.enter("mount", "--bind", "/dev/null", "/usr/bin/rsync")
    try:
        cluster = Cluster("ssh://gpu1")
        assert cluster.sync(project, "code").by == "SFTP"
        assert "gpu1 has no rsync of 3.1.0 or later: files go by SFTP, which is slower" in capsys.readouterr().err
    finally:
        gpu1.enter("umount", "/usr/bin/rsync")
    assert digests(gpu1.path("/root/code")) == digests(project)


@pytest.mark.parametrize("by", ["rsync", "SFTP"])
def test_a_full_disk_is_said_and_with_room_it_goes_on(gpu1: Host, project: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "SFTP":
        use_sftp(monkeypatch)
    gpu1.small_disk("/root/small", "2m")
    cluster = Cluster("ssh://gpu1")
    with pytest.raises(CommandFailed, match=r"No space left on device.*make room there, and the same again goes on"):
        cluster.sync(project, "small/code")
    gpu1.enter("mount", "-o", "remount,size=32m", "/root/small")
    cluster.sync(project, "small/code")
    assert digests(gpu1.path("/root/small/code")) == digests(project)


def test_a_disk_that_is_full_already_is_said(gpu1: Host, project: Path) -> None:
    gpu1.small_disk("/root/small", "64k")
    gpu1.enter("sh", "-c", "dd if=/dev/zero of=/root/small/filler bs=1k count=200 2> /dev/null; true")
    with pytest.raises(CommandFailed, match="No space left on device"):
        Cluster("ssh://gpu1").sync(project, "small/code")


def test_a_cable_that_is_cut_during_a_sync_and_heals(gpu1: Host, project: Path) -> None:
    (project / "large.bin").write_bytes(random.Random(1).randbytes(20 * LARGE))
    cluster = Cluster("ssh://gpu1")
    cluster.transport.environment()
    code = gpu1.path("/root/code")

    def cut() -> None:
        wait_until(lambda: any(path.stat().st_size > LARGE for path in code.rglob("*large.bin.*")))
        gpu1.cut()
        time.sleep(15)
        gpu1.heal()

    saboteur = threading.Thread(target=cut)
    saboteur.start()
    try:
        cluster.sync(project, "code", timeout=200)
    finally:
        saboteur.join()
    assert digests(code) == digests(project)


@pytest.mark.full
def test_a_host_that_hangs_during_a_sync(gpu1: Host, project: Path) -> None:
    (project / "large.bin").write_bytes(random.Random(1).randbytes(20 * LARGE))
    cluster = Cluster("ssh://gpu1")
    cluster.transport.environment()
    code = gpu1.path("/root/code")

    def hang() -> None:
        wait_until(lambda: any(path.stat().st_size > LARGE for path in code.rglob("*large.bin.*")))
        gpu1.hang()

    saboteurs = [threading.Thread(target=hang), threading.Timer(60, gpu1.unhang)]
    for saboteur in saboteurs:
        saboteur.start()
    try:
        cluster.sync(project, "code", timeout=250)
    finally:
        for saboteur in saboteurs:
            saboteur.join()
    assert digests(code) == digests(project)
