"""Run: a handle on a submitted plan, found again from its id in any later process."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, InvalidInput, JobError, RunFailed, SubmissionRejected, SubmissionUnknown
from nexa_sdk.journal import ArrayRecord, Journal, RunRecord
from nexa_sdk.scheduling.base import ArrayHandle, Scheduler, Submission, TaskStatus
from nexa_sdk.scheduling.watcher import Subscription, Watcher
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks, parse_tasks

if TYPE_CHECKING:
    import asyncio

    import pandas as pd

    from nexa_sdk.job import Job
    from nexa_sdk.notebook.live import View
    from nexa_sdk.sweep import Sweep
    from nexa_sdk.transports.base import Transport

__all__ = ["Attempt", "Log", "Run", "submit_arrays"]

PATIENCE = 60.0  # seconds without news until a waiting cell asks by itself


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial.

    Attributes
    ----------
    trial, number : int
        Which trial, and which of its attempts, counted from 1.
    job_id, task
        Where the scheduler ran it: its log is ``logs/<job_id>_<task>.log``.
    status : TaskStatus
    """

    trial: int
    number: int
    job_id: str | None
    task: int
    status: TaskStatus

    @property
    def name(self) -> str:
        """What the files of this attempt are called."""
        return f"{self.job_id}_{self.task}"


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

    def __init__(self, record: RunRecord, *, scheduler: Scheduler, watcher: Watcher, transport: Transport, journal: Journal) -> None:
        self.id = record.id
        self.cluster = record.cluster
        self.folder = record.folder
        self.trial_count = record.trials
        self.created = record.created
        self._scheduler = scheduler
        self._watcher = watcher
        self._transport = transport
        self._journal = journal
        self._refreshing = threading.Lock()
        self._arrays: list[ArrayRecord] = []
        self._handles: tuple[ArrayHandle, ...] = ()
        self._last: list[Attempt] = []
        self._all: list[Attempt] = []
        self._records: dict[str, dict[str, Any]] = {}
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
        with self._refreshing:
            arrays = [self._adopt(array) for array in self._journal.arrays(self.id)]
            open_ones = [array for array in arrays if array.final is None and array.job_id is not None]
            self._handles = tuple(ArrayHandle(str(array.job_id), self.folder) for array in open_ones)
            answer = self._watcher.ask(self._handles, max_age=max_age)
            cancels = self._journal.cancels([array.token for array in open_ones])
            statuses: dict[str, dict[int, TaskStatus]] = {}
            for array in arrays:
                if array.final is not None:
                    statuses[array.token] = dict(zip(parse_tasks(array.tasks), map(_read_final, array.final), strict=True))
                elif array.job_id is not None:
                    statuses[array.token] = self._statuses(array, answer[array.job_id], cancels.get(array.token, []))
                else:
                    statuses[array.token] = dict.fromkeys(parse_tasks(array.tasks), _not_submitted(array))
            self._arrays = arrays
            self._arrange(arrays, statuses)
            self._close(arrays, statuses)
            return list(self._last)

    def _adopt(self, array: ArrayRecord) -> ArrayRecord:
        """Look up a submission that nobody saw confirmed, and adopt what is found."""
        if array.outcome not in ("intent", "unknown"):
            return array
        job_id = self._scheduler.find(array.token, self.folder)
        if job_id is None:
            return array
        self._journal.settle(array.token, "submitted", job_id=job_id)
        return replace(array, outcome="submitted", job_id=job_id)

    def _statuses(self, array: ArrayRecord, answer: Mapping[int, TaskStatus], cancels: Sequence[str]) -> dict[int, TaskStatus]:
        """Complete what the scheduler says with the records in the run's folder and our own cancels."""
        tasks = parse_tasks(array.tasks)
        cancelled = {task for text in cancels for task in parse_tasks(text)}
        # Slurm shows exit codes above 128 in two ways, and without accounting none at all.
        unclear = [task for task in tasks if task not in answer or _lacks_exit_code(answer[task])]
        records = self._read_records([f"{array.job_id}_{task}" for task in unclear])
        found: dict[int, TaskStatus] = {}
        for task in tasks:
            status = answer.get(task)
            record = records.get(f"{array.job_id}_{task}")
            if status is None:
                status = _from_record(record, was_cancelled=task in cancelled)
            elif record is not None and "exit" in record and status.state in (State.COMPLETED, State.FAILED):
                status = replace(
                    status, exit_code=record["exit"], start=status.start or record["start"], end=status.end or record["end"]
                )
            elif status.state is State.FAILED and record is None and not status.reason:
                status = replace(status, reason=f"it left no record: does its node see {self.folder}?")
            found[task] = status
        return found

    def _read_records(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        missing = [name for name in names if name not in self._records]
        if missing:
            files = self._transport.read_many(f"{self.folder}/tasks", [f"{name}.json" for name in missing])
            for name in missing:
                if f"{name}.json" in files:
                    self._records[name] = json.loads(files[f"{name}.json"])
        found = {name: self._records[name] for name in names if name in self._records}
        begun = [name for name in names if name not in found]
        files = self._transport.read_many(f"{self.folder}/tasks", [f"{name}.started" for name in begun]) if begun else {}
        return {**found, **{name.removesuffix(".started"): json.loads(content) for name, content in files.items() if content.strip()}}

    def _arrange(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Mapping[int, TaskStatus]]) -> None:
        everything: list[Attempt] = []
        counts: Counter[int] = Counter()
        for array in arrays:
            for task, status in statuses[array.token].items():
                trial = array.first + task
                counts[trial] += 1
                everything.append(Attempt(trial, counts[trial], array.job_id, task, status))
        last = {attempt.trial: attempt for attempt in everything}
        self._all = everything
        self._last = [last[trial] for trial in sorted(last)]

    def _close(self, arrays: Sequence[ArrayRecord], statuses: Mapping[str, Mapping[int, TaskStatus]]) -> None:
        """Write down the arrays that have ended, and take their secrets away."""
        ended = [
            array
            for array in arrays
            if array.final is None and array.job_id is not None and all(s.state.is_terminal for s in statuses[array.token].values())
        ]
        for array in ended:
            self._journal.finish(array.token, [_write_final(status) for status in statuses[array.token].values()])
            if self.plan["job"].get("secrets"):
                self._transport.remove([f"{self.folder}/secrets/{array.token}"])
        self._watcher.forget([str(array.job_id) for array in ended])

    @property
    def is_finished(self) -> bool:
        """Whether all trials have ended, as far as last known."""
        return bool(self._last) and all(attempt.status.state.is_terminal for attempt in self._last)

    def counts(self) -> dict[State, int]:
        """Count the trials by state, as last known; nobody is asked."""
        tally = Counter(attempt.status.state for attempt in self._last)
        return {state: tally[state] for state in State if tally[state]}

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
        import pandas as pd

        attempts = self.refresh()
        columns = _state_columns(attempts)
        columns["attempt"] = [attempt.number for attempt in attempts]
        columns["job"] = [attempt.name if attempt.job_id else "" for attempt in attempts]
        columns["reason"] = [attempt.status.reason for attempt in attempts]
        return pd.DataFrame(columns, index=pd.Index([attempt.trial for attempt in attempts], name="trial"))

    def attempts(self) -> pd.DataFrame:
        """Ask the cluster, and return a row for each attempt of each trial, earlier ones included."""
        import pandas as pd

        self.refresh()
        attempts = sorted(self._all, key=lambda attempt: (attempt.trial, attempt.number))
        columns = _state_columns(attempts)
        columns["job"] = [attempt.name if attempt.job_id else "" for attempt in attempts]
        index = pd.MultiIndex.from_tuples([(attempt.trial, attempt.number) for attempt in attempts], names=["trial", "attempt"])
        return pd.DataFrame(columns, index=index)

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
        import pandas as pd

        attempts = self.refresh()
        lines = self._read_results(attempts)
        trials = [attempt.trial for attempt in attempts]
        rows = list(zip(trials, lines, strict=True))
        frame = _parameter_frame(self.sweep, trials)
        taken = set(frame.columns)
        states = _state_columns(attempts)
        for name, values in states.items():
            frame[name if name not in taken else f"run.{name}"] = values
        if every_line:
            reported = [(trial, line) for trial, found in rows for line in (found or [{}])]
        else:
            reported = [(trial, {key: value for line in found for key, value in line.items()}) for trial, found in rows]
        keys = dict.fromkeys(key for _, line in reported for key in line)
        columns = {key if key not in frame.columns else f"result.{key}": [line.get(key) for _, line in reported] for key in keys}
        results = pd.DataFrame(columns, index=pd.Index([trial for trial, _ in reported], name="trial"))
        return frame.join(results, how="right") if every_line else frame.join(results)

    def _read_results(self, attempts: Sequence[Attempt]) -> list[list[dict[str, Any]]]:
        wanted = [attempt for attempt in attempts if attempt.name not in self._lines]
        files = self._transport.read_many(f"{self.folder}/results", [f"{attempt.name}.jsonl" for attempt in wanted])
        found = {attempt.name: _read_lines(files.get(f"{attempt.name}.jsonl", b"")) for attempt in wanted}
        for attempt in wanted:
            if attempt.status.state.is_terminal:
                self._lines[attempt.name] = found[attempt.name]
        return [self._lines[attempt.name] if attempt.name in self._lines else found[attempt.name] for attempt in attempts]

    # ---- logs ----------------------------------------------------------------------------------

    def logs(self, trial: int = 0, *, attempt: int | None = None, tail: int | None = None, follow: bool = False) -> Log | None:
        """Return what a trial wrote to stdout and stderr.

        Parameters
        ----------
        trial : int
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
        chosen = self._choose(trial, attempt)
        if follow:
            for piece in self._follow(chosen):
                sys.stdout.write(piece)
                sys.stdout.flush()
            return None
        text = self._transport.read(f"{self.folder}/logs/{chosen.name}.log").decode(errors="replace")
        if tail is not None:
            text = "".join(text.splitlines(keepends=True)[-tail:]) if tail > 0 else ""
        if not text and chosen.status.state in (State.PENDING, State.UNKNOWN):
            text = f"trial {trial} is {chosen.status.state}: it has written nothing"
        return Log(text)

    def _choose(self, trial: int, attempt: int | None) -> Attempt:
        self.refresh(max_age=1.0)
        of_trial = [known for known in self._all if known.trial == trial]
        if not of_trial:
            raise InvalidInput(f"there is no trial {trial!r}: {self.id} has trials 0 to {self.trial_count - 1}")
        if attempt is None:
            return of_trial[-1]
        if not 1 <= attempt <= len(of_trial):
            raise InvalidInput(f"trial {trial} has attempts 1 to {len(of_trial)}, not {attempt!r}")
        return of_trial[attempt - 1]

    def _follow(self, chosen: Attempt) -> Iterator[str]:
        path, offset = f"{self.folder}/logs/{chosen.name}.log", 0
        while True:
            ended = chosen.status.state.is_terminal
            if content := self._transport.read(path, offset=offset):
                offset += len(content)
                yield content.decode(errors="replace")
            if ended:
                return
            time.sleep(0.5)
            chosen = self._choose(chosen.trial, chosen.number)

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
        from nexa_sdk.notebook.live import Progress

        deadline = None if timeout is None else time.monotonic() + timeout
        news = threading.Event()
        self.refresh(max_age=1.0)
        with Progress(self, shown=progress) as bar:
            subscription = self.subscribe(news.set)
            try:
                while not self.is_finished:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"{self.id} has not ended after {timeout:g} seconds; it goes on: {_tally(self.counts())}")
                    news.wait(min(left if left is not None else PATIENCE, PATIENCE))
                    news.clear()
                    bar.update(self._try_refresh())
            except KeyboardInterrupt:
                print(f"Detached. The run goes on: nexa_sdk.attach({self.id!r}) finds it again.")
                raise
            finally:
                subscription.close()
        self._watcher.tell()  # a live table above shows the end before the next cell begins
        if check:
            self._check()
        return self

    async def finished(self, *, check: bool = True) -> Run:
        """Wait until all trials have ended, without blocking: ``await run`` does the same."""
        import asyncio

        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        await asyncio.to_thread(self.refresh, max_age=1.0)
        subscription = self.subscribe(partial(_wake, loop, news))
        try:
            while not self.is_finished:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), PATIENCE)
                news.clear()
                await asyncio.to_thread(self._try_refresh)
        finally:
            subscription.close()
        if check:
            self._check()
        return self

    def __await__(self) -> Generator[Any, None, Run]:
        return self.finished().__await__()

    def _try_refresh(self) -> str:
        """Ask, and return what went wrong: the trials of a cluster that does not answer go on."""
        try:
            self.refresh(max_age=5.0)
        except ClusterError as error:
            return str(error)
        return ""

    def _check(self) -> None:
        failed = [attempt for attempt in self._last if attempt.status.state is not State.COMPLETED]
        if failed:
            first = failed[0]
            code = f" with exit code {first.status.exit_code}" if first.status.exit_code is not None else ""
            raise RunFailed(
                f"{len(failed)} of {self.trial_count} trials of {self.id} did not complete; trial {first.trial} is "
                f"{first.status.state}{code}. run.logs({first.trial}) shows what it wrote, run.retry() runs the failed ones again",
                self,
            )

    def subscribe(self, heard: Callable[[], None]) -> Subscription:
        """Call `heard` whenever the cluster was asked, until the subscription is closed."""
        return self._watcher.subscribe(lambda: self._handles, heard)

    def watch(self) -> View:
        """Show a live table of the trials; it stops by itself when they have ended.

        The cell returns at once. The table's last state stays in the saved notebook.
        """
        from nexa_sdk.notebook.live import watch

        return watch(self)

    # ---- acting --------------------------------------------------------------------------------

    def cancel(self, trials: int | Sequence[int] | None = None) -> Run:
        """End the run, or some trials: first by TERM, then by KILL.

        Raises
        ------
        InvalidInput
            For a trial that there is not.
        """
        chosen = self._trials(trials, "cancel")
        for array, attempts in self._by_array([attempt for attempt in self._last if attempt.trial in chosen]):
            open_ones = [attempt.task for attempt in attempts if not attempt.status.state.is_terminal]
            if not open_ones or array.job_id is None:
                continue
            tasks = format_tasks(open_ones)
            # Before it is asked for: a pending task that is cancelled leaves no trace in Slurm.
            self._journal.cancelled(array.token, tasks)
            everything = open_ones == parse_tasks(array.tasks)
            self._scheduler.cancel(ArrayHandle(array.job_id, self.folder), None if everything else tasks)
        self.refresh()
        return self

    def retry(self, trials: int | Sequence[int] | None = None) -> Run:
        """Run the failed trials again, or those of the given ones that failed.

        A trial keeps its number; every attempt keeps its log and its record.

        Raises
        ------
        InvalidInput
            For a trial that there is not, or that has not failed.
        SubmissionRejected, SubmissionUnknown
        """
        given = trials is not None
        chosen = self._trials(trials, "retry")
        failed = [attempt for attempt in self._last if attempt.trial in chosen and attempt.status.state.is_failure]
        if given and len(failed) < len(chosen):
            whole = next(a for a in self._last if a.trial in chosen and not a.status.state.is_failure)
            raise InvalidInput(f"trial {whole.trial} is {whole.status.state}, and only failed trials are run again")
        if not failed:
            return self
        secrets = read_secrets(self.job)
        taken = len(self._arrays)
        new: list[ArrayRecord] = []
        for script, first, tasks in self._by_script(failed):
            token = f"{self.id}-{taken + len(new)}"
            new.append(ArrayRecord(token, self.id, script, first, format_tasks(tasks), "intent", None, "", time.time(), None))
        self._journal.intend(new)
        submit_arrays(self._scheduler, self._journal, self.folder, self.job, new, files={}, secrets=secrets, is_retry=True)
        self.refresh()
        return self

    def _trials(self, trials: int | Sequence[int] | None, verb: str) -> set[int]:
        self.refresh()
        if trials is None:
            return {attempt.trial for attempt in self._last}
        chosen = {trials} if isinstance(trials, int) else set(trials)
        unknown = sorted(chosen - {attempt.trial for attempt in self._last})
        if unknown:
            raise InvalidInput(f"can't {verb} trial {unknown[0]!r}: {self.id} has trials 0 to {self.trial_count - 1}")
        return chosen

    def _by_array(self, attempts: Sequence[Attempt]) -> list[tuple[ArrayRecord, list[Attempt]]]:
        by_job: dict[str | None, list[Attempt]] = {}
        for attempt in attempts:
            by_job.setdefault(attempt.job_id, []).append(attempt)
        return [(array, by_job[array.job_id]) for array in self._arrays if array.job_id in by_job]

    def _by_script(self, attempts: Sequence[Attempt]) -> list[tuple[str, int, list[int]]]:
        """Group trials by the script that carries them: the array of their first attempt."""
        groups: list[tuple[str, int, list[int]]] = []
        for script, first, count in self.plan["arrays"]:
            tasks = [attempt.trial - first for attempt in attempts if first <= attempt.trial < first + count]
            if tasks:
                groups.append((script, first, tasks))
        return groups

    # ---- how it shows itself -------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Run {self.id} on {self.cluster}: {self._summary()}>"

    def _summary(self) -> str:
        known = _tally(self.counts()) if self._last else "submitted"
        return f"{self.trial_count} trial{'s' if self.trial_count != 1 else ''}, {known}"

    def _repr_html_(self) -> str:
        from nexa_sdk import display

        return display.run_summary(self.id, self.cluster, self.trial_count, self.counts(), self.folder)


def submit_arrays(
    scheduler: Scheduler,
    journal: Journal,
    folder: str,
    job: Job,
    arrays: Sequence[ArrayRecord],
    *,
    files: Mapping[str, Mapping[str, bytes]],
    secrets: bytes | None,
    is_retry: bool = False,
) -> None:
    """Submit arrays that the journal has as intended; what came of each is written down.

    When one is refused, those before it are cancelled: a run is submitted whole or not at all.
    """
    done: list[ArrayRecord] = []
    for array in arrays:
        secret_file = {f"secrets/{array.token}": secrets} if secrets is not None else {}
        submission = Submission(
            token=array.token,
            folder=folder,
            script=array.script,
            tasks=array.tasks,
            job=job,
            files={**files.get(array.token, {}), **secret_file},
            is_retry=is_retry,
        )
        try:
            job_id = _uninterrupted(partial(scheduler.submit, submission))
        except SubmissionUnknown as error:
            journal.settle(array.token, "unknown", words=str(error))
            raise
        except ClusterError as error:
            for refused in arrays[len(done) :]:
                journal.settle(refused.token, "rejected", words=str(error))
            for earlier in done:
                journal.cancelled(earlier.token, earlier.tasks)
                scheduler.cancel(ArrayHandle(str(earlier.job_id), folder), None)
            raise
        journal.settle(array.token, "submitted", job_id=job_id)
        done.append(replace(array, job_id=job_id))


def _uninterrupted(submit: Callable[[], str]) -> str:
    """Let a submission come to its end: Ctrl-C is heard after it, never half way."""
    with ThreadPoolExecutor(1, thread_name_prefix="nexa-submit") as pool:
        answer = pool.submit(submit)
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                result = answer.result()
                break
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
    if interrupted is not None:
        print("Interrupted, after the submission had come to its end.")
        raise interrupted
    return result


def read_secrets(job: Job) -> bytes | None:
    """Take a job's secrets from the environment or ``.env``, as lines of bash.

    Raises
    ------
    JobError
        For one that is in neither; its name is told, never a value.
    """
    if not job.secrets:
        return None
    from nexa_sdk.scheduling.slurm.bash import quote

    stored = _read_dotenv(Path(job.workdir or ".") / ".env") | _read_dotenv(Path(".env"))
    lines = []
    for name in job.secrets:
        value = os.environ.get(name, stored.get(name))
        if not value:
            raise JobError(f"secrets: {name} is neither in the environment nor in .env; set it there, or leave it out")
        lines.append(f"export {name}={quote(value)}\n")
    return "".join(lines).encode()


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    loop.call_soon_threadsafe(news.set)


def _state_columns(attempts: Sequence[Attempt]) -> dict[str, Any]:
    import pandas as pd

    statuses = [attempt.status for attempt in attempts]
    now = time.time()
    elapsed = [None if s.start is None else (s.end or now) - s.start if s.end or not s.state.is_terminal else None for s in statuses]
    return {
        "state": [status.state.value for status in statuses],
        "exit_code": pd.array([status.exit_code for status in statuses], dtype="Int64"),
        "elapsed": pd.to_timedelta(pd.array(elapsed, dtype="Float64"), unit="s").round("s"),
        "node": [status.node for status in statuses],
    }


def _parameter_frame(sweep: Sweep, trials: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    rows = [sweep[trial] for trial in trials]
    return pd.DataFrame({name: [row[name] for row in rows] for name in sweep.parameters}, index=pd.Index(trials, name="trial"))


def _read_lines(content: bytes) -> list[dict[str, Any]]:
    """Read JSON lines; the last one may be half written, and what is no object is left out."""
    found = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _lacks_exit_code(status: TaskStatus) -> bool:
    return status.state is State.FAILED or (status.state is State.COMPLETED and status.exit_code is None)


def _from_record(record: Mapping[str, Any] | None, *, was_cancelled: bool) -> TaskStatus:
    """Judge a task that the scheduler no longer knows: by its own record, else by what we cancelled."""
    if record is not None and "exit" in record:
        if was_cancelled and record["exit"]:
            state = State.CANCELLED
        else:
            state = State.COMPLETED if record["exit"] == 0 else State.FAILED
        code = record["exit"] if state is not State.CANCELLED else None
        return TaskStatus(state, code, record["start"], record["end"], record["node"], "from its own record")
    if was_cancelled:
        return TaskStatus(State.CANCELLED, start=record["start"] if record else None, node=record["node"] if record else "")
    if record is not None:
        return TaskStatus(State.UNKNOWN, start=record["start"], node=record["node"], reason="it began; the scheduler no longer knows it")
    return TaskStatus(State.UNKNOWN, reason="the scheduler does not know it")


def _not_submitted(array: ArrayRecord) -> TaskStatus:
    if array.outcome == "rejected":
        return TaskStatus(State.CANCELLED, reason=f"never submitted: {array.words}")
    return TaskStatus(State.UNKNOWN, reason=array.words or "its submission was never confirmed")


def _write_final(status: TaskStatus) -> list[Any]:
    return [status.state.value, status.exit_code, status.start, status.end, status.node, status.reason]


def _read_final(written: Sequence[Any]) -> TaskStatus:
    return TaskStatus(State(written[0]), *written[1:])


def _tally(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials"
