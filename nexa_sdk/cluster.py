"""Cluster: where."""

from __future__ import annotations

import os
import posixpath
import re
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from nexa_sdk import settings
from nexa_sdk.budget import Budget
from nexa_sdk.errors import ClusterError, InvalidInput, JobError, SweepError
from nexa_sdk.plan import Plan
from nexa_sdk.predecessors import after_runs, check_alike
from nexa_sdk.profiles import Profile, find_profile, profiles
from nexa_sdk.scheduling.base import Limits, Scheduler
from nexa_sdk.transports.local import LocalTransport
from nexa_sdk.transports.ssh.address import HOSTS, Address, read_hosts, write_hosts

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.definition import Definition
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.notebook.views.cluster import ClusterView
    from nexa_sdk.rates import Rates
    from nexa_sdk.records import RunRecord
    from nexa_sdk.remote_cell import RemoteCell
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.slurm.sandbox import Sandbox
    from nexa_sdk.scheduling.watcher import Watcher
    from nexa_sdk.sweep import Sweep
    from nexa_sdk.syncing import Synced
    from nexa_sdk.transports.base import Transport

# A plan needs neither run nor journal nor watcher: they are imported when first used.
__all__ = ["KNOWN", "Cluster"]

KNOWN = {
    "local": "this machine, by the embedded scheduler: nothing to install",
    "sandbox": "a real Slurm of one machine, started in a folder",
    "slurm": "the Slurm of this machine",
}


class Cluster:
    """A place where trials run.

    Parameters
    ----------
    where : {'local', 'sandbox', 'slurm', 'ssh://…', 'hosts://…'} or str
        ``"local"``: this machine, by the embedded scheduler; needs nothing installed.
        ``"sandbox"``: a real Slurm with accounting and make-believe GPUs, started in a folder when
        first needed. ``"slurm"``: the Slurm that this machine's commands reach.
        ``"ssh://user@host:port"``: the Slurm behind that login node, as ``~/.ssh/config`` reaches it.
        ``"hosts://user@gpu1:22,gpu2"``: bare machines without a scheduler; see :meth:`hosts`.
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
        self.profile: Profile | None = None if where in KNOWN or where.startswith(("ssh://", HOSTS)) else find_profile(where)
        host = where if self.profile is None else self.profile.host
        if runs is None and self.profile is not None:
            runs = self.profile.runs
        self._address = Address.read(host) if host.startswith("ssh://") else None
        self._hosts = read_hosts(host) if host.startswith(HOSTS) else None
        self.url = write_hosts(self._hosts) if self._hosts else str(self._address or host)
        given = os.fspath(runs) if runs is not None else None
        if self._is_here:
            given = os.path.abspath(os.path.expanduser(given)) if given is not None else str(settings.runs_folder())
        if given is not None and re.search(r'[\n\r"\\]', given):
            raise InvalidInput(
                f"runs={given!r}: a line break, a double quote or a backslash can't stand in an #SBATCH line; choose another"
            )
        if given is not None and not self._is_here and re.match(r"~[^/]|\$", given):
            raise InvalidInput(f"runs={given!r}: variables and other users' homes are not looked up on the cluster; give the whole path")
        self._runs = given

    @classmethod
    def hosts(cls, *names: str, runs: str | os.PathLike[str] | None = None) -> Cluster:
        """Return bare machines without a scheduler, reached by SSH, as one cluster.

        On each the embedded scheduler runs the very same script. Trials go first to where GPUs are free
        and nobody computes, and stay on their machine. nexa_sdk need not be there: python3 (3.6 or
        later), bash and tar are enough. A launch waits for no other run there, and nothing runs
        failed trials again by itself, where there are several: no machine knows of another.

        Parameters
        ----------
        *names : str
            ``"user@host:port"``, or names of ``~/.ssh/config``.
        runs : path, optional
            Where runs get their folders, by the same path on each. Unless given, ``~/.nexa/runs``.

        Raises
        ------
        InvalidInput
            For a name that can't be meant, or that is given twice.
        """
        for name in names:
            if not isinstance(name, str):
                raise InvalidInput(f"{name!r} is no host; give each as a text of its own: Cluster.hosts('gpu1', 'gpu2')")
        return cls(HOSTS + ",".join(names), runs=runs)

    @property
    def _is_here(self) -> bool:
        """Whether it is this machine, or what this machine's commands reach."""
        return self._address is None and self._hosts is None

    @cached_property
    def runs_folder(self) -> str:
        """Where runs get their folders, on the cluster."""
        if self._is_here or (self._runs or "").startswith("/"):
            return posixpath.normpath(str(self._runs))
        home = self.transport.environment().get("HOME", "")
        return posixpath.normpath(posixpath.join(home, re.sub(r"^~(/|$)", r"./", self._runs or ".nexa/runs")))

    @cached_property
    def transport(self) -> Transport:
        """How commands and files reach the cluster; a connection is opened when it is first needed."""
        if self._is_here:
            return LocalTransport()
        from nexa_sdk.transports.several import SeveralTransport
        from nexa_sdk.transports.ssh.config import resolve
        from nexa_sdk.transports.ssh.connection import connection
        from nexa_sdk.transports.ssh.transport import SshTransport

        if self._address is not None:
            return SshTransport(connection(resolve(self._address)))
        return SeveralTransport({name: SshTransport(connection(resolve(address))) for name, address in (self._hosts or {}).items()})

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
        if host.startswith(HOSTS):
            first, *others = read_hosts(host).values()
            if others:
                raise InvalidInput(
                    f"{host} are several hosts, and each has a key of its own: give one, as in Cluster.trust({first.host!r})"
                )
            host = str(first)
        settings = resolve(Address.read(host))
        key = connection(settings).shown_key()
        shown = host_keys.fingerprint(key)
        if fingerprint is None:
            answer = ask(f"{settings.known_as} shows the key {shown}. Is it the one that its administrators publish? (yes/no) ", shown=True)
            if answer.strip().lower() not in ("y", "yes"):
                raise InvalidInput(f"the key of {settings.known_as} was not accepted")
            fingerprint = shown
        path = host_keys.accept(settings, key, fingerprint)
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
        if self._hosts is not None:
            from nexa_sdk.scheduling.hosts import HostsScheduler

            return HostsScheduler({name: self.transport.at(name) for name in self._hosts})
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
        budget: Budget | str | float | None = None,
        allow_unknown: bool = False,
        **resources: Any,
    ) -> Plan:
        """Plan a sweep; nothing is written and nothing submitted.

        Parameters
        ----------
        sweep : Sweep or Definition
            A definition, as ``%%nexa sweep --out`` names one, brings its job and its budget.
        job : Job, optional
        after : Run or sequence of Run, optional
            Nothing runs before all trials of these have completed. If one fails, all is cancelled,
            and says so.
        after_each : Run, optional
            Trial i runs once trial i of this has completed, and is cancelled if that fails. It must
            have as many trials, cut into the same arrays.
        budget : str, number or Budget, optional
            What it may cost, ``"50 USD"``: it is refused if it could cost more, and its tasks hold to
            it also while no notebook is open; see :class:`nexa_sdk.Budget`.
        allow_unknown : bool
            Launch it though nobody knows what it costs, and nothing can hold a budget.
        **resources
            Fields of a :class:`Job`, instead of one or to change some of its. What both leave open
            the cluster's description may say; see :meth:`nexa_sdk.profiles.Profile.complete`.
        """
        from nexa_sdk.sweep import Sweep

        if not isinstance(sweep, Sweep) and hasattr(sweep, "sweep"):
            job, budget = sweep.job if job is None else job, sweep.budget if budget is None else budget
            sweep = sweep.sweep
        if not isinstance(sweep, Sweep):
            raise SweepError(f"{sweep!r} is no Sweep; make one: Sweep({sweep!r}, grid=…)")
        chosen = self._job(job, resources)
        first = after_runs(after, after_each, cluster=self.url, dependency=chosen.dependency)
        plan = Plan(sweep, chosen, self, limits=self.limits(), after=first, budget=Budget.read(budget), allow_unknown=allow_unknown)
        if after_each is not None:
            check_alike(after_each, len(sweep), plan.arrays, chosen.trials_per_task)
        return plan

    def _job(self, job: Job | None, resources: dict[str, Any]) -> Job:
        """Make the job of what was given; what that leaves open the cluster's description may say."""
        from nexa_sdk.job import Job

        if job is not None and not isinstance(job, Job):
            raise JobError(f"{job!r} is no Job; give Job(…), or its fields: plan(sweep, time='1:00:00')")
        given = {**job.given(), **resources} if job is not None else resources
        if self.profile is not None:
            return self.profile.complete(given)
        return Job(**given) if resources or job is None else job

    def launch(
        self,
        sweep: Sweep | Definition,
        job: Job | None = None,
        *,
        again: bool = False,
        after: Run | Sequence[Run] | None = None,
        after_each: Run | None = None,
        budget: Budget | str | float | None = None,
        allow_unknown: bool = False,
        **resources: Any,
    ) -> Run:
        """Plan and submit; see :meth:`plan` and :meth:`Plan.submit`."""
        plan = self.plan(sweep, job, after=after, after_each=after_each, budget=budget, allow_unknown=allow_unknown, **resources)
        return plan.submit(again=again)

    def plan_remote(
        self,
        code: str,
        job: Job | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        name: str | None = None,
        namespace: Mapping[str, Any] | None = None,
        first_line: int = 1,
        after: Run | Sequence[Run] | None = None,
        budget: Budget | str | float | None = None,
        allow_unknown: bool = False,
        **resources: Any,
    ) -> Plan:
        """Plan to execute Python on the cluster; see :meth:`remote`. Nothing is written and nothing submitted."""
        from nexa_sdk.remote.packing import STARTER, pack_cell
        from nexa_sdk.sweep import Sweep

        chosen = self._job(job, resources)
        cell = pack_cell(code, inputs=inputs or {}, outputs=outputs, namespace=namespace, first_line=first_line)
        sweep = Sweep([_python_of(chosen, here=self._is_here), "-u", "-c", STARTER, cell.digest], name=name or "remote")
        first = after_runs(after, None, cluster=self.url, dependency=chosen.dependency)
        return Plan(
            sweep, chosen, self, limits=self.limits(), after=first, budget=Budget.read(budget), allow_unknown=allow_unknown, cell=cell
        )

    def remote(
        self,
        code: str,
        job: Job | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        name: str | None = None,
        again: bool = False,
        after: Run | Sequence[Run] | None = None,
        budget: Budget | str | float | None = None,
        allow_unknown: bool = False,
        **resources: Any,
    ) -> RemoteCell:
        """Execute Python on the cluster, as one trial of a run: what ``%%nexa remote`` does with a cell.

        ``cluster.remote("model = fit(x)", inputs={"x": x, "fit": fit}, outputs=["model"], time="1:00:00")``
        returns at once; its ``result()`` waits, shows what the code writes and shows, and returns the
        outputs. Where the job has its Python, 3.8 or later, nothing need be installed.

        Called again with the same it takes up the execution that is under way, or whose end nobody here
        was told yet; once somebody was, it is executed anew.

        Parameters
        ----------
        code : str
            As a notebook's cell has it.
        job : Job, optional
        inputs : mapping, optional
            Values by name, pickled each by itself by cloudpickle; a module is imported there. Nothing
            else goes along. They lie in the run's folder, for its owner alone (mode 0600).
        outputs : sequence of str
            Names that the code defines, and whose values come back.
        name : str, optional
            What the run is called; else ``remote``.
        again : bool
            Execute it anew, even so.
        after, budget, allow_unknown
            As :meth:`plan` has them.
        **resources
            Fields of a :class:`Job`, instead of one or to change some of its. Its `venv`, `conda`,
            `modules` or `python` say which Python executes it; unless one is given, on this machine
            the Python that plans, and elsewhere the ``python3`` of the job.

        Raises
        ------
        InvalidInput
            The code is no Python, an input can't be pickled, or an output is defined nowhere. Nothing was sent.
        PreflightFailed, BudgetExceeded, SubmissionRejected, SubmissionUnknown
        """
        plan = self.plan_remote(
            code,
            job,
            inputs=inputs,
            outputs=outputs,
            name=name,
            after=after,
            budget=budget,
            allow_unknown=allow_unknown,
            **resources,
        )
        return plan.submit(again=again).cell

    @overload
    def sync(
        self,
        path: str | os.PathLike[str] = ".",
        destination: str | None = None,
        *,
        dry_run: Literal[False] = False,
        delete: bool = True,
        adopt: bool = False,
        include_runs: bool = False,
        timeout: float | None = None,
        progress: bool = True,
    ) -> Synced: ...

    @overload
    def sync(
        self,
        path: str | os.PathLike[str] = ".",
        destination: str | None = None,
        *,
        dry_run: bool,
        delete: bool = True,
        adopt: bool = False,
        include_runs: bool = False,
        timeout: float | None = None,
        progress: bool = True,
    ) -> Synced | pd.DataFrame: ...

    def sync(
        self,
        path: str | os.PathLike[str] = ".",
        destination: str | None = None,
        *,
        dry_run: bool = False,
        delete: bool = True,
        adopt: bool = False,
        include_runs: bool = False,
        timeout: float | None = None,
        progress: bool = True,
    ) -> Synced | pd.DataFrame:
        """Make a folder of the cluster what the project is here; ``workdir=`` takes that folder then.

        By rsync over the connection that is open: nobody logs in again, and what is the same does not
        travel. A line that goes is opened again, and what arrived in part is taken up. Without rsync on
        either side, by SFTP. ``.gitignore`` and ``.nexaignore`` say what does not belong to the project.

        Parameters
        ----------
        path : path
            The project, or a folder in its repository.
        destination : str, optional
            Where to, on the cluster; what is no whole path lies in your home there. Unless given, a
            folder in the home that is called as the project's.
        dry_run : bool
            Change nothing, and list what would go and what would be deleted.
        delete : bool
            Delete there what earlier syncs put there and the project has no more. Nothing else is ever
            deleted: a list of what is ours lies in ``.nexa-sync`` there.
        adopt : bool
            Take a folder that is not empty, and that no sync of this project made.
        include_runs : bool
            Take this machine's folder of runs along, where it lies in the project.
        timeout : float, optional
            Seconds for all of it. Unless given, as long as it takes.
        progress : bool
            Show how far it is, the rate and the remaining time.

        Returns
        -------
        Synced
            Or, of a dry run, a DataFrame: `action` (add, update, delete), `path`, `size` in bytes; of bare
            machines `host` as well. These are synced one after another.

        Raises
        ------
        InvalidInput
            The destination is not ours, or can't be meant. Nothing was changed.
        ClusterError
            The disk there is full, the line does not come back, or another reason. What arrived is kept,
            and the same call goes on with it.
        """
        from nexa_sdk.syncing import sync, together

        options: dict[str, Any] = {
            "dry_run": dry_run,
            "delete": delete,
            "adopt": adopt,
            "include_runs": include_runs,
            "timeout": timeout,
            "progress": progress,
        }
        if self._hosts is None:
            return sync(self, path, destination, **options)
        return together(self.url, {name: sync(self._one(host), path, destination, **options) for name, host in self._hosts.items()})

    def _one(self, host: Address) -> Cluster:
        """Return one of its bare machines as a cluster of its own, with the same folder of runs."""
        return Cluster(str(host), runs=self._runs)

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
            rates=self.rates,
            files=lambda: Plan.recall(self.journal.plan(record.id), self).files_by_token(),
            prometheus=lambda: self.prometheus,
        )

    @property
    def prometheus(self) -> str | None:
        """The Prometheus that knows what its nodes do, where a description names one."""
        if self.profile is not None:
            return self.profile.prometheus
        described = [profile for profile in profiles().values() if profile.host == self.url and profile.prometheus]
        return described[0].prometheus if described else None

    def utilization(self) -> pd.DataFrame:
        """Return what its nodes and GPUs do now, as a DataFrame.

        A Prometheus is asked where a description names one. Else an agent is sent over the open
        connection and takes one sample: of this machine, for the embedded cluster; of the nodes that
        your running jobs have and the GPUs that these see, by a step beside each job, for Slurm.

        Returns
        -------
        pandas.DataFrame
            A row for each GPU, and one for a node without; the columns of
            :data:`nexa_sdk.monitoring.frames.COLUMNS`. Its `attrs` hold `complaints`: the nodes that
            did not answer, and why.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        from nexa_sdk.now import utilization_now

        return utilization_now(self)

    # ---- what it costs -------------------------------------------------------------------------

    def rates(self, gpu_types: Sequence[str] = ()) -> Rates:
        """Return the prices of now; see :mod:`nexa_sdk.monitoring.prices`.

        Parameters
        ----------
        gpu_types : sequence of str
            Which GPUs are meant, where a source knows too many to name them all.

        Raises
        ------
        RatesError
            The file of prices can't be meant.
        """
        from nexa_sdk.monitoring.prices import GivenRates, Wanted, rates_of

        given = None
        if self.profile is not None:
            given = GivenRates(self.profile.rates, f"{self.profile.path.name}, clusters.{self.profile.name}.rates")
        return rates_of(Wanted(list(dict.fromkeys([self.name, self.url])), gpu_types), given=given)

    def cost(self, since: object, until: object = None, *, everyone: bool = False, attempts: bool = False) -> CostReport:
        """Return what ran here and what it cost: what nexa_sdk launched, and the user's other jobs where there is accounting.

        What its trials called of LLM APIs is part of it.

        Parameters
        ----------
        since, until : str, date, datetime or timedelta
            ``"2026-11-01"``, in UTC; a timedelta or ``"7 days"`` is so long ago. `until` is not
            included, and is now unless given.
        everyone : bool
            All users' jobs, as far as the site lets one see them.
        attempts : bool
            A line for each attempt, rather than one for all that share run, day, user, account, GPU
            type and state.

        Raises
        ------
        InvalidInput
        ClusterError
            When the cluster, or its accounting, does not answer.
        """
        from nexa_sdk.charges import cost_of_cluster
        from nexa_sdk.monitoring.ledger import read_moment

        first = read_moment("since", since)
        last = read_moment("until", until) if until is not None else int(time.time() * 1000) + 1
        if first >= last:
            raise InvalidInput(f"nothing is between since={since!r} and until={until!r}: the first comes later")
        return cost_of_cluster(self, first, last, everyone=everyone, attempts=attempts)

    def watch(self) -> ClusterView:
        """Show live what is free, who waits, and one's own runs."""
        from nexa_sdk import ui

        return ui.cluster(self)

    def nodes(self) -> pd.DataFrame:
        """Ask what machines there are, and what of them is free now.

        Returns
        -------
        pandas.DataFrame
            Indexed by node: `partitions`; `state`, as ``sinfo`` has it; `cpus`, `cpus_free`, `gpus`,
            `gpus_free`, `gpu_type`; `mem` and `mem_free` in MiB, where they are known. Nothing is free
            of a node that takes no jobs.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        from nexa_sdk.capacity import nodes_table

        return nodes_table(self)

    def queue(self, *, everyone: bool = True) -> pd.DataFrame:
        """Ask what waits and runs.

        Parameters
        ----------
        everyone : bool
            All users' jobs, as far as the site lets one see them; else the user's own.

        Returns
        -------
        pandas.DataFrame
            Indexed by job: `run`, of those that nexa_sdk launched; `name`, `user`, `partition`,
            `state`, `nodes`, `elapsed`, `limit`, `reason`. What waits of an array is one row. Empty
            where there is no queue.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        from nexa_sdk.capacity import queue_table

        return queue_table(self, everyone=everyone)

    def partitions(self) -> list[str]:
        """Name the partitions."""
        return list(self.scheduler.partitions())

    def __repr__(self) -> str:
        what = KNOWN.get(self.url, "bare machines" if self._hosts is not None else "the Slurm behind this login node")
        return f"<Cluster {self.name}: {what}>" if self.name == self.url else f"<Cluster {self.name}: {self.url}, {what}>"


def _python_of(job: Job, *, here: bool) -> str:
    """Name the program that executes a remote cell; the script finds it in the job's surroundings."""
    if job.python is not None:
        name = posixpath.basename(job.python)
        return name if "python" in name or "pypy" in name else "python3"
    if job.venv or job.conda or job.modules or not here:
        return "python3"
    return os.path.basename(sys.executable)


_watchers: dict[tuple[str, Path, Path], Watcher] = {}


def _shared_watcher(cluster: Cluster) -> Watcher:
    key = (cluster.url, settings.home(), settings.sandbox_folder())
    if key not in _watchers:
        from nexa_sdk.scheduling.watcher import Watcher

        _watchers[key] = Watcher(cluster.scheduler)
    return _watchers[key]
