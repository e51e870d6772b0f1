"""Run: a handle on a submitted plan, found again from its id in any later process."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from nexa_sdk import retrying, tables, waiting
from nexa_sdk.actions import Actions
from nexa_sdk.attempts import Attempt, Attempts
from nexa_sdk.errors import ClusterError, InvalidInput, JournalError, PartlyUnreachable, RunFailed
from nexa_sdk.predecessors import Predecessors, outcome, read_after
from nexa_sdk.records import ArrayRecord
from nexa_sdk.retry import Retry
from nexa_sdk.states import State
from nexa_sdk.submission import CANARY
from nexa_sdk.watched import Watched

if TYPE_CHECKING:
    from decimal import Decimal

    import pandas as pd

    from nexa_sdk.budget import Budget
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.log_tail import LogTail
    from nexa_sdk.notebook.views.run import RunView
    from nexa_sdk.notebook.views.utilization import UtilizationView
    from nexa_sdk.rates import Rates
    from nexa_sdk.records import RunRecord
    from nexa_sdk.remote_cell import RemoteCell
    from nexa_sdk.run_budget import BudgetUse, RunBudget
    from nexa_sdk.scheduling.base import Scheduler, TaskStatus
    from nexa_sdk.scheduling.watcher import Subscription, Watcher
    from nexa_sdk.sweep import Sweep
    from nexa_sdk.transports.base import Transport

__all__ = ["Log", "Run"]


class Log(str):
    """The text of a log; it shows itself as text, not quoted."""

    def __repr__(self) -> str:
        return str(self)


class Run:
    """A submitted plan.

    Get one from ``plan.submit()``, ``%nexa launch`` or :func:`nexa_sdk.attach`.

    Attributes
    ----------
    id : str
    cluster : str
        What ``Cluster(…)`` takes.
    folder : str
        The run's folder on the cluster: script, plan, logs, records and results.
    """

    def __init__(
        self,
        record: RunRecord,
        *,
        scheduler: Scheduler,
        watcher: Watcher,
        transport: Transport,
        journal: Journal,
        files: Callable[[], Mapping[str, Mapping[str, bytes]]],
        other: Callable[[str], Run],
        rates: Callable[[Sequence[str]], Rates],
        prometheus: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.id = record.id
        self.cluster = record.cluster
        self.folder = record.folder
        self.trial_count = record.trials
        self.created = record.created
        self._scheduler = scheduler
        self._watcher = watcher
        self._transport = transport
        self._journal = journal
        self._files = files  # of the plan, by token: rendered again when a launch that was cut short is taken up
        self._prometheus = prometheus  # where one knows what the nodes do
        self._rates = rates  # the prices of now, of what was launched without any
        self._other = other  # a run of the same cluster, by its id
        self._attempts = Attempts(
            record.id,
            record.folder,
            scheduler=scheduler,
            watcher=watcher,
            transport=transport,
            journal=journal,
            has_secrets=lambda: bool(self.plan["job"].get("secrets")),
            explain=self._explain,
            job=lambda: self.job,
            budget=lambda: self._budget,
        )
        self._lines: dict[str, list[dict[str, Any]]] = {}

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What was planned, as ``plan.json`` in the run's folder has it."""
        return self._journal.plan(self.id)

    @cached_property
    def sweep(self) -> Sweep:
        """What is tried."""
        from nexa_sdk.written import read_sweep

        return read_sweep(self.plan["sweep"])

    @cached_property
    def job(self) -> Job:
        """The resources and surroundings of every trial."""
        from nexa_sdk.job import Job

        return Job(**self.plan["job"])

    # ---- asking --------------------------------------------------------------------------------

    def refresh(self, *, max_age: float = 0.0) -> list[Attempt]:
        """Ask the cluster, and return the last attempt of each trial.

        Parameters
        ----------
        max_age : float
            Seconds that an earlier answer may be old.

        Raises
        ------
        ClusterError
            When the cluster does not answer. No state changes then.
        """
        return self._attempts.refresh(max_age=max_age)

    @property
    def last_known(self) -> list[Attempt]:
        """The last attempt of each trial, as last known; nobody is asked."""
        return self._attempts.last

    @property
    def known_attempts(self) -> list[Attempt]:
        """Every attempt of each trial, as last known; nobody is asked."""
        return self._attempts.all

    @property
    def is_finished(self) -> bool:
        """Whether all trials have ended, as far as last known."""
        return bool(self.last_known) and all(attempt.status.state.is_terminal for attempt in self.last_known)

    def counts(self) -> dict[State, int]:
        """Count the trials by state, as last known; nobody is asked."""
        tally = Counter(attempt.status.state for attempt in self.last_known)
        return {state: tally[state] for state in State if tally[state]}

    def tally(self) -> str:
        """Say the counts in words."""
        return ", ".join(f"{count} {state}" for state, count in self.counts().items()) or "no trials"

    # ---- tables --------------------------------------------------------------------------------

    def status(self) -> pd.DataFrame:
        """Ask the cluster, and return a row for each trial.

        Returns
        -------
        pandas.DataFrame
            Indexed by trial: `state`; `exit_code`, as a shell says it (128 + n after signal n);
            `elapsed`, a timedelta, up to now for what is running; `node`; `attempt`, counted from
            1; `job`, as ``squeue -j`` takes it; `reason`.
        """
        return tables.of_status(self.refresh())

    def attempts(self) -> pd.DataFrame:
        """Ask the cluster, and return a row for each attempt of each trial, earlier ones included."""
        self.refresh()
        return tables.of_attempts(self._attempts.all)

    def results(self, *, every_line: bool = False) -> pd.DataFrame:
        """Return parameters, state and what the programs reported, as one DataFrame.

        A program reports by appending JSON lines to the file ``$NEXA_RESULTS``, each an object.

        Parameters
        ----------
        every_line : bool
            A row for each line, rather than one for each trial in which later lines win.

        Returns
        -------
        pandas.DataFrame
            Indexed by trial: the parameters; `state`, `exit_code`, `elapsed`, `node` as
            :meth:`status` has them; the reported keys. A reported key that is a column already
            becomes ``result.<key>``.
        """
        attempts = self.refresh()
        if self._folder_is_gone():
            raise ClusterError(f"the run's folder {self.folder} is gone, and its results with it; run.status() has the states")
        return tables.of_results(self.sweep, attempts, self._read_results(attempts), every_line=every_line)

    def _folder_is_gone(self) -> bool:
        """Whether the run's folder was removed; every launch lays its plan into it, before anything runs."""
        is_laid = any(attempt.job_id is not None for attempt in self.last_known)
        return is_laid and not self._transport.read(f"{self.folder}/plan.json")

    def _read_results(self, attempts: Sequence[Attempt]) -> list[list[dict[str, Any]]]:
        wanted = [attempt for attempt in attempts if attempt.name not in self._lines]
        missing: set[str] = set()
        try:
            files = self._transport.read_many(f"{self.folder}/results", [f"{attempt.name}.jsonl" for attempt in wanted])
        except PartlyUnreachable as error:
            files, missing = error.found, error.missing
            warnings.warn(f"results of {len(missing)} trials are not here: {error}", stacklevel=3)
        found = {attempt.name: tables.read_lines(files.get(f"{attempt.name}.jsonl", b"")) for attempt in wanted}
        for attempt in wanted:
            if attempt.status.state.is_terminal and f"{attempt.name}.jsonl" not in missing:
                self._lines[attempt.name] = found[attempt.name]
        return [self._lines[attempt.name] if attempt.name in self._lines else found[attempt.name] for attempt in attempts]

    # ---- utilization ---------------------------------------------------------------------------

    def utilization(self, trials: int | Sequence[int] | None = None, *, every: float | None = None) -> pd.DataFrame:
        """Return what the run's nodes, tasks and GPUs did, as a DataFrame.

        It is known of runs that were launched with ``telemetry=True``, also from while the notebook
        was closed, and of clusters whose description names a Prometheus.

        Parameters
        ----------
        trials : int or sequence of int, optional
            Of these trials alone.
        every : float, optional
            Seconds that a row is to stand for. Unless given, a row is a sample.

        Returns
        -------
        pandas.DataFrame
            A row for each GPU of each sample, and one where there are no GPUs; see
            :data:`nexa_sdk.monitoring.frames.COLUMNS` for the columns and their units. Its `attrs`
            hold `complaints`, what agents had to complain of, and `lost_lines`, how many lines were
            cut and are left out.

        Raises
        ------
        ClusterError
            When the cluster, or the Prometheus, does not answer.
        InvalidInput
            For a trial that there is not, or a time that is none.
        """
        return self.watched.frame(trials, every=every)

    def verdicts(self, trials: int | Sequence[int] | None = None, *, gpu_hour_cost: float | str | Decimal | None = None) -> pd.DataFrame:
        """Say what stands out in what :meth:`utilization` returns: idle GPUs, starved ones, memory to spare.

        Parameters
        ----------
        trials : int or sequence of int, optional
            Of these trials alone.
        gpu_hour_cost : number or Decimal, optional
            What a GPU costs for an hour, in USD. Unless given, what the prices of the launch say;
            where that is not known, `cost` is not either.

        Returns
        -------
        pandas.DataFrame
            A row for each verdict, the dearest first: `rule`, whose meaning
            :mod:`nexa_sdk.monitoring.verdicts` tells; `words`; `trial`, `task`, `node`, `gpu`; the
            idle `gpu_hours`; and their `cost`.
        """
        from nexa_sdk.charges import gpu_price

        return self.watched.verdicts(trials, gpu_hour_cost=gpu_hour_cost, price=gpu_price(self))

    @cached_property
    def watched(self) -> Watched:
        """What is known of what its nodes do."""
        return Watched(self, transport=self._transport, prometheus=self._prometheus, usage=self._scheduler.usage)

    def top(self, trials: int | Sequence[int] | None = None) -> UtilizationView:
        """Show live what the run's GPUs and nodes do; it stops by itself when the run has ended.

        The cell returns at once. Running it again, also in another kernel, shows the whole history
        again. A picture of the last state stays in the saved notebook.
        """
        from nexa_sdk import ui

        return ui.utilization(self, trials)

    # ---- a remote cell -------------------------------------------------------------------------

    @cached_property
    def cell(self) -> RemoteCell:
        """The notebook's cell that it runs, whose ``result()`` waits for it, shows what it shows and has its outputs.

        Raises
        ------
        InvalidInput
            It is no remote cell.
        """
        from nexa_sdk.remote_cell import RemoteCell

        return RemoteCell(self, self._transport)

    # ---- cost ----------------------------------------------------------------------------------

    def cost(self) -> CostReport:
        """Return what it took and cost, that of running trials so far: all attempts, and each requeue once.

        It is from the scheduler's accounting, where there is one, and stays in the ledger. Prices
        are those of the launch. Packed trials share their task's line. What trials recorded of LLM
        APIs with ``track_usage()`` is part of it.

        Raises
        ------
        ClusterError
            When the cluster, or its accounting, does not answer.
        """
        from nexa_sdk.charges import cost_of_run

        return cost_of_run(self, scheduler=self._scheduler, rates=lambda: self._rates([self.job.gpu_type or ""]))

    def budget(self) -> BudgetUse | None:
        """Look how much of its budget is used, as its tasks count it themselves; None where it has none.

        Raises
        ------
        ClusterError
            When the cluster does not answer.
        """
        return self._budget.use()

    @cached_property
    def _budget(self) -> RunBudget:
        from nexa_sdk.run_budget import RunBudget

        return RunBudget(
            self.id, self.folder, plan=lambda: self.plan, job=lambda: self.job, transport=self._transport, journal=self._journal
        )

    def usage_files(self) -> list[bytes]:
        """Return what its trials wrote down of their calls of LLM APIs."""
        folder = f"{self.folder}/usage"
        files = self._transport.read_many(folder, [name for name in self._transport.list(folder) if name.endswith(".jsonl")])
        return list(files.values())

    def refresh_arrays(self) -> tuple[list[Attempt], list[ArrayRecord]]:
        """Ask the cluster, and return every attempt and every array."""
        self.refresh()
        return list(self._attempts.all), list(self._attempts.arrays)

    # ---- logs ----------------------------------------------------------------------------------

    def logs(
        self, trial: int | Sequence[int] = 0, *, attempt: int | None = None, tail: int | None = None, follow: bool = False
    ) -> Log | None:
        """Return what a trial wrote to stdout and stderr.

        Parameters
        ----------
        trial : int or sequence of int
            Of several, each line has its trial before it: ``3 | loss 0.1``.
        attempt : int, optional
            Which attempt, counted from 1; unless given, the last.
        tail : int, optional
            Only so many lines, the last ones.
        follow : bool
            Print it instead as it grows, until the trial ends. Ctrl-C stops following.

        Raises
        ------
        InvalidInput
            For a trial or an attempt that there is not.
        """
        several = not isinstance(trial, SupportsIndex)
        chosen = [self.choose(number, attempt) for number in ([trial] if isinstance(trial, SupportsIndex) else trial)]
        if follow:
            pieces = waiting.follow(self, chosen, self._transport)
            for text in waiting.with_trials(pieces) if several else (text for _, text in pieces):
                sys.stdout.write(text)
                sys.stdout.flush()
            return None
        if not several:
            return Log(self._read_log(chosen[0], tail))
        return Log("".join(waiting.with_trials((each, self._read_log(each, tail)) for each in chosen)))

    def _read_log(self, chosen: Attempt, tail: int | None) -> str:
        text = self._transport.read(f"{self.folder}/logs/{chosen.name}.log").decode(errors="replace")
        if tail is not None:
            text = "".join(text.splitlines(keepends=True)[-tail:]) if tail > 0 else ""
        return text or self._silence(chosen)

    def _silence(self, chosen: Attempt) -> str:
        """Say why a log is empty, where that can be said."""
        if chosen.status.state in (State.PENDING, State.UNKNOWN):
            return f"trial {chosen.trial} is {chosen.status.state}: it has written nothing"
        return f"the run's folder {self.folder} is gone, and the logs with it" if self._folder_is_gone() else ""

    def log_tail(self, trial: int, *, attempt: int | None = None) -> LogTail:
        """Return the end of a trial's log, which can be read on as it grows; see :meth:`logs` for the parameters."""
        from nexa_sdk.log_tail import LogTail

        chosen = self.choose(trial, attempt)
        return LogTail(chosen, f"{self.folder}/logs/{chosen.name}.log", self._transport, silence=self._silence)

    def choose(self, trial: SupportsIndex, attempt: int | None = None, *, max_age: float = 1.0) -> Attempt:
        """Return an attempt of a trial, counted from 1; unless given, the last."""
        self.refresh(max_age=max_age)
        of_trial = [known for known in self._attempts.all if known.trial == trial]
        if not of_trial:
            raise InvalidInput(f"there is no trial {trial!r}: {self.id} has trials 0 to {self.trial_count - 1}")
        if attempt is None:
            return of_trial[-1]
        if not 1 <= attempt <= len(of_trial):
            raise InvalidInput(f"trial {trial} has attempts 1 to {len(of_trial)}, not {attempt!r}")
        return of_trial[attempt - 1]

    # ---- files ---------------------------------------------------------------------------------

    def fetch(
        self,
        *patterns: str,
        to: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        timeout: float | None = None,
        progress: bool = True,
    ) -> list[Path]:
        """Bring files that the run wrote: ``run.fetch("checkpoints/**", to="best")``.

        What is here already and the same does not travel; a line that goes is opened again.

        Parameters
        ----------
        *patterns : str
            As ``.gitignore`` has them, relative to the directory in which the trials ran or to the
            run's folder: ``"*.pt"`` anywhere, ``"results/"``, ``"!checkpoints/old/**"`` for what is to be
            left out. A link brings what it leads to.
        to : path, optional
            The folder for them, each at its own relative path. Unless given, one called as the run. Of
            bare machines each has a folder of its own in it: ``best/gpu1/…``.
        overwrite : bool
            Let them take the place even of files that are newer here.
        timeout : float, optional
            Seconds for all of it. Unless given, as long as it takes.
        progress : bool
            Show how far it is.

        Returns
        -------
        list of Path
            The files, here.

        Raises
        ------
        InvalidInput
            No file matches, or one would take the place of a newer one.
        ClusterError
            What arrived is kept, and the same call goes on with it.
        """
        from nexa_sdk.fetching import fetch

        return fetch(
            self.id,
            self._transport,
            folder=self.folder,
            workdir=self.plan["workdir"],
            patterns=patterns,
            to=to,
            overwrite=overwrite,
            timeout=timeout,
            progress=progress,
        )

    # ---- waiting -------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None, *, check: bool = True, progress: bool = True) -> Run:
        """Wait until all trials have ended.

        Ctrl-C detaches: the run goes on, and waiting again takes it up.

        Parameters
        ----------
        timeout : float, optional
            Seconds.
        check : bool
            Raise when trials did not complete.
        progress : bool
            Show how far it is.

        Raises
        ------
        RunFailed
        TimeoutError
        """
        waiting.wait(self, timeout, progress=progress)
        if check:
            self._check()
        return self

    async def finished(self, *, check: bool = True) -> Run:
        """Wait until all trials have ended, without blocking: ``await run`` does the same."""
        await waiting.finished(self)
        if check:
            self._check()
        return self

    def __await__(self) -> Generator[Any, None, Run]:
        return self.finished().__await__()

    def try_refresh(self, *, max_age: float = 5.0) -> str:
        """Ask, and return what went wrong: the trials of a cluster that does not answer go on."""
        try:
            self.refresh(max_age=max_age)
        except (ClusterError, JournalError) as error:
            return str(error)
        return ""

    def _check(self) -> None:
        failed = [attempt for attempt in self.last_known if attempt.status.state is not State.COMPLETED]
        if failed:
            first = failed[0]
            code = f" with exit code {first.status.exit_code}" if first.status.exit_code is not None else ""
            raise RunFailed(
                f"{len(failed)} of {self.trial_count} trials of {self.id} did not complete; trial {first.trial} is "
                f"{first.status.state}{code}. run.logs({first.trial}) shows what it wrote, run.retry() runs the failed ones again",
                self,
            )

    def subscribe(self, heard: Callable[[], object]) -> Subscription:
        """Call `heard` whenever the cluster was asked, until the subscription is closed."""
        return self._watcher.subscribe(lambda: self._attempts.handles, heard)

    def tell(self) -> None:
        """Tell whoever listens that there may be news: a live table shows an end that another cell saw."""
        self._watcher.tell()

    def watch(self) -> RunView:
        """Show the run live; it stops by itself when all trials have ended.

        The cell returns at once. The last state stays in the saved notebook. A terminal waits for the
        end.
        """
        from nexa_sdk import ui

        return ui.run(self)

    # ---- acting --------------------------------------------------------------------------------

    def cancel(self, trials: int | Sequence[int] | None = None) -> Run:
        """End the run, or some trials: first by TERM, then by KILL.

        Raises
        ------
        InvalidInput
            For a trial that there is not.
        """
        self._actions.cancel(trials)
        return self

    def retry(
        self,
        trials: int | Sequence[int] | None = None,
        *,
        by: str | Retry | None = None,
        budget: Budget | str | float | None = None,
    ) -> Run:
        """Run the failed trials again, or those of the given ones that failed.

        A trial keeps its number; every attempt keeps its log and its record. What you run again
        yourself is yours: no rules of the launch follow it.

        Parameters
        ----------
        trials : int or sequence of int, optional
        by : "cause" or Retry, optional
            Run each again as its cause demands, with more memory, more time or on another node, by
            the launch's rules, or these; what is done is said before. :meth:`retry_plan` shows it.
            Unless given, all are run again as they were planned, whatever their cause.
        budget : str, number or Budget, optional
            What all of the run may cost from now on, what it has cost included; unless given, what
            it might before. It can only be given to a run that was launched with one.

        Raises
        ------
        InvalidInput
            For a trial that there is not, or that has not failed.
        BudgetExceeded
            It could cost more than is left. Nothing was submitted.
        SubmissionRejected, SubmissionUnknown
        """
        self._actions.retry(trials, by, budget)
        return self

    def retry_plan(self, trials: int | Sequence[int] | None = None, *, by: str | Retry = "cause") -> pd.DataFrame:
        """Show what :meth:`retry` would do by these rules; nothing is submitted.

        Returns
        -------
        pandas.DataFrame
            A row for each failed trial: `attempt`, the last one; `cause`; `again`, whether it is
            run again; `change`, what it is given, or why it is not.
        """
        return retrying.table(self._actions.steps(trials, by))

    def resume(self, *, force: bool = False) -> Run:
        """Send what of a launch or of a retry was cut short and never arrived; adopt what did arrive.

        Whatever ended the process that launched, this makes the run whole: nothing is submitted
        twice. Where only the scheduler's queue can tell, it is asked for a quarter of a minute.

        Parameters
        ----------
        force : bool
            Send again also what nobody can say anything of; say so only if you have looked. Trials
            of an array of which others began are run again as further attempts.

        Raises
        ------
        SubmissionUnknown
            There is evidence neither way, or it is being submitted by another process.
        SubmissionRejected
        """
        self._actions.resume(force=force)
        return self

    def lost(self) -> set[str]:
        """Ask the cluster, and name the arrays that it took, that it knows no more, and of which no trial began."""
        return self._actions.lost()

    @cached_property
    def _actions(self) -> Actions:
        return Actions(
            self,
            self._attempts,
            self._predecessors,
            scheduler=self._scheduler,
            transport=self._transport,
            journal=self._journal,
            files=self._files,
            budget=lambda: self._budget,
        )

    @cached_property
    def _predecessors(self) -> Predecessors:
        return Predecessors(read_after(self.plan), self._other)

    def _explain(self, array: ArrayRecord, canary: TaskStatus | None) -> Callable[[int], str]:
        """Find out why trials that never began were cancelled by Slurm; what is returned says it of one, if it knows."""
        if self.plan["job"].get("canary") and canary is not None and canary.state.is_failure and array.script != CANARY:
            words = f"the canary, trial 0, did not complete: it is {outcome(canary)}. run.logs(0) shows what it wrote"
            return lambda _: words
        return self._predecessors.blame(array.at)

    # ---- how it shows itself -------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Run {self.id} on {self.cluster}: {self._summary()}>"

    def _summary(self) -> str:
        known = self.tally() if self.last_known else "submitted"
        return f"{self.trial_count} trial{'s' if self.trial_count != 1 else ''}, {known}"

    def _ipython_display_(self) -> None:
        """Show itself live as a cell's last value; anywhere else IPython goes on with what is written below."""
        from nexa_sdk import ui

        if not ui.is_live():
            raise NotImplementedError
        ui.run(self)

    def _repr_html_(self) -> str:
        from nexa_sdk import display

        return display.run_summary(self.id, self.cluster, self.trial_count, self.counts(), self.folder)
