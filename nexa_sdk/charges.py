"""Charges: what runs and clusters took, from accounting or from the runs' own records, into the ledger and out of it as a report."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nexa_sdk.cost_line import COMPUTE
from nexa_sdk.cost_report import CostReport
from nexa_sdk.errors import ClusterError, CommandFailed, JournalError, RunNotFound
from nexa_sdk.estimate import Estimate, Experience
from nexa_sdk.monitoring.ledger import Charge, Ledger
from nexa_sdk.monitoring.usage.store import read_lines
from nexa_sdk.rates import Rates
from nexa_sdk.scheduling.base import ArrayHandle, Usage
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks, parse_tasks
from nexa_sdk.transports.base import QUESTION

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.rates import Price
    from nexa_sdk.records import ArrayRecord
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.base import Scheduler, TaskStatus
    from nexa_sdk.sweep import Sweep

__all__ = ["cost_of_cluster", "cost_of_run", "experience", "gpu_price", "program_of", "record_run", "resources_of"]

RECENT = 60.0  # seconds after an end in which it may still be
ENOUGH = 10_000  # trials from which a length is learned


# ---- a run -------------------------------------------------------------------------------------


def cost_of_run(run: Run, *, scheduler: Scheduler, rates: Callable[[], Rates]) -> CostReport:
    """Return what a run took and cost so far; see :meth:`nexa_sdk.run.Run.cost`."""
    notes = record_run(run, scheduler=scheduler, rates=rates)
    notes += _record_calls(run)
    idle = _idle(run, notes)
    lines = [*Ledger().of_run(run.id), *Ledger().calls_of_run(run.id)]
    return CostReport(lines, title=f"Cost of {run.id}", notes=tuple(notes), estimate=_planned(run), idle_gpu_hours=idle)


def _idle(run: Run, notes: list[str]) -> Decimal | None:
    """Return the hours of GPUs that did nothing, as far as somebody watched."""
    if not run.job.gpu_count or not run.watched.is_known:
        return None
    try:
        run.watched.read_on()
    except ClusterError as error:
        notes.append(f"how long GPUs were idle can't be read: {error}")
        return None
    if run.watched.sees_others:
        notes.append("how long GPUs were idle is not known: the Prometheus does not say whose they are (label hpc_job)")
    hours = run.watched.idle_gpu_hours()
    return None if hours is None else Decimal(repr(round(hours, 6)))


def gpu_price(run: Run) -> Price | None:
    """Return what the run's GPUs cost: as it was written down of them, else as was said at the launch; None where that is not clear."""
    found = {line.price for line in Ledger().of_run(run.id) if line.gpu_ms and line.price is not None}
    if len(found) == 1:
        return found.pop()
    job, rates = run.job, Rates.read(run.plan.get("rates", []))
    return None if found else rates.price(partition=job.partition or "", gpu_type=job.gpu_type or "", gpus=job.gpu_count)


def _record_calls(run: Run) -> Iterator[str]:
    """Write down what trials called of LLM APIs; a file that can't be read keeps none of the others back."""
    for content in run.usage_files():
        try:
            Ledger().record_calls(read_lines(content))
        except JournalError as error:
            yield str(error)


def record_run(run: Run, *, scheduler: Scheduler, rates: Callable[[], Rates]) -> list[str]:
    """Write down what a run took so far, and return what could not be known."""
    attempts, arrays = run.refresh_arrays()
    notes: list[str] = []
    sent = [array for array in arrays if array.job_id is not None]
    told = _ask(run, sent, attempts, scheduler)
    asked = time.time()
    if told is None:
        notes.append("there is no accounting: this is from the run's own records")
    elif not scheduler.counts_gpus and run.job.gpu_count:
        notes.append("accounting counts no GPUs here: they are counted as the job asked for them")
    if skewed := sum(usage.is_skewed for usage in told or ()):
        notes.append(f"{skewed} of them ended before they began, for two clocks differ: they count as no time at all")
    trials = {f"{array.job_id}_{task}": names for array in sent for task, names in _trials(array).items()}
    known = {usage.job for usage in told or ()}
    own, unclear = _from_records(run, sent, [attempt for attempt in attempts if attempt.job not in known])
    if told is not None and own:
        notes.append(f"accounting does not know {len(own)} of them: these are from the run's own records")
    if unclear:
        notes.append(f"{unclear} of them began, and nobody knows when they ended: they are left out")
    jobs = {array.token: run.job.changed(array.options) for array in sent}
    charges = [
        *(_charge(usage, run, jobs, trials.get(usage.job, ""), is_accounted=True, counts=scheduler.counts_gpus) for usage in told or ()),
        *(_charge(usage, run, jobs, trials.get(usage.job, ""), is_accounted=False, counts=True) for usage in own),
    ]
    price = _Pricing(run.plan.get("rates"), rates)
    Ledger().record(charges, price, asked=asked)
    return notes


class _Pricing:
    """Prices what has none yet: as was said at the launch, else as is said now."""

    def __init__(self, frozen: list[dict[str, Any]] | None, now: Callable[[], Rates]) -> None:
        self._sources = [lambda: Rates.read(frozen or []), now]
        self._rates: list[Rates] = []
        self._known: dict[tuple[str, str, bool], Price | None] = {}

    def __call__(self, charge: Charge) -> Price | None:
        key = (charge.partition, charge.gpu_type, bool(charge.gpus))
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, partition: str, gpu_type: str, has_gpus: bool) -> Price | None:
        for k, source in enumerate(self._sources):
            if k == len(self._rates):
                self._rates.append(source())
            found = self._rates[k].price(partition=partition, gpu_type=gpu_type, gpus=int(has_gpus))
            if found is not None:
                return found
        return None


def _ask(run: Run, arrays: Sequence[ArrayRecord], attempts: Sequence[Attempt], scheduler: Scheduler) -> list[Usage] | None:
    """Ask accounting; what has only just ended is waited for, as it is some seconds late."""
    handles = [ArrayHandle(str(array.job_id), run.folder, array.size, array.token) for array in arrays]
    keepers = [array.token for array in arrays] if run.job.is_kept else []
    since = time.time() - RECENT
    fresh = {attempt.job for attempt in attempts if (attempt.status.end or 0) > since}
    ended = (one for one in attempts if one.job in fresh and one.status.end is not None and one.status.has_begun)
    recent = Counter((attempt.job, attempt.slot) for attempt in ended)  # executions; packed trials share theirs
    deadline = time.monotonic() + scheduler.accounts_late
    while True:
        told = scheduler.usage(handles, keepers=keepers) if handles else []
        if told is None:
            return None
        over = Counter(usage.job for usage in told if usage.is_over)
        late = any(over[job] < count for (job, _), count in recent.items())
        if not late or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


def _from_records(run: Run, arrays: Sequence[ArrayRecord], attempts: Sequence[Attempt]) -> tuple[list[Usage], int]:
    """Say what tasks took, from what is known of their trials; and count those of which it can't be said."""
    last: dict[tuple[str, int, int | None], Attempt] = {(one.array.token, one.task, one.slot): one for one in attempts}
    executions: dict[tuple[str, int, int], list[TaskStatus]] = {}
    for (token, task, _), attempt in last.items():
        for k, status in enumerate((*attempt.status.earlier, attempt.status)):
            executions.setdefault((token, task, k), []).append(status)
    by_token = {array.token: array for array in arrays}
    found, unclear = [], 0
    now = time.time()
    for (token, task, _), statuses in executions.items():
        begun = [status for status in statuses if status.has_begun]
        if token not in by_token or not begun:
            continue
        is_running = any(not status.state.is_terminal and status.state is not State.UNKNOWN for status in statuses)
        ends = [status.end for status in begun if status.end is not None]
        if not is_running and not ends:
            unclear += 1
            continue
        found.append(_recorded(run, by_token[token], task, begun, end=now if is_running else max(ends), is_over=not is_running))
    return found, unclear


def _recorded(run: Run, array: ArrayRecord, task: int, statuses: Sequence[TaskStatus], *, end: float, is_over: bool) -> Usage:
    start = min(status.start for status in statuses if status.start is not None)
    states = [status.state for status in statuses]
    state = next((state for state in states if state is not State.COMPLETED), State.COMPLETED)
    job = run.job.changed(array.options)
    label = f"{array.job_id}_{task}"
    return Usage(
        job=label,
        raw=label,
        name=array.token,
        user=getpass.getuser(),
        account=job.account or "",
        partition=job.partition or "" if run.cluster != "local" else "",
        state=state if is_over else State.RUNNING,
        start=start,
        end=max(start, end),
        is_over=is_over,
        elapsed=max(0.0, end - start),
        gpus=job.gpu_count,
        cpus=job.cpu_count,
        nodes=job.nodes or 1,
        gpu_type=job.gpu_type or "",
    )


def _charge(usage: Usage, run: Run, jobs: Mapping[str, Job], trial: str, *, is_accounted: bool, counts: bool) -> Charge:
    job = jobs.get(usage.name, run.job)
    is_keeper = usage.name.endswith("-keeper")
    gpus = usage.gpus if counts or is_keeper else job.gpu_count
    gpu_type = usage.gpu_type or (job.gpu_type or "" if gpus else "")
    filled = usage._replace(gpus=gpus, gpu_type=gpu_type, account=usage.account or job.account or "")
    return _of_usage(filled, cluster=run.cluster, run=run.id, trial=trial, is_accounted=is_accounted)


def _of_usage(usage: Usage, *, cluster: str, run: str, trial: str, is_accounted: bool) -> Charge:
    start = round(usage.start * 1000)
    return Charge(
        kind=COMPUTE,
        cluster=cluster,
        run=run,
        trial=trial,
        user=usage.user,
        account=usage.account,
        partition=usage.partition,
        gpu_type=usage.gpu_type,
        state=usage.state.value,
        job=usage.job,
        raw=usage.raw,
        start=start,
        end=max(start, round(usage.end * 1000)),
        is_over=usage.is_over,
        length=round(usage.elapsed * 1000),
        gpus=usage.gpus,
        cpus=usage.cpus,
        nodes=usage.nodes,
        is_accounted=is_accounted,
    )


def _trials(array: ArrayRecord) -> dict[int, str]:
    """Say which trials each task carries: ``"3"``, or ``"4-7"`` where they are packed."""
    found: dict[int, list[int]] = {task: [] for task in parse_tasks(array.tasks)}
    for task, _, trial in array.places():
        found[task].append(trial)
    return {task: format_tasks(sorted(trials)) for task, trials in found.items()}


def _planned(run: Run) -> Estimate:
    """Return what the plan said would be taken at most."""
    job, rates = run.job, Rates.read(run.plan.get("rates", []))
    price = rates.price(partition=job.partition or "", gpu_type=job.gpu_type or "", gpus=job.gpu_count)
    tasks = sum(job.tasks_of(count) for _, _, count in run.plan["arrays"])
    bound = Estimate.of_job(job, trials=run.trial_count, tasks=tasks, rounds=1, price=price)
    return replace(bound, wall_clock=None, notes=())


# ---- a cluster ---------------------------------------------------------------------------------

_TOKEN = re.compile(r"(?P<run>.+-[0-9a-f]{8})-(?P<array>\d+)(-keeper)?")


def cost_of_cluster(cluster: Cluster, first: int, last: int, *, everyone: bool, attempts: bool) -> CostReport:
    """Return what a cluster's jobs took and cost between two times; see :meth:`nexa_sdk.cluster.Cluster.cost`."""
    ledger = Ledger()
    told = cluster.scheduler.usage_since(first / 1000, everyone=everyone)
    notes: list[str] = []
    users: set[str] | None = None
    if told is None:
        notes += _record_known_runs(cluster, ledger)
        if cluster.url != "local":
            notes.append("there is no accounting: these are the runs that this machine's journal knows")
    else:
        asked = time.time()
        if not cluster.scheduler.counts_gpus:
            notes.append("accounting counts no GPUs here: of what nexa_sdk did not launch they are not known")
        ledger.record(_of_cluster(cluster, told), _ClusterPricing(cluster), asked=asked)
        if not everyone:
            users = {usage.user for usage in told}
    notes += _record_new_calls(cluster, first, ledger)
    report = ledger.report(first, last, attempts=attempts, cluster=cluster.url)
    ours = {record.id for record in cluster.journal.runs() if record.cluster == cluster.url}
    # Accounting may have forgotten what the ledger has: of the runs that were launched from here it counts all the same.
    lines = report.lines if users is None else [line for line in report.lines if line.user in users or line.run in ours]
    lines = [*lines, *(line for line in ledger.calls_between(first, last, each=attempts) if line.run in ours)]
    return replace(report, lines=lines, notes=tuple(notes))


def _record_new_calls(cluster: Cluster, first: int, ledger: Ledger) -> Iterator[str]:
    """Write down what trials called of LLM APIs since a time, in one question and one answer a machine."""
    folder = cluster.runs_folder
    newer = ["-mindepth", "3", "-maxdepth", "3", "-path", "*/usage/*.jsonl", "-newermt", f"@{first / 1000:.3f}", "-printf", "%P\\n"]
    for name, machine in cluster.transport.machines.items():
        on = f" on {name}" if name else ""
        try:
            answer = machine.run(["find", folder, *newer], env=machine.bare_environment(), timeout=QUESTION)
            if answer.returncode and "No such file" not in answer.stderr:
                raise CommandFailed("find", answer.returncode, answer.stderr)
            contents = machine.read_many(folder, answer.stdout.splitlines())
        except ClusterError as error:
            yield f"what trials{on} called of LLM APIs can't be read: {error}"
            continue
        for content in contents.values():
            try:
                ledger.record_calls(read_lines(content))
            except JournalError as error:
                yield str(error)


class _ClusterPricing:
    """Prices each run's charges as its launch said, and all others as is said now."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._by_run: dict[str, _Pricing] = {}

    def __call__(self, charge: Charge) -> Price | None:
        if charge.run not in self._by_run:
            frozen = _frozen(self._cluster.journal, charge.run) if charge.run else None
            types = [charge.gpu_type]
            self._by_run[charge.run] = _Pricing(frozen, lambda: self._cluster.rates(types))
        return self._by_run[charge.run](charge)


def _frozen(journal: Journal, run: str) -> list[dict[str, Any]] | None:
    try:
        return journal.plan(run).get("rates")
    except RunNotFound:  # launched elsewhere
        return None


def _of_cluster(cluster: Cluster, told: Iterable[Usage]) -> Iterator[Charge]:
    """Say of each job whose run it belongs to, as far as its name and the journal tell."""
    from nexa_sdk.job import Job

    trials: dict[str, dict[str, str]] = {}
    jobs: dict[str, Job | None] = {}
    counts = cluster.scheduler.counts_gpus
    for usage in told:
        match = _TOKEN.fullmatch(usage.name)
        run = match["run"] if match else ""
        if match and "_" not in usage.job and not usage.name.endswith("-keeper"):
            continue  # a task's row that has its raw id for some seconds
        if run and run not in trials:
            arrays = [array for array in cluster.journal.arrays(run) if array.job_id is not None]
            trials[run] = {f"{array.job_id}_{task}": names for array in arrays for task, names in _trials(array).items()}
            jobs[run] = Job(**cluster.journal.plan(run)["job"]) if arrays else None
        job = jobs.get(run)
        if job is not None and not counts and not usage.name.endswith("-keeper"):
            usage = usage._replace(gpus=job.gpu_count)  # noqa: PLW2901
        if job is not None and usage.gpus and not usage.gpu_type:
            usage = usage._replace(gpu_type=job.gpu_type or "")  # noqa: PLW2901
        yield _of_usage(usage, cluster=cluster.url, run=run, trial=trials.get(run, {}).get(usage.job, ""), is_accounted=True)


def _record_known_runs(cluster: Cluster, ledger: Ledger) -> Iterator[str]:
    """Write down what the journal's runs took, where nobody keeps account; what is written down whole is passed by."""
    journal = cluster.journal
    for record in journal.runs():
        if record.cluster != cluster.url:
            continue
        is_over = all(array.final is not None or array.job_id is None for array in journal.arrays(record.id))
        lines = ledger.of_run(record.id) if is_over else []
        if lines and all(line.state != State.RUNNING for line in lines):
            continue
        run = cluster.run(record)
        for note in record_run(run, scheduler=cluster.scheduler, rates=lambda run=run: cluster.rates([run.job.gpu_type or ""])):  # type: ignore[misc]
            if not note.startswith("there is no accounting"):
                yield f"{record.id}: {note}"


# ---- what is known before ----------------------------------------------------------------------


def program_of(sweep: Sweep) -> str:
    """Return what runs of the same program share: a digest of the command without its parameters."""
    return hashlib.sha256(json.dumps([list(sweep.command), sweep.style]).encode()).hexdigest()


def resources_of(job: Job) -> str:
    """Say what a task is given, as far as it matters for how long it takes."""
    return f"{job.nodes or 1} nodes, {job.cpu_count} cores, {job.gpu_count} GPUs {job.gpu_type or ''}".rstrip()


def experience(journal: Journal, *, cluster: str, program: str, resources: str) -> Experience | None:
    """Learn from the journal how long completed trials of the same program took, on the same resources of the same cluster."""
    seconds: list[float] = []
    runs = 0
    for run in Ledger().alike(cluster=cluster, program=program, resources=resources):
        finals = [final for array in journal.arrays(run) for final in array.final or ()]
        lengths = [end - start for state, _, start, end, *_ in finals if state == State.COMPLETED and start and end and end >= start]
        seconds += lengths
        runs += bool(lengths)
        if len(seconds) >= ENOUGH:
            break
    return Experience.of(seconds, runs=runs)
