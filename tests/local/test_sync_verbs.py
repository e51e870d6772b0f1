"""sync and fetch as words of a console, and the progress that a terminal and a notebook show."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from nexa_sdk import Cluster, Sweep
from nexa_sdk.cli import main
from nexa_sdk.notebook.transfer import TransferProgress
from nexa_sdk.transports.moving import Moved

Said = tuple[int, str, str]


@pytest.fixture
def nexa(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: str) -> Said:
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(root)
    return root


def test_sync(nexa: Callable[..., Said], project: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert nexa("sync", str(there), "--dry-run", "--csv") == (0, ",action,path,size\n0,add,train.py,9\n", "")
    assert not there.exists()
    status, out, _ = nexa("sync", str(there))
    assert status == 0
    assert f"<Synced {project} to {there} on local: 1 of 1 files sent (9 bytes)" in out
    (project / "train.py").rename(project / "main.py")
    nexa("sync", str(there), "--no-delete")
    assert sorted(path.name for path in there.glob("*.py")) == ["main.py", "train.py"]
    assert "1 deleted" in nexa("sync", str(there))[1]
    assert [path.name for path in there.glob("*.py")] == ["main.py"]


def test_a_line_that_can_not_be_meant(nexa: Callable[..., Said], project: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/x").touch()
    status, _, said = nexa("sync", str(tmp_path / "theirs"))
    assert status == 1
    assert "is not empty, and no sync made it" in said
    assert nexa("sync", str(tmp_path / "theirs"), "--adopt")[0] == 0
    assert (tmp_path / "theirs/x").exists()
    assert nexa("sync", "--dry")[0] == 2
    assert nexa("fetch")[0] == 2
    assert nexa("sync", "~")[0] == 1


def test_fetch(nexa: Callable[..., Said], local: Cluster, tmp_path: Path) -> None:
    run = local.launch(Sweep(["sh", "-c", "mkdir -p out && echo $n > out/$n"], {"n": [1, 2]}, style="env"), time="0:05:00")
    run.wait(timeout=240, progress=False)
    status, out, _ = nexa("fetch", "out/**", "--run", run.id[:8], "--to", str(tmp_path / "back"))
    assert status == 0
    assert str(tmp_path / "back/out/1") in out
    assert (tmp_path / "back/out/2").read_text() == "2\n"
    assert nexa("fetch", "nothing/**")[0] == 1


def test_a_terminal_shows_one_line_that_goes_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with TransferProgress("Syncing project", shown=True) as bar:
            bar._next = 0.0
            bar.update(Moved(50_000_000, 0.5, 10_000_000.0, 5.0))
            bar.update(Moved(51_000_000, 0.51, 10_000_000.0, 5.0))  # too soon after
        said = ""
        while said.count("\x1b[K") < 2:  # a terminal gives what it has so far
            said += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert said == "\r\x1b[K[############............] Syncing project: 50%, 50.0 MB, 10.0 MB/s, 0:05 left\r\x1b[K"


def test_a_notebook_shows_one_output_that_is_updated() -> None:
    manager, client = start_new_kernel(startup_timeout=240, kernel_name="python3")
    code = """
from nexa_sdk.notebook.transfer import TransferProgress
from nexa_sdk.transports.moving import Moved
with TransferProgress("Syncing <b>project</b>", shown=True) as bar:
    for share in (0.1, 0.5):
        bar._next = 0.0
        bar.update(Moved(1000000, share, 1e6, 5.0))
"""
    messages = []
    try:
        client.execute_interactive(code, timeout=240, output_hook=messages.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    shown = [message for message in messages if message["msg_type"] in ("display_data", "update_display_data")]
    assert [message["msg_type"] for message in shown] == ["display_data", "update_display_data", "update_display_data"]
    assert [message["content"]["data"]["text/plain"] for message in shown] == [
        "Syncing <b>project</b>: 10%, 1.0 MB, 1.0 MB/s, 0:05 left",
        "Syncing <b>project</b>: 50%, 1.0 MB, 1.0 MB/s, 0:05 left",
        "Syncing <b>project</b>: done",
    ]
    assert all("<b>project" not in message["content"]["data"]["text/html"] for message in shown)
