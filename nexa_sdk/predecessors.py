"""What comes before a run: other runs whose trials must have completed, and its own canary.

Only jobs that the scheduler knows as alive are named to it: up to 22.05 Slurm takes ``afterok`` on
a job that it has forgotten, and runs what should wait at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, InvalidInput, JournalError, PreflightFailed, RunNotFound
from nexa_sdk.records import ArrayRecord
from nexa_sdk.scheduling.base import Dependency
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.base import TaskStatus

__all__ = ["AfterRun", "Predecessors", "after_canary", "after_runs", "check_alike", "outcome", "read_after"]

MOST_NAMED = 1000  # tasks on one command line
CLOCKS = 60.0  # seconds by which the clocks of a cluster and of this machine may differ


@dataclass(frozen=True)
class AfterRun:
    """A run that must have completed first.

    Attributes
    ----------
    run : str
        Its id.
    is_each : bool
        Whether trial i waits for its trial i alone, not for all of them.
    """

    run: str
    is_each: bool = False

    def __str__(self) -> str:
        return f"each trial after the same one of run {self.run}" if self.is_each else f"after run {self.run}"

    def written(self) -> dict[str, Any]:
        """Return it as ``plan.json`` has it."""
        return {"run": self.run, "each": self.is_each}


def read_after(written: Mapping[str, Any]) -> list[AfterRun]:
    """Read what a ``plan.json`` says of the runs that come first."""
    return [AfterRun(entry["run"], is_each=entry["each"]) for entry in written.get("after", [])]


def after_runs(after: Run | Sequence[Run] | None, after_each: Run | None, *, cluster: str, dependency: str | None) -> list[AfterRun]:
    """Take the runs that a user names to come first.

    Raises
    ------
    InvalidInput
        For what is no run, or a run of another cluster.
    """
    if not after and after_each is None:
        return []
    from nexa_sdk.run import Run

    whole = [] if after is None else [after] if isinstance(after, (Run, str)) else list(after)
    each = [] if after_each is None else [after_each]
    for name, given in [*(("after", run) for run in whole), *(("after_each", run) for run in each)]:
        if not isinstance(given, Run):
            raise InvalidInput(f"{name}={given!r} is no Run; nexa_sdk.attach(id) finds one by its id")
        if given.cluster != cluster:
            raise InvalidInput(f"{name}={given.id} runs on {given.cluster}, and this is planned for {cluster}: no scheduler knows both")
    if (whole or each) and "?" in (dependency or ""):
        raise InvalidInput(f"after= can't go with dependency={dependency!r}: Slurm joins 'and' with no 'or'; leave one out")
    return [AfterRun(run_id) for run_id in dict.fromkeys(run.id for run in whole)] + [AfterRun(run.id, is_each=True) for run in each]


def check_alike(run: Run, trials: int, arrays: Sequence[tuple[int, int]], pack: int) -> None:
    """Refuse to let trials wait one by one for a run that is cut into other arrays and tasks.

    Raises
    ------
    InvalidInput
    """
    theirs = [(first, count) for _, first, count in run.plan["arrays"]]
    their_pack = run.plan["job"].get("pack") or 1
    if run.trial_count != trials:
        what = f"it has {run.trial_count:,} trials, and this has {trials:,}"
    elif their_pack != pack:
        what = f"it has pack={their_pack}, and this has pack={pack}"
    elif theirs != list(arrays):
        what = f"it has arrays of {theirs[0][1]:,} trials, and this has {arrays[0][1]:,}; is one with canary=True?"
    else:
        return
    raise InvalidInput(f"after_each={run.id}: trial i can't wait for trial i of it, for {what}. after= waits for all of it")


class Predecessors:
    """The runs that come before one.

    Parameters
    ----------
    after : sequence of AfterRun
    find : callable
        Finds a run by its id.
    """

    def __init__(self, after: Sequence[AfterRun], find: Callable[[str], Run]) -> None:
        self._after = after
        self._find = find

    def cut(self, arrays: Sequence[ArrayRecord]) -> list[tuple[ArrayRecord, list[Dependency]]]:
        """Ask how far the runs are, and say what each array has to wait for still.

        An array whose trials wait one by one, and for several jobs, becomes one array for each of these;
        the first keeps its token, the others have none yet.

        Raises
        ------
        PreflightFailed
            A trial that must have completed has failed for good, or nobody knows what became of it.
        ClusterError
            The cluster does not answer.
        """
        found: list[tuple[ArrayRecord, list[Dependency]]] = [(array, []) for array in arrays]
        for after in self._after:
            run = self._find(after.run)
            attempts = run.refresh()
            if after.is_each:
                by_trial = {attempt.trial: attempt for attempt in attempts}
                found = [(part, [*waits, *more]) for array, waits in found for part, more in _one_by_one(run, by_trial, array)]
            else:
                whole = _of_all(run, attempts)
                found = [(array, [*waits, *whole]) for array, waits in found]
        return found

    def blame(self, since: float) -> Callable[[int], str]:
        """Ask which trials that came first did not complete; what is returned says it for a trial that so never began.

        Parameters
        ----------
        since : float
            When the trial was submitted: what had failed before was run again by then.
        """
        of_all, of_each = "", dict[int, str]()
        for after in self._after:
            try:
                run = self._find(after.run)
                run.refresh()
            except (ClusterError, JournalError, RunNotFound):  # it only was to say why
                continue
            for attempt in run.known_attempts:
                status = attempt.status
                if status.state.is_failure and (status.end or since) >= since - CLOCKS:
                    words = f"trial {attempt.trial} of run {run.id}, which comes first, did not complete: it is {outcome(status)}"
                    of_all = of_all or ("" if after.is_each else words)
                    of_each.setdefault(attempt.trial, words if after.is_each else "")
        return lambda trial: of_each.get(trial) or of_all


def _of_all(run: Run, attempts: Sequence[Attempt]) -> list[Dependency]:
    """Name the jobs that carry what is not complete of a run."""
    going = _going(run, attempts)
    found = []
    for job_id in dict.fromkeys(str(attempt.job_id) for attempt in going):
        of_job = [attempt for attempt in going if attempt.job_id == job_id]
        tasks = sorted({attempt.task for attempt in of_job})
        carried = {attempt.trial for attempt in attempts if attempt.job_id == job_id}
        # One that has failed, and runs again in another job, would keep the whole of this job from being ok.
        has_failed = carried != {trial for _, _, trial in of_job[0].array.places()}
        if has_failed and len(tasks) > MOST_NAMED:
            raise PreflightFailed(
                f"{len(tasks):,} tasks of {run.id} would have to be named one by one to Slurm, for job {job_id} also has failed ones that "
                "run again elsewhere; launch this when more of it has completed. Nothing was submitted"
            )
        found.append(Dependency("afterok", job_id, run.folder, tuple(tasks) if has_failed else ()))
    return found


def _one_by_one(run: Run, by_trial: Mapping[int, Attempt], array: ArrayRecord) -> list[tuple[ArrayRecord, list[Dependency]]]:
    """Cut an array by the jobs that its tasks wait for, each for its namesake.

    A task that has no namesake in such a job, because that is another's trial or is forgotten, would
    wait for all of the job, and be cancelled with it (22.05).
    """
    places = array.places()
    going = {attempt.trial: attempt for attempt in _going(run, [by_trial[trial] for _, _, trial in places])}
    jobs: dict[int, str | None] = {}  # by task, the job that it waits for
    for task, _, trial in places:
        before = going.get(trial)
        job_id = before.job_id if before is not None else None
        if (before is not None and before.task != task) or (jobs.get(task) and job_id and jobs[task] != job_id):
            raise _no_namesake(run, trial)
        jobs[task] = jobs.get(task) or job_id
    job_ids = sorted(set(jobs.values()), key=lambda job_id: (job_id is not None, job_id))
    if len(job_ids) > 1 and array.pack > 1:
        raise _no_namesake(run, next(trial for task, _, trial in places if jobs[task] is not None))
    found = []
    for n, job_id in enumerate(job_ids):
        tasks = [task for task, waits in jobs.items() if waits == job_id]
        part = replace(array, tasks=format_tasks(tasks), count=len(tasks), token="" if n else array.token) if len(job_ids) > 1 else array
        found.append((part, [Dependency("aftercorr", job_id, run.folder)] if job_id is not None else []))
    return found


def _no_namesake(run: Run, trial: int) -> PreflightFailed:
    return PreflightFailed(
        f"trial {trial} can't wait for trial {trial} of {run.id}: Slurm compares the numbers of tasks, and with several trials a task some "
        "of that run's are done or on their second attempt. Wait for it with run.wait(), or use after=. Nothing was submitted"
    )


def _going(run: Run, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return what has not completed yet and will, if all goes well; refuse what never will, or may not."""
    going = [attempt for attempt in attempts if attempt.status.state is not State.COMPLETED]
    if going and run.plan["job"].get("retry"):
        raise PreflightFailed(
            f"{run.id} is not finished, and runs its failed trials again by itself, in jobs that Slurm does not know yet; "
            f"launch this when it has completed: run.wait() waits for it. Nothing was submitted"
        )
    for attempt in going:
        if attempt.status.state.is_terminal:
            raise PreflightFailed(
                f"trial {attempt.trial} of {run.id}, which must have completed first, is {outcome(attempt.status)}; run it again first: "
                f"run.retry({attempt.trial}). Nothing was submitted"
            )
        if attempt.status.state is State.UNKNOWN:
            raise PreflightFailed(
                f"nobody knows what became of trial {attempt.trial} of {run.id}, which must have completed first: "
                f"{attempt.status.reason or 'it is UNKNOWN'}. Look at run.status(), and launch this when it is known. Nothing was submitted"
            )
        if attempt.job_id is None:
            raise PreflightFailed(
                f"trial {attempt.trial} of {run.id}, which must have completed first, is not submitted yet: {attempt.status.reason}. "
                "Launch this when it is. Nothing was submitted"
            )
    return going


def after_canary(run: Run, canary: Attempt) -> list[Dependency]:
    """Let what is sent late of a run wait for its canary."""
    return [Dependency("afterok", str(attempt.job_id), run.folder) for attempt in _going(run, [canary])]


def outcome(status: TaskStatus) -> str:
    """Say how something ended."""
    code = f" with exit code {status.exit_code}" if status.exit_code is not None else ""
    return f"{status.state}{code}"
