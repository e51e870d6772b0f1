"""The programs that a sandbox needs, the packages that bring them, and how each daemon is called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nexa_sdk.errors import SandboxError
from nexa_sdk.scheduling.slurm.sandbox.config import SandboxSpec

__all__ = ["PACKAGES", "daemon_command", "database_command", "install_hint", "missing_programs", "search_path"]

# These four exist in Debian 11 to 13 and Ubuntu 22.04 and 24.04 and depend on the rest, the plugins
# (slurm-wlm-basic-plugins, slurm-wlm-mysql-plugin where it is a package of its own) included.
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")

# Each program by the names that it has had, the present one first.
_ALWAYS = tuple((name,) for name in ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo"))
_ACCOUNTING = (
    ("slurmdbd",),
    ("sacctmgr",),
    ("sacct",),
    ("setsid",),
    ("mariadbd", "mysqld"),
    ("mariadb-install-db", "mysql_install_db"),
)
_MUNGE = (("munged",),)


def missing_programs(spec: SandboxSpec | None = None) -> list[str]:
    """Name the programs that a sandbox needs and that are not installed.

    Parameters
    ----------
    spec : SandboxSpec, optional
        Without accounting or munge fewer are needed. Without a spec: all of them.
    """
    needed: tuple[tuple[str, ...], ...] = _ALWAYS
    if spec is None or spec.auth == "munge":
        needed += _MUNGE
    if spec is None or spec.accounting:
        needed += _ACCOUNTING
    return [names[0] for names in needed if _find(*names) is None]


def install_hint() -> str:
    """Return the line that installs the programs on Debian and Ubuntu."""
    return "sudo apt-get install --no-install-recommends " + " ".join(PACKAGES)


def search_path() -> str:
    """Return PATH with the folders of the daemons, which an ordinary user's PATH lacks."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def daemon_command(name: str, folder: Path) -> list[str]:
    """Return what starts a daemon of the sandbox in `folder`: it then goes to the background by itself."""
    if name == "munged":
        return _munged(folder)
    if name == "mariadb":
        # The only one that stays in the foreground: setsid --fork detaches it.
        return ["setsid", "--fork", _program("mariadbd", "mysqld"), *_mariadb_options(folder)]
    if name.startswith("slurmd-"):
        return [_program("slurmd"), "-N", name.partition("-")[2]]
    return [_program(name)]


def database_command(folder: Path) -> list[str]:
    """Return what creates the empty database.

    slurmdbd keeps a stored procedure in MariaDB's system tables. Where they are missing, users' associations
    silently are too (22.05), or slurmdbd dies at the first `sacctmgr add` (23.11).
    """
    return [
        _program("mariadb-install-db", "mysql_install_db"),
        "--no-defaults",
        *_as_root(),
        f"--datadir={folder}/db",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
    ]


def _munged(folder: Path) -> list[str]:
    return [
        _program("munged"),
        "--force",  # whatever the owners and modes of the folders above
        f"--key-file={folder}/etc/munge.key",
        f"--socket={folder}/run/munge.sock",
        f"--pid-file={folder}/run/munged.pid",
        f"--log-file={folder}/log/munged.log",
        f"--seed-file={folder}/run/munge.seed",
        "--num-threads=4",
    ]


def _mariadb_options(folder: Path) -> list[str]:
    # No network, and no passwords: its socket lies in a folder that is its user's alone.
    return [
        "--no-defaults",
        *_as_root(),
        f"--datadir={folder}/db",
        f"--socket={folder}/db/mysql.sock",
        f"--pid-file={folder}/run/mariadb.pid",
        f"--log-error={folder}/log/mariadb.log",
        f"--tmpdir={folder / 'tmp'}",
        "--skip-grant-tables",
        "--skip-networking",
        "--skip-log-bin",
        "--skip-name-resolve",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
        "--max-allowed-packet=16M",
        "--performance-schema=OFF",
        "--loose-innodb-snapshot-isolation=OFF",  # MariaDB 11.8: Slurm 26.05 logs an error otherwise
    ]


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _find(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name, path=search_path()))), None)


def _program(*names: str) -> str:
    path = _find(*names)
    if path is None:
        raise SandboxError(f"{names[0]} is not installed. Install it: {install_hint()}")
    return path
