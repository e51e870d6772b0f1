"""Several bare machines behind SSH, as one scheduler: on each the embedded scheduler's supervisors run the arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import (
    ClusterError,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    InvalidInput,
    JobError,
    PreflightFailed,
    SubmissionRejected,
    SubmissionUnknown,
    SubmissionUnsent,
    SubmissionVoided,
    Unreachable,
    nearest,
)
from nexa_sdk.retry import Bounds
from nexa_sdk.scheduling import machine
from nexa_sdk.scheduling.base import ArrayHandle, Check, Limits, Scheduler, Submission, TaskStatus, Usage, Verdict
from nexa_sdk.scheduling.capacity import Node
from nexa_sdk.scheduling.host import Host
from nexa_sdk.scheduling.local import MOST_TASKS
from nexa_sdk.scheduling.slurm.submitting import pack
from nexa_sdk.scheduling.spreading import Room, cut, spread
from nexa_sdk.scheduling.supervised import Supervised, request_of
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks
from nexa_sdk.transports.several import leaving_out, needs_a_person, side_by_side, start

if TYPE_CHECKING:
    from datetime import timedelta

    from nexa_sdk.job import Job
    from nexa_sdk.records import ArrayRecord
    from nexa_sdk.transports.base import Transport

__all__ = ["HostsScheduler"]

ANSWER = 30.0  # seconds
ANSWER_OF_THE_LOST = 0.2  # seconds that a host which did not answer before holds up what is known of the others
SUBMIT = 60.0  # seconds
FRESH = 10.0  # seconds that a host's free GPUs are believed


@dataclass
class _Seen:
    """What was last heard from a host: what it has, and the question that is out."""

    room: Room | None = None
    room_at: float = -1e9
    out_since: float | None = None  # when it did not answer, by the clock on the wall
    ask: Callable[[], list[dict[str, Any] | None]] = list
    asked: Future[list[dict[str, Any] | None]] | None = None
    about: list[Supervised] = field(default_factory=list)


class HostsScheduler(Scheduler):
    """Bare machines.

    Parameters
    ----------
    transports : mapping of str to Transport
        By the names that begin the ids of their jobs.
    """

    slowest = 10.0
    shares_folder = False

    def __init__(self, transports: Mapping[str, Transport]) -> None:
        self.hosts = {name: Host(name, transport) for name, transport in transports.items()}
        self._seen = {name: _Seen() for name in self.hosts}
        self._known: dict[str, Supervised] = {}

    def limits(self) -> Limits:
        """Say what is accepted: as much as a script may hold."""
        return Limits(array_size=10**6, script_bytes=1 << 30)

    def partitions(self) -> dict[str, timedelta | None]:
        """Name the partitions: there are none. Every host is asked whether it is there."""
        self.rooms()
        return {}

    def nodes(self) -> list[Node]:
        """Ask the hosts, side by side; one that does not answer is down."""
        answers = side_by_side({name: partial(_ask_room, host) for name, host in self.hosts.items()})
        found = []
        for name, answer in answers.items():
            try:
                room = answer.result()
            except ClusterError:
                found.append(Node(name, "", "down", 0, 0, 0, 0, "", None, None))
            else:
                found.append(Node.machine(name, cpus=room.cores, cpus_free=room.free_cores, gpus=room.gpus, gpus_free=room.free_gpus))
        return found

    # ---- what there is -------------------------------------------------------------------------

    def rooms(self, *, max_age: float = 0.0) -> dict[str, Room]:
        """Ask the hosts what they have and what of it is free, side by side.

        Raises
        ------
        ClusterError
            When one of them does not answer.
        """
        return self._rooms(list(self.hosts), max_age=max_age, is_whole=True)

    def _rooms(self, names: Sequence[str], *, max_age: float, is_whole: bool) -> dict[str, Room]:
        old = [name for name in names if time.monotonic() - self._seen[name].room_at > max_age]
        answers = side_by_side({name: partial(_ask_room, self.hosts[name]) for name in old})
        rooms: dict[str, Room] = {}
        for name in names:
            seen = self._seen[name]
            if name in answers:
                try:
                    seen.room, seen.room_at = answers[name].result(), time.monotonic()
                except ClusterError as error:
                    if is_whole or not error.may_pass:
                        raise leaving_out(error, name, list(self.hosts)) from error
                    print(f"{name} is left aside: {error}")
                    continue
            if seen.room is not None:
                rooms[name] = seen.room
        return rooms

    def nodes_of(self, job: Job) -> list[str]:
        """Name the hosts that a job may use: `nodelist` and `exclude` are theirs.

        Raises
        ------
        JobError
        """
        wanted, unwanted = (list(filter(None, (text or "").split(","))) for text in (job.nodelist, job.exclude))
        for given, name in [*(("nodelist", name) for name in wanted), *(("exclude", name) for name in unwanted)]:
            if name not in self.hosts:
                raise JobError(f"{given}={name!r} is none of these hosts; {nearest(name, self.hosts)}")
        chosen = [name for name in self.hosts if name not in unwanted and (not wanted or name in wanted)]
        if not chosen:
            raise JobError(f"nodelist={job.nodelist!r} and exclude={job.exclude!r} leave none of {', '.join(self.hosts)}")
        return chosen

    # ---- looking before ------------------------------------------------------------------------

    def check_possible(self, job: Job, *, waits_for_runs: bool) -> None:
        """Refuse what would need somebody awake over the hosts; see the base class."""
        if job.retry is not None or job.rolling is not None:
            what = "retry=" if job.retry is not None else "rolling="
            raise JobError(
                f"{what} needs somebody who stays awake over the hosts, and bare machines have none; leave it out: "
                "run.retry(by='cause') runs failed trials again by their causes, from here"
            )
        if (job.nodes or 1) > 1:
            raise JobError(f"nodes={job.nodes}: a task of bare machines runs on one of them; leave nodes= out")
        if job.dependency is not None:
            raise JobError(f"dependency={job.dependency!r} is Slurm's, and bare machines have none; leave it out")
        self.nodes_of(job)
        if len(self.hosts) > 1 and (job.canary or waits_for_runs):
            what = "canary=True" if job.canary else "after="
            raise JobError(f"{what}: no host knows when another's trials have ended; leave it out, or use one host: Cluster.hosts('gpu1')")

    def checks(self, job: Job, *, folder: str, tasks: int) -> list[Check]:
        """Look at cores, GPUs and the number of tasks."""
        rooms = self._rooms(self.nodes_of(job), max_age=0.0, is_whole=True)
        found = [_check_room(name, room, job) for name, room in rooms.items()]
        if not any(room.slots(job.cpu_count, job.gpu_count) for room in rooms.values()):
            found.append(Check("hosts", "error", _too_large(job, rooms)))
        if tasks > MOST_TASKS:
            found.append(Check("tasks", "error", f"{tasks:,} are too many (at most {MOST_TASKS:,}); draw some with sweep.sample(n)"))
        if job.partition:
            found.append(Check("partition", "warning", f"bare machines have no partitions; {job.partition!r} is left aside"))
        if job.time is None:
            found.append(Check("walltime", "warning", "none given: trials may run for ever; give time="))
        return found

    def expected_start(self, script: str) -> None:
        """Say nothing: there is no queue."""

    def bounds(self, job: Job) -> Bounds:
        """Say how many hosts there are: a trial of one that died is run again on another."""
        return Bounds(nodes=len(self.hosts))

    def place(self, arrays: Sequence[ArrayRecord], job: Job, *, again: bool = False) -> list[ArrayRecord]:
        """Cut arrays over the hosts, first to where GPUs and cores are free; see the base class.

        When trials are run again a host that can't be reached is left aside, and that is said.
        """
        placed: list[ArrayRecord] = []
        for array in arrays:
            options = {name: value for name, value in array.options.items() if name not in ("nodelist", "throttle")}  # of an earlier place
            wish = job.changed(options)
            rooms = self._rooms(self.nodes_of(wish), max_age=FRESH, is_whole=not again)
            cores, gpus = wish.cpu_count, wish.gpu_count
            if not any(room.slots(cores, gpus) for room in rooms.values()):
                raise PreflightFailed(f"{array.run}: {_too_large(wish, rooms)}. Nothing was submitted")
            shares = spread(len(parse_tasks(array.tasks)), rooms, cores=cores, gpus=gpus, throttle=wish.throttle)
            parts = cut(array, [share.tasks for share in shares.values()])
            for (name, share), part in zip(shares.items(), parts, strict=True):
                throttle = {"throttle": share.throttle} if share.throttle is not None else {}
                placed.append(replace(part, options={**options, "nodelist": name, **throttle}))
                self._seen[name].room = rooms[name].less(share.tasks, cores, gpus)  # another launch comes before it is asked again
        return placed

    # ---- submitting ----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        """Start a supervisor on the array's host; see the base class."""
        host, token = self._host(submission.job.nodelist), submission.token
        payload = pack(submission.files, script=submission.script)
        try:
            request = request_of(
                submission, home=host.home, env=host.trials_environment(), prefix=f"{host.name}-", node=host.name, yields=True
            )
            return str(host.call("submit", request, payload, timeout=SUBMIT))
        except (CommandTimeout, ConnectionLost, CommandFailed) as error:
            raise SubmissionUnknown(
                f"nobody can say whether {host.name} accepted {token}: {error}. It is not sent again unasked; run.status() looks it up, "
                "and run.resume() sends it once it is sure that it never arrived"
            ) from error
        except Unreachable as error:
            raise SubmissionUnsent(
                f"{token} was not submitted: {error}. Launch the same again, or run.resume(), once it can be reached"
            ) from error
        except machine.Refused as refused:
            raise _refused(host.name, token, refused) from refused

    def find(self, token: str, folder: str, *, nodes: str | None = None) -> str | None:
        """Find a submission whose supervisor has begun, on the host that it was for."""
        return _text(self._ask(nodes, "find", {"folder": folder, "token": token}))

    def void(self, token: str, folder: str, send: int, *, nodes: str | None = None) -> Verdict:
        """Keep a supervisor that has not begun from beginning; see the base class."""
        answer = self._ask(nodes, "void", {"folder": folder, "token": token, "send": send}, timeout=SUBMIT)
        return Verdict(_text(answer), is_certain=True)

    @property
    def memory(self) -> float | None:
        """The file that a supervisor began from stays as long as the run's folder."""
        return None

    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """Tell the supervisor: it sends TERM, and KILL after five seconds."""
        request = {"folder": array.folder, "job_id": array.job_id, "token": array.name, "tasks": tasks}
        if not self._ask(_host_of(array.job_id), "cancel", request):
            raise ClusterError(f"the record of job {array.job_id} in {array.folder} is gone")

    def _ask(self, nodes: str | None, verb: str, request: Mapping[str, Any], *, timeout: float = ANSWER) -> Any:
        host = self._host(nodes)
        try:
            return host.call(verb, request, timeout=timeout)
        except machine.Refused as refused:
            raise ClusterError(f"{host.name}: {refused}") from refused

    def _host(self, name: str | None) -> Host:
        if name not in self.hosts:
            raise InvalidInput(f"{name!r} is none of these hosts: {', '.join(self.hosts)}")
        return self.hosts[name]

    # ---- watching ------------------------------------------------------------------------------

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Read on what the supervisors wrote down, one command a host, side by side.

        A host that does not answer keeps its tasks as they were last known, and says so as their reason;
        only where that is so of every host there is no answer.
        """
        by_host: dict[str, list[ArrayHandle]] = {}
        for array in arrays:
            if not self._supervised(array).is_over:
                by_host.setdefault(_host_of(array.job_id), []).append(array)
        began = time.monotonic()
        for name, some in by_host.items():
            self._begin_asking(name, [self._supervised(array) for array in some])
        problems = {name: problem for name in by_host if (problem := self._hear(name, began)) is not None}
        if len(problems) == len(self.hosts):
            raise next(iter(problems.values()))
        return {array.job_id: self._statuses(array, is_out=_host_of(array.job_id) in problems) for array in arrays}

    def _supervised(self, array: ArrayHandle) -> Supervised:
        known = self._known.get(array.job_id)
        if known is None or known.folder != array.folder:
            known = self._known[array.job_id] = Supervised(array)
        return known

    def _begin_asking(self, name: str, about: list[Supervised]) -> None:
        """Ask a host, unless an earlier question is still out."""
        seen, host = self._seen[name], self._host(name)
        if seen.asked is not None:
            if not seen.asked.done():
                return
            if seen.asked.exception() is None:
                seen.out_since = None  # it is back, and is waited for as any other
        ask = partial(host.call, "poll", {"arrays": [known.question for known in about]}, timeout=ANSWER)
        seen.about, seen.ask, seen.asked = about, ask, start(ask, name=name)

    def _hear(self, name: str, began: float) -> ClusterError | None:
        """Take in a host's answer; where there is none, say what is wrong."""
        seen = self._seen[name]
        assert seen.asked is not None
        patience = ANSWER if seen.out_since is None else ANSWER_OF_THE_LOST
        try:
            needs_login = needs_a_person(seen.asked.exception(max(0.0, began + patience - time.monotonic())))
            answers = seen.ask() if needs_login else seen.asked.result()
        except TimeoutError:
            problem: ClusterError = CommandTimeout(f"{name} does not answer")
        except ClusterError as error:
            seen.asked = None
            if not error.may_pass:
                raise
            problem = error
        else:
            seen.asked, seen.out_since = None, None
            for known, answer in zip(seen.about, answers, strict=True):
                if answer is not None:
                    known.hear(answer)
                else:  # the run's folder went, or is out of sight: it is read from its beginning when it is back
                    self._known = {job_id: other for job_id, other in self._known.items() if other is not known}
            return None
        seen.out_since = seen.out_since or time.time()
        return problem

    def _statuses(self, array: ArrayHandle, *, is_out: bool) -> dict[int, TaskStatus]:
        known = self._known.get(array.job_id)
        tasks = known.tasks if known is not None else {}
        if not is_out:
            return dict(tasks)
        name = _host_of(array.job_id)
        since = time.strftime("%H:%M", time.localtime(self._seen[name].out_since))
        words = f"{name} not reachable since {since}"
        tasks = tasks or dict.fromkeys(parse_tasks(array.numbers) if array.numbers else (), TaskStatus(State.UNKNOWN))
        return {task: status if status.state.is_terminal else replace(status, reason=words) for task, status in tasks.items()}

    # ---- what was used -------------------------------------------------------------------------

    def usage(self, arrays: Sequence[ArrayHandle], *, keepers: Sequence[str] = ()) -> list[Usage]:
        """Read what the supervisors wrote down, of a host that does not answer as far as it was read; see the base class."""
        self.poll(arrays)
        found: list[Usage] = []
        for array in arrays:
            if (known := self._known.get(array.job_id)) is not None:
                found += known.usage(user=self._host(_host_of(array.job_id)).user, now=time.time())
        return found

    def usage_since(self, since: float, *, everyone: bool) -> None:
        """Say nothing: what ran here are the runs that the journal knows, one by one."""

    # ---- keepers -------------------------------------------------------------------------------

    def living_keepers(self, folder: str, tokens: Sequence[str]) -> set[str]:
        """Say of which arrays keepers live: there are none."""
        return set()

    def tell_keeper(self, folder: str, words: Sequence[str]) -> None:
        """Refuse: there are none."""
        raise ClusterError("bare machines have nobody who looks after a run's arrays")


def _ask_room(host: Host) -> Room:
    told = host.call("room", {"home": host.home}, timeout=ANSWER)
    return Room(**{name: told[name] for name in ("cores", "gpus", "free_cores", "free_gpus", "in_use", "ends_with_login")})


def _check_room(name: str, room: Room, job: Job) -> Check:
    slots, now = (count(job.cpu_count, job.gpu_count) for count in (room.slots, room.free_slots))
    others = f"; others compute on {room.in_use} of its GPUs" if room.in_use and job.gpu_count else ""
    if not slots:
        return Check(name, "warning", f"it has {room}, too few for a trial, and gets none")
    if room.ends_with_login:
        return Check(
            name, "warning", "systemd there ends what a login leaves running, and so all trials: loginctl enable-linger lets them live"
        )
    return Check(name, "ok", f"{room}; {slots} tasks at once, {now} of them now{others}")


def _too_large(job: Job, rooms: Mapping[str, Room]) -> str:
    has = ", ".join(f"{name} has {room}" for name, room in rooms.items()) or "none of the hosts can be reached"
    gpus = f"{job.gpu_count} GPU{'' if job.gpu_count == 1 else 's'} and " if job.gpu_count else ""
    return f"a trial asks for {gpus}{job.cpu_count} core{'' if job.cpu_count == 1 else 's'}, and no host has that: {has}"


def _refused(host: str, token: str, refused: machine.Refused) -> ClusterError:
    if refused.kind == "void":
        return SubmissionVoided(str(refused))
    if refused.kind == "code":
        return SubmissionUnsent(f"the code of {token} is not on {host} any more: {refused}. Launch the same again")
    hint = ". Choose another with Cluster.hosts(…, runs='/a/folder')" if refused.kind == "folder" else ""
    return SubmissionRejected(f"{host} refused {token}, and nothing was submitted: {refused}{hint}")


def _host_of(job_id: str) -> str:
    return job_id.rpartition("-")[0]


def _text(answer: Any) -> str | None:
    return None if answer is None else str(answer)
