"""Who may in, and what travels, over a line to an sshd behind which there is no Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Line, Loopback

from nexa_sdk import Cluster
from nexa_sdk.errors import HostKeyUnknown, InvalidInput

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.fixture
def line(plain_box: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(plain_box.config))
    line = Line(plain_box.port)
    yield line
    line.close()


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
        cluster.transport.run(["true"], env=PATH, timeout=10)
