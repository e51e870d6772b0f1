"""Hosts behind SSH: an sshd on the session's own Slurm, and hosts that are machines of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Hosts, HostSpec, missing
from loopback import Line, Loopback

from nexa_sdk import Cluster
from nexa_sdk.scheduling.slurm.sandbox import SandboxSpec, install_hint, missing_programs
from nexa_sdk.transports.ssh.transport import SshTransport

CODE = "123456"
SLURM = SandboxSpec(nodes=2, gpus_per_node=2)


@pytest.fixture(scope="session")
def box(sandbox) -> Iterator[Loopback]:
    """Start an sshd behind which there is the session's Slurm."""
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    host = Loopback(folder / "ssh", sandbox.environment)
    try:
        host.start()
        yield host
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def plain_box() -> Iterator[Loopback]:
    """Start an sshd behind which there is nothing but files."""
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    host = Loopback(folder / "ssh", {})
    try:
        host.start()
        yield host
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def end(box: Loopback) -> Loopback:
    """Return the host that a line leads to; tests without Slurm name the plain one instead."""
    return box


@pytest.fixture
def line(end: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Return a line to the host that can be cut."""
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(end.config))
    line = Line(end.port)
    yield line
    line.close()


@pytest.fixture
def remote(line: Line, tmp_path: Path) -> Cluster:
    """Return the Slurm at the other end of that line."""
    return Cluster(f"ssh://127.0.0.1:{line.port}", runs=tmp_path / "remote")


@pytest.fixture(scope="session")
def all_hosts() -> Iterator[Hosts]:
    """Start login, gpu1, gpu2 and jump for the session; others are added when a test first asks for them."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Hosts("login", "gpu1", "gpu2", "jump") as hosts:
        yield hosts


@pytest.fixture
def hosts(all_hosts: Hosts) -> Iterator[Hosts]:
    """Return the session's hosts; whatever the test does to them is undone."""
    yield all_hosts
    for host in all_hosts:
        host.restore()


@pytest.fixture
def ssh(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a client's configuration of the test's own, by which login, gpu1, gpu2 and jump are known; Nexa uses it too."""
    config = hosts.write_client(tmp_path / "ssh")
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(config))
    return config


@pytest.fixture(scope="session")
def slurm_login(all_hosts: Hosts) -> Host:
    """Return the host login, with a real Slurm on it."""
    _need_slurm()
    all_hosts["login"].start_slurm(SLURM)
    return all_hosts["login"]


@pytest.fixture(scope="session")
def guarded(all_hosts: Hosts) -> Host:
    """Return a host that asks for a one-time code after the key: ask for it before `ssh`."""
    return all_hosts.add(HostSpec(name="guarded", code=CODE))


@pytest.fixture(scope="session")
def inner(all_hosts: Hosts) -> Host:
    """Return a host to which the way goes through jump: ask for it before `ssh`."""
    return all_hosts.add(HostSpec(name="inner", via="jump"))


@pytest.fixture(scope="session")
def bare(all_hosts: Hosts) -> Host:
    """Return a host without Python, with a Slurm that only login shells find: ask for it before `ssh`."""
    _need_slurm()
    slurm = SandboxSpec(nodes=1, gpus_per_node=0, accounting=False)
    return all_hosts.add(HostSpec(name="bare", slurm=slurm, hidden_slurm=True, without_python=True))


def _need_slurm() -> None:
    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the programs that are run at the other end."""
    run, noted = SshTransport._run, []

    def noting(self: SshTransport, argv, **options):
        noted.append(argv[0])
        return run(self, argv, **options)

    monkeypatch.setattr(SshTransport, "_run", noting)
    return noted
