"""Start a sandbox, stop it, and ask after it.

slurmctld, a slurmd for each node, and for accounting slurmdbd with MariaDB, with munge between them:
nothing outside the folder is read or written, and root is not needed.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from nexa_sdk.errors import SandboxError, nearest
from nexa_sdk.scheduling.environment import for_trials
from nexa_sdk.scheduling.slurm.sandbox.config import CLUSTER, DATABASE, SandboxSite, SandboxSpec, free_ports, loopback_address
from nexa_sdk.scheduling.slurm.sandbox.daemon import Daemon, end, kill_leftovers, wait_until
from nexa_sdk.scheduling.slurm.sandbox.folder import SandboxFolder, SandboxRecord
from nexa_sdk.scheduling.slurm.sandbox.programs import (
    daemon_command,
    database_command,
    install_hint,
    missing_programs,
    search_path,
)

__all__ = ["Sandbox"]

# seconds: MariaDB may have a crash to recover from, and nodes to register on a busy machine
_READY = 120.0


class Sandbox:
    """The sandbox in a folder; whether there is one yet, `status` says.

    Parameters
    ----------
    folder : path
        A short path (80 characters at most) on a local disk. It need not exist.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self._folder = SandboxFolder(self.folder)

    def __repr__(self) -> str:
        return f"Sandbox({str(self.folder)!r})"

    @property
    def environment(self) -> dict[str, str]:
        """What a Slurm command needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    @property
    def is_up(self) -> bool:
        """Whether every daemon lives."""
        status = self.status()
        return bool(status) and None not in status.values()

    def status(self) -> dict[str, int | None]:
        """Return each daemon's process id, or None where it is down; nothing if there is no sandbox."""
        record = self._folder.read()
        return {daemon.name: daemon.pid() for daemon in self._daemons(record.spec)} if record else {}

    def start(self, spec: SandboxSpec | None = None) -> float:
        """Start what is not running, and wait until the cluster takes jobs.

        A sandbox that was stopped comes back with its jobs' history. Two processes may start the same one.

        Parameters
        ----------
        spec : SandboxSpec, optional
            What a new sandbox is made of. Ignored for one that has been ready before.

        Returns
        -------
        float
            The seconds that it took.

        Raises
        ------
        SandboxError
            Programs are missing, the folder can't be used, or a daemon failed: then with its own last words.
            What this call had started is ended again.
        """
        begun = time.monotonic()
        user = _user()
        self._folder.check()
        _check_network()
        with self._folder.locked(create=True), ExitStack() as undo:
            record = self._prepared(spec, user)
            undo.callback(end, [daemon for daemon in self._daemons(record.spec) if daemon.pid() is None])
            self._start(record)
            undo.pop_all()
        return time.monotonic() - begun

    def stop(self) -> None:
        """Cancel the jobs and stop every daemon; what accounting knows is kept."""
        if self._folder.read() is None:
            return
        with self._folder.locked():
            self._stop()

    def destroy(self) -> None:
        """Stop the sandbox and remove its folder.

        Raises
        ------
        SandboxError
            The folder is no sandbox's; nothing was removed.
        """
        self._folder.record()
        with self._folder.locked():
            self._stop()
            self._folder.remove()

    def down(self, daemon: str) -> None:
        """Stop one daemon: "munged", "mariadb", "slurmdbd", "slurmctld", or "slurmd-n1" and so on."""
        chosen = self._daemon(daemon)
        with self._folder.locked():
            end([chosen])

    def up(self, daemon: str) -> None:
        """Start one daemon again, and wait until it answers."""
        chosen = self._daemon(daemon)
        with self._folder.locked(), ExitStack() as undo:
            if chosen.pid() is None:
                undo.callback(end, [chosen])
                self._launch(chosen)
                undo.pop_all()

    def freeze(self, daemon: str) -> None:
        """Stop the clock of one daemon (SIGSTOP): it is there and does not answer."""
        self._signal(daemon, signal.SIGSTOP)

    def thaw(self, daemon: str) -> None:
        """Let a frozen daemon go on (SIGCONT)."""
        self._signal(daemon, signal.SIGCONT)

    # -- what it is made of ----------------------------------------------------------------------------------

    def _prepared(self, spec: SandboxSpec | None, user: str) -> SandboxRecord:
        """Lay out a new sandbox, or bring an old one's configuration up to where it runs now."""
        old = self._folder.read()
        if old and old.was_ready:
            _check_programs(old.spec)
            if any(daemon.pid() for daemon in self._daemons(old.spec)):
                return old
            record = replace(old, site=self._site(old.spec, user, keep=old.site.ports))
        else:
            if old:  # its first start was cut short: nothing in it is worth keeping
                end(self._daemons(old.spec))
            chosen = spec or (old.spec if old else SandboxSpec())
            _check_programs(chosen)
            record = SandboxRecord(spec=chosen, site=self._site(chosen, user))
            self._folder.write(record)
            self._folder.lay_out(record.spec)
        if old is None or not old.was_ready or record.site != old.site:
            self._folder.configure(record)
        return record

    def _site(self, spec: SandboxSpec, user: str, *, keep: Sequence[int] = ()) -> SandboxSite:
        host = socket.gethostname().partition(".")[0]
        site = SandboxSite(
            folder=str(self.folder),
            host=host,
            user=user,
            loopback=loopback_address(host),
            version=_version(self._ask("slurmctld", "-V")),
            ports=free_ports(spec.nodes + 2, keep=keep),
        )
        if spec.auth == "none" and not site.is_closed:
            raise SandboxError(
                f"auth='none' is safe only if the daemons can listen on 127.0.0.1 alone, and Slurm listens on what "
                f"{host!r} resolves to: use auth='munge', or begin /etc/hosts with '127.0.0.1 {host}'"
            )
        return site

    # -- the daemons -----------------------------------------------------------------------------------------

    def _daemons(self, spec: SandboxSpec) -> list[Daemon]:
        return [Daemon(name=name, folder=self.folder) for name in spec.daemons]

    def _daemon(self, name: str) -> Daemon:
        known = self._folder.record().spec.daemons
        if name not in known:
            raise SandboxError(f"the sandbox has no daemon {name!r}; {nearest(name, known)}")
        return Daemon(name=name, folder=self.folder)

    def _signal(self, daemon: str, number: signal.Signals) -> None:
        if not self._daemon(daemon).signal(number):
            raise SandboxError(f"{daemon} of the sandbox in {self.folder} is down: up({daemon!r}) starts it")

    def _start(self, record: SandboxRecord) -> None:
        for daemon in self._daemons(record.spec):
            if daemon.pid() is None:
                self._launch(daemon)
            if daemon.name == "slurmdbd" and not record.was_ready:
                self._register(record.site.user)
        self._wait_for_nodes(record.spec)
        self._folder.write(replace(record, was_ready=True))

    def _launch(self, daemon: Daemon) -> None:
        end([daemon])  # one that a killed start left, and that has no pid file
        if daemon.name == "mariadb":
            if not (self.folder / "db" / "mysql").exists():
                self._run(daemon, database_command(self.folder))
                # A folder is a database. slurmdbd would make it after a first connection that finds none, and
                # with the client library of MariaDB 11.8.9 that connection then takes no answer (error 5027).
                (self.folder / "db" / DATABASE).mkdir(mode=0o700)
            (self.folder / "db" / "mysql.sock").unlink(missing_ok=True)  # one that was killed leaves it
        daemon.pid_file.unlink(missing_ok=True)
        self._run(daemon, daemon_command(daemon.name, self.folder))
        wait_until(lambda: bool(daemon.processes()), seconds=5)
        wait_until(lambda: daemon.pid() is not None or daemon.is_gone(), seconds=_READY)
        is_ready = self._questions().get(daemon.name, lambda: True)
        answered = wait_until(lambda: daemon.pid() is None or is_ready(), seconds=_READY)
        if not answered or daemon.pid() is None:
            raise self._failure(daemon)

    def _questions(self) -> dict[str, Callable[[], bool]]:
        """Return for each daemon what asks whether it is ready; a slurmd is asked for by way of its node."""
        return {
            "munged": (self.folder / "run" / "munge.sock").is_socket,
            "mariadb": (self.folder / "db" / "mysql.sock").is_socket,
            "slurmdbd": lambda: self._ask("sacctmgr", "-n", "-P", "list", "cluster") is not None,
            "slurmctld": lambda: self._ask("scontrol", "ping") is not None,
        }

    def _register(self, user: str) -> None:
        """Tell accounting of the cluster, of one account and of the user."""
        for what in (("cluster", CLUSTER), ("account", CLUSTER), ("user", user, f"Account={CLUSTER}")):
            if self._ask("sacctmgr", "-i", "-Q", "add", *what, seconds=_READY) is None:
                raise self._failure(Daemon(name="slurmdbd", folder=self.folder))

    def _wait_for_nodes(self, spec: SandboxSpec) -> None:
        nodes = [daemon for daemon in self._daemons(spec) if daemon.node]
        dead: list[Daemon] = []

        def is_settled() -> bool:
            dead[:] = [node for node in nodes if node.pid() is None]
            return bool(dead) or self._nodes_answer()

        if not wait_until(is_settled, seconds=_READY) or dead:
            raise self._failure(dead[0] if dead else Daemon(name="slurmctld", folder=self.folder))

    def _nodes_answer(self) -> bool:
        # A node that is drained or that works has answered; "*" marks one that has not.
        states = (self._ask("sinfo", "-h", "-N", "-p", "gpu", "-o", "%t") or "").split()
        return bool(states) and not any(state.endswith("*") or state in ("unk", "down") for state in states)

    def _stop(self) -> None:
        record = self._folder.record()
        daemons = {daemon.name: daemon for daemon in self._daemons(record.spec)}
        for daemon in daemons.values():
            daemon.signal(signal.SIGCONT)
        if daemons["slurmctld"].pid() is not None:
            self._cancel_jobs(record)
        kill_leftovers(self.folder)
        # Each before the one that it reports to: a slurmd that finds no slurmctld tries for 10 s more.
        end(daemon for daemon in daemons.values() if daemon.node)
        for name in ("slurmctld", "slurmdbd", "mariadb", "munged"):
            if name in daemons:
                end([daemons[name]])
        kill_leftovers(self.folder)  # what slurmd had begun meanwhile

    def _cancel_jobs(self, record: SandboxRecord) -> None:
        self._ask("scancel", f"--user={record.site.user}")
        # A job that does not end has KillWait seconds; what is still there then is killed below.
        wait_until(lambda: not self._ask("squeue", "-h", "-t", "R,CG"), seconds=min(record.spec.kill_wait + 2, 10))

    # -- commands --------------------------------------------------------------------------------------------

    def _surroundings(self) -> dict[str, str]:
        """Return the environment of daemons and commands: nothing of the caller's SLURM_* and no secret of theirs.

        slurmdbd gives MariaDB's client library no path of a socket; the library takes it from here.
        """
        own = {"PATH": search_path(), "MYSQL_UNIX_PORT": str(self.folder / "db" / "mysql.sock")}
        return {**for_trials(os.environ), **own, **self.environment}

    def _run(self, daemon: Daemon, command: list[str]) -> None:
        """Run what starts a daemon, with nothing of ours open in it: it outlives us and whoever reads our output."""
        with daemon.logs[0].open("wb") as output:
            try:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=self._surroundings(),
                    start_new_session=True,
                    umask=0o022,
                    timeout=120,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise self._failure(daemon) from error

    def _ask(self, *command: str, seconds: float = 5) -> str | None:
        """Return what a Slurm command says, or None if it fails or gives no answer in time."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._surroundings(),
                timeout=seconds,
                check=True,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def _failure(self, daemon: Daemon) -> SandboxError:
        words = daemon.last_words() or "it said nothing"
        return SandboxError(f"{daemon.name} of the sandbox in {self.folder} failed. Its last words:\n{words}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SandboxError(f"the user id {os.geteuid()} has no name, and Slurm needs one: add a line for it to /etc/passwd") from None


def _check_network() -> None:
    try:
        socket.getaddrinfo("127.0.0.1", None, socket.AF_INET, flags=socket.AI_ADDRCONFIG)  # as Slurm asks
    except OSError as error:
        raise SandboxError(
            "this machine has no network but its loopback, and then Slurm can't resolve even 127.0.0.1: "
            "connect it to any (in Docker: without --network none)"
        ) from error


def _check_programs(spec: SandboxSpec) -> None:
    missing = missing_programs(spec)
    if missing:
        raise SandboxError(f"a sandbox needs {', '.join(missing)}. Install what is missing: {install_hint()}")


def _version(words: str | None) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", words or "")
    if not found:
        raise SandboxError(f"`slurmctld -V` does not say which version it is, but {words!r}")
    return tuple(int(number) for number in found.groups())
