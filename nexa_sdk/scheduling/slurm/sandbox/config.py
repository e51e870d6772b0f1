"""The configuration files of a sandbox, as text: pure functions of what was asked for and where it runs."""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nexa_sdk.errors import SandboxError

__all__ = ["CLUSTER", "DATABASE", "SandboxSite", "SandboxSpec", "configuration", "free_ports", "loopback_address"]

CLUSTER = "sandbox"
DATABASE = "slurm_acct_db"

# Below the kernel's range for outgoing connections (32768-60999), which would take a port at any moment.
_PORTS = range(20000, 32000)


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """What a new sandbox is made of; a sandbox that exists keeps what it was made of.

    CPUs, memory and GPUs are claimed, not had: one machine plays every node. The GPUs are device files
    behind which there is nothing; jobs are given CUDA_VISIBLE_DEVICES as they would be by real ones.

    Parameters
    ----------
    nodes, gpus_per_node, cpus : int
        Nodes n1, n2, …, and what each claims.
    gpu_type : str
    memory_mb : int
        Memory that each node claims, in MB.
    accounting : bool
        Run slurmdbd and MariaDB, so that sacct answers.
    auth : {"munge", "none"}
        With "none" any user of this machine can run jobs as the sandbox's user.
    max_array_size, max_job_count : int
        MaxArraySize (the highest index of an array is one less) and MaxJobCount.
    min_job_age, kill_wait, slurmd_timeout : int
        MinJobAge, KillWait and SlurmdTimeout in seconds.
    cred_expire : int
        Seconds that a requeued job waits; Slurm's own value is 120.
    scheduler_parameters : str
        Slurm's own values wait up to 3 s before a batch job starts, and 60 s between full passes.
    extra : tuple of str
        More lines of slurm.conf.
    """

    nodes: int = 2
    gpus_per_node: int = 4
    gpu_type: str = "h100"
    cpus: int = 16
    memory_mb: int = 64000
    accounting: bool = True
    auth: Literal["munge", "none"] = "munge"
    max_array_size: int = 1001
    max_job_count: int = 10000
    min_job_age: int = 300
    kill_wait: int = 5
    slurmd_timeout: int = 30
    cred_expire: int = 15
    scheduler_parameters: str = "batch_sched_delay=0,sched_min_interval=50000,sched_interval=5,bf_interval=5"
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise SandboxError(f"nodes={self.nodes}: a sandbox has at least one node")
        if self.gpus_per_node < 0:
            raise SandboxError(f"gpus_per_node={self.gpus_per_node}: give 0 for nodes without GPUs, or more")
        if self.auth not in ("munge", "none"):
            raise SandboxError(f"auth={self.auth!r}: use 'munge' or 'none'")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.gpu_type):
            raise SandboxError(f"gpu_type={self.gpu_type!r}: use letters, digits, '_', '.' and '-'")

    @property
    def node_names(self) -> tuple[str, ...]:
        """Return the nodes' names, from n1 on."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def daemons(self) -> tuple[str, ...]:
        """Return the daemons' names in the order in which they start."""
        munge = ("munged",) if self.auth == "munge" else ()
        accounting = ("mariadb", "slurmdbd") if self.accounting else ()
        return (*munge, *accounting, "slurmctld", *(f"slurmd-{node}" for node in self.node_names))


@dataclass(frozen=True, kw_only=True)
class SandboxSite:
    """Where a sandbox runs: what may be different the next time that it starts.

    Parameters
    ----------
    folder : str
    host, user : str
        This machine's short name, and the user that the daemons run as.
    loopback : str or None
        The loopback address that `host` resolves to; None where it resolves to another.
    version : tuple of int
        Slurm's, such as (22, 5).
    ports : tuple of int
        For slurmctld, slurmdbd and each node's slurmd.
    """

    folder: str
    host: str
    user: str
    loopback: str | None
    version: tuple[int, ...]
    ports: tuple[int, ...]

    @property
    def address(self) -> str:
        """Return the address at which the daemons find each other."""
        return self.loopback or "127.0.0.1"

    @property
    def is_closed(self) -> bool:
        """Whether nothing listens where another machine could reach it."""
        return self.loopback == "127.0.0.1"


def loopback_address(host: str) -> str | None:
    """Return the loopback address that a name resolves to, or None."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return None
    return address if ipaddress.ip_address(address).is_loopback else None


def free_ports(count: int, *, keep: Iterable[int] = ()) -> tuple[int, ...]:
    """Pick ports on which nobody listens; those of `keep` that are still free stay in their places."""
    chosen = [port if _is_free(port) else 0 for port in keep]
    chosen += [0] * (count - len(chosen))
    candidates = (port for port in random.sample(_PORTS, len(_PORTS)) if port not in chosen and _is_free(port))
    try:
        return tuple(port or next(candidates) for port in chosen)
    except StopIteration:
        raise SandboxError(f"there are no {count} free ports from {_PORTS[0]} to {_PORTS[-1]}") from None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger for a minute
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def configuration(spec: SandboxSpec, site: SandboxSite) -> dict[str, str]:
    """Return the text of each configuration file by its name."""
    files = {
        "slurm.conf": _text(_slurm_conf(spec, site)),
        "gres.conf": _text(_gres_conf(spec, site)),
        "cgroup.conf": _text(_cgroup_conf(site)),
    }
    if spec.accounting:
        files["slurmdbd.conf"] = _text(_slurmdbd_conf(spec, site))
    return files


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _slurm_conf(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    yield f"ClusterName={CLUSTER}"
    yield f"SlurmctldHost={site.host}({site.address})"
    yield f"SlurmctldPort={site.ports[0]}"
    yield f"SlurmUser={site.user}"
    yield f"SlurmdUser={site.user}"
    yield from _listening(site)
    yield from _authentication(spec, site)
    if spec.auth == "none":
        yield "CredType=cred/none"
    yield from _paths(site.folder)
    yield from _without_cgroups()
    yield from _behaviour(spec)
    yield from _accounting(spec, site)
    yield from _nodes(spec, site)
    yield from _partitions()
    yield from spec.extra


def _listening(site: SandboxSite) -> Iterator[str]:
    """Listen on a loopback address where that is possible, instead of on 0.0.0.0.

    Slurm (22.05) then listens on what the machine's own name resolves to, not on the address that it was given.
    Job steps connect back to srun at the address that srun's packets came from: to 127.0.0.1, even if srun
    listens on Debian's 127.0.1.1. So slurmd and srun can be kept to 127.0.0.1 or not at all.
    """
    words = ["NoCtldInAddrAny"] if site.loopback else []
    if site.is_closed:
        words.append("NoInAddrAny")
    if words:
        yield f"CommunicationParameters={','.join(words)}"


def _authentication(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    if spec.auth == "munge":
        yield "AuthType=auth/munge"
        yield f"AuthInfo=socket={site.folder}/run/munge.sock,cred_expire={spec.cred_expire}"
    else:
        yield "AuthType=auth/none"


def _paths(folder: str) -> Iterator[str]:
    yield f"StateSaveLocation={folder}/state"
    yield f"SlurmdSpoolDir={folder}/spool/%n"
    yield f"SlurmctldPidFile={folder}/run/slurmctld.pid"
    yield f"SlurmdPidFile={folder}/run/slurmd-%n.pid"
    yield f"SlurmctldLogFile={folder}/log/slurmctld.log"
    yield f"SlurmdLogFile={folder}/log/slurmd-%n.log"


def _without_cgroups() -> Iterator[str]:
    yield "ProctrackType=proctrack/linuxproc"
    yield "TaskPlugin=task/none"
    yield "JobAcctGatherType=jobacct_gather/linux"
    yield "JobAcctGatherFrequency=task=2"
    yield "JobAcctGatherParams=OverMemoryKill"  # holds jobs to their memory without cgroups


def _behaviour(spec: SandboxSpec) -> Iterator[str]:
    yield "SelectType=select/cons_tres"
    yield "SelectTypeParameters=CR_Core_Memory"
    yield f"DefMemPerCPU={spec.memory_mb // spec.cpus}"
    yield "SlurmdParameters=config_overrides"  # nodes may claim more than the machine has
    yield "PropagateResourceLimits=NONE"
    yield "MailProg=/bin/true"
    yield "ReturnToService=2"
    yield f"SlurmdTimeout={spec.slurmd_timeout}"
    yield f"KillWait={spec.kill_wait}"
    yield f"MinJobAge={spec.min_job_age}"
    yield f"MaxArraySize={spec.max_array_size}"
    yield f"MaxJobCount={spec.max_job_count}"
    yield f"SchedulerParameters={spec.scheduler_parameters}"
    yield "PreemptType=preempt/partition_prio"
    yield "PreemptMode=CANCEL"
    yield "GresTypes=gpu"


def _accounting(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    if not spec.accounting:
        yield "AccountingStorageType=accounting_storage/none"
        return
    yield "AccountingStorageType=accounting_storage/slurmdbd"
    yield f"AccountingStorageHost={site.address}"
    yield f"AccountingStoragePort={site.ports[1]}"
    yield f"AccountingStorageTRES=gres/gpu,gres/gpu:{spec.gpu_type}"
    if spec.auth == "munge":
        yield f"AccountingStoragePass={site.folder}/run/munge.sock"
    if site.version < (21, 8):
        yield "AccountingStoreJobComment=YES"
    else:
        extra = ",job_extra" if site.version >= (23, 2) else ""
        yield f"AccountingStoreFlags=job_comment,job_env,job_script{extra}"


def _nodes(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    gres = f" Gres=gpu:{spec.gpu_type}:{spec.gpus_per_node}" if spec.gpus_per_node else ""
    for name, port in zip(spec.node_names, site.ports[2:], strict=True):
        where = f"NodeHostname={site.host} NodeAddr={site.address} Port={port}"
        yield f"NodeName={name} {where} CPUs={spec.cpus} RealMemory={spec.memory_mb}{gres} State=UNKNOWN"


def _partitions() -> Iterator[str]:
    low = "Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=1"
    yield "PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=01:00:00 PriorityTier=10 State=UP"
    yield f"PartitionName=low {low} PreemptMode=CANCEL State=UP"
    yield f"PartitionName=lowrq {low} PreemptMode=REQUEUE State=UP"


def _gres_conf(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    if spec.gpus_per_node:
        files = f"{site.folder}/gpus/nvidia[0-{spec.gpus_per_node - 1}]"
        yield f"NodeName=n[1-{spec.nodes}] Name=gpu Type={spec.gpu_type} File={files}"


def _cgroup_conf(site: SandboxSite) -> Iterator[str]:
    # Keeps slurmd off the cgroup tree. From 24.05 there is a word for it, on which 23.11 dies; before,
    # v1 is named, of which nothing is then used.
    if site.version >= (24, 5):
        yield "CgroupPlugin=disabled"
    elif site.version >= (22, 5):
        yield "CgroupPlugin=cgroup/v1"


def _slurmdbd_conf(spec: SandboxSpec, site: SandboxSite) -> Iterator[str]:
    yield "DbdHost=localhost"
    yield f"DbdAddr={site.address}"
    yield f"DbdPort={site.ports[1]}"
    yield f"SlurmUser={site.user}"
    if site.loopback:
        yield "CommunicationParameters=NoInAddrAny"
    yield from _authentication(spec, site)
    yield f"LogFile={site.folder}/log/slurmdbd.log"
    yield f"PidFile={site.folder}/run/slurmdbd.pid"
    yield "StorageType=accounting_storage/mysql"
    yield "StorageHost=localhost"  # through the socket that MYSQL_UNIX_PORT names
    yield "StorageUser=slurm"
    yield "StoragePass=none"  # MariaDB asks for none; its socket lies in a folder of mode 0700
    yield f"StorageLoc={DATABASE}"
