"""Several real hosts on one machine, for tests over SSH: each has its own network, processes, files and sshd.

A host shares this machine's root file system, but not its ``/root``, ``/home``, ``/tmp``, ``/var/tmp``, ``/var/log``,
``/run`` and ``/dev/shm``: what lies there, the client can't read. Its "disk", that is ``/root`` and ``/home``, outlives a
reboot. Everything of a session is named after its process, and ends with it; what is left, the next one removes.

The hosts hang on a bridge in a network namespace of its own, which this machine's firewall does not see.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from nexa_sdk.scheduling.slurm.sandbox import SandboxSpec

__all__ = ["Degraded", "Host", "HostSpec", "Hosts", "missing", "reap"]

SLURM_COMMANDS = tuple("sacct sacctmgr salloc sbatch scancel scontrol sinfo sprio squeue sreport srun sshare sstat".split())

_FOLDERS = Path("/tmp")
_NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"nxh(\d+)[a-z]")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOX = "/root/box"
_REPOSITORY = Path(__file__).parents[2]
_letters = iter("abcdefghijklmnopqrstuvwxyz")
_own: set[str] = set()

# Run by the first process of a host, in the host's folder.
_BOOT = r"""
set -e
here=$PWD
mount --make-rprivate /
mount -t proc proc /proc
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts
hostname "$1"
find etc -type f ! -path 'etc/ssh/*' ! -path 'etc/profile.d/*' -printf '%P\n' | while read -r file; do
  mount --bind "$here/etc/$file" "/etc/$file"
done
for folder in etc/ssh etc/profile.d; do mount --bind "$here/$folder" "/$folder"; done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/lock
for pair in "layers $here/layers" "python $2" "packages $3" "source $4"; do
  mkdir -p "/run/rig/${pair%% *}"
  mount --bind "${pair#* }" "/run/rig/${pair%% *}"
done
mount --bind "$here/home" /home
mount --bind "$here/root" /root
for folder in /dev/shm /var/tmp /tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t tmpfs -o mode=755 tmpfs /var/log
cd /
exec env -i PATH="$5" /bin/bash -c "$6"
"""

# Process 1: bash reaps what is orphaned while it waits for the end of its input, which comes with the end of the tests.
_FIRST = """
trap : TERM INT HUP
/usr/sbin/sshd -f /etc/ssh/sshd_config </dev/null
while read -r _ || [ $? -gt 128 ]; do :; done
"""

_SSHD = """
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PermitRootLogin yes
PasswordAuthentication no
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""

_SLURM = """
import json, os, sys
sys.path[:0] = ["/run/rig/source", "/run/rig/packages"]
os.environ.pop("LD_LIBRARY_PATH", None)
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec
Sandbox(sys.argv[1]).start(SandboxSpec(**json.loads(sys.argv[2])))
"""


def missing() -> str | None:
    """Say why there can be no hosts here, or None if there can."""
    if os.geteuid() != 0:
        return "hosts need root"
    for program in ("ip", "nsenter", "unshare", "ssh", "ssh-keygen", "/usr/sbin/sshd"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PATH}"):
            return f"{program} is not installed; get it by: apt-get install iproute2 util-linux openssh-client openssh-server"
    attempt = "mount -t tmpfs tmpfs /mnt && ip link add nxh0 type veth peer name nxh1"
    done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", attempt], capture_output=True, text=True)
    return f"no namespaces can be made here: {done.stderr.strip()}" if done.returncode else None


def reap() -> None:
    """Remove what sessions left that were killed: the processes in their own namespaces, networks and folders."""
    names = {name for folder in (_NAMESPACES, _FOLDERS) if folder.is_dir() for name in os.listdir(folder)}
    for name in sorted(names):
        found = _NAME.match(name)
        if not found or found[0] in _own or (int(found[1]) != os.getpid() and Path(f"/proc/{found[1]}").exists()):
            continue
        _ip("link", "delete", f"{found[0]}m", check=False)  # by itself it would go some time after the namespace
        if (_NAMESPACES / name).exists():
            _remove_network(name)
        shutil.rmtree(_FOLDERS / name, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """What a host is like.

    Parameters
    ----------
    name : str
    code : str or None
        Ask for this one-time code after the key.
    via : str or None
        The host through which the client's configuration goes to this one (ProxyJump).
    slurm : SandboxSpec or None
        Run a real Slurm. Only login shells know of it, by SLURM_CONF.
    hidden_slurm : bool
        Keep Slurm's commands in ``/opt/slurm/bin``, which is on the PATH of login shells alone.
    without_python : bool
        Have no Python.
    """

    name: str
    code: str | None = None
    via: str | None = None
    slurm: SandboxSpec | None = None
    hidden_slurm: bool = False
    without_python: bool = False


class Host:
    """One host. Its faults last until `restore`, a reboot or their opposite."""

    def __init__(self, hosts: Hosts, spec: HostSpec, number: int) -> None:
        self.hosts = hosts
        self.spec = spec
        self.name = spec.name
        self.slurm = spec.slurm
        self.ip = f"{hosts.subnet}.{10 + number}"
        self.folder = hosts.folder / spec.name
        self.number = number
        self.link = f"{hosts.name}v{number}"
        self._network = f"{hosts.name}{number}"
        self._process: subprocess.Popen[bytes] | None = None
        self._small: list[str] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} at {self.ip}>"

    @property
    def host_key(self) -> str:
        """The public host key: its type and its text."""
        return " ".join((self.folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    @property
    def pid(self) -> int:
        """The host's process 1, as this machine numbers it."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])

    @property
    def codes_asked(self) -> int:
        """How many one-time codes were given since the host started, right ones and wrong ones."""
        path = self.path("/var/log/codes")
        return path.read_text().count("\n") if path.exists() else 0

    def path(self, path: str) -> Path:
        """Return where this machine sees a file of the host."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def enter(self, *command: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on the host without SSH; return what it printed."""
        inside = ("nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--")
        return _run(*inside, *command, check=check, environment={"PATH": _PATH, "HOME": "/root", **(environment or {})})

    def processes(self) -> dict[int, str]:
        """Return the command lines of the host's processes by their ids, as this machine numbers them."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == own:
                    found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    # -- start and end ---------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch on; `wait` says when it answers."""
        hub, network = self.hosts.hub, self._network
        _ip("netns", "add", network)
        # A new address at each boot would stay unknown to the client until its old entry ages, for more than 10 s.
        mac = f"02:4e:58:00:00:{self.number:02x}"
        _ip("-n", hub, "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", network)
        _ip("-n", hub, "link", "set", self.link, "master", "br0", "up")
        _ip("-n", network, "address", "add", f"{self.ip}/24", "dev", "eth0")
        _ip("-n", network, "link", "set", "lo", "up")
        _ip("-n", network, "link", "set", "eth0", "up")
        inside = ("nsenter", f"--net={_NAMESPACES / network}")
        apart = (*inside, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        paths = (sys.base_prefix, sysconfig.get_path("purelib"), str(_REPOSITORY))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*apart, "bash", "-c", _BOOT, "boot", self.name, *paths, _PATH, _FIRST],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def wait(self, *, seconds: float = 120) -> None:
        """Wait until sshd answers; then start Slurm, and hide what is to be hidden."""
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)
        if self.slurm:
            self.start_slurm(self.slurm)
        self._hide()

    def answers(self) -> bool:
        """Whether sshd greets."""
        with suppress(OSError), socket.create_connection((self.ip, 22), 5) as connection:
            return connection.recv(32).startswith(b"SSH-2.0")
        return False

    def start_slurm(self, spec: SandboxSpec) -> None:
        """Start a Slurm, now and after each reboot; one that runs is kept."""
        wanted = {name: value for name, value in asdict(spec).items() if value != getattr(SandboxSpec(), name)}
        python = f"/run/rig/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        setting = {"LD_LIBRARY_PATH": "/run/rig/python/lib", "PYTHONDONTWRITEBYTECODE": "1"}
        self.enter(python, "-c", _SLURM, _BOX, json.dumps(wanted), environment=setting)
        lines = [f"export SLURM_CONF={_BOX}/etc/slurm.conf\n"]
        if self.spec.hidden_slurm:
            lines.append("PATH=$PATH:/opt/slurm/bin\n")
        (self.folder / "etc/profile.d/slurm.sh").write_text("".join(lines))
        self.slurm = spec

    def shut_down(self) -> None:
        """End every process, at once and without a word to the other side."""
        if self._process is None:
            return
        self.cut()
        with suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.kill()  # its child, if there is one yet, dies with it
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process = None
        self._small.clear()
        _ip("-n", self.hosts.hub, "link", "delete", self.link)
        _remove_network(self._network)

    def _hide(self) -> None:
        layers = [] if not self.spec.without_python else [("python", "/usr/bin"), ("python", "/usr/local/bin")]
        if self.spec.hidden_slurm:
            layers += [("slurm", "/usr/bin"), ("opt", "/opt")]
        for layer, folder in layers:
            self.enter("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/run/rig/layers/{layer}:{folder}", folder)

    # -- faults ----------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull the network cable: packets get lost without a word."""
        _ip("-n", self.hosts.hub, "link", "set", self.link, "down")

    def heal(self) -> None:
        """Plug the network cable in again."""
        _ip("-n", self.hosts.hub, "link", "set", self.link, "up")

    def hang(self) -> None:
        """Stop every sshd: the kernel still takes what is sent, and nobody answers."""
        self._signal_sshd(signal.SIGSTOP)

    def unhang(self) -> None:
        """Let every sshd go on."""
        self._signal_sshd(signal.SIGCONT)

    def kill_sshd(self, *, everything: bool = False) -> None:
        """Kill the sshd that listens; with `everything` also those of open connections."""
        while self._signal_sshd(signal.SIGKILL, lambda line: everything or "[listener]" in line):
            time.sleep(0.01)

    def start_sshd(self) -> None:
        """Start sshd again."""
        self.enter("/usr/sbin/sshd", "-f", "/etc/ssh/sshd_config")
        _wait_until(self.answers)

    def reboot(self) -> None:
        """Lose power, so that no connection hears of it, and start again: same disk, same host key."""
        self.shut_down()
        self.boot()
        self.wait()

    def small_disk(self, path: str, size: str = "1m") -> None:
        """Mount a disk at a folder that is full after `size`."""
        self.enter("mkdir", "-p", path)
        self.enter("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)
        self._small.append(path)

    def restore(self) -> None:
        """Undo what was done to the host."""
        self.heal()
        self.unhang()
        while self._small:
            self.enter("umount", "--lazy", self._small.pop())
        if not any("[listener]" in line for line in self.processes().values()):
            self.start_sshd()

    def _signal_sshd(self, number: signal.Signals, choose: Callable[[str], bool] = bool) -> int:
        chosen = [pid for pid, line in self.processes().items() if line.startswith("sshd") and choose(line)]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(chosen)

    # -- files -----------------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        """Write the host's disk and its part of /etc."""
        etc = self.folder / "etc"
        for folder in ("root/.ssh", "home", "etc/ssh", "etc/profile.d", "layers"):
            (self.folder / folder).mkdir(parents=True)
        for path in Path("/etc/skel").glob(".*"):
            shutil.copy(path, self.folder / "root")
        (self.folder / "root").chmod(0o700)
        shutil.copy(self.hosts.folder / "id_ed25519.pub", self.folder / "root/.ssh/authorized_keys")
        for path in Path("/etc/profile.d").glob("*.sh"):
            shutil.copy(path, etc / "profile.d")
        _keygen(etc / "ssh/ssh_host_ed25519_key", self.name)
        sshd = [_SSHD.strip()]
        if self.spec.code:
            # Debian's own sshd has keyboard-interactive through PAM alone.
            sshd += ["UsePAM yes", "KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive"]
            self._ask_for(self.spec.code)
        else:
            sshd += ["UsePAM no", "KbdInteractiveAuthentication no"]
        (etc / "ssh/sshd_config").write_text("\n".join(sshd) + "\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "resolv.conf").write_text("# no resolver: a look-up is to fail at once\n")
        (etc / "hosts").touch()
        self._lay_out_layers()

    def _ask_for(self, code: str) -> None:
        etc = self.folder / "etc"
        check = etc / "ssh/check-code"
        check.write_text(f'#!/bin/sh\necho asked >> /var/log/codes\n[ "$(tr -d "\\0")" = {code} ]\n')
        check.chmod(0o755)
        (etc / "ssh/question").write_text("Your one-time code, please.\n")
        (etc / "pam.d").mkdir()
        (etc / "pam.d/sshd").write_text(
            "auth required pam_echo.so file=/etc/ssh/question\n"
            "auth required pam_exec.so quiet expose_authtok /etc/ssh/check-code\n"
            "auth required pam_permit.so\n"
            "account required pam_permit.so\n"
            "session required pam_permit.so\n"
        )

    def _lay_out_layers(self) -> None:
        """Make what is laid over folders of the host to take programs away: a device 0/0 stands for "not there"."""
        layers = self.folder / "layers"
        python, slurm, programs = layers / "python", layers / "slurm", layers / "opt/slurm/bin"
        for folder in (python, slurm, programs):
            folder.mkdir(parents=True)
        if self.spec.without_python:
            for name in {path.name for folder in ("/usr/bin", "/usr/local/bin") for path in Path(folder).glob("python*")}:
                os.mknod(python / name, stat.S_IFCHR)
        if self.spec.hidden_slurm:
            for name in SLURM_COMMANDS:
                if Path("/usr/bin", name).exists():
                    os.mknod(slurm / name, stat.S_IFCHR)
                    shutil.copy2(Path("/usr/bin", name), programs)


class Hosts:
    """Hosts in one network, that this machine reaches; use it in a ``with``.

    Parameters
    ----------
    *specs : HostSpec or str
        A name stands for a plain host.
    """

    def __init__(self, *specs: HostSpec | str) -> None:
        self.name = f"nxh{os.getpid()}{next(_letters)}"
        self.hub = f"{self.name}hub"
        self.folder = _FOLDERS / self.name
        self.subnet = ""
        self._specs = specs
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __enter__(self) -> Hosts:
        reap()
        _own.add(self.name)
        try:
            self.folder.mkdir(mode=0o700)
            _keygen(self.folder / "id_ed25519", "client")
            self._connect()
            self._add(self._specs)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, spec: HostSpec | str) -> Host:
        """Start one more host; the others learn its name."""
        return self._add([spec])[0]

    def _add(self, specs: Sequence[HostSpec | str]) -> list[Host]:
        new = []
        for each in specs:
            spec = HostSpec(name=each) if isinstance(each, str) else each
            host = Host(self, spec, len(self._hosts) + 1)
            host.lay_out()
            self._hosts[spec.name] = host
            new.append(host)
        known = "".join(f"{host.ip} {host.name}\n" for host in self)
        for host in self:
            (host.folder / "etc/hosts").write_text(f"127.0.0.1 localhost\n{known}")
        for host in new:
            host.boot()
        for host in new:
            host.wait()
        self.write_client(self.folder)
        return new

    def close(self) -> None:
        """End everything, and remove it."""
        for host in self:
            with suppress(OSError, RuntimeError, subprocess.SubprocessError):
                host.shut_down()
        self._hosts.clear()
        _own.discard(self.name)
        _ip("link", "delete", f"{self.name}m", check=False)
        _remove_network(self.hub)
        shutil.rmtree(self.folder, ignore_errors=True)

    def write_client(self, folder: Path) -> Path:
        """Write a client's key, known hosts and configuration into a folder; return the configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self.folder:
            for name in ("id_ed25519", "id_ed25519.pub"):
                shutil.copy2(self.folder / name, folder)
        (folder / "known_hosts").write_text("".join(f"{host.name},{host.ip} {host.host_key}\n" for host in self))
        lines = []
        for host in self:
            lines += [f"Host {host.name}", f"  HostName {host.ip}"]
            lines += [f"  ProxyJump {host.spec.via}"] if host.spec.via else []
        lines += ["Host *", "  User root", f"  IdentityFile {folder}/id_ed25519", "  IdentitiesOnly yes", "  IdentityAgent none"]
        lines += [f"  UserKnownHostsFile {folder}/known_hosts", "  GlobalKnownHostsFile /dev/null"]
        config = folder / "config"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _connect(self) -> None:
        """Make the bridge, and a link from this machine to it."""
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.hub, "link", "set", "br0", "up")
        link = f"{self.name}m"
        _ip("link", "add", link, "type", "veth", "peer", "name", "up0", "netns", self.hub)
        _ip("-n", self.hub, "link", "set", "up0", "master", "br0", "up")
        with Path("/run/nexa-hosts.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another session chooses too
            taken = _ip("-4", "address") + _ip("-4", "route")
            self.subnet = next(subnet for number in range(256) if f"{(subnet := f'10.213.{number}')}." not in taken)
            _ip("address", "add", f"{self.subnet}.1/24", "dev", link)
        _ip("link", "set", link, "up")


class Degraded:
    """A bad line to a host, for the length of a ``with``: open connections survive its begin and its end.

    Every frame goes through two TAP devices and a thread between them, because not every kernel has netem.

    Parameters
    ----------
    host : Host
    delay : float
        Seconds that each frame takes more, in each direction.
    loss : float
        The part of the frames that gets lost, in each direction.
    """

    def __init__(self, host: Host, *, delay: float = 0.0, loss: float = 0.0, seed: int = 1) -> None:
        self._host = host
        self._delay = delay
        self._loss = loss
        self._random = random.Random(seed)
        self._bridge = f"br{host.number}"
        self._ends: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True)

    def __enter__(self) -> Degraded:
        hosts, number = self._host.hosts, self._host.number
        _ip("-n", hosts.hub, "link", "add", self._bridge, "type", "bridge")
        _ip("-n", hosts.hub, "link", "set", self._bridge, "up")
        for name, bridge in ((f"{hosts.name}t{number}", self._bridge), (f"{hosts.name}u{number}", "br0")):
            self._ends.append(_tap(name))
            _ip("link", "set", name, "netns", hosts.hub)
            _ip("-n", hosts.hub, "link", "set", name, "master", bridge, "up")
        _ip("-n", hosts.hub, "link", "set", self._host.link, "master", self._bridge)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _ip("-n", self._host.hosts.hub, "link", "set", self._host.link, "master", "br0")
        self._over.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)
        _ip("-n", self._host.hosts.hub, "link", "delete", self._bridge)

    def _pump(self) -> None:
        one, two = self._ends
        other = {one: two, two: one}
        waiting: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        while not self._over.is_set():
            patience = min(0.05, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 0.05
            for end in select.select([one, two], [], [], patience)[0]:
                for frame in _frames(end):
                    if self._random.random() >= self._loss:
                        heapq.heappush(waiting, (time.monotonic() + self._delay, next(order), other[end], frame))
            while waiting and waiting[0][0] <= time.monotonic():
                with suppress(OSError):  # a full queue loses frames, as a real one does
                    os.write(*heapq.heappop(waiting)[2:])


def _tap(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002))  # TUNSETIFF; IFF_TAP and IFF_NO_PI
    return end


def _frames(end: int) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        for _ in range(64):
            yield os.read(end, 65535)


def _remove_network(name: str) -> None:
    """Remove a network namespace with what still runs in it."""
    for pid in _ip("netns", "pids", name, check=False).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", name, check=False)


def _keygen(path: Path, comment: str) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def _ip(*words: str, check: bool = True) -> str:
    return _run("ip", *words, check=check)


def _run(*command: str, check: bool = True, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=120
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stdout}")
    return done.stdout


def _wait_until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.02)
