"""What a sandbox's configuration says on other machines and other versions of Slurm than this one."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from nexa_sdk.errors import SandboxError
from nexa_sdk.scheduling.slurm.sandbox.config import SandboxSite, SandboxSpec, configuration, free_ports

SITE = SandboxSite(folder="/tmp/box", host="laptop", user="ada", loopback="127.0.0.1", version=(22, 5), ports=(20001, 20002, 20003, 20004))


def lines(name: str, spec: SandboxSpec | None = None, site: SandboxSite = SITE) -> list[str]:
    return configuration(spec or SandboxSpec(), site)[name].splitlines()


def test_one_node_line_a_node_with_a_port_of_its_own() -> None:
    common = "NodeHostname=laptop NodeAddr=127.0.0.1"
    assert [line for line in lines("slurm.conf") if line.startswith("NodeName")] == [
        f"NodeName=n1 {common} Port=20003 CPUs=16 RealMemory=64000 Gres=gpu:h100:4 State=UNKNOWN",
        f"NodeName=n2 {common} Port=20004 CPUs=16 RealMemory=64000 Gres=gpu:h100:4 State=UNKNOWN",
    ]
    assert lines("gres.conf") == ["NodeName=n[1-2] Name=gpu Type=h100 File=/tmp/box/gpus/nvidia[0-3]"]
    assert lines("gres.conf", SandboxSpec(gpus_per_node=0)) == []


@pytest.mark.parametrize(
    ("loopback", "controller", "accounting"),
    [
        ("127.0.0.1", ["CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"], ["CommunicationParameters=NoInAddrAny"]),
        ("127.0.1.1", ["CommunicationParameters=NoCtldInAddrAny"], ["CommunicationParameters=NoInAddrAny"]),
        (None, [], []),
    ],
)
def test_listens_on_a_loopback_address_as_far_as_slurm_can(loopback: str | None, controller: list[str], accounting: list[str]) -> None:
    site = replace(SITE, loopback=loopback)
    assert [line for line in lines("slurm.conf", site=site) if line.startswith("Comm")] == controller
    assert [line for line in lines("slurmdbd.conf", site=site) if line.startswith("Comm")] == accounting


@pytest.mark.parametrize(
    ("version", "cgroup", "stored"),
    [
        ((20, 11), [], "AccountingStoreJobComment=YES"),
        ((21, 8), [], "AccountingStoreFlags=job_comment,job_env,job_script"),
        ((22, 5), ["CgroupPlugin=cgroup/v1"], "AccountingStoreFlags=job_comment,job_env,job_script"),
        ((23, 11), ["CgroupPlugin=cgroup/v1"], "AccountingStoreFlags=job_comment,job_env,job_script,job_extra"),
        ((24, 11), ["CgroupPlugin=disabled"], "AccountingStoreFlags=job_comment,job_env,job_script,job_extra"),
    ],
)
def test_speaks_each_versions_words(version: tuple[int, ...], cgroup: list[str], stored: str) -> None:
    site = replace(SITE, version=version)
    assert lines("cgroup.conf", site=site) == cgroup
    assert stored in lines("slurm.conf", site=site)


def test_without_munge_and_accounting_names_neither() -> None:
    files = configuration(SandboxSpec(accounting=False, auth="none"), SITE)
    assert "slurmdbd.conf" not in files
    assert "munge" not in files["slurm.conf"]
    assert "CredType=cred/none" in files["slurm.conf"].splitlines()


def test_more_lines_come_last() -> None:
    assert lines("slurm.conf", SandboxSpec(extra=("A=1", "B=2")))[-2:] == ["A=1", "B=2"]


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus_per_node": -1}, {"auth": "kerberos"}, {"gpu_type": "h100 sxm"}])
def test_a_spec_that_can_not_be_meant_is_refused(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(SandboxError, match=f"{name}={value!r}"):
        SandboxSpec(**wrong)  # type: ignore[arg-type]


def test_ports_in_use_are_replaced_and_the_others_kept() -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        taken = somebody.getsockname()[1]
        free = free_ports(1)[0]
        ports = free_ports(3, keep=(free, taken))
    assert ports[0] == free
    assert taken not in ports
    assert len(set(ports)) == 3
