"""What a scheduler does, whichever it is: the embedded one and Slurm behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from nexa_sdk.retry import Bounds
from nexa_sdk.scheduling.capacity import Node, QueuedJob
from nexa_sdk.states import State

if TYPE_CHECKING:
    from datetime import timedelta

    from nexa_sdk.job import Job
    from nexa_sdk.records import ArrayRecord

__all__ = ["ArrayHandle", "Check", "Dependency", "Limits", "Scheduler", "Submission", "TaskStatus", "Usage", "Verdict"]


@dataclass(frozen=True)
class Limits:
    """What a scheduler accepts.

    Attributes
    ----------
    array_size : int
        The most tasks of one array (Slurm's MaxArraySize is one more than the highest index).
    script_bytes : int
        The longest script.
    """

    array_size: int = 1001
    script_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class Dependency:
    """A job that comes first; what can never run because of it is cancelled by the scheduler.

    Attributes
    ----------
    kind : {'afterok', 'aftercorr', 'afterany'}
        It has completed; a task's namesake has; it has ended, however.
    job_id, folder : str
        The job, and the folder of its run.
    tasks : tuple of int
        Which of its tasks; none means all.
    """

    kind: Literal["afterok", "aftercorr", "afterany"]
    job_id: str
    folder: str
    tasks: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Write it as sbatch's ``--dependency`` has it: ``afterok:17``, ``afterok:17_3:17_7``."""
        return ":".join([self.kind, *([f"{self.job_id}_{task}" for task in self.tasks] or [self.job_id])])


@dataclass(frozen=True)
class Submission:
    """One array on its way to a scheduler.

    Attributes
    ----------
    token : str
        The array's name; whoever finds it finds the submission.
    folder : str
        The run's folder.
    script : str
        The script's name in it.
    files : mapping of str to bytes
        What is laid into the folder first, by relative path; what is under ``secrets/`` is for
        its owner alone.
    tasks : str
        Which tasks, as sbatch's ``--array`` has them.
    job : Job
        The resources, for a scheduler that does not read ``#SBATCH`` lines.
    is_retry : bool
        Whether `token` and `tasks` are others than the script says.
    send : int
        The number of this sending of the token, counted from 1; see :meth:`Scheduler.void`.
    args : sequence of str
        What the script is given: the trials of a retry, where its tasks do not say them.
    options : sequence of (str, str or None)
        What sbatch is told otherwise than by the script, by long names: `job` has it as well.
    dependencies : sequence of Dependency
        What is to happen first.
    code : str, optional
        Where a snapshot of the code lies, of which the run gets links of its own.
    is_kept : bool
        Whether a keeper is to look after it when it has ended: it runs trials again by the rules of
        the launch, and sends the next array of a rolling submission.
    """

    token: str
    folder: str
    script: str
    tasks: str
    job: Job
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # may hold secrets
    is_retry: bool = False
    send: int = 1
    args: Sequence[str] = ()
    options: Sequence[tuple[str, str | None]] = ()
    dependencies: Sequence[Dependency] = ()
    is_kept: bool = False
    code: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a submission that nobody saw confirmed.

    Attributes
    ----------
    job_id : str or None
        It arrived, as this job; None is that no sign of it was found.
    is_certain : bool
        Whether "no sign" is a proof. Else only the scheduler's queue, asked for a while, gives one.
    age : float
        The seconds that have passed since nothing more could arrive.
    """

    job_id: str | None
    is_certain: bool
    age: float = 0.0


@dataclass(frozen=True)
class ArrayHandle:
    """A submitted array: where to ask for it, and how many tasks it has.

    Its name tells it from another job: a controller that was killed may give a job's id away once more.
    `numbers` are its tasks, as sbatch's ``--array`` has them, where that is known.
    """

    job_id: str
    folder: str
    tasks: int
    name: str = ""
    numbers: str = ""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What is known of a task.

    `exit_code` is as a shell says it: 128 + n after signal n. Times are seconds since the epoch.
    `earlier` are the executions before this one, the oldest first, where the task was requeued:
    REQUEUED, PREEMPTED, NODE_FAIL, or as they had ended.
    """

    state: State
    exit_code: int | None = None
    start: float | None = None
    end: float | None = None
    node: str = ""
    reason: str = ""
    earlier: tuple[TaskStatus, ...] = ()

    @property
    def has_begun(self) -> bool:
        """Whether it had its resources: what was cancelled before may have its end as a start."""
        return self.start is not None and bool(self.node or self.start != self.end)

    def written(self) -> list[Any]:
        """Return it as the journal has the last one of a task."""
        fields: list[Any] = [self.state.value, self.exit_code, self.start, self.end, self.node, self.reason]
        return [*fields, [execution.written() for execution in self.earlier]] if self.earlier else fields

    @classmethod
    def read(cls, written: Sequence[Any]) -> Self:
        """Take it as :meth:`written` left it."""
        state, code, start, end, node, reason, *rest = written
        return cls(State(state), code, start, end, node, reason, tuple(cls.read(execution) for execution in rest[0]) if rest else ())


class Usage(NamedTuple):
    """What one execution of a task, or of any job, took, as accounting has it.

    Attributes
    ----------
    job : str
        As ``squeue -j`` takes it: ``"17_3"``, ``"18"``.
    raw : str
        The id that it has alone, and keeps when it is requeued.
    name, user, account, partition : str
    state : State
    start, end : float
        Seconds since the epoch; of what runs, until when it was seen.
    is_over : bool
    elapsed : float
        Seconds in which it had its resources: those in which it was suspended are left out.
    gpus, cpus, nodes : int
    gpu_type : str
        Empty where nobody said it.
    is_skewed : bool
        Whether its clocks disagree: it ended before it began.
    """

    job: str
    raw: str
    name: str
    user: str
    account: str
    partition: str
    state: State
    start: float
    end: float
    is_over: bool
    elapsed: float
    gpus: int
    cpus: int
    nodes: int
    gpu_type: str
    is_skewed: bool = False


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before a launch.

    Attributes
    ----------
    what : str
        What was asked.
    verdict : {'ok', 'warning', 'error', 'unknown'}
        An error would make the launch fail; unknown is what could not be asked.
    words : str
        The answer, and how to mend it.
    """

    what: str
    verdict: Literal["ok", "warning", "error", "unknown"]
    words: str


class Scheduler(ABC):
    """Submits arrays and says what became of them.

    Attributes
    ----------
    slowest : float
        Seconds between two questions at most, while somebody watches and nothing changes.
    shares_folder : bool
        Whether a run has one folder that all its tasks see. Else every array brings all files, to its
        own machine.

    Where a method takes `nodes`, that is what :meth:`place` chose for an array; None where it chose none.
    """

    slowest: float = 30.0
    shares_folder: bool = True

    @abstractmethod
    def limits(self) -> Limits:
        """Say what is accepted; asked once, then remembered."""

    def check_possible(self, job: Job, *, waits_for_runs: bool) -> None:  # noqa: B027  most take everything
        """Refuse what can never be done here, whatever the cluster says; nobody is asked.

        Raises
        ------
        InvalidInput
        """

    def nodes_of(self, job: Job) -> Sequence[str]:
        """Name the machines that a job may come to, where :meth:`place` chooses among several."""
        return ()

    def place(self, arrays: Sequence[ArrayRecord], job: Job, *, again: bool = False) -> list[ArrayRecord]:
        """Choose where arrays run, before they are written down and sent.

        Where an array has to be cut for that, its first part keeps the token, and the others have none yet.
        The choice stands in their options, as `nodelist`. Slurm chooses by itself, later.

        Parameters
        ----------
        again : bool
            Whether trials are run again.

        Raises
        ------
        PreflightFailed
            Nothing can run it.
        ClusterError
            When somebody who has to be asked does not answer.
        """
        return list(arrays)

    @abstractmethod
    def submit(self, submission: Submission) -> str:
        """Lay the files down, submit the script, and return the job's id.

        Raises
        ------
        SubmissionRejected
            The scheduler said no, in its own words; nothing was submitted.
        SubmissionUnknown
            It may have been accepted.
        SubmissionVoided
            Another process has voided this sending.
        """

    @abstractmethod
    def find(self, token: str, folder: str, *, nodes: str | None = None) -> str | None:
        """Find a submission by its token: its job's id, or None where there is no sign of it now.

        Raises
        ------
        ClusterError
            When nobody could be asked.
        """

    @abstractmethod
    def void(self, token: str, folder: str, send: int, *, nodes: str | None = None) -> Verdict:
        """Keep sendings of a token up to number `send` from being submitted, if they have not been yet.

        Afterwards it is settled whether they were given to the scheduler: a process that died, or a
        line that was cut, leaves nothing that could arrive later.

        Raises
        ------
        SubmissionUnknown
            One is being submitted right now.
        ClusterError
            When nobody could be asked.
        """

    def disown(self, token: str, folder: str, job_id: str, *, nodes: str | None = None) -> bool:
        """Take back that a submission arrived as a job which nobody knows any more, if no task of it ever began.

        Afterwards it can be settled as one that nobody saw confirmed. False: it can't be taken back.
        """
        return False

    @property
    @abstractmethod
    def memory(self) -> float | None:
        """The seconds after which :meth:`find` may have forgotten what there was; None is never."""

    @abstractmethod
    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Ask about all tasks of all arrays at once.

        Returns
        -------
        dict
            By job id, then by task. A task that nobody remembers is left out.
        """

    @abstractmethod
    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """End tasks, first by TERM, then by KILL; None means all."""

    @abstractmethod
    def checks(self, job: Job, *, folder: str, tasks: int) -> list[Check]:
        """Look at what only the cluster knows: partition, limits, GPUs."""

    # ---- what was used -------------------------------------------------------------------------

    counts_gpus: bool = True
    """Whether :meth:`usage` knows GPUs."""

    accounts_late: float = 0.0
    """Seconds after which :meth:`usage` knows what has ended."""

    @abstractmethod
    def usage(self, arrays: Sequence[ArrayHandle], *, keepers: Sequence[str] = ()) -> list[Usage] | None:
        """Say what each execution of the tasks took, requeued ones too; None where nobody keeps account.

        Parameters
        ----------
        keepers : sequence of str
            Tokens of arrays whose keepers are meant as well.

        Raises
        ------
        ClusterError
            When accounting does not answer.
        """

    @abstractmethod
    def usage_since(self, since: float, *, everyone: bool) -> list[Usage] | None:
        """Say what ran since a time, in seconds since the epoch: this user's jobs, or all; None where nobody keeps account."""

    # ---- keepers: what is done when an array has ended, though nobody is there ------------------

    @property
    def holds_queue(self) -> bool:
        """Whether there is a queue that takes only so many tasks, so that a submission may have to roll."""
        return False

    def bounds(self, job: Job) -> Bounds:
        """Say what a trial gets that asks for nothing, and the most that one can ask for."""
        return Bounds()

    @abstractmethod
    def living_keepers(self, folder: str, tokens: Sequence[str]) -> set[str]:
        """Say of which arrays the keepers wait or work."""

    @abstractmethod
    def tell_keeper(self, folder: str, words: Sequence[str]) -> None:
        """Give an order to what looks after a run's arrays: ``stop``, ``anew`` or ``roll``, and its arguments.

        Raises
        ------
        ClusterError
        """

    @abstractmethod
    def expected_start(self, script: str) -> Check | None:
        """Ask when a script would start, without submitting it; None where nobody can say."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """Say what machines there are, and what of them is free.

        Raises
        ------
        ClusterError
        """

    def queue(self, *, everyone: bool) -> list[QueuedJob]:
        """Say what waits and runs, the user's own or everybody's; nothing where there is no queue.

        Raises
        ------
        ClusterError
        """
        return []

    @abstractmethod
    def partitions(self) -> dict[str, timedelta | None]:
        """Name the partitions, and how long a job may run in each; none where there are no such things."""
