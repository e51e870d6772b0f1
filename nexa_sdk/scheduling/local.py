"""The embedded scheduler: runs the very same script on this machine, and needs nothing installed.

It knows Slurm's states as Slurm means them. Memory is not limited, and there are no partitions.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, SubmissionRejected, SubmissionVoided
from nexa_sdk.scheduling import machine
from nexa_sdk.scheduling.base import ArrayHandle, Check, Limits, Scheduler, Submission, TaskStatus, Usage, Verdict
from nexa_sdk.scheduling.capacity import Node
from nexa_sdk.scheduling.environment import for_trials
from nexa_sdk.scheduling.supervised import Supervised, request_of

if TYPE_CHECKING:
    from datetime import timedelta

    from nexa_sdk.job import Job

__all__ = ["MOST_TASKS", "LocalScheduler"]

MOST_TASKS = 10**6


class LocalScheduler(Scheduler):
    """The embedded scheduler.

    Parameters
    ----------
    home : Path
        Where the locks of cores and GPUs lie, and the last job id.
    """

    slowest = 2.0  # a question costs nothing here

    def __init__(self, home: Path) -> None:
        self.home = home
        self._known: dict[str, Supervised] = {}

    @cached_property
    def gpus(self) -> list[str]:
        """The names of this machine's GPUs."""
        return machine.gpus()

    def limits(self) -> Limits:
        """Say what is accepted: as much as a script may hold."""
        return Limits(array_size=10**6, script_bytes=1 << 30)

    def partitions(self) -> dict[str, timedelta | None]:
        """Name the partitions: there are none."""
        return {}

    def nodes(self) -> list[Node]:
        """Look at this machine."""
        room = machine.room({"home": str(self.home)})
        return [
            Node.machine(room["host"], cpus=room["cores"], cpus_free=room["free_cores"], gpus=room["gpus"], gpus_free=room["free_gpus"])
        ]

    # ---- submitting ----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        """Start a supervisor for the array; see the base class."""
        problems = [check.words for check in self._resources(submission.job) if check.verdict == "error"]
        if problems:
            raise SubmissionRejected(f"this machine can't run it: {'; '.join(problems)}")
        keeper = self._keeper(Path(submission.folder).name, submission.token) if submission.is_kept else None
        request = request_of(submission, home=str(self.home), env=for_trials(os.environ), keeper=keeper)
        try:
            return machine.submit(request, submission.files.items())
        except machine.Refused as refused:
            if refused.kind == "void":
                raise SubmissionVoided(str(refused)) from refused
            hint = ". Choose another with Cluster('local', runs='/a/folder')" if refused.kind == "folder" else ""
            raise SubmissionRejected(f"{refused}{hint}") from refused

    def find(self, token: str, folder: str, *, nodes: str | None = None) -> str | None:
        """Find a submission whose supervisor has begun."""
        return machine.find({"folder": folder, "token": token})

    def void(self, token: str, folder: str, send: int, *, nodes: str | None = None) -> Verdict:
        """Keep a supervisor that has not begun from beginning; see the base class."""
        try:
            return Verdict(machine.void({"folder": folder, "token": token, "send": send}), is_certain=True)
        except machine.Refused as refused:
            raise ClusterError(str(refused)) from refused

    @property
    def memory(self) -> float | None:
        """The file that a supervisor began from stays as long as the run's folder."""
        return None

    # ---- watching ------------------------------------------------------------------------------

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Read what the supervisors wrote down."""
        return {array.job_id: self._statuses(array) for array in arrays}

    def _statuses(self, array: ArrayHandle) -> dict[int, TaskStatus]:
        known = self._known.get(array.job_id)
        if known is None or known.folder != array.folder:
            known = Supervised(array)
        if not known.is_over:
            (answer,) = machine.poll({"arrays": [known.question]})
            if answer is None:  # the run's folder went, or is out of sight: of this array nothing is known, of the others all
                self._known.pop(array.job_id, None)
                return {}
            known.hear(answer)
            self._known[array.job_id] = known
        return dict(known.tasks)

    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """Tell the supervisor: it sends TERM, and KILL after five seconds."""
        if not machine.cancel({"folder": array.folder, "job_id": array.job_id, "token": array.name, "tasks": tasks}):
            raise ClusterError(f"the record of job {array.job_id} in {array.folder} is gone")

    # ---- what was used -------------------------------------------------------------------------

    def usage(self, arrays: Sequence[ArrayHandle], *, keepers: Sequence[str] = ()) -> list[Usage] | None:
        """Read what the supervisors wrote down; see the base class. A run whose folder went is left out; its keepers take nothing."""
        found: list[Usage] = []
        for array in arrays:
            self._statuses(array)
            if (known := self._known.get(array.job_id)) is not None:
                found += known.usage(user=getpass.getuser(), now=time.time())
        return found

    def usage_since(self, since: float, *, everyone: bool) -> None:
        """Say nothing: what ran here are the runs that the journal knows, one by one."""

    # ---- keepers -------------------------------------------------------------------------------

    def _keeper(self, run: str, token: str) -> dict[str, Any]:
        """Say what a supervisor starts when its array has ended."""
        here = str(Path(__file__).parents[2])
        env = {**for_trials(os.environ), "NEXA_HOME": str(self.home.parent), "PYTHONPATH": here}
        return {"argv": [sys.executable, "-m", "nexa_sdk.keeping", run, token], "env": env}

    def living_keepers(self, folder: str, tokens: Sequence[str]) -> set[str]:
        """Say of which arrays the supervisors live: each ends after its keeper has."""
        return {token for token in tokens if machine.is_supervised(os.path.join(folder, "local", token))}

    def tell_keeper(self, folder: str, words: Sequence[str]) -> None:
        """Leave aside tasks that were cancelled, or do what a supervisor died before; see the base class."""
        verb, token, *rest = words
        marks = Path(folder) / "submitted"
        if verb == "stop":
            with machine.locked(str(marks / f"{token}.lock")):
                if rest == ["all"] and not (marks / f"{token}.kept").exists():
                    machine.write(str(marks / f"{token}.kept"), b"all|cancelled: not run again\n", 0o644)
                elif rest != ["all"]:
                    with open(marks / f"{token}.stop", "a", encoding="utf-8") as stop:
                        stop.write(f"{rest[0]}\n")
            return
        keeper = self._keeper(Path(folder).name, token)
        done = subprocess.run(
            keeper["argv"], env=keeper["env"], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"what looks after {token} failed: {done.stderr.strip()}")

    # ---- looking before ------------------------------------------------------------------------

    def expected_start(self, script: str) -> None:
        """Say nothing: there is no queue."""

    def checks(self, job: Job, *, folder: str, tasks: int) -> list[Check]:
        """Look at cores, GPUs and the number of tasks."""
        found = self._resources(job)
        if tasks > MOST_TASKS:
            found.append(
                Check("tasks", "error", f"{tasks:,} are too many for one machine (at most {MOST_TASKS:,}); draw some with sweep.sample(n)")
            )
        if job.partition:
            found.append(Check("partition", "warning", f"this machine has no partitions; {job.partition!r} is left aside"))
        if job.time is None:
            found.append(Check("walltime", "warning", "none given: trials may run for ever; give time="))
        return found

    def _resources(self, job: Job) -> list[Check]:
        cores = machine.cores()
        found = [Check("cores", "ok", f"{job.cpu_count} of {cores} a trial")]
        if (job.nodes or 1) > 1:
            found.append(Check("nodes", "error", f"nodes={job.nodes}, but this is one machine"))
        if job.cpu_count > cores:
            found[0] = Check("cores", "error", f"a trial asks for {job.cpu_count} cores, and there are {cores}")
        if job.gpu_count > len(self.gpus):
            found.append(Check("GPUs", "error", f"a trial asks for {job.gpu_count} GPUs, and there are {len(self.gpus)}; leave gpus= out"))
        elif job.gpu_count:
            found.append(Check("GPUs", "ok", f"{job.gpu_count} of {len(self.gpus)} a trial"))
        return found
