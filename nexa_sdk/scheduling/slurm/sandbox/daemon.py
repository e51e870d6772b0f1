"""The daemons of a sandbox as processes: is it ours and alive, send it a signal, end it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Daemon", "end", "kill_leftovers", "wait_until"]

_PROGRAMS = {
    "munged": ("munged",),
    "mariadb": ("mariadbd", "mysqld", "mariadb-install-db", "mysql_install_db"),
    "slurmdbd": ("slurmdbd",),
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd",),
}

# seconds that a daemon has to end by itself, before it is killed
_PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """One daemon of the sandbox in `folder`.

    Parameters
    ----------
    name : str
        "munged", "mariadb", "slurmdbd", "slurmctld", or "slurmd-n1" and so on.
    folder : Path
    """

    name: str
    folder: Path

    @property
    def pid_file(self) -> Path:
        """Return the file into which the daemon writes its process id."""
        return self.folder / "run" / f"{self.name}.pid"

    @property
    def logs(self) -> tuple[Path, Path]:
        """Return what it printed before it had a log, and its log."""
        log = self.folder / "log"
        return log / f"{self.name}.out", log / f"{self.name}.log"

    @property
    def node(self) -> str | None:
        """Return the node that a slurmd plays."""
        return self.name.partition("-")[2] or None

    def pid(self) -> int | None:
        """Return the id of the live process, or None.

        A pid file outlives its daemon, and its number may by now belong to anybody: so it counts only if the
        process is that program and was started with this sandbox's SLURM_CONF.
        """
        try:
            pid = int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if _is_alive(pid) and self._is(pid) else None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process; say whether there was one."""
        pid = self.pid()
        return pid is not None and _send(pid, number)

    def last_words(self, *, lines: int = 12) -> str:
        """Return the ends of what it printed and logged."""
        texts = (log.read_text(encoding="utf-8", errors="replace") for log in self.logs if log.exists())
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in texts if text.strip())

    def processes(self) -> list[int]:
        """Return the ids of all its live processes, also of one that has not written its pid file yet."""
        return [pid for pid in _all_processes() if _is_alive(pid) and self._is(pid)]

    def is_gone(self) -> bool:
        """Whether there is no process of it.

        One that goes to the background can be missed: the parent ends before it is looked at, and its child
        began after the list was made. So what was not found is looked for again.
        """
        return not any(self.processes() for _ in range(3))

    def _is(self, pid: int) -> bool:
        command = _read(pid, "cmdline")
        names = {Path(word).name for word in command[:2]}  # a script's name comes after its shell's
        if names.isdisjoint(_PROGRAMS[self.name.partition("-")[0]]):
            return False
        return (self.node is None or self.node in command) and _setting(self.folder) in _read(pid, "environ")


def end(daemons: Iterable[Daemon]) -> None:
    """End daemons all at once and wait for each; one that does not end is killed."""
    ending = [(daemon, pid) for daemon in daemons for pid in daemon.processes()]
    for _, pid in ending:
        _send(pid, signal.SIGTERM)
        _send(pid, signal.SIGCONT)  # a stopped process hears nothing else
    deadline = time.monotonic() + _PATIENCE
    for daemon, pid in ending:
        if not _wait_for_end(pid, seconds=deadline - time.monotonic()):
            _send(pid, signal.SIGKILL)
            _wait_for_end(pid, seconds=5)
        daemon.pid_file.unlink(missing_ok=True)


def kill_leftovers(folder: Path) -> None:
    """Kill the job steps and the jobs' processes that outlived a sandbox's slurmd."""
    leftovers = [pid for pid in _all_processes() if pid != os.getpid() and _is_of_job(pid, folder)]
    for pid in leftovers:
        _send(pid, signal.SIGKILL)
    for pid in leftovers:
        _wait_for_end(pid, seconds=2)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask until a condition holds; return False if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.03)
    return True


def _setting(folder: Path) -> str:
    return f"SLURM_CONF={folder}/etc/slurm.conf"


def _is_of_job(pid: int, folder: Path) -> bool:
    environment = _read(pid, "environ")
    if _setting(folder) not in environment:
        return False
    return _name(pid) in ("slurmstepd", "slurm_script") or any(entry.startswith("SLURM_JOB_ID=") for entry in environment)


def _wait_for_end(pid: int, *, seconds: float) -> bool:
    return wait_until(lambda: not _is_alive(pid), seconds=seconds)


def _all_processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # "pid (name) state …", where the name may hold anything. A zombie is dead: in a container
    # there may be nobody who ever reaps it.
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read(pid: int, file: str) -> list[str]:
    """Read the strings of /proc/PID/cmdline or environ; none if the process is gone or another user's."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return []
    return text.decode("utf-8", "surrogateescape").split("\0")


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
