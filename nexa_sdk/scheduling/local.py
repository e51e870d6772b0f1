"""The embedded scheduler: runs the very same script on this machine, and needs nothing installed.

It knows Slurm's states as Slurm means them. Memory is not limited, and there are no partitions.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, SubmissionRejected, SubmissionVoided
from nexa_sdk.scheduling import supervisor
from nexa_sdk.scheduling.base import ArrayHandle, Check, Dependency, Limits, Scheduler, Submission, TaskStatus, Verdict
from nexa_sdk.scheduling.environment import for_trials
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["LocalScheduler", "count_gpus"]

KILL_WAIT = 5.0  # seconds between TERM and KILL
MOST_TASKS = 10**6
START_TIMEOUT = 30.0  # seconds
STARTING = 60.0  # seconds that a supervisor may take to begin


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
        self._read: dict[str, _Events] = {}

    @cached_property
    def gpus(self) -> list[str]:
        """The names of this machine's GPUs."""
        return count_gpus()

    def limits(self) -> Limits:
        """Say what is accepted: as much as a script may hold."""
        return Limits(array_size=10**6, script_bytes=1 << 30)

    def partitions(self) -> list[str]:
        """Name the partitions: there are none."""
        return []

    # ---- submitting ----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        """Start a supervisor for the array; see the base class."""
        problems = [check.words for check in self._resources(submission.job) if check.verdict == "error"]
        if problems:
            raise SubmissionRejected(f"this machine can't run it: {'; '.join(problems)}")
        folder = Path(submission.folder)
        try:
            with _locked(folder / "local" / "submit.lock"):
                if (known := self._settled(submission.token, folder)) is not None:
                    return known
                void = folder / "local" / f"{submission.token}.void"
                if void.exists() and int(void.read_text()) >= submission.send:
                    raise SubmissionVoided(f"{submission.token}: another process gave this sending up")
                _lay_down(folder, submission.files)
                return self._supervise(submission, folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SubmissionRejected(
                f"the run's folder {folder} can't be written: {error}. Choose another with Cluster('local', runs='/a/folder')"
            ) from error

    def _supervise(self, submission: Submission, folder: Path) -> str:
        job = submission.job
        job_id = self._next_job_id()
        locks = self.home / socket.gethostname()
        locks.mkdir(parents=True, exist_ok=True)
        spec = {
            "token": submission.token,
            "job_id": job_id,
            "script": submission.script,
            "folder": str(folder),
            "args": list(submission.args),
            "tasks": parse_tasks(submission.tasks),
            "after": [_upstream(dependency) for dependency in submission.dependencies],
            "throttle": job.throttle,
            "limit": job.limit.total_seconds() if job.limit else None,
            "kill_wait": KILL_WAIT,
            "cpus": job.cpu_count,
            "slots": _cores(),
            "gpus": job.gpu_count,
            "gpu_names": self.gpus if job.gpu_count else [],
            "locks": str(locks),
            "host": socket.gethostname(),
            "bash": shutil.which("bash") or "/bin/bash",
            "env": for_trials(os.environ),
        }
        if submission.is_kept:
            spec["keeper"] = self._keeper(folder.name, submission.token)
            _write(folder / "submitted" / f"{submission.token}.keeper", job_id.encode(), 0o644)
        path = folder / "local" / f"{submission.token}.json"
        path.with_suffix(".fifo").unlink(missing_ok=True)  # of a submitter that died
        os.mkfifo(path.with_suffix(".fifo"), 0o600)
        _write(path, json.dumps(spec).encode(), 0o600)
        ready, told = os.pipe()
        try:
            with open(path.with_suffix(".err"), "ab") as errors:
                subprocess.run(
                    [sys.executable, "-I", supervisor.__file__, str(path), str(told)],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=[told],
                    env={**for_trials(os.environ), "SLURM_JOB_NAME": submission.token},
                    cwd="/",
                    start_new_session=True,
                    check=True,
                )
            os.close(told)
            told = -1
            bell = select.poll()  # select() takes no descriptor above 1024, and kernels have them
            bell.register(ready, select.POLLIN)
            if not bell.poll(START_TIMEOUT * 1000) or not os.read(ready, 16):
                words = path.with_suffix(".err").read_text(errors="replace").strip()
                path.unlink()
                supervisor.kill_marked(submission.token)
                raise SubmissionRejected(f"the supervisor did not start: {words or 'it said nothing in time'}")
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        return job_id

    def _next_job_id(self) -> str:
        path = self.home / "last-job-id"
        with _locked(path.with_suffix(".lock")):
            last = int(path.read_text()) if path.exists() else 0
            _write(path, str(last + 1).encode(), 0o600)
        return str(last + 1)

    def find(self, token: str, folder: str) -> str | None:
        """Find a submission whose supervisor has begun."""
        job_id, has_begun = self._look(Path(folder) / "local" / f"{token}.json")
        return job_id if has_begun else None

    def void(self, token: str, folder: str, send: int) -> Verdict:
        """Keep a supervisor that has not begun from beginning; see the base class."""
        try:
            with _locked(Path(folder) / "local" / "submit.lock"):
                job_id = self._settled(token, Path(folder))
                void = Path(folder) / "local" / f"{token}.void"
                if job_id is None and (not void.exists() or int(void.read_text()) < send):
                    _write(void, str(send).encode(), 0o600)
        except OSError as error:
            raise ClusterError(f"the run's folder {folder} can't be written: {error}") from error
        return Verdict(job_id, is_certain=True)

    def _settled(self, token: str, folder: Path) -> str | None:
        """Find a submission; one whose submitter died before a supervisor began is undone. submit.lock is held."""
        job_id, has_begun = self._look(folder / "local" / f"{token}.json", undo=True)
        return job_id if has_begun else None

    def _look(self, spec: Path, *, undo: bool = False) -> tuple[str | None, bool]:
        """Return the job id that a supervisor was to begin with, and whether it has begun; `undo` keeps it from beginning."""
        try:
            job_id = str(json.loads(spec.read_bytes())["job_id"])
        except FileNotFoundError:
            return None, False
        with open(spec.with_suffix(".lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return job_id, True  # it lives
            has_begun = spec.with_suffix(".events").exists()
            if undo and not has_begun:  # under its lock: a supervisor that comes late finds it gone, and ends
                spec.unlink()
            return job_id, has_begun

    @property
    def memory(self) -> float | None:
        """The file that a supervisor began from stays as long as the run's folder."""
        return None

    # ---- watching ------------------------------------------------------------------------------

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Read what the supervisors wrote down."""
        return {array.job_id: self._statuses(array) for array in arrays}

    def _statuses(self, array: ArrayHandle) -> dict[int, TaskStatus]:
        try:
            return self._events(array).statuses()
        except FileNotFoundError:  # the run's folder went: of this array nothing is known, of the others all
            self._read.pop(array.job_id, None)
            return {}

    def _events(self, array: ArrayHandle) -> _Events:
        known = self._read.get(array.job_id)
        if known is None or known.folder != Path(array.folder):
            known = _Events(Path(array.folder), array.job_id)
            if known.base is not None:  # else the folder may only be out of sight for now
                self._read[array.job_id] = known
        return known

    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """Tell the supervisor: it sends TERM, and KILL after five seconds."""
        events = self._events(array)
        if events.base is None:
            raise ClusterError(f"the record of job {array.job_id} in {array.folder} is gone")
        try:
            fifo = os.open(events.base.with_suffix(".fifo"), os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no supervisor: everything has ended, or died with it
            return
        try:
            # A pipe takes short lines whole: the list, which may be long, lies in a file.
            listed = events.base.with_name(f"{events.base.stem}.cancel-{uuid.uuid4().hex}")
            _write(listed, (tasks or "all").encode(), 0o600)
            os.write(fifo, f"cancel {listed.name}\n".encode())
        finally:
            os.close(fifo)

    # ---- keepers -------------------------------------------------------------------------------

    def _keeper(self, run: str, token: str) -> dict[str, Any]:
        """Say what a supervisor starts when its array has ended."""
        here = str(Path(__file__).parents[2])
        env = {**for_trials(os.environ), "NEXA_HOME": str(self.home.parent), "PYTHONPATH": here}
        return {"argv": [sys.executable, "-m", "nexa_sdk.keeping", run, token], "env": env}

    def living_keepers(self, folder: str, tokens: Sequence[str]) -> set[str]:
        """Say of which arrays the supervisors live: each ends after its keeper has."""
        return {token for token in tokens if self._is_supervised(Path(folder) / "local" / f"{token}.json")}

    def _is_supervised(self, spec: Path) -> bool:
        if not spec.exists() or json.loads(spec.read_bytes())["host"] != socket.gethostname():
            return spec.exists()  # its lock is another machine's: nothing can be said of it from here
        with open(spec.with_suffix(".lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def tell_keeper(self, folder: str, words: Sequence[str]) -> None:
        """Leave aside tasks that were cancelled, or do what a supervisor died before; see the base class."""
        verb, token, *rest = words
        marks = Path(folder) / "submitted"
        if verb == "stop":
            with _locked(marks / f"{token}.lock"):
                if rest == ["all"] and not (marks / f"{token}.kept").exists():
                    _write(marks / f"{token}.kept", b"all|cancelled: not run again\n", 0o644)
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
        found = [Check("cores", "ok", f"{job.cpu_count} of {_cores()} a trial")]
        if (job.nodes or 1) > 1:
            found.append(Check("nodes", "error", f"nodes={job.nodes}, but this is one machine"))
        if job.cpu_count > _cores():
            found[0] = Check("cores", "error", f"a trial asks for {job.cpu_count} cores, and there are {_cores()}")
        if job.gpu_count > len(self.gpus):
            found.append(Check("GPUs", "error", f"a trial asks for {job.gpu_count} GPUs, and there are {len(self.gpus)}; leave gpus= out"))
        elif job.gpu_count:
            found.append(Check("GPUs", "ok", f"{job.gpu_count} of {len(self.gpus)} a trial"))
        return found


class _Events:
    """What a supervisor wrote down, read once and then onwards."""

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder = folder
        self.base: Path | None = None
        self.spec: dict[str, Any] = {}
        self.offset = 0
        self.tasks: dict[int, TaskStatus] = {}
        self.begun: set[int] = set()
        for path in sorted((folder / "local").glob("*.json")):
            spec = json.loads(path.read_bytes())
            if spec["job_id"] == job_id:
                self.base, self.spec = path, spec
                self.tasks = {task: TaskStatus(State.PENDING, node="") for task in spec["tasks"]}

    def statuses(self) -> dict[int, TaskStatus]:
        if self.base is None:
            return {}
        self._read_on()
        if any(not status.state.is_terminal for status in self.tasks.values()):
            self._look_for_a_dead_supervisor()
        return dict(self.tasks)

    def _read_on(self) -> None:
        assert self.base is not None
        try:
            with open(self.base.with_suffix(".events"), "rb") as file:
                file.seek(self.offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        self.offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a supervisor died within it
                continue
            before = self.tasks[event["task"]]
            state = State(event["state"])
            if state is State.RUNNING:
                self.begun.add(event["task"])
                self.tasks[event["task"]] = TaskStatus(state, start=event["time"], node=self.spec["host"])
            else:
                code = event.get("exit") if state in (State.COMPLETED, State.FAILED) else None
                reason = event.get("reason", "")
                self.tasks[event["task"]] = TaskStatus(state, code, before.start, event["time"], before.node, reason)

    def _look_for_a_dead_supervisor(self) -> None:
        """Write down as NODE_FAIL what a dead supervisor can't, and end what it left running."""
        assert self.base is not None
        if self.spec["host"] != socket.gethostname():
            return  # its lock is another machine's: nothing can be said of it from here
        if not self.base.with_suffix(".events").exists() and time.time() - self.base.stat().st_mtime < STARTING:
            return
        with open(self.base.with_suffix(".lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # it lives
            self._read_on()  # it may have ended in peace just now
            lost = [task for task, status in self.tasks.items() if not status.state.is_terminal]
            if not lost:
                return
            supervisor.kill_marked(self.spec["token"])
            with open(self.base.with_suffix(".events"), "ab") as file:
                file.write(b"\n")  # it may have died within a line
                for task in lost:
                    ran = task in self.begun
                    reason = "its supervisor died" if ran else "its supervisor died before it could start"
                    event = {"task": task, "state": "NODE_FAIL", "time": _now(self.base), "reason": reason}
                    file.write(json.dumps(event).encode() + b"\n")
            self._read_on()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder / "secrets" / self.spec["token"])


def _upstream(dependency: Dependency) -> dict[str, Any]:
    """Say where a supervisor finds what became of an array that comes first."""
    base = _Events(Path(dependency.folder), dependency.job_id).base
    if base is None:
        raise SubmissionRejected(f"{dependency} can't be waited for: the record of job {dependency.job_id} in {dependency.folder} is gone")
    return {"base": str(base.with_suffix("")), "kind": dependency.kind, "tasks": list(dependency.tasks)}


def _now(base: Path) -> float:
    """Return when a supervisor was last seen alive: its last event, else its beginning."""
    events = base.with_suffix(".events")
    return (events if events.exists() else base).stat().st_mtime


def count_gpus() -> list[str]:
    """Name this machine's NVIDIA GPUs, those that CUDA_VISIBLE_DEVICES leaves visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name != "-1"]
    devices = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted((name for name in devices if name.isdecimal()), key=int)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lay_down(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in ("logs", "tasks", "results", "submitted", "local"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        is_secret = name.startswith("secrets/")
        (folder / name).parent.mkdir(exist_ok=True, mode=0o700 if is_secret else 0o777)
        _write(folder / name, content, 0o600 if is_secret else 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(part, path)


@contextlib.contextmanager
def _locked(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
