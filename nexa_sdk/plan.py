"""Plan: sweep × job × cluster, with its run id and tokens drawn. What it shows is what is submitted."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from nexa_sdk.code_records import code_checks, code_records
from nexa_sdk.errors import ClusterError, JobError, JournalError, PreflightFailed, SubmissionRejected, SubmissionUnknown, SweepError
from nexa_sdk.hold import Hold
from nexa_sdk.keepers import Orders
from nexa_sdk.monitoring import telemetry
from nexa_sdk.predecessors import AfterRun, Predecessors, read_after
from nexa_sdk.program_checks import program_checks
from nexa_sdk.remote.deliveries import is_delivered
from nexa_sdk.retry import Bounds, Ladder
from nexa_sdk.scheduling.base import Check, Limits, Scheduler
from nexa_sdk.scheduling.slurm.keeper import KeeperScript, render_keeper
from nexa_sdk.scheduling.slurm.rows import RowFiles
from nexa_sdk.scheduling.slurm.script import ArrayScript, are_rows_beside, render
from nexa_sdk.states import State

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.budget import Budget
    from nexa_sdk.code_version import CodeVersion
    from nexa_sdk.estimate import Estimate
    from nexa_sdk.job import Job
    from nexa_sdk.journal import Journal
    from nexa_sdk.project_files import Project
    from nexa_sdk.rates import Price, Rates
    from nexa_sdk.records import RunRecord
    from nexa_sdk.remote.packing import PackedCell
    from nexa_sdk.run import Run
    from nexa_sdk.snapshots import Snapshot
    from nexa_sdk.sweep import Sweep
    from nexa_sdk.transports.base import Transport

__all__ = ["Plan", "Where"]

AT_FIRST = 2  # arrays of a rolling submission: while one runs the next waits


class Where(Protocol):
    """What a plan needs of a cluster."""

    url: str

    @property
    def runs_folder(self) -> str: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def transport(self) -> Transport: ...
    @property
    def journal(self) -> Journal: ...
    def rates(self, gpu_types: Sequence[str] = ()) -> Rates: ...
    def run(self, record: RunRecord) -> Run: ...


class Plan:
    """What will happen: the exact script, the trials, the cost. A value that can be submitted.

    Get one from ``cluster.plan(sweep, job)``. Submitting it twice is one run.

    Attributes
    ----------
    id : str
        The id of the run that it becomes.
    sweep, job
        What is tried, and with what.
    folder : str
        The folder that the run gets on the cluster.
    workdir : str
        Where the program runs.
    after : sequence of AfterRun
        The runs that must have completed first.
    hold : Hold
        What holds its cost: its budget, and those of the project and of the month.
    cell : PackedCell or None
        A notebook's cell that is its one trial; it is sent before it is submitted.
    """

    def __init__(
        self,
        sweep: Sweep,
        job: Job,
        cluster: Where,
        *,
        limits: Limits,
        after: Sequence[AfterRun] = (),
        budget: Budget | None = None,
        allow_unknown: bool = False,
        cell: PackedCell | None = None,
        recalled: dict[str, Any] | None = None,
    ) -> None:
        total = len(sweep)
        if not total:
            raise SweepError(f"{sweep!r} is empty: where= leaves no trial")
        self.sweep = sweep
        self.job = job
        self.cluster = cluster
        here = cluster.transport.is_here
        self.project: Project | None = None  # whose code goes with it, where the cluster does not see this machine's
        self.cell = cell
        self._recalled = recalled
        self.limits = limits
        self.is_rolling = job.rolling is not None and cluster.scheduler.holds_queue
        tasks = min(limits.array_size, job.rolling_tasks or limits.array_size) if self.is_rolling else limits.array_size
        size = min(tasks * job.trials_per_task, total)
        ahead = 1 if job.canary else size
        if recalled is None:
            cluster.scheduler.check_possible(job, waits_for_runs=bool(after))
        if self.is_rolling and after:
            raise SweepError("rolling= can't go with after=: what is submitted later would not wait; leave one out")
        self.hold = Hold(self, budget=budget, allow_unknown=allow_unknown, recalled=recalled)
        self._recalled_rates: list[dict[str, Any]] | None = recalled.get("rates", []) if recalled is not None else None
        if recalled is None:
            self.id = f"{sweep.name}-{uuid.uuid4().hex[:8]}"
            self.folder = f"{cluster.runs_folder.rstrip('/')}/{self.id}"
            self.workdir = os.path.abspath(os.path.expanduser(job.workdir or ".")) if here else self._remote_workdir()
            self.python_folder = _python_folder(job, here)
        else:
            self.id, self.folder, self.workdir = recalled["id"], recalled["folder"], recalled["workdir"]
            self.python_folder = recalled["python_folder"]
            self.are_rows_beside = recalled["are_rows_beside"]
            if recalled.get("ladder") is not None:
                self.ladder = Ladder.read(recalled["ladder"])
            ahead, size = recalled["arrays"][0][2], recalled["arrays"][:2][-1][2]
        self.after = tuple(after)
        if self.after and self.is_rolling:
            raise SweepError("after= can't go with rolling=: the later arrays would not know what they wait for; leave one out")
        self.arrays = _Chunks(total, size, ahead)
        self.scripts: Sequence[str] = _Scripts(self)

    def _remote_workdir(self) -> str:
        """Choose where the program runs on a cluster that does not see this machine's files: in a copy of the project there."""
        from nexa_sdk.project_files import Project, find_root

        if self.job.workdir is not None:
            given = str(self.job.workdir)
            home = self.cluster.transport.environment().get("HOME", "/") if given.startswith("~/") else ""
            if not given.startswith(("/", "~/")):
                raise JobError(
                    f"workdir={given!r}: give the whole path of a folder on {self.cluster.url}, or none, and the project goes along"
                )
            return f"{home}{given[1:]}" if home else given
        root = find_root()
        self.project = Project(root)
        inside = Path.cwd().relative_to(root).as_posix()
        return f"{self.folder}/code" + (f"/{inside}" if inside != "." else "")

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The code that goes to the cluster with it; None where the cluster sees this machine's files, or workdir= names a folder there."""
        from nexa_sdk.snapshots import Snapshot

        return Snapshot(self.project, self.cluster.transport, self.cluster.runs_folder) if self.project is not None else None

    @classmethod
    def recall(cls, written: dict[str, Any], cluster: Where) -> Plan:
        """Return a plan that was submitted, from what its ``plan.json`` says: it renders the very same scripts."""
        from nexa_sdk.job import Job
        from nexa_sdk.written import read_sweep

        return cls(
            read_sweep(written["sweep"]),
            Job(**written["job"]),
            cluster,
            limits=Limits(script_bytes=sys.maxsize),
            after=read_after(written),
            recalled=written,
        )

    @cached_property
    def script(self) -> str:
        """The script of the first array, exactly as it is submitted; `scripts` has those of all."""
        return self._render(0)

    @property
    def tokens(self) -> list[str]:
        """The names of the arrays: the marks that find their submissions again."""
        return [f"{self.id}-{number}" for number in range(len(self.arrays))]

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """What lies beside the scripts, by its path in the run's folder: the trials' values, where they are too many for a script.

        Each file is rendered when it is asked for.
        """
        return RowFiles(self.sweep) if self.are_rows_beside else {}

    @cached_property
    def are_rows_beside(self) -> bool:
        """Whether the trials' values lie in files beside the scripts."""
        whole = self._array(0, 0, len(self.sweep))
        return are_rows_beside(self.sweep, self.job, whole, longest=self.limits.script_bytes)

    def _array(self, number: int, first: int, count: int) -> ArrayScript:
        return ArrayScript(
            run=self.id,
            token=f"{self.id}-{number}",
            folder=self.folder,
            first=first,
            count=count,
            total=len(self.sweep),
            workdir=self.workdir,
            python_folder=self.python_folder,
            beside=self._beside,
        )

    @cached_property
    def _beside(self) -> str:
        """What starts the agent that watches the nodes, where one is wanted."""
        every = self.job.sampled_every
        return telemetry.start_lines(every, tasks=self.task_count, nodes=self.job.nodes or 1) if every is not None else ""

    def _render(self, number: int) -> str:
        array = replace(
            self._array(number, *self.arrays[number]),
            are_rows_beside=self.are_rows_beside,
            has_budget=self.hold.is_counted,
            ends_running=self.hold.ends_running,
        )
        text = render(self.sweep, self.job, array)
        if len(text) > self.limits.script_bytes // 4 and len(text.encode()) > self.limits.script_bytes:
            raise SweepError(
                f"the script has {len(text.encode()):,} bytes, and {self.cluster.url} takes {self.limits.script_bytes:,}: "
                "let a file hold what is long, and pass its name"
            )
        return text

    @cached_property
    def ladder(self) -> Ladder:
        """What trials are given when they are run again, as far as the cluster says what there is."""
        if self.job.retry is None:
            return Ladder()
        try:
            bounds = self.cluster.scheduler.bounds(self.job)
        except ClusterError:
            bounds = Bounds()
        return Ladder.of(self.job.retry, self.job, bounds)

    @cached_property
    def keeper(self) -> str | None:
        """The script of the small job that looks after each array when it has ended; None where nothing is to be done."""
        if not self.job.is_kept:
            return None
        count, arrays = self.arrays[0][1], len(self.arrays)
        script = KeeperScript(
            run=self.id,
            folder=self.folder,
            arrays=arrays,
            counts=(self.job.tasks_of(count), self.job.tasks_of(self.arrays[-1][1])),
            rules=self.job.retry,
            ladder=self.ladder,
            is_rolling=self.is_rolling,
        )
        return render_keeper(self.job, script)

    def trials(self, first: int | None = None) -> pd.DataFrame:
        """Return the trials as a DataFrame; see :meth:`Sweep.trials`."""
        return self.sweep.trials(first)

    # ---- what it will cost ---------------------------------------------------------------------

    @cached_property
    def rates(self) -> Rates:
        """The prices of now; those are written down at the launch, and are what is charged.

        Raises
        ------
        RatesError
            The file of prices can't be meant.
        """
        from nexa_sdk.rates import Rates

        if self._recalled_rates is not None:
            return Rates.read(self._recalled_rates)
        return self.cluster.rates([self.job.gpu_type or ""])

    @property
    def price(self) -> Price | None:
        """What the hours of a task cost; None where nobody says it."""
        return self.rates.price(**self._allocation)

    @property
    def _allocation(self) -> dict[str, Any]:
        return {"partition": self.job.partition or "", "gpu_type": self.job.gpu_type or "", "gpus": self.job.gpu_count}

    def cost(self) -> Estimate:
        """Estimate what it takes and costs: at most, by the walltime; and expectedly, by earlier runs of the same program.

        What is unknown is said to be: a price that nobody gives, trials without a walltime, a
        program that never ran.

        Raises
        ------
        RatesError
            The file of prices can't be meant.
        """
        from nexa_sdk.charges import experience, program_of, resources_of
        from nexa_sdk.estimate import Estimate

        notes: list[str] = []
        if self.price is None:
            notes.append(self.rates.why_unknown(**self._allocation))
        elif not self.job.partition and any(card.partitions for card in self.rates.cards):
            notes.append("prices depend on the partition, and none is named: this is the cluster's; give partition=")
        bound = Estimate.of_job(
            self.job, trials=len(self.sweep), tasks=self.task_count, rounds=self._rounds, price=self.price, notes=tuple(notes)
        )
        before = experience(
            self.cluster.journal, cluster=self.cluster.url, program=program_of(self.sweep), resources=resources_of(self.job)
        )
        return bound.expecting(self.job, before, rounds=self._rounds)

    @property
    def _rounds(self) -> int:
        """How often tasks begin where others have ended, as the throttle and the canary have it; the queue may have it otherwise."""
        at_once = self.job.throttle or self.task_count

        def rounds(trials: int) -> int:
            return -(-self.job.tasks_of(trials) // at_once)

        first, whole, last = self.arrays[0][1], self.arrays[:2][-1][1], self.arrays[-1][1]
        count = len(self.arrays)
        if not self.job.throttle:
            return 2 if self.job.canary and count > 1 else 1
        return rounds(first) + max(0, count - 2) * rounds(whole) + (rounds(last) if count > 1 else 0)

    # ---- before --------------------------------------------------------------------------------

    def preflight(self) -> pd.DataFrame:
        """Ask the cluster what only the cluster knows.

        Returns
        -------
        pandas.DataFrame
            A row for each check: `what`, `verdict` (ok, warning, error, unknown), `words`.
        """
        import pandas as pd

        start = self.cluster.scheduler.expected_start(self.script)
        checks = [*self.checks(), *self.hold.checks(), *([start] if start is not None else [])]
        return pd.DataFrame([asdict(check) for check in checks])

    def checks(self) -> list[Check]:
        """Look at program, working directory, partition, walltime, GPUs and limits."""
        return [
            *self.local_checks(),
            *self.cluster.scheduler.checks(self.job, folder=self.folder, tasks=self._most_at_once),
        ]

    @property
    def _most_at_once(self) -> int:
        """How many tasks are in the queue at once, at most: all, unless it is rolling."""
        return min(self.task_count, self.job.rolling or 0) if self.is_rolling else self.task_count

    @property
    def task_count(self) -> int:
        """How many tasks it has: the jobs that a scheduler counts."""
        ahead, whole = self.arrays[0][1], self.arrays[:2][-1][1]
        last = self.arrays[-1][1]
        between = max(0, len(self.arrays) - 2)
        tasks = self.job.tasks_of
        return tasks(ahead) + between * tasks(whole) + (tasks(last) if len(self.arrays) > 1 else 0)

    def local_checks(self) -> list[Check]:
        """Look at what this machine knows: program, script and working directory. No cluster is asked."""
        if self.project is not None:
            return list(code_checks(self.sweep, self.project))
        if not self.cluster.transport.is_here:
            return []
        return list(program_checks(self.sweep, self.job, workdir=Path(self.workdir), python_folder=self.python_folder))

    # ---- launching -----------------------------------------------------------------------------

    def submit(self, *, again: bool = False, check: bool = True) -> Run:
        """Submit it, and return the run.

        A plan that is the same in script and code as a run that is unfinished or completed returns
        that run, so that "Run All" launches nothing twice.

        Parameters
        ----------
        again : bool
            Run anew, even so.
        check : bool
            Look at :meth:`checks` first, and submit nothing if one is an error.

        Raises
        ------
        PreflightFailed
            A check is an error, or a run that comes first has failed; nothing was sent.
        BudgetExceeded
            It could cost more than a budget leaves, or nobody knows what it costs; nothing was sent.
        SubmissionRejected, SubmissionUnknown
        """
        from nexa_sdk.job_secrets import read_secrets  # what is only looked at needs none of these
        from nexa_sdk.records import ArrayRecord, RunRecord
        from nexa_sdk.submission import Submitter, bring_along

        journal = self.cluster.journal
        mark = None if again else journal.newest()
        if not again and (known := self._known(journal)) is not None:
            return known
        if check:
            errors = [f"{failed.what}: {failed.words}" for failed in self.checks() if failed.verdict == "error"]
            if errors:
                raise PreflightFailed(f"{self.id} was not submitted: {'; '.join(errors)}")
        secrets = read_secrets(self.job)
        now = time.time()
        record = RunRecord(self.id, self.cluster.url, self.folder, self.digest, len(self.sweep), now)
        arrays = [
            ArrayRecord(
                token=token,
                run=self.id,
                script=f"job-{n}.sbatch",
                first=first,
                tasks=f"0-{self.job.tasks_of(trials) - 1}",
                at=now,
                count=trials,
                sends=1,
                pack=self.job.trials_per_task,
                outcome="waiting" if self.is_rolling and n >= AT_FIRST else "intent",
            )
            for n, (token, (first, trials)) in enumerate(zip(self.tokens, self.arrays, strict=True))
        ]
        written = {**self.written(), "digest": self.digest}
        arrays = self.cluster.scheduler.place(arrays, self.job)
        if self.snapshot is not None:
            self._send_code(self.snapshot)
            written["snapshot"] = self.snapshot.tree
        if self.cell is not None:
            self._send_cell(self.cell)
        cut = Predecessors(self.after, lambda run_id: self.cluster.run(journal.run(run_id))).cut(arrays)
        further = count(len(self.arrays))
        arrays = [array if array.token else replace(array, token=f"{self.id}-{next(further)}") for array, _ in cut]
        dependencies = {array.token: waits for array, (_, waits) in zip(arrays, cut, strict=True)}
        # All is rendered before anything is written down: what fails until here leaves no trace.
        files = self.files_by_token(written)
        if secrets is not None and self.is_rolling:  # those whose turn comes later find theirs
            later = {f"secrets/{token}": secrets for token in self.tokens[AT_FIRST:]}
            files[self.tokens[0]] = ChainMap(later, files[self.tokens[0]])  # type: ignore[arg-type]
        if not self.cluster.scheduler.shares_folder:
            files = bring_along(arrays, files)
        if (there := self.hold.begin(record, written, arrays, files, alike_since=mark)) is None:
            submitter = Submitter(
                self.cluster.scheduler,
                self.cluster.transport,
                journal,
                folder=self.folder,
                job=self.job,
                is_kept=lambda _: self.job.is_kept,
                code=written.get("snapshot"),
            )
            self._write_launch(now)
            submitter.submit(arrays, files=files, secrets=secrets, dependencies=dependencies)
            return self.cluster.run(record)
        if there != self.id:
            print(f"Launched nothing: {there}, the same in script and code, was launched a moment ago by another process.")
        return self._again(journal, there)

    def _send_code(self, snapshot: Snapshot) -> None:
        """Send the code; to every machine of several, for a trial that is run again may come to another."""
        names, transport, project = self.cluster.scheduler.nodes_of(self.job), self.cluster.transport, self.project
        if not names or project is None:
            snapshot.send()
            return
        from nexa_sdk.snapshots import Snapshot
        from nexa_sdk.transports.several import side_by_side

        works = {name: Snapshot(project, transport.at(name), self.cluster.runs_folder).send for name in names}
        for sent in side_by_side(works).values():
            sent.result()

    def _send_cell(self, cell: PackedCell) -> None:
        """Lay a cell with its inputs into the run's folder; on every machine of several."""
        from nexa_sdk.remote.sending import send_cell
        from nexa_sdk.transports.several import side_by_side

        files, transport = cell.files(), self.cluster.transport
        names = self.cluster.scheduler.nodes_of(self.job)
        works = {name: partial(send_cell, files, transport.at(name), self.folder) for name in names}
        if not works:
            send_cell(files, transport, self.folder)
        for sent in side_by_side(works).values():
            sent.result()

    def _write_launch(self, now: float) -> None:
        """Write the prices of now into the ledger; ``plan.json`` and the journal have them too, so that a launch does not fail for it."""
        from nexa_sdk.charges import program_of, resources_of
        from nexa_sdk.monitoring.ledger import Ledger

        try:
            Ledger().launch(
                self.id,
                cluster=self.cluster.url,
                program=program_of(self.sweep),
                resources=resources_of(self.job),
                rates=self.rates.written(),
                at=now,
            )
        except JournalError as error:
            warnings.warn(f"{error}. {self.id} is launched all the same; run.cost() writes down what it took", stacklevel=3)

    def files_by_token(self, written: dict[str, Any] | None = None) -> dict[str, Mapping[str, bytes]]:
        """Return what each array lays into the run's folder, by token and relative path."""
        from nexa_sdk.written import to_json

        scripts = {token: {f"job-{n}.sbatch": self.scripts[n].encode()} for n, token in enumerate(self.tokens)}
        scripts[self.tokens[0]]["plan.json"] = to_json(written or self._recalled or self.written()).encode()
        scripts[self.tokens[0]] |= self.hold.files()
        if self.project is not None:
            scripts[self.tokens[0]] |= code_records(self.project, asdict(self.code))
        if self.job.sampled_every is not None:
            scripts[self.tokens[0]][telemetry.AGENT] = telemetry.agent_text()
        if self.keeper is not None:
            orders = Orders(rules=self.job.retry, ladder=self.ladder, is_rolling=self.is_rolling, arrays=self._scripts_and_trials())
            scripts[self.tokens[0]] |= {"keeper.sbatch": self.keeper.encode(), "keeper.json": orders.written()}
        if self.is_rolling:  # whoever submits the later ones finds them there
            for token in self.tokens[AT_FIRST:]:
                scripts[self.tokens[0]] |= scripts[token]
        # What lies beside is only read, and never in memory all at once.
        return {**scripts, self.tokens[0]: ChainMap(scripts[self.tokens[0]], self.files)}  # type: ignore[arg-type]

    def _again(self, journal: Journal, run_id: str) -> Run:
        """Return a run that was there already; one that was refused says so again."""
        refused = [array.words for array in journal.arrays(run_id) if array.outcome == "rejected"]
        if refused and run_id == self.id:
            raise SubmissionRejected(f"{self.id} was refused, and is not sent again: {refused[0]}. Mend it, and plan it again")
        return self._whole(self.cluster.run(journal.run(run_id)))

    def _whole(self, run: Run) -> Run:
        """Send what of a run never arrived, because the process that launched it died or its cluster gave no answer."""
        from nexa_sdk.records import UNSETTLED

        if any(array.outcome in UNSETTLED for array in self.cluster.journal.arrays(run.id)):
            print(f"Not all of {run.id} is known to have arrived; looking what did …")
            if self.snapshot is not None:  # the same code; the cluster may have lost it since
                self._send_code(self.snapshot)
            run.resume()
        return run

    def _known(self, journal: Journal) -> Run | None:
        """Find a run of the same script and code that is unfinished or completed."""
        for run_id in journal.like(self.digest, self.cluster.url):
            if self.cell is not None and run_id != self.id and is_delivered(run_id):
                continue  # somebody was told how that execution ended: this is another
            if run_id == self.id:
                return self._again(journal, run_id)
            try:
                run = self._whole(self.cluster.run(journal.run(run_id)))
                attempts = run.refresh(max_age=1.0)
                if any(attempt.status.state is State.UNKNOWN for attempt in attempts) and run.lost():
                    attempts = run.resume().refresh(max_age=1.0)
            except (SubmissionRejected, SubmissionUnknown):
                raise
            except ClusterError as error:
                raise ClusterError(
                    f"the same plan was launched before as {run_id}, and its cluster does not answer, so it may still run: {error}. "
                    "again=True launches it all the same"
                ) from error
            states = {attempt.status.state for attempt in attempts}
            is_unfinished = any(not state.is_terminal for state in states)
            if is_unfinished or states == {State.COMPLETED}:
                what = "is not finished" if is_unfinished else "is completed"
                print(f"Launched nothing: {run_id} is the same in script and code, and {what}. again=True (--again) runs it anew.")
                return run
        return None

    @cached_property
    def code(self) -> CodeVersion:
        """Which code the working directory holds."""
        from nexa_sdk.code_version import CodeVersion, code_version, git_version

        words = [*self.sweep.command, *_texts(self.sweep)]
        if self.project is not None:
            reads_notebooks = any(".ipynb" in word for word in words)
            digest = self.project.digest if reads_notebooks else self.project.digest_without(".ipynb")  # they save themselves now and then
            return CodeVersion(digest, *git_version(self.project.root))
        if not self.cluster.transport.is_here:
            return CodeVersion("", None, is_dirty=False)  # it lies on the cluster, and may change there
        return code_version(Path(self.workdir), words)

    @cached_property
    def digest(self) -> str:
        """What two plans share that run the same script and the same code on the same cluster."""
        others = ("id", "folder", "are_rows_beside", "arrays", "ladder", "rates")
        same = {key: value for key, value in self.written().items() if key not in others}
        if self.project is not None:  # it runs in a folder of the run's own
            same["workdir"] = self.workdir.removeprefix(self.folder)
        same["code"] = self.code.digest  # not the commit: saving a notebook makes that dirty
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()

    def written(self) -> dict[str, Any]:
        """Return everything needed to run exactly this again, as ``plan.json`` has it."""
        from nexa_sdk import __version__
        from nexa_sdk.written import write_sweep

        return {
            "nexa_sdk": __version__,
            "id": self.id,
            "cluster": self.cluster.url,
            "folder": self.folder,
            "workdir": self.workdir,
            "python_folder": self.python_folder,
            "code": asdict(self.code),
            "job": self.job.model_dump(mode="json", exclude_unset=True),
            "sweep": write_sweep(self.sweep),
            "after": [after.written() for after in self.after],
            "are_rows_beside": self.are_rows_beside,
            "arrays": [list(array) for array in self._scripts_and_trials()],
            **({"ladder": self.ladder.written()} if self.job.retry is not None else {}),
            **({"rates": self.rates.written()} if self.rates.cards else {}),
            **({"cell": self.cell.written()} if self.cell is not None else {}),
        }

    def _scripts_and_trials(self) -> list[tuple[str, int, int]]:
        return [(f"job-{n}.sbatch", first, count) for n, (first, count) in enumerate(self.arrays)]

    # ---- how it shows itself -------------------------------------------------------------------

    def __repr__(self) -> str:
        arrays = f" in {len(self.arrays)} arrays" if len(self.arrays) > 1 else ""
        return f"<Plan {self.id}: {self.sweep._size_text()}{arrays} on {self.cluster.url}{self.after_text}>"

    @property
    def after_text(self) -> str:
        """What it waits for, in words behind a comma; empty where it waits for nothing."""
        return "".join(f", {after}" for after in self.after)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from nexa_sdk import display

        return {"text/plain": display.plan_text(self), "text/html": display.plan_html(self)}


MOST_NAMES = 1000  # values that are looked at: they may name the files that a trial reads


def _texts(sweep: Sweep) -> list[str]:
    """Return the texts among a sweep's values."""
    columns = [values for factor in sweep.space.factors for values in factor.columns.values() if not isinstance(values, range)]
    texts = (value for values in [sweep.fixed.values(), *columns] for value in islice(values, MOST_NAMES) if isinstance(value, str))
    return list(islice(dict.fromkeys(texts), MOST_NAMES))


class _Chunks(Sequence[tuple[int, int]]):
    """Where each array begins, and how many trials it has; the first has `ahead`."""

    def __init__(self, total: int, size: int, ahead: int) -> None:
        self.total, self.size, self.ahead = total, size, ahead

    def __len__(self) -> int:
        return 1 - (self.ahead - self.total) // self.size

    @overload
    def __getitem__(self, n: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, n: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, n: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(n, slice):
            return [self[k] for k in range(len(self))[n]]
        number = range(len(self))[n]
        if number == 0:
            return 0, self.ahead
        first = self.ahead + (number - 1) * self.size
        return first, min(self.size, self.total - first)


class _Scripts(Sequence[str]):
    """The arrays' scripts, each rendered when it is asked for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan.arrays)

    @overload
    def __getitem__(self, n: int) -> str: ...
    @overload
    def __getitem__(self, n: slice) -> list[str]: ...
    def __getitem__(self, n: int | slice) -> str | list[str]:
        if isinstance(n, slice):
            return [self[k] for k in range(len(self))[n]]
        number = range(len(self))[n]
        return self._plan.script if number == 0 else self._plan._render(number)

    def __iter__(self) -> Iterator[str]:
        return (self[n] for n in range(len(self)))


def _python_folder(job: Job, here: bool) -> str | None:
    """Choose the folder of programs that comes first on PATH: the wanted Python's, else this one's."""
    if job.python is not None:
        return os.path.dirname(os.path.abspath(os.path.expanduser(job.python)) if here else job.python) or None
    if job.venv or job.conda or job.modules or not here:
        return None
    return os.path.dirname(sys.executable)
