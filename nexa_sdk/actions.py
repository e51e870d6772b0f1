"""Actions: what is done to a run that was submitted. It is cancelled, run again, or made whole."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nexa_sdk import retrying
from nexa_sdk.errors import ClusterError, CommandTimeout, InvalidInput, PreflightFailed
from nexa_sdk.job_secrets import read_secrets
from nexa_sdk.predecessors import after_canary
from nexa_sdk.records import UNSETTLED, ArrayRecord
from nexa_sdk.retry import Ladder, Retry
from nexa_sdk.scheduling.base import ArrayHandle
from nexa_sdk.states import State
from nexa_sdk.submission import CANARY, Submitter, bring_along
from nexa_sdk.tasks import format_tasks, parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt, Attempts
    from nexa_sdk.budget import Budget
    from nexa_sdk.journal import Journal
    from nexa_sdk.keepers import Keepers
    from nexa_sdk.predecessors import Predecessors
    from nexa_sdk.retry import Step
    from nexa_sdk.run import Run
    from nexa_sdk.run_budget import RunBudget
    from nexa_sdk.scheduling.base import Dependency, Scheduler
    from nexa_sdk.transports.base import Transport

__all__ = ["Actions"]

Parts = Sequence[tuple[str, dict[str, Any], Sequence["Attempt"]]]  # causes, options, attempts

MOST_NAMED = 50_000  # trials of a packed array that are named to sbatch: they are arguments of one command


class Actions:
    """What is done to one run.

    Parameters
    ----------
    files : callable
        The plan's files by token: rendered again when a launch that was cut short is taken up.
    """

    def __init__(
        self,
        run: Run,
        attempts: Attempts,
        predecessors: Predecessors,
        *,
        scheduler: Scheduler,
        transport: Transport,
        journal: Journal,
        files: Callable[[], Mapping[str, Mapping[str, bytes]]],
        budget: Callable[[], RunBudget],
    ) -> None:
        self._run = run
        self._attempts = attempts
        self._predecessors = predecessors
        self._scheduler = scheduler
        self._transport = transport
        self._journal = journal
        self._files = files
        self._budget = budget

    # ---- cancelling ----------------------------------------------------------------------------

    def cancel(self, trials: int | Sequence[int] | None) -> None:
        """End the run, or some trials; see :meth:`Run.cancel`."""
        chosen = self._trials(trials, "cancel")
        to_come = set(self._keepers.to_come) if self._keepers is not None else set()
        if self._keepers is not None:  # before the arrays, else what is cancelled would be run again
            self._stop_keepers(None if len(chosen) == self._run.trial_count else chosen)
        going = [attempt for attempt in self._attempts.last if attempt.trial in chosen and not attempt.status.state.is_terminal]
        if not going and not to_come & chosen:
            print(f"Nothing to cancel: all of it has ended. {self._run!r}")
        unconfirmed = [attempt.trial for attempt in going if attempt.job_id is None]
        if unconfirmed:
            raise ClusterError(
                f"trial {unconfirmed[0]} of {self._run.id} can't be cancelled: its submission was never confirmed, and nobody knows its "
                "job. run.status() looks it up again"
            )
        for array, attempts in self._by_array(going):
            open_ones = sorted({attempt.task for attempt in attempts})
            self._check_whole_tasks(array, attempts, open_ones)
            tasks = format_tasks(open_ones)
            # Before it is asked for: a pending task that is cancelled leaves no trace in Slurm.
            self._journal.cancelled(array.token, tasks)
            everything = open_ones == parse_tasks(array.tasks)
            handle = ArrayHandle(str(array.job_id), self._run.folder, array.size, array.token, array.tasks)
            try:
                self._scheduler.cancel(handle, None if everything else tasks)
            except CommandTimeout:  # it may have been heard
                raise
            except ClusterError:
                self._journal.not_cancelled(array.token, tasks)
                raise
        self._attempts.refresh()

    def _stop_keepers(self, trials: set[int] | None) -> None:
        """Keep trials from being run again; what a keeper was just submitting is found, and its keeper stopped as well."""
        told: set[str] = set()
        while new := [array for array in self._attempts.arrays if array.token not in told]:
            assert self._keepers is not None
            self._keepers.stop(new, trials)
            told |= {array.token for array in new}
            self._attempts.refresh()

    def _check_whole_tasks(self, array: ArrayRecord, attempts: Sequence[Attempt], tasks: Sequence[int]) -> None:
        """Refuse to cancel some trials of a packed task: it ends as a whole."""
        if array.pack == 1:
            return
        given, ends = {attempt.trial for attempt in attempts}, set(tasks)
        in_them = [attempt for attempt in self._attempts.last if attempt.array.token == array.token and attempt.task in ends]
        others = [attempt.trial for attempt in in_them if attempt.trial not in given and not attempt.status.state.is_terminal]
        if others:
            raise InvalidInput(
                f"trial {min(given)} shares its task with trial {others[0]}, which is not to be cancelled: a packed task ends as a whole. "
                f"Cancel {format_tasks(sorted({*given, *others}))}"
            )

    def _by_array(self, attempts: Sequence[Attempt]) -> list[tuple[ArrayRecord, list[Attempt]]]:
        by_job: dict[str | None, list[Attempt]] = {}
        for attempt in attempts:
            by_job.setdefault(attempt.job_id, []).append(attempt)
        return [(array, by_job[array.job_id]) for array in self._attempts.arrays if array.job_id in by_job]

    # ---- running again -------------------------------------------------------------------------

    def retry(self, trials: int | Sequence[int] | None, by: str | Retry | None, budget: Budget | str | float | None) -> None:
        """Run failed trials again; see :meth:`Run.retry`."""
        failed = self._failed(trials)
        if not failed:
            print(f"Nothing to run again: no trial failed. {self._run!r}")
        elif by is None:
            self._run_again([("", {}, failed)], budget=budget)
        else:
            steps = self._steps(failed, by)
            print(retrying.told(steps))
            self._run_again(retrying.groups(steps), budget=budget)

    def steps(self, trials: int | Sequence[int] | None, by: str | Retry) -> list[tuple[Attempt, Step]]:
        """Decide what would be done about failed trials by rules."""
        return self._steps(self._failed(trials), by)

    def _steps(self, failed: Sequence[Attempt], by: str | Retry) -> list[tuple[Attempt, Step]]:
        job = self._run.job
        rules = Retry.read(by) if by != "cause" or job.retry is None else job.retry
        assert rules is not None
        ladder = Ladder.of(rules, job, self._scheduler.bounds(job))
        diagnosis = self._keepers.diagnosis if self._keepers is not None else retrying.Diagnosis(self._run.folder, self._transport)
        return diagnosis.steps(failed, self._attempts.all, rules=rules, ladder=ladder, job=job)

    def _failed(self, trials: int | Sequence[int] | None) -> list[Attempt]:
        """Return the last attempts of the chosen trials that failed."""
        given = trials is not None
        if any(array.outcome in UNSETTLED for array in self._journal.arrays(self._run.id)):
            self.resume(force=False)  # another retry was cut short, say: else it would be forgotten, and sent some other day
        chosen = self._trials(trials, "retry")
        failed = [attempt for attempt in self._attempts.last if attempt.trial in chosen and attempt.status.state.is_failure]
        if given and len(failed) < len(chosen):
            whole = next(a for a in self._attempts.last if a.trial in chosen and not a.status.state.is_failure)
            why = f" ({whole.status.reason})" if whole.status.reason else ""
            raise InvalidInput(f"trial {whole.trial} is {whole.status.state}{why}, and only failed trials are run again")
        sent = {attempt.trial for attempt in self._attempts.all if attempt.job_id is not None}
        unsent = [attempt.trial for attempt in failed if attempt.trial not in sent]
        if unsent:
            raise InvalidInput(f"trial {unsent[0]} of {self._run.id} was never submitted, and so can't be retried; run.resume() sends it")
        return failed

    def _run_again(self, parts: Parts, *, budget: Budget | str | float | None = None) -> None:
        """Submit attempts again, by cause and with their options; those that another kernel runs again already are left to it."""
        if not parts:
            return
        self._budget().before_retry(budget, self._attempts.last, [(options, attempts) for _, options, attempts in parts])
        if self._keepers is not None:  # one that is only late must not do the same
            trials = {attempt.trial for _, _, attempts in parts for attempt in attempts}
            self._keepers.stop(self._attempts.arrays, trials)
        secrets = read_secrets(self._run.job)
        while True:
            taken = len(self._attempts.arrays)
            arrays = [replace(array, cause=cause, options=options) for cause, options, given in parts for array in self.arrays_of(given)]
            cut = self._predecessors.cut(self._scheduler.place(arrays, self._run.job, again=True))
            new = [replace(array, token=f"{self._run.id}-{taken + n}") for n, (array, _) in enumerate(cut)]
            if self._journal.intend(new, known=taken):
                break
            self._attempts.refresh()
            parts = self._left(parts)
            if not parts:
                print("Another kernel has just begun to run them again; run.status() shows it")
                return
        dependencies = {array.token: waits for array, (_, waits) in zip(new, cut, strict=True)}
        files: Mapping[str, Mapping[str, bytes]] = {}
        if not self._scheduler.shares_folder:
            there = {array.nodes for array in self._attempts.arrays if array.job_id is not None}
            files = bring_along(new, self._files(), there=there)
        self.submitter().submit(new, files=files, secrets=secrets, dependencies=dependencies)
        self._attempts.refresh()

    def _left(self, parts: Parts) -> Parts:
        """Leave out the attempts after which there are others by now."""
        now = {attempt.trial: attempt.array.token for attempt in self._attempts.last}
        left = [(cause, options, [a for a in attempts if now[a.trial] == a.array.token]) for cause, options, attempts in parts]
        return [part for part in left if part[2]]

    def arrays_of(self, attempts: Sequence[Attempt]) -> list[ArrayRecord]:
        """Make arrays that run trials again, by the scripts that carry them; their tokens are not theirs yet."""
        made: list[ArrayRecord] = []
        pack = self._run.plan["job"].get("pack") or 1
        for script, first, count in self._run.plan["arrays"]:
            of_script = [attempt.trial for attempt in attempts if first <= attempt.trial < first + count]
            longest = len(of_script) if pack == 1 else MOST_NAMED - MOST_NAMED % pack
            for k in range(0, len(of_script), max(longest, 1)):
                trials = of_script[k : k + longest]
                tasks = format_tasks([trial - first for trial in trials]) if pack == 1 else f"0-{-(-len(trials) // pack) - 1}"
                made.append(
                    ArrayRecord(
                        token="",
                        run=self._run.id,
                        script=script,
                        first=first,
                        tasks=tasks,
                        at=time.time(),
                        count=len(trials),
                        sends=1,
                        pack=pack,
                        trials=trials if pack > 1 else None,
                    )
                )
        return made

    # ---- making whole --------------------------------------------------------------------------

    def resume(self, *, force: bool) -> None:
        """Send what never arrived; see :meth:`Run.resume`."""
        anew = self._keepers_anew()
        arrays = self._journal.arrays(self._run.id)
        lost = self.lost()
        forgotten = self._forgotten()
        whose = f"trials {format_tasks([attempt.trial for attempt in forgotten])}"
        if not anew and not lost and not (forgotten and force) and all(array.outcome not in UNSETTLED for array in arrays):
            print(f"Nothing to resume: all of {self._run.id} was submitted.")
            if forgotten:
                print(f"Nobody knows what became of {whose}. If squeue does not list them, run.resume(force=True) runs them again.")
            return
        files = self._files()
        if not self._scheduler.shares_folder:
            files = {array.token: bring_along([array], files)[array.token] for array in arrays}
        sent = self.submitter().resume(
            arrays,
            files=files,
            secrets=read_secrets(self._run.job),
            is_sure=force,
            lost=lost,
            dependencies=self._dependencies,
        )
        self._attempts.refresh()
        if anew:
            print(f"What looks after {', '.join(anew)} was lost, and is submitted again.")
        if forgotten and force:
            self._run_again([("LOST", {}, forgotten)])
            print(f"Nobody knew what became of {whose}: they are run again, as you say so.")
        if not sent and (anew or (forgotten and force)):
            return
        trials = sum(array.count for array in arrays if array.token in sent)
        print(f"Resumed {self._run.id}: {f'{trials:,} trials were not there, and are submitted now' if sent else 'all of it had arrived'}.")

    def lost(self) -> set[str]:
        """Ask the cluster, and name the arrays that it took, that it knows no more, and of which no trial began."""
        self._attempts.refresh()
        begun_or_known = {a.array.token for a in self._attempts.all if a.status.state is not State.UNKNOWN or a.status.start is not None}
        return {array.token for array in self._attempts.arrays if array.outcome == "submitted"} - begun_or_known

    def _forgotten(self) -> list[Attempt]:
        """Return the attempts that nobody knows any more of arrays of which others are known, or began."""
        whole = self.lost()
        return [
            attempt
            for attempt in self._attempts.last
            if attempt.status.state is State.UNKNOWN and attempt.array.outcome == "submitted" and attempt.array.token not in whole
        ]

    def _keepers_anew(self) -> list[str]:
        """Send keepers that were lost again."""
        self._run.try_refresh()
        return self._keepers.send_anew(self._attempts.arrays) if self._keepers is not None else []

    def _dependencies(self, array: ArrayRecord) -> list[Dependency]:
        """Say what an array that is sent late has to wait for still."""
        (_, found), *others = self._predecessors.cut([array])
        if others:
            raise PreflightFailed(
                f"{array.token} was cut short, and the runs before it have gone on since: some of its trials need no longer wait, and "
                "others do. Resume it when those runs have completed"
            )
        if self._run.job.canary and array.script != CANARY:
            found += after_canary(self._run, self._attempts.refresh()[0])
        return found

    def submitter(self) -> Submitter:
        """Return what sends the run's arrays."""
        return Submitter(
            self._scheduler,
            self._transport,
            self._journal,
            folder=self._run.folder,
            job=self._run.job,
            is_kept=lambda token: self._keepers is not None and self._keepers.follows(token),
            code=self._run.plan.get("snapshot"),
        )

    @property
    def _keepers(self) -> Keepers | None:
        return self._attempts.keepers

    def _trials(self, trials: int | Sequence[int] | None, verb: str) -> set[int]:
        self._attempts.refresh()
        if trials is None:
            return {attempt.trial for attempt in self._attempts.last}
        chosen = {operator.index(trials)} if hasattr(trials, "__index__") else {operator.index(trial) for trial in trials}
        unknown = sorted(chosen - {attempt.trial for attempt in self._attempts.last})
        if unknown:
            raise InvalidInput(f"can't {verb} trial {unknown[0]!r}: {self._run.id} has trials 0 to {self._run.trial_count - 1}")
        return chosen
