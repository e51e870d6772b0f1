"""Clusters by name, as TOML files describe them.

::

    [clusters.work]
    host = "ssh://ada@login.example.org"    # or "slurm", "local", "sandbox"; or, for bare machines,
    # hosts = ["gpu1", "ada@gpu2:22"]
    runs = "/scratch/ada/runs"              # where runs get their folders
    modules = ["cuda/12.1"]                 # for every job, unless it names its own
    container = "docker://python:3.12"      # kept for later
    prometheus = "http://prom.example.org:9090"  # knows what nodes and GPUs do, from DCGM's exporter
    [clusters.work.job]                     # fields of nexa_sdk.Job, for what a job leaves open
    partition = "gpu"
    account = "ml"
    [clusters.work.rates]                   # USD of a GPU-hour, by type; see nexa_sdk.monitoring.prices
    h100 = 2.49

Two files are read: the user's, ``$NEXA_CONFIG``, else ``nexa/clusters.toml`` in
``$XDG_CONFIG_HOME`` or ``~/.config``; and the project's, the nearest ``nexa.toml`` of the current
directory and its parents. The walk ends at the home directory, at a folder with ``.git``, and
before a folder that belongs to somebody else. A cluster that both describe is the project's alone:
the whole table counts, and nothing is mixed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk import settings
from nexa_sdk.errors import ClusterNotFound, InvalidInput, JobError, ProfileError, nearest
from nexa_sdk.toml_lines import Place, TomlFile, plain, shown
from nexa_sdk.transports.ssh.address import HOSTS, Address, read_hosts, write_hosts

if TYPE_CHECKING:
    from decimal import Decimal

    from nexa_sdk.job import Job

__all__ = ["RESERVED", "Profile", "find_profile", "profiles"]

RESERVED = ("local", "sandbox", "slurm")  # what Cluster(…) takes without any file
_KEYS = ("container", "host", "hosts", "job", "modules", "prometheus", "rates", "runs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GPUS = ("gpus", "gpus_per_node", "gpus_per_task")
_EITHER = (_GPUS, ("venv", "conda", "python"))  # a job has one of each at most


@dataclass(frozen=True)
class Profile:
    """A cluster that a file describes. A value.

    Attributes
    ----------
    name : str
        What ``Cluster(…)`` takes.
    host : str
        ``"local"``, ``"sandbox"``, ``"slurm"``, ``"ssh://…"`` or ``"hosts://…"``.
    path : Path
        The file.
    runs : str or None
        Where runs get their folders on the cluster.
    job : mapping of str to object
        Fields of a :class:`nexa_sdk.Job` for what a job leaves open; `modules` of the table is
        one of them.
    rates : mapping of str to Decimal
        USD of a GPU-hour, by the GPU's type.
    container : str or None
    prometheus : str or None
        The address of a Prometheus that knows what its nodes and GPUs do.
    """

    name: str
    host: str
    path: Path
    runs: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    container: str | None = None
    prometheus: str | None = None

    def complete(self, given: Mapping[str, Any]) -> Job:
        """Make a job of what the user gave, and of the defaults for what that leaves open.

        A field is the user's or the default as a whole: lists and mappings are not mixed. None is
        an answer too. A default gives way to another field for the same thing: ``gpus_per_node``
        to ``gpus``, ``venv`` to ``conda``.

        Raises
        ------
        JobError
        """
        from nexa_sdk.job import Job

        answered = {name for group in _EITHER if any(given.get(name) is not None for name in group) for name in group}
        added = {name: value for name, value in self.job.items() if name not in given and name not in answered}
        whole = {**added, **given}
        if "gpu_type" in added and all(whole.get(name) is None for name in _GPUS):
            del whole["gpu_type"], added["gpu_type"]
        try:
            return Job(**whole)
        except JobError as error:
            Job(**given)  # what is wrong without the defaults is said without them
            raise JobError(f"{error} (cluster {self.name!r} gives {', '.join(added)}; what you give instead counts, None too)") from None


def profiles() -> dict[str, Profile]:
    """Return the clusters that files describe, by name; where two describe one, the project's.

    Raises
    ------
    ProfileError
        For what can't be meant, with its file and line.
    """
    found: dict[str, Profile] = {}
    for path in _files():
        found.update(_File(path).profiles())
    return found


def find_profile(name: str) -> Profile:
    """Return the cluster of a name.

    Raises
    ------
    ClusterNotFound
        With the nearest name that there is.
    ProfileError
        As :func:`profiles` raises it.
    """
    known = profiles()
    if name not in known:
        raise ClusterNotFound(
            f"there is no cluster {name!r}; {nearest(name, [*RESERVED, *known])}; or ssh://host, the Slurm behind that login node, "
            f"or hosts://gpu1,gpu2, bare machines (other names stand in {settings.clusters_file()} and in a project's nexa.toml)"
        )
    return known[name]


def _files() -> list[Path]:
    """Return the files that there are, the one that wins last."""
    users, projects = settings.clusters_file(), _project_file()
    if os.environ.get("NEXA_CONFIG") and not os.path.exists(users):
        raise ProfileError("there is no such file, and $NEXA_CONFIG names it; make it, or unset the variable", path=users)
    return [path for path in (users, projects) if path is not None and os.path.exists(path)]


def _project_file() -> Path | None:
    """Return the nearest ``nexa.toml``."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return None
    for folder in (here, *here.parents):
        # Anybody may write into /tmp, say: what lies above the user's own folders is not the project's.
        if folder != here and folder.stat().st_uid != os.getuid():
            return None
        if (folder / "nexa.toml").is_file():
            return folder / "nexa.toml"
        if folder == Path.home() or (folder / ".git").exists():
            return None
    return None


class _File(TomlFile):
    """A file of clusters: what it says, and on which lines."""

    Error = ProfileError

    def profiles(self) -> dict[str, Profile]:
        """Return the clusters that it describes."""
        for key, value in self.content.items():
            if key != "clusters":
                hint = f"a cluster is a table [clusters.{key}]" if isinstance(value, dict) else nearest(key, ["clusters"])
                self.fail((key,), f"{key!r} is not known here; {hint}")
        tables = self.table(("clusters",), self.content.get("clusters", {}))
        return {name: self._profile(name, table) for name, table in tables.items()}

    def _profile(self, name: str, given: Any) -> Profile:
        place = ("clusters", name)
        if name in RESERVED or name.startswith(("ssh://", HOSTS)):
            self.fail(place, f"{name!r} means something already: Cluster({name!r}) needs no table; choose another name")
        if not _NAME.fullmatch(name):
            self.fail(place, f"{name!r} is no name of a cluster; give letters, digits, dots, dashes and underscores")
        table = self.table(place, given)
        for key in table:
            if key not in _KEYS:
                self.fail((*place, key), self._unknown(name, key))
        if "host" in table and "hosts" in table:
            self.fail((*place, "hosts"), f"{name} has host and hosts; give one: host is a login node, hosts are bare machines")
        if "host" not in table and "hosts" not in table:
            self.fail(
                place,
                f"{name} has no host; add one, as in host = 'slurm', host = 'ssh://you@login.example.org' or hosts = ['gpu1', 'gpu2']",
            )
        return Profile(
            name,
            self._host((*place, "host"), table["host"]) if "host" in table else self._hosts((*place, "hosts"), table["hosts"]),
            self.path,
            runs=self._runs((*place, "runs"), table["runs"]) if "runs" in table else None,
            job=self._job(place, table),
            rates={
                kind: self._rate((*place, "rates"), kind, rate)
                for kind, rate in self.table((*place, "rates"), table.get("rates", {})).items()
            },
            container=self._words((*place, "container"), table["container"]) if "container" in table else None,
            prometheus=self._address((*place, "prometheus"), table["prometheus"]) if "prometheus" in table else None,
        )

    def _unknown(self, name: str, key: str) -> str:
        from nexa_sdk.job import Job

        if key in Job.model_fields:
            return f"{key!r} is a field of a job; write it below [clusters.{name}.job]"
        return f"{key!r} is not known here; {nearest(key, _KEYS)}"

    # ---- values --------------------------------------------------------------------------------

    def _words(self, place: Place, given: Any) -> str:
        if not isinstance(given, str):
            self.fail(place, f"{place[-1]} is text, not {shown(given)}")
        if not given.strip() or not given.isprintable():
            self.fail(place, f"{place[-1]} = {given!r}: give text without line breaks, or leave it out")
        return given

    def _host(self, place: Place, given: Any) -> str:
        host = self._words(place, given)
        if host in RESERVED:
            return host
        if not host.startswith("ssh://"):
            self.fail(place, f"host = {host!r} is no host; write ssh://you@login.example.org, or {nearest(host, RESERVED)}")
        if ":" in host.removeprefix("ssh://").rpartition("@")[0]:  # it is not shown
            self.fail(place, "host holds a password; leave it out: it is asked for, or a key lets you in")
        try:
            return str(Address.read(host))
        except InvalidInput as error:
            self.fail(place, f"host: {error}")

    def _hosts(self, place: Place, given: Any) -> str:
        """Return the address of bare machines."""
        if not isinstance(given, list) or not given:
            self.fail(place, f"hosts is a list of bare machines, as in hosts = ['gpu1', 'ada@gpu2:22'], not {shown(given)}")
        words = [self._words(place, host) for host in given]
        for host in words:
            if ":" in host.removeprefix("ssh://").rpartition("@")[0]:  # it is not shown
                self.fail(place, "hosts holds a password; leave it out: it is asked for, or a key lets you in")
            if "," in host:
                self.fail(place, f"hosts: {host!r} is no host; give each as a text of its own")
        try:
            return write_hosts(read_hosts(HOSTS + ",".join(words)))
        except InvalidInput as error:
            self.fail(place, f"hosts: {error}")

    def _address(self, place: Place, given: Any) -> str:
        from urllib.parse import urlsplit

        address = self._words(place, given)
        if "@" in address.partition("//")[2].partition("/")[0]:  # it is not shown
            self.fail(place, f"{place[-1]} holds a name or a password; leave it out")
        try:
            parts = urlsplit(address)
            is_meant = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # no IPv6 address, or no port
            is_meant = False
        if not is_meant or parts.query or parts.fragment:
            self.fail(place, f"{place[-1]} = {address!r} is no address; write http://host:9090")
        return address.rstrip("/")

    def _runs(self, place: Place, given: Any) -> str:
        runs = self._words(place, given)
        if not runs.startswith(("/", "~")):
            self.fail(place, f"runs = {runs!r} depends on where one stands; give a path that begins with / or ~")
        if re.search(r'["\\]', runs):
            self.fail(place, f"runs = {runs!r}: a double quote or a backslash can't stand in an #SBATCH line; choose another")
        return runs

    def _rate(self, place: Place, kind: str, given: Any) -> Decimal:
        from decimal import Decimal

        is_number = isinstance(given, (int, Decimal)) and not isinstance(given, bool)
        if not is_number or not Decimal(given).is_finite() or given <= 0:
            self.fail((*place, kind), f"rates.{kind} is USD of a GPU-hour, a number above 0, not {shown(given)}")
        return Decimal(given)

    def _job(self, place: Place, table: dict[str, Any]) -> dict[str, Any]:
        """Return the defaults of jobs; Job itself says what can't be meant."""
        given = {key: plain(value) for key, value in self.table((*place, "job"), table.get("job", {})).items()}
        places: dict[str, Place] = {key: (*place, "job", key) for key in given}
        if "modules" in table:
            if "modules" in given:
                self.fail(places["modules"], f"modules stand here and below [{'.'.join(place)}]; give them once")
            given["modules"], places["modules"] = table["modules"], (*place, "modules")
        if not given:
            return {}
        from pydantic import BaseModel, ValidationError

        from nexa_sdk.job import Job, problems

        # A type alone is for jobs that ask for GPUs.
        counted = {"gpus": 1} if "gpu_type" in given and not any(name in given for name in _GPUS) else {}
        try:
            BaseModel.__init__(Job.__new__(Job), **given, **counted)  # Job's own would say it without the lines
        except ValidationError as error:
            found = []
            for detail, (where, what) in zip(error.errors(include_url=False), problems(error, Job), strict=True):
                named = [str(part) for part in detail["loc"]] or [word for word in re.findall(r"\w+", what) if word in places]
                line = self.line((*places[named[0]], *named[1:]) if named else (*place, "job"))
                is_beside = where.startswith("modules") and "modules" in table
                found.append((line, f"{where if is_beside else f'job.{where}' if where else 'job'}: {what}"))
            (line, words), *rest = sorted(found)
            words = "; ".join([words, *(f"line {other}: {more}" for other, more in rest)])
            raise ProfileError(words, path=self.path, line=line) from None
        return given
