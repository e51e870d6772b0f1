"""Cluster: where."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk import settings
from nexa_sdk.errors import ClusterError, InvalidInput, JobError, RunNotFound, SweepError
from nexa_sdk.plan import Plan
from nexa_sdk.predecessors import after_runs, check_alike
from nexa_sdk.profiles import Profile, find_profile, profiles
from nexa_sdk.scheduling.base import Limits, Scheduler
from nexa_sdk.transports.local import LocalTransport
from nexa_sdk.transports.ssh.address import Address

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.definition import Definition
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.records import RunRecord
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.slurm.sandbox import Sandbox
    from nexa_sdk.scheduling.watcher import Watcher
    from nexa_sdk.sweep import Sweep
    from nexa_sdk.transports.base import Transport

# A plan needs neither run nor journal nor watcher: they are imported when first used.
__all__ = ["KNOWN", "Cluster", "attach", "clusters", "runs"]

KNOWN = {
    "local": "this machine, by the embedded scheduler: nothing to install",
    "sandbox": "a real Slurm of one machine, started in a folder",
    "slurm": "the Slurm of this machine",
}


class Cluster:
    """A place where trials run.

    Parameters
    ----------
    where : {'local', 'sandbox', 'slurm', 'ssh://…'} or str
        ``"local"``: this machine, by the embedded scheduler; needs nothing installed.
        ``"sandbox"``: a real Slurm with accounting and make-believe GPUs, started in a folder when
        first needed. ``"slurm"``: the Slurm that this machine's commands reach.
        ``"ssh://user@host:port"``: the Slurm behind that login node, as ``~/.ssh/config`` reaches it.
        Any other name is one that the user's ``clusters.toml`` or the project's ``nexa.toml``
        describes; see :mod:`nexa_sdk.profiles`.
    runs : path, optional
        Where runs get their folders; the nodes must see it. Unless given, what the cluster's
        description says, else ``$NEXA_RUNS``, else ``~/.nexa/runs``.

    Attributes
    ----------
    name : str
        What was given as `where`.
    url : str
        What the name stands for, and finds the cluster again when its name is another:
        ``Cluster(url)``. Runs are written down with it, and clusters that share it share a poller.
    profile : Profile or None
        The description.

    Raises
    ------
    ClusterNotFound
        For a name that there is not.
    ProfileError
        For a file of clusters that can't be meant; only names that it could describe read it.
    """

    def __init__(self, where: str = "local", *, runs: str | os.PathLike[str] | None = None) -> None:
        self.name = where
        self.profile: Profile | None = None if where in KNOWN or where.startswith("ssh://") else find_profile(where)
        host = where if self.profile is None else self.profile.host
        if runs is None and self.profile is not None:
            runs = self.profile.runs
        self._address = Address.read(host) if host.startswith("ssh://") else None
        self.url = host if self._address is None else str(self._address)
        given = os.fspath(runs) if runs is not None else None
        if self._address is None:
            given = os.path.abspath(os.path.expanduser(given)) if given is not None else str(settings.runs_folder())
        if given is not None and re.search(r'[\n\r"\\]', given):
            raise InvalidInput(
                f"runs={given!r}: a line break, a double quote or a backslash can't stand in an #SBATCH line; choose another"
            )
        self._runs = given

    @cached_property
    def runs_folder(self) -> str:
        """Where runs get their folders, on the cluster."""
        if self._address is None:
            return str(self._runs)
        home = self.transport.environment().get("HOME", "")
        return posixpath.normpath(posixpath.join(home, re.sub(r"^~(/|$)", r"./", self._runs or ".nexa/runs")))

    @cached_property
    def transport(self) -> Transport:
        """How commands and files reach the cluster; a connection is opened when it is first needed."""
        if self._address is None:
            return LocalTransport()
        from nexa_sdk.transports.ssh.config import resolve
        from nexa_sdk.transports.ssh.connection import connection
        from nexa_sdk.transports.ssh.transport import SshTransport

        return SshTransport(connection(resolve(self._address)))

    @staticmethod
    def trust(host: str, fingerprint: str | None = None) -> str:
        """Accept the key of a host that is not known yet: it is written to the user's own known hosts.

        Parameters
        ----------
        host : str
            ``"ssh://user@host:port"``, a cluster that the configuration names, or a name of ``~/.ssh/config``.
        fingerprint : str, optional
            ``"SHA256:…"``, as the host's administrators publish it. Unless given, the one that the host
            shows is shown, and you are asked.

        Returns
        -------
        str
            The fingerprint that is known now.

        Raises
        ------
        InvalidInput
            The host shows another.
        HostKeyChanged
            Another key is known already.
        """
        from nexa_sdk.transports.ssh import host_keys
        from nexa_sdk.transports.ssh.config import resolve
        from nexa_sdk.transports.ssh.connection import connection
        from nexa_sdk.transports.ssh.prompting import ask

        if host not in KNOWN and not host.startswith("ssh://") and host in profiles():
            host = find_profile(host).host
        settings = resolve(Address.read(host))
        key = connection(settings).shown_key()
        shown = host_keys.fingerprint(key)
        if fingerprint is None:
            answer = ask(f"{settings.known_as} shows the key {shown}. Is it the one that its administrators publish? (yes/no) ", shown=True)
            if answer.strip().lower() not in ("y", "yes"):
                raise InvalidInput(f"the key of {settings.known_as} was not accepted")
        path = host_keys.accept(settings, key, fingerprint or shown)
        print(f"{settings.known_as} is known by {shown}, in {path}")
        return shown

    @cached_property
    def journal(self) -> Journal:
        """What was submitted."""
        from nexa_sdk.journal import Journal

        return Journal()

    @cached_property
    def scheduler(self) -> Scheduler:
        """What submits and answers; a sandbox is started when first asked for."""
        if self.url == "local":
            from nexa_sdk.scheduling.local import LocalScheduler

            return LocalScheduler(settings.home() / "local")
        from nexa_sdk.scheduling.slurm.commands import SlurmScheduler

        if self.url == "slurm" or self._address is not None:
            return SlurmScheduler(self.transport)
        sandbox = self._sandbox()
        if not sandbox.is_up:
            sandbox.start()
        return SlurmScheduler(self.transport, sandbox.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's own commands need in their environment to reach this cluster: ``!sacct`` in a cell, say."""
        return self._sandbox().environment if self.url == "sandbox" else {}

    def _sandbox(self) -> Sandbox:
        from nexa_sdk.scheduling.slurm.sandbox import Sandbox

        return Sandbox(settings.sandbox_folder())

    @cached_property
    def watcher(self) -> Watcher:
        """The one poller of this cluster."""
        return _shared_watcher(self)

    def limits(self) -> Limits:
        """Say what the cluster accepts; where it can't be asked, Slurm's defaults.

        A plan can so be looked at where there is no Slurm; its checks and its launch say it.
        """
        try:
            return self.scheduler.limits()
        except ClusterError:
            return Limits()

    def plan(
        self,
        sweep: Sweep | Definition,
        job: Job | None = None,
        *,
        after: Run | Sequence[Run] | None = None,
        after_each: Run | None = None,
        **resources: Any,
    ) -> Plan:
        """Plan a sweep; nothing is written and nothing submitted.

        Parameters
        ----------
        sweep : Sweep or Definition
            A definition, as ``%%nexa sweep --out`` names one, brings its job.
        job : Job, optional
        after : Run or sequence of Run, optional
            Nothing runs before all trials of these have completed. If one fails, all is cancelled,
            and says so.
        after_each : Run, optional
            Trial i runs once trial i of this has completed, and is cancelled if that fails. It must
            have as many trials, cut into the same arrays.
        **resources
            Fields of a :class:`Job`, instead of one or to change some of its. What both leave open
            the cluster's description may say; see :meth:`nexa_sdk.profiles.Profile.complete`.
        """
        from nexa_sdk.job import Job
        from nexa_sdk.sweep import Sweep

        if not isinstance(sweep, Sweep) and hasattr(sweep, "sweep"):
            job = sweep.job if job is None else job
            sweep = sweep.sweep
        if not isinstance(sweep, Sweep):
            raise SweepError(f"{sweep!r} is no Sweep; make one: Sweep({sweep!r}, grid=…)")
        if job is not None and not isinstance(job, Job):
            raise JobError(f"{job!r} is no Job; give Job(…), or its fields: plan(sweep, time='1:00:00')")
        given = {**job.given(), **resources} if job is not None else resources
        if self.profile is not None:
            chosen = self.profile.complete(given)
        else:
            chosen = Job(**given) if resources or job is None else job
        first = after_runs(after, after_each, cluster=self.url, dependency=chosen.dependency)
        plan = Plan(sweep, chosen, self, limits=self.limits(), after=first)
        if after_each is not None:
            check_alike(after_each, len(sweep), plan.arrays, chosen.trials_per_task)
        return plan

    def launch(
        self,
        sweep: Sweep | Definition,
        job: Job | None = None,
        *,
        again: bool = False,
        after: Run | Sequence[Run] | None = None,
        after_each: Run | None = None,
        **resources: Any,
    ) -> Run:
        """Plan and submit; see :meth:`plan` and :meth:`Plan.submit`."""
        return self.plan(sweep, job, after=after, after_each=after_each, **resources).submit(again=again)

    def run(self, record: RunRecord) -> Run:
        """Return the handle on a run of this cluster."""
        from nexa_sdk.run import Run

        return Run(
            record,
            scheduler=self.scheduler,
            watcher=self.watcher,
            transport=self.transport,
            journal=self.journal,
            other=lambda run_id: self.run(self.journal.run(run_id)),
            files=lambda: Plan.recall(self.journal.plan(record.id), self).files_by_token(),
        )

    def partitions(self) -> list[str]:
        """Name the partitions."""
        return self.scheduler.partitions()

    def __repr__(self) -> str:
        what = KNOWN.get(self.url, "the Slurm behind this login node")
        return f"<Cluster {self.name}: {what}>" if self.name == self.url else f"<Cluster {self.name}: {self.url}, {what}>"


_watchers: dict[tuple[str, Path, Path], Watcher] = {}


def _shared_watcher(cluster: Cluster) -> Watcher:
    key = (cluster.url, settings.home(), settings.sandbox_folder())
    if key not in _watchers:
        from nexa_sdk.scheduling.watcher import Watcher

        _watchers[key] = Watcher(cluster.scheduler)
    return _watchers[key]


def attach(run_id: str, *, cluster: Cluster | str | None = None) -> Run:
    """Find a run again, in any process; the beginning of its id is enough where it is clear.

    Parameters
    ----------
    cluster : Cluster or str, optional
        Where to look for its folder, if this machine's journal does not know it: it was launched on
        another laptop, or the journal is gone.

    Raises
    ------
    RunNotFound
    """
    from nexa_sdk.journal import Journal

    try:
        record = Journal().run(run_id)
    except RunNotFound as error:
        if cluster is None:
            raise RunNotFound(f"{error}. If it was launched elsewhere: attach({run_id!r}, cluster=…) looks for its folder") from error
        from nexa_sdk.finding import find_on

        where = Cluster(cluster) if isinstance(cluster, str) else cluster
        return where.run(find_on(where, run_id))
    return Cluster(record.cluster).run(record)


def clusters() -> pd.DataFrame:
    """List the clusters that have a name; none is asked.

    Returns
    -------
    pandas.DataFrame
        Indexed by cluster: `host`, `runs` (where runs get their folders), `file` (which describes
        it; empty for what needs no description).

    Raises
    ------
    ProfileError
    """
    import pandas as pd

    usual = str(settings.runs_folder())
    rows = {name: (name, usual, "") for name in KNOWN}
    for name, found in profiles().items():
        default = "~/.nexa/runs" if found.host.startswith("ssh://") else usual
        rows[name] = (found.host, found.runs or default, str(found.path))
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="cluster"), columns=["host", "runs", "file"])


def runs(*, limit: int = 20) -> pd.DataFrame:
    """List the newest runs, as the journal has them; no cluster is asked.

    Returns
    -------
    pandas.DataFrame
        Indexed by run: `cluster`, `trials`, `launched`, `state` where all is over, `folder`.
    """
    import pandas as pd

    from nexa_sdk.journal import Journal

    journal = Journal()
    records = journal.runs(limit=limit)
    columns = {
        "cluster": [record.cluster for record in records],
        "trials": [record.trials for record in records],
        "launched": pd.to_datetime([record.created for record in records], unit="s", utc=True).round("s"),
        "state": [journal.outcome(record.id) for record in records],
        "folder": [record.folder for record in records],
    }
    return pd.DataFrame(columns, index=pd.Index([record.id for record in records], name="run"))
