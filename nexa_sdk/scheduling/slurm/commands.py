"""Talk to Slurm: sbatch, squeue, sacct, scancel, sinfo and scontrol over a transport."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, ClusterNotFound, CommandFailed, CommandTimeout
from nexa_sdk.retry import Bounds
from nexa_sdk.scheduling.base import ArrayHandle, Check, Limits, Scheduler, Submission, TaskStatus, Usage, Verdict
from nexa_sdk.scheduling.capacity import Node, QueuedJob
from nexa_sdk.scheduling.environment import for_questions, for_trials
from nexa_sdk.scheduling.slurm import accounting, checks, submit_limits, submitting
from nexa_sdk.scheduling.slurm.nodes import QUEUE_FORMAT, SINFO_FIELDS, read_nodes, read_queue
from nexa_sdk.scheduling.slurm.polling import Poller
from nexa_sdk.scheduling.slurm.usage import USAGE_FIELDS, read_usage
from nexa_sdk.transports.base import Completed, Transport

if TYPE_CHECKING:
    from datetime import timedelta

    from nexa_sdk.job import Job

__all__ = ["SlurmScheduler"]

# seconds: a controller that is down is waited for by its own clients for 10, then they give up
ANSWER = 30.0
LONG_ANSWER = 300.0  # seconds: months of a whole cluster are many rows
AT_ONCE = 500  # arrays that sacct is asked for in one line
LATE = 60  # seconds that two machines' clocks may differ
ORDER = 120.0  # seconds: a keeper that is at work is waited for


class SlurmScheduler(Scheduler):
    """The Slurm that a machine's commands reach.

    Parameters
    ----------
    transport : Transport
        Where the commands are.
    settings : mapping of str to str
        What else they need in their environment: the sandbox's SLURM_CONF.
    """

    def __init__(self, transport: Transport, settings: Mapping[str, str] | None = None) -> None:
        self.transport = transport
        self.settings = dict(settings or {})
        self._config: dict[str, str] | None = None
        self._accounts: dict[str, dict[str, str]] = {}  # what sacctmgr says of the limits, by account
        self._poller = Poller(self._run, lambda: self.has_accounting, is_far=not transport.is_here)

    # ---- asking ---------------------------------------------------------------------------------

    def _run(self, *argv: str, stdin: bytes = b"", timeout: float = ANSWER) -> Completed:
        environment = for_questions({**self.transport.environment(), **self.settings})
        try:
            return self.transport.run(argv, env=environment, stdin=stdin, timeout=timeout)
        except ClusterNotFound as error:
            raise ClusterNotFound(
                f"no Slurm here: {error}. Work on a machine that has it, or use Cluster('local'), which "
                "needs nothing, or Cluster('sandbox'), a real Slurm of one machine"
            ) from error

    def _ask(self, *argv: str) -> str:
        answer = self._run(*argv)
        if answer.returncode:
            raise CommandFailed(argv[0], answer.returncode, answer.stderr)
        return answer.stdout

    def config(self) -> dict[str, str]:
        """Return what ``scontrol show config`` says; asked once."""
        if self._config is None:
            lines = self._ask("scontrol", "show", "config").splitlines()
            pairs = (line.partition("=") for line in lines)
            self._config = {key.strip(): value.strip() for key, equals, value in pairs if equals}
        return self._config

    def limits(self) -> Limits:
        """Say what is accepted; asked once."""
        return Limits(array_size=int(self.config().get("MaxArraySize", "1001")))

    @property
    def has_accounting(self) -> bool:
        """Whether there is a database that sacct can ask."""
        return self.config().get("AccountingStorageType", "") == "accounting_storage/slurmdbd"

    def partition_table(self) -> dict[str, accounting.Partition]:
        """Return the partitions, as sinfo tells of them now."""
        return accounting.read_partitions(self._ask("sinfo", "-h", "-o", "%P|%a|%l|%D|%G"))

    def partitions(self) -> dict[str, timedelta | None]:
        """Name the partitions, and how long a job may run in each."""
        return {name: partition.limit for name, partition in self.partition_table().items()}

    def nodes(self) -> list[Node]:
        """Ask sinfo; see the base class."""
        return read_nodes(self._ask("sinfo", "-h", "-N", "-O", SINFO_FIELDS))

    def queue(self, *, everyone: bool) -> list[QueuedJob]:
        """Ask squeue; see the base class."""
        return read_queue(self._ask("squeue", "-h", *([] if everyone else ["--me"]), "-o", QUEUE_FORMAT))

    # ---- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        """Lay the files down and submit; see the base class."""
        return submitting.submit(self.transport, submission, self._for_trials())

    def void(self, token: str, folder: str, send: int, *, nodes: str | None = None) -> Verdict:
        """Keep what is still on its way from being submitted; see the base class."""
        return submitting.void(self.transport, token, folder, send, self._for_trials())

    def disown(self, token: str, folder: str, job_id: str, *, nodes: str | None = None) -> bool:
        """Take back a job that a killed controller lost; see the base class."""
        return submitting.disown(self.transport, token, folder, job_id, self._for_trials())

    def _for_trials(self) -> dict[str, str]:
        return for_trials({**self.transport.environment(), **self.settings})

    def find(self, token: str, folder: str, *, nodes: str | None = None) -> str | None:
        """Find a submission by its token: in squeue, in the run's folder, in sacct."""
        answer = self._ask("squeue", "-h", "-t", "all", "-n", token, "-o", "%F")
        jobs = {word for word in answer.split() if word.isdecimal()}
        if len(jobs) == 1:
            return jobs.pop()
        for mark in (f"{token}.claim", token):
            noted = self.transport.read(f"{folder}/submitted/{mark}").decode()
            if match := re.match(r"\d+", noted):
                return match.group()
        if jobs:
            return min(jobs, key=int)
        if self.has_accounting:
            rows = self._ask("sacct", "-n", "-P", "-X", "--name", token, "-S", "now-7days", "--format=JobID")
            if match := re.match(r"\d+", rows):
                return match.group()
        return None

    @property
    def memory(self) -> float | None:
        """Where there is no accounting, a job is forgotten MinJobAge after its end."""
        if self.has_accounting:
            return None
        return float(re.match(r"\d*", self.config().get("MinJobAge", "300"))[0] or 300)  # type: ignore[index]

    # ---- watching -------------------------------------------------------------------------------

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Ask about all arrays at once: one squeue, and one sacct for what it alone can tell."""
        return self._poller.poll(arrays)

    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """End tasks: scancel sends TERM, and KILL after the site's KillWait.

        A job of another name that was given this id is left alone.
        """
        if array.name and not self._is_known(array):
            return
        target = array.job_id if tasks is None else f"{array.job_id}_[{tasks}]"
        answer = self._run("scancel", target)
        if answer.returncode and submitting.may_be_done(answer):
            raise CommandTimeout(
                f"Slurm gave no clear answer, and may have cancelled it or not: {answer.stderr.strip()}. "
                "Look with run.status() once it answers, and cancel again what still runs"
            )
        if answer.returncode:
            raise CommandFailed("scancel", answer.returncode, answer.stderr)

    def _is_known(self, array: ArrayHandle) -> bool:
        """Whether the controller has a job of this id and this name.

        Scancel is not asked to compare them: given a name and tasks it cancels every pending task
        of the array, and given a name it fails for what has ended (22.05).
        """
        try:
            answer = self._run("squeue", "-h", "-t", "all", "-j", array.job_id, "-n", array.name, "-o", "%F")
        except CommandTimeout as error:
            raise ClusterError(f"nothing was cancelled, for Slurm does not answer: {error}") from error
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise CommandFailed("squeue", answer.returncode, answer.stderr)
        return array.job_id in answer.stdout.split()

    # ---- what was used --------------------------------------------------------------------------

    accounts_late = 15.0

    @property
    def counts_gpus(self) -> bool:  # type: ignore[override]
        """Whether accounting counts GPUs: a site has to say so."""
        return "gres/gpu" in self.config().get("AccountingStorageTRES", "")

    def usage(self, arrays: Sequence[ArrayHandle], *, keepers: Sequence[str] = ()) -> list[Usage] | None:
        """Ask sacct; see the base class."""
        if not self.has_accounting:
            return None
        found: list[Usage] = []
        for k in range(0, len(arrays), AT_ONCE):
            some = arrays[k : k + AT_ONCE]
            names = {array.name for array in some}
            only = ["--name", ",".join(sorted(names))] if all(names) else []
            found += self._ask_usage("-j", ",".join(array.job_id for array in some), *only)
        for k in range(0, len(keepers), AT_ONCE):
            names = {f"{token}-keeper" for token in keepers[k : k + AT_ONCE]}
            found += self._ask_usage("--name", ",".join(sorted(names)), "-S", "now-365days")
        # For some seconds a task's row may have its raw id: it comes again under its own.
        return [row for row in found if "_" in row.job or row.name.endswith("-keeper")]

    def usage_since(self, since: float, *, everyone: bool) -> list[Usage] | None:
        """Ask sacct; see the base class."""
        if not self.has_accounting:
            return None
        ago = max(0, int(time.time() - since)) + LATE  # relative: the cluster's time zone may be another
        return self._ask_usage("-S", f"now-{ago}seconds", *(["-a"] if everyone else []))

    def _ask_usage(self, *which: str) -> list[Usage]:
        now = time.time()
        answer = self._run("sacct", "-n", "-P", "-X", "-D", *which, f"--format={USAGE_FIELDS}", timeout=LONG_ANSWER)
        if answer.returncode:
            raise CommandFailed("sacct", answer.returncode, answer.stderr)
        return list(read_usage(answer.stdout, now=now))

    # ---- keepers --------------------------------------------------------------------------------

    @property
    def holds_queue(self) -> bool:
        """Slurm's sites limit how many tasks one may have submitted."""
        return True

    def bounds(self, job: Job) -> Bounds:
        """Say what the partition gives, and the most that it has; see the base class."""
        rows = self._ask("sinfo", "-h", "-o", "%P|%l|%L|%m|%D")
        return accounting.read_bounds(
            rows, self.config(), partition=job.partition, cpus=(job.cpus_per_task or 1) * (job.ntasks_per_node or 1)
        )

    def living_keepers(self, folder: str, tokens: Sequence[str]) -> set[str]:
        """Say of which arrays the keepers wait or work: by their names."""
        found: set[str] = set()
        for k in range(0, len(tokens), 500):
            names = ",".join(f"{token}-keeper" for token in tokens[k : k + 500])
            found |= {name.removesuffix("-keeper") for name in self._ask("squeue", "-h", "-n", names, "-o", "%j").split()}
        return found

    def tell_keeper(self, folder: str, words: Sequence[str]) -> None:
        """Give an order by the keeper's own script; see the base class."""
        answer = self.transport.run(["bash", f"{folder}/keeper.sbatch", *words], env=self._for_trials(), timeout=ORDER)
        if answer.returncode:
            raise CommandFailed("keeper.sbatch", answer.returncode, answer.stderr)

    # ---- looking before -------------------------------------------------------------------------

    def checks(self, job: Job, *, folder: str, tasks: int) -> list[Check]:
        """Look at partition, walltime, GPUs and the number of tasks."""
        try:
            table = self.partition_table()
        except ClusterNotFound:
            raise
        except ClusterError as error:
            return [Check("Slurm", "error", f"it does not answer: {error}")]
        return [
            *checks.run_folder(folder, is_throw_away=bool(self.settings)),
            *checks.resources(job, table),
            *self._number_of_tasks(job, tasks),
        ]

    def _number_of_tasks(self, job: Job, tasks: int) -> list[Check]:
        """Compare the tasks with what the queue takes; it is only asked where they might be too many."""
        job_count = int(self.config().get("MaxJobCount", "10000"))
        found: list[Check] = []
        try:
            limits = self._submit_limits(job)
        except ClusterError as error:  # its database is away: sbatch will say it
            limits = []
            found.append(Check("submit limits", "unknown", f"sacctmgr does not answer: {error}"))
        if limits or tasks > job_count // 4:
            queue = submit_limits.read_queue(self._ask("squeue", "-h", "-r", "-t", "all", "-o", submit_limits.QUEUE_FORMAT))
            limits = [*limits, submit_limits.SubmitLimit.of_controller(job_count)]
            too_many = submit_limits.check(tasks, job.trials_per_task, limits, queue)
            if too_many is not None:
                return [*found, too_many]
        return [*found, checks.number_of_tasks(tasks, self.limits().array_size, pack=job.trials_per_task)]

    def _submit_limits(self, job: Job) -> list[submit_limits.SubmitLimit]:
        """Return the limits that hold for the tasks of a job in the queue; asked once for each account."""
        enforced = self.config().get("AccountingStorageEnforce", "")
        if not self.has_accounting or not any(word in enforced for word in ("limits", "safe", "qos")):
            return []
        account = job.account or ""
        if account not in self._accounts:
            self._accounts[account] = self._ask_sacctmgr(account)
        told = self._accounts[account]
        return submit_limits.read_limits(**told, account=job.account, partition=job.partition, chosen_qos=job.qos)

    def _ask_sacctmgr(self, account: str) -> dict[str, str]:
        user = self._ask("id", "-un").strip()
        show = ("sacctmgr", "-n", "-P", "show")
        default = self._ask(*show, "user", "where", f"name={user}", "format=DefaultAccount").strip()
        here = f"cluster={self.config().get('ClusterName', '')}"
        fields = f"format={submit_limits.ASSOCIATION_FIELDS}"
        return {
            "user": user,
            "default_account": default,
            "associations": self._ask(*show, "assoc", "where", here, f"account={account or default}", fields),
            "qos": self._ask(*show, "qos", f"format={submit_limits.QOS_FIELDS}"),
        }

    def expected_start(self, script: str) -> Check:
        """Ask ``sbatch --test-only`` (it costs a job id); see the base class."""
        try:
            answer = self.transport.run(["sbatch", "--test-only"], env=self._for_trials(), stdin=script.encode(), timeout=10)
        except CommandTimeout:
            return Check("expected start", "unknown", "Slurm did not say within 10 seconds")
        return checks.expected_start(answer.returncode, answer.stderr)
