"""Submit the arrays of a run, each exactly once, whatever dies or is cut in between."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from nexa_sdk.errors import (
    ClusterError,
    ConnectionLost,
    JournalError,
    SubmissionUnknown,
    SubmissionUnsent,
    SubmissionVoided,
    Unreachable,
)
from nexa_sdk.records import UNSETTLED, describe
from nexa_sdk.scheduling.base import ArrayHandle, Dependency, Scheduler, Submission, Verdict
from nexa_sdk.transports.several import side_by_side

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.records import ArrayRecord
    from nexa_sdk.transports.base import Transport

__all__ = ["CANARY", "SETTLING", "Submitter", "bring_along"]

SETTLING = 15.0  # seconds after which what Slurm accepted has shown up in its queue, on every version
PATIENCE = 60.0  # seconds that a scheduler may leave these questions unanswered
MOST_SENDS = 3  # of one array in one launch

CANARY = "job-0.sbatch"  # the script of the array that goes ahead, where one does

Files = Mapping[str, Mapping[str, bytes]]


@dataclass(eq=False)
class _Chain:
    """Arrays that are submitted one after another: what was accepted, what was not yet, and why not."""

    left: list[ArrayRecord] = field(default_factory=list)
    done: list[ArrayRecord] = field(default_factory=list)
    error: ClusterError | None = None


class Submitter:
    """Sends the arrays of one run.

    Parameters
    ----------
    job : Job
        What was planned; an array's own options come on top.
    is_kept : callable
        Whether an array, by its token, has a keeper.
    code : str, optional
        Where a snapshot of its code lies on the cluster.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        transport: Transport,
        journal: Journal,
        *,
        folder: str,
        job: Job,
        is_kept: Callable[[str], bool] = lambda _: False,
        code: str | None = None,
    ) -> None:
        self._code = code
        self._is_kept = is_kept
        self._scheduler = scheduler
        self._transport = transport
        self._journal = journal
        self._folder = folder
        self._job = job

    def submit(
        self,
        arrays: Sequence[ArrayRecord],
        *,
        files: Files,
        secrets: bytes | None,
        dependencies: Mapping[str, Sequence[Dependency]] | None = None,
    ) -> None:
        """Submit arrays that the journal has as intended; what came of each is written down.

        When one is refused, those before it are cancelled: a run is submitted whole or not at all.
        Ctrl-C is heard afterwards, never half way.

        Parameters
        ----------
        dependencies : mapping, optional
            What each array waits for, by its token. That others wait for a canary, and throttled
            arrays for one another, is seen to here.
        """
        chains: dict[str | None, _Chain] = {}  # by machine: one is independent of another
        for array in arrays:
            chains.setdefault(array.nodes, _Chain()).left.append(array)

        def submit_whole() -> None:
            work = partial(self._submit_chain, files=files, secrets=secrets, dependencies=dependencies or {})
            if len(chains) == 1:
                work(*chains.values())
            else:
                for done in side_by_side({str(nodes): partial(work, chain) for nodes, chain in chains.items()}).values():
                    done.result()
            self._conclude(list(chains.values()))

        _uninterrupted(submit_whole)

    def resume(
        self,
        arrays: Sequence[ArrayRecord],
        *,
        files: Files,
        secrets: bytes | None,
        is_sure: bool = False,
        lost: Collection[str] = (),
        dependencies: Callable[[ArrayRecord], Sequence[Dependency]] = lambda _: (),
    ) -> list[str]:
        """Send what of a launch was cut short, once it is sure that it never arrived; adopt what did.

        Parameters
        ----------
        arrays
            All arrays of the run; those that are submitted already are only passed by.
        is_sure : bool
            The user says that what nobody can say anything of never arrived.
        lost : collection of str
            Tokens of arrays that arrived, and that the scheduler does not know any more.
        dependencies : callable, optional
            Says what an array waits for, asked right before it is sent: a job that Slurm has
            forgotten meanwhile must not be named.

        Returns
        -------
        list of str
            The tokens that were sent.
        """
        sent: list[str] = []

        def resume_all() -> None:
            before: dict[str | None, str | None] = {}  # by machine
            for array in arrays:
                job_id = array.job_id
                is_lost = array.token in lost and self._scheduler.disown(array.token, self._folder, str(job_id), nodes=array.nodes)
                if array.outcome in UNSETTLED or is_lost:
                    job_id = self.settle(array, is_sure=is_sure)
                    if job_id is None:
                        waits = self._after(before.get(array.nodes), dependencies(array))
                        job_id = self._send_again(array, files.get(array.token, {}), secrets, waits)
                        sent.append(array.token)
                before[array.nodes] = job_id if array.final is None else None

        _uninterrupted(resume_all)
        return sent

    def settle(self, array: ArrayRecord, *, is_sure: bool = False) -> str | None:
        """Find out whether a submission arrived: its job's id, or None on proof that it never did and never will.

        It asks for a quarter of a minute, where only the scheduler's queue can tell.

        Raises
        ------
        SubmissionUnknown
            There is evidence neither way.
        """
        verdict = self._void(array)
        job_id = verdict.job_id
        if job_id is None and not verdict.is_certain:
            job_id = self._look_up(array)
            memory = self._scheduler.memory
            if job_id is None and memory is not None and time.time() - array.at > memory and not is_sure:
                raise SubmissionUnknown(
                    f"nobody can say whether Slurm accepted {array.token}: it was sent longer ago than Slurm remembers jobs "
                    f"({memory:g} seconds), and there is no accounting. None of its trials began. "
                    "If you know that it is not there, run.resume(force=True) sends it again"
                )
        if job_id is not None and array.outcome == "submitted" and job_id == array.job_id:  # only accounting knows it still
            if not is_sure:
                raise SubmissionUnknown(
                    f"Slurm took {array.token} as job {job_id}, and its controller does not know it any more; none of its trials began. "
                    "If squeue does not list it, run.resume(force=True) sends it again"
                )
            return None
        if job_id is not None:
            self._journal.settle(array.token, "submitted", job_id=job_id)
        return job_id

    def _submit_chain(
        self, chain: _Chain, *, files: Files, secrets: bytes | None, dependencies: Mapping[str, Sequence[Dependency]]
    ) -> None:
        """Submit arrays one after another, until one is not accepted; those whose turn comes later are left."""
        while chain.left and chain.left[0].outcome != "waiting":
            array = chain.left[0]
            before = chain.done[-1].job_id if chain.done else None
            waits = [*dependencies.get(array.token, ()), *self._after_canary(array, chain.done)]
            try:
                job_id = self._submit(array, files.get(array.token, {}), secrets, self._after(before, waits))
            except ClusterError as error:
                chain.error = error
                return
            chain.done.append(replace(chain.left.pop(0), job_id=job_id))

    def _conclude(self, chains: Sequence[_Chain]) -> None:
        """Write down what came of what was not accepted, and raise why."""
        unclear: list[tuple[_Chain, ClusterError]] = []
        unsent, refused = list(unclear), list(unclear)
        for chain in chains:
            if isinstance(chain.error, (SubmissionUnknown, SubmissionVoided)):  # another process may have sent it
                self._journal.settle(chain.left[0].token, "unknown", words=str(chain.error), unless_submitted=True)
                unclear.append((chain, chain.error))
            elif isinstance(chain.error, SubmissionUnsent):
                unsent.append((chain, chain.error))
            elif chain.error is not None:
                refused.append((chain, chain.error))
        if refused:
            _, why = refused[0]
            for chain, _ in (*refused, *unsent):
                self._reject(chain.left, why)
            for earlier in [array for chain in chains for array in chain.done]:
                self._withdraw(earlier, why)
            for chain, error in unclear:
                why.add_note(f"{chain.left[0].token} may have been submitted all the same: {error}")
            raise why
        for chain, error in unsent:  # what arrived stays: launching again, or resuming, sends the rest
            for array in chain.left:
                self._set_aside(array, error)
        if unclear or unsent:
            raise (unclear or unsent)[0][1]

    # ---- one array ----------------------------------------------------------------------------

    def _submit(self, array: ArrayRecord, files: Mapping[str, bytes], secrets: bytes | None, dependencies: Sequence[Dependency]) -> str:
        """Send one array until it is known to have arrived, or to have been refused."""
        send, left = array.sends, MOST_SENDS
        while True:
            send, left = send or self._journal.send(array.token), left - 1
            try:
                job_id = self._scheduler.submit(self._submission(array, send, files, secrets, dependencies))
            except SubmissionVoided:  # by another process, which may have sent it meanwhile: the next sending finds it
                if not left:
                    raise
            except SubmissionUnknown as error:
                found = self._settle_now(replace(array, sends=send, at=time.time()), error)
                if found is not None:
                    return found
                if not left:
                    raise
            else:
                self._note_submitted(array, job_id)
                return job_id
            send = 0

    def _note_submitted(self, array: ArrayRecord, job_id: str) -> None:
        try:
            self._journal.settle(array.token, "submitted", job_id=job_id)
        except JournalError as error:
            raise JournalError(f"{array.token} is submitted, as job {job_id}, and attaching to the run finds it; but {error}") from error

    def _send_again(self, array: ArrayRecord, files: Mapping[str, bytes], secrets: bytes | None, dependencies: Sequence[Dependency]) -> str:
        try:
            return self._submit(replace(array, sends=0), files, secrets, dependencies)
        except (SubmissionUnknown, SubmissionVoided) as error:
            self._journal.settle(array.token, "unknown", words=str(error), unless_submitted=True)
            raise
        except SubmissionUnsent as error:
            self._set_aside(array, error)
            raise
        except ClusterError as error:
            self._reject([array], error)
            raise

    def _reject(self, arrays: Sequence[ArrayRecord], error: ClusterError) -> None:
        """Write down that arrays were refused."""
        for array in arrays:
            self._journal.settle(array.token, "rejected", words=str(error))
        self._remove_secrets(arrays, error)

    def _set_aside(self, array: ArrayRecord, error: ClusterError) -> None:
        """Write down that an array never left; it is sent when the launch is made whole."""
        self._journal.settle(array.token, "void", words=str(error), unless_submitted=True)
        self._remove_secrets([array], error)

    def _remove_secrets(self, arrays: Sequence[ArrayRecord], error: ClusterError) -> None:
        """Take the secrets away of what was not submitted; where that can't be, the error says so."""
        for nodes in dict.fromkeys(array.nodes for array in arrays):
            paths = [f"{self._folder}/secrets/{array.token}" for array in arrays if array.nodes == nodes]
            try:
                self._transport.at(nodes).remove(paths)
            except ClusterError as problem:
                if self._job.secrets:
                    error.add_note(f"files with secrets may be left, and can't be removed: {', '.join(paths)}: {problem}")

    def _withdraw(self, array: ArrayRecord, error: ClusterError) -> None:
        """Cancel an array that was submitted before another was refused; where that can't be, the error says so."""
        self._journal.cancelled(array.token, array.tasks)
        try:
            if self._is_kept(array.token):  # else it would go on with what never was
                self._scheduler.tell_keeper(self._folder, ["stop", array.token, "all"])
            self._scheduler.cancel(ArrayHandle(str(array.job_id), self._folder, array.size, array.token), None)
        except ClusterError as problem:
            error.add_note(f"{array.token} had been submitted before, as job {array.job_id}, and may not be cancelled: {problem}")

    def _settle_now(self, array: ArrayRecord, unclear: SubmissionUnknown) -> str | None:
        """Settle a submission that got no clear answer; where that can't be, the first words of it stand."""
        try:
            return self.settle(array)
        except ClusterError as error:
            raise SubmissionUnknown(f"{unclear} ({error})") from error

    def _submission(
        self, array: ArrayRecord, send: int, files: Mapping[str, bytes], secrets: bytes | None, dependencies: Sequence[Dependency]
    ) -> Submission:
        job = self._job.changed(array.options)
        planned = self._job.directives()
        script = files.get(array.script)
        throttle = f"%{job.throttle}" if job.throttle else ""
        secret_file = {f"secrets/{array.token}": secrets} if secrets is not None else {}
        return Submission(
            token=array.token,
            folder=self._folder,
            script=array.script,
            tasks=array.tasks,
            job=job,
            # a million rows are not copied
            files=ChainMap(secret_file, {f"submitted/{array.token}.json": describe(array)}, files),  # type: ignore[arg-type]
            is_retry=script is None or f"#SBATCH --array={array.tasks}{throttle}\n".encode() not in script,
            send=send,
            args=array.args,
            options=[option for option in job.directives() if option not in planned] if array.options else [],
            dependencies=dependencies,
            is_kept=self._is_kept(array.token),
            code=self._code,
        )

    def _after_canary(self, array: ArrayRecord, done: Sequence[ArrayRecord]) -> list[Dependency]:
        """Let an array wait for the canary that was submitted before it."""
        if not self._job.canary or array.script == CANARY:
            return []
        return [Dependency("afterok", str(earlier.job_id), self._folder) for earlier in done if earlier.script == CANARY]

    def _after(self, before: str | None, dependencies: Sequence[Dependency]) -> list[Dependency]:
        """Let an array wait for the one before it, so that the throttle of one holds for both."""
        waits = self._job.throttle and before is not None and "?" not in (self._job.dependency or "")
        if not waits or before in [dependency.job_id for dependency in dependencies]:
            return list(dependencies)
        return [*dependencies, Dependency("afterany", str(before), self._folder)]

    def _void(self, array: ArrayRecord) -> Verdict:
        """Keep an array from arriving late; a line that has just gone is waited for."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._scheduler.void(array.token, self._folder, array.sends, nodes=array.nodes)
            except (ConnectionLost, Unreachable) as error:
                if not error.may_pass or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _look_up(self, array: ArrayRecord) -> str | None:
        """Look a submission up until it is found, or the scheduler has answered for long enough without knowing it."""
        answered: float | None = None
        deadline = time.monotonic() + PATIENCE
        problem = ""
        while answered is None or time.monotonic() < answered + SETTLING:
            if time.monotonic() > deadline + (SETTLING if answered is not None else 0):
                raise SubmissionUnknown(f"nobody can say whether Slurm accepted {array.token}: {problem}")
            try:
                found = self._scheduler.find(array.token, self._folder, nodes=array.nodes)
            except ClusterError as error:
                problem, answered = str(error), None  # it counts from when somebody answers again
            else:
                if found is not None:
                    return found
                answered = answered if answered is not None else time.monotonic()
            time.sleep(0.5)
        return None


def bring_along(arrays: Sequence[ArrayRecord], files: Files, *, there: Collection[str | None] = ()) -> dict[str, Mapping[str, bytes]]:
    """Say what arrays bring along by token, where machines do not share the run's folder.

    The first of each machine brings everything, but to those that have it already.
    """
    everything: Mapping[str, bytes] = ChainMap(*files.values())  # type: ignore[arg-type]
    seen, found = set(there), dict[str, Mapping[str, bytes]]()
    for array in arrays:
        found[array.token] = everything if array.nodes not in seen else {}
        seen.add(array.nodes)
    return found


def _uninterrupted(work: Callable[[], None]) -> None:
    """Do work in a thread of its own; Ctrl-C is raised once it is done."""
    with ThreadPoolExecutor(1, thread_name_prefix="nexa-submit") as pool:
        future = pool.submit(work)
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                future.result()
                break
            except KeyboardInterrupt as interrupt:
                print("Interrupted: the submission comes to its end first …")
                interrupted = interrupt
    if interrupted is not None:
        raise interrupted
