"""Retry: which trials are run again, how often, and with what changed. Values and pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import InvalidInput, nearest
from nexa_sdk.states import State
from nexa_sdk.walltime import format_walltime, parse_walltime

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = [
    "AT_ONCE",
    "EVERYWHERE",
    "KILLED",
    "LINES",
    "MARKED",
    "Bounds",
    "Cause",
    "Failure",
    "Ladder",
    "Retry",
    "Step",
    "cause_of",
    "decide",
    "fails_everywhere",
]

EVERYWHERE = "all failed within a minute of their start: nothing is run again"
AT_ONCE = 60.0  # seconds: a trial that fails sooner after its start has hardly begun its work

# What Slurm's own processes write at the end of a log; a program's "CUDA out of memory" is none of
# it. Read by grep -E as well: the same text stands in the keeper.
MARKED = (
    r"^(slurmstepd|srun|\[[^]]*\] error).*"
    r"(exceeded memory limit|oom[-_]kill|Out Of Memory|DUE TO TIME LIMIT|DUE TO NODE FAILURE|DUE TO PREEMPTION)"
)
LINES = 20  # of a log's end that are looked at
KILLED = 137  # by SIGKILL, and by nobody that Slurm knows of: the kernel was out of memory, most likely


class Cause(StrEnum):
    """Why a trial did not complete, as far as a rule can mend it."""

    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    FAILED = "FAILED"

    @property
    def letter(self) -> str:
        """What it adds to the name of an array that runs trials again for it."""
        return "mtnpf"[list(Cause).index(self)]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a trial is run again for each cause, and what is changed for it.

    ``retry="by-cause"`` means the defaults.

    Parameters
    ----------
    out_of_memory : int
        With `memory_factor` times the memory, as far as the partition's nodes have it.
    timeout : int
        With `time_factor` times the walltime, as far as the partition's limit goes.
    node_fail : int
        On other nodes than those that were lost.
    preempted : int
        As it is.
    failed : int
        As it is, whatever its exit code. None by default: a program's bug would burn the budget.
    memory_factor, time_factor : float
    most_memory : str, optional
        No more than this: ``"256G"``.
    most_time : str, optional
        No longer than this: ``"24:00:00"``.
    partition : str, optional
        Where the small jobs run that look after the arrays of an automatic retry; unless given,
        where the trials do. For a GPU partition that takes no jobs without GPUs.

    Raises
    ------
    InvalidInput

    Notes
    -----
    CANCELLED trials are never run again. When all trials of an array failed within a minute of
    their start, none of them is run again either: it is the program, or what surrounds it.
    """

    out_of_memory: int = 2
    timeout: int = 2
    node_fail: int = 3
    preempted: int = 5
    failed: int = 0
    memory_factor: float = 2
    time_factor: float = 2
    most_memory: str | None = None
    most_time: str | None = None
    partition: str | None = None

    def __post_init__(self) -> None:
        for cause in Cause:
            times = self.times(cause)
            if isinstance(times, bool) or not isinstance(times, int) or not 0 <= times <= 20:
                raise InvalidInput(f"{cause.lower()}={times!r}: give how often a trial is run again for it, 0 to 20")
        for name in ("memory_factor", "time_factor"):
            factor = getattr(self, name)
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 < factor <= 100:
                raise InvalidInput(f"{name}={factor!r}: give a number above 1, as 2 for twice as much")
        if self.most_memory is not None:
            _mebibytes(self.most_memory)
        if self.most_time is not None:
            parse_walltime(self.most_time)
        if self.partition is not None and not re.fullmatch(r"[\w.,-]+", self.partition):
            raise InvalidInput(f"partition={self.partition!r} is no name of a partition")

    @classmethod
    def read(cls, given: object) -> Retry | None:
        """Read rules as a job has them: a Retry, ``"by-cause"``, or a mapping of its fields.

        Raises
        ------
        InvalidInput
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, str) and given.strip().lower() in ("by-cause", "by_cause", "cause"):
            return cls()
        if isinstance(given, Mapping):
            known = [named.name for named in fields(cls)]
            unknown = [name for name in given if name not in known]
            if unknown:
                raise InvalidInput(f"retry has no {unknown[0]!r}; {nearest(str(unknown[0]), known)}")
            return cls(**given)
        raise InvalidInput(f"{given!r} are no rules to run trials again by; give 'by-cause', or Retry(timeout=3, …)")

    def times(self, cause: Cause) -> int:
        """Say how often a trial is run again for a cause."""
        return int(getattr(self, cause.value.lower())) if cause is not Cause.FAILED else self.failed

    def written(self) -> dict[str, Any]:
        """Return what is other than by default, as JSON's values."""
        return {name: value for name, value in asdict(self).items() if value != getattr(type(self), name)}


# ---- causes ------------------------------------------------------------------------------------

_CAUSES = {
    State.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY,
    State.TIMEOUT: Cause.TIMEOUT,
    State.NODE_FAIL: Cause.NODE_FAIL,
    State.BOOT_FAIL: Cause.NODE_FAIL,
    State.PREEMPTED: Cause.PREEMPTED,
    State.FAILED: Cause.FAILED,
}
_WORDS = {"DUE TO TIME LIMIT": Cause.TIMEOUT, "DUE TO NODE FAILURE": Cause.NODE_FAIL, "DUE TO PREEMPTION": Cause.PREEMPTED}


def cause_of(state: State, exit_code: int | None, log_end: str) -> Cause | None:
    """Say why a trial did not complete; None where no rule is for it: it was cancelled, or nobody knows.

    Parameters
    ----------
    log_end : str
        The last lines of its log: without cgroups the state of a trial that took too much memory
        is FAILED, and only a line of Slurm's says why.
    """
    if state not in (State.FAILED, State.UNKNOWN):
        return _CAUSES.get(state)
    marks = [match[2] for line in log_end.splitlines()[-LINES:] if (match := re.match(MARKED, line))]
    if marks:
        return _WORDS.get(marks[-1], Cause.OUT_OF_MEMORY)
    return Cause.OUT_OF_MEMORY if state is State.FAILED and exit_code == KILLED else _CAUSES.get(state)


def fails_everywhere(ends: Iterable[tuple[State, Cause | None, float | None]]) -> bool:
    """Whether all trials of an array failed at once: state, cause and seconds of each.

    Those do not count that were cancelled, or of which nobody knows what became.
    """
    counted = [(cause, seconds) for state, cause, seconds in ends if state not in (State.CANCELLED, State.UNKNOWN) or cause is not None]
    return len(counted) > 1 and all(cause is Cause.FAILED and seconds is not None and seconds < AT_ONCE for cause, seconds in counted)


# ---- what is changed ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a cluster gives a trial that asks for nothing, and the most that one can ask for; None is not known.

    Memory is of a node. `nodes` is how many the partition has.
    """

    memory: str | None = None
    most_memory: str | None = None
    time: timedelta | None = None
    most_time: timedelta | None = None
    nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What a trial is given the first, second, … time that it is run again.

    `memory_end` and `time_end` say why there is no more. `may_exclude` is how many nodes at most
    can be avoided: one must be left.
    """

    memory: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    memory_end: str = ""
    time_end: str = ""
    may_exclude: int = 0
    exclude: str = ""

    @classmethod
    def of(cls, rules: Retry, job: Job, bounds: Bounds) -> Ladder:
        """Work out what a job's trials are given."""
        memory, memory_end = _memory_steps(rules, job, bounds)
        time, time_end = _time_steps(rules, job, bounds)
        may_exclude = 0 if job.nodelist is not None else 1000 if bounds.nodes is None else bounds.nodes - (job.nodes or 1)
        return cls(
            memory=tuple(memory),
            time=tuple(time),
            memory_end=memory_end,
            time_end=time_end,
            may_exclude=max(0, may_exclude),
            exclude=job.exclude or "",
        )

    def written(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        return {**asdict(self), "memory": list(self.memory), "time": list(self.time)}

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Ladder:
        """Read what :meth:`written` wrote."""
        return cls(**{**written, "memory": tuple(written["memory"]), "time": tuple(written["time"])})


def _memory_steps(rules: Retry, job: Job, bounds: Bounds) -> tuple[list[str], str]:
    per = [name for name in job.options if name.startswith("mem-per-")]
    if per:
        return [], f"memory is asked for by {per[0]}, which is not raised; give mem="
    start = job.mem or bounds.memory
    if start is None or not _mebibytes(start):
        return [], "it is not known how much memory it had; give mem="
    steps: list[str] = []
    now = _mebibytes(start)
    most = min((_mebibytes(text) for text in (rules.most_memory, bounds.most_memory) if text is not None), default=None)
    for _ in range(rules.out_of_memory):
        more = _rounded_up(now * rules.memory_factor)
        if most is not None:
            more = min(more, most)
        if more <= now:
            return steps, f"it had {format_memory(now)}, and there is no more than {format_memory(most or now)}"
        steps.append(format_memory(more))
        now = more
    return steps, ""


def _time_steps(rules: Retry, job: Job, bounds: Bounds) -> tuple[list[str], str]:
    start = job.limit or (bounds.time if job.time is None else None)
    if start is None:
        return [], "it is not known how much time it had; give time="
    own = parse_walltime(rules.most_time) if rules.most_time is not None else None
    most = min((limit for limit in (own, bounds.most_time) if limit is not None), default=None)
    steps: list[str] = []
    now = start
    for _ in range(rules.timeout):
        more = now * rules.time_factor
        if most is not None:
            more = min(more, most)
        if more <= now:
            return steps, f"it had {format_walltime(now)}, and the limit is {format_walltime(most)}"
        steps.append(format_walltime(more))
        now = more
    return steps, ""


def _avoided(before: str, nodes: Iterable[str]) -> str:
    words = before.split(",")
    return ",".join(filter(None, [before, *(node for node in nodes if node not in words)]))


_UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def _mebibytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)\s*([KMGT])(i?B)?", text, re.IGNORECASE)
    if not match:
        raise InvalidInput(f"{text!r} is no amount of memory; write '16G', '500M'")
    return _rounded_up(int(match[1]) * _UNITS[match[2].upper()])


def _rounded_up(amount: float) -> int:
    return -int(-amount // 1)


def format_memory(mebibytes: int) -> str:
    """Write an amount of memory as sbatch reads it."""
    return f"{mebibytes // 1024}G" if mebibytes % 1024 == 0 else f"{mebibytes}M"


# ---- what is decided ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A trial that did not complete.

    Attributes
    ----------
    attempt : int
        Which of its attempts that was.
    cause : Cause or None
    before : sequence of str
        The causes that it was run again for before.
    options : mapping
        What the attempt had other than planned: ``{"mem": "32G"}``.
    nodes : sequence of str
        The nodes to avoid, if it is for that.
    """

    trial: int
    attempt: int
    cause: Cause | None
    state: State
    before: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is done about a failure: `is_again`, with these options other than planned; `words` say what changes, or why not."""

    trial: int
    attempt: int
    cause: str
    is_again: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""


def decide(failure: Failure, rules: Retry, ladder: Ladder, *, planned: Mapping[str, str]) -> Step:
    """Decide about one failure.

    Parameters
    ----------
    planned : mapping of str to str
        What `mem` and `time` the job itself has, for the words.
    """
    cause = failure.cause
    told = Step(trial=failure.trial, attempt=failure.attempt, cause=str(cause or failure.state), is_again=False)
    if cause is None:
        return replace(told, words="no rule is for it")
    done, times = failure.before.count(str(cause)), rules.times(cause)
    if done >= times:
        already = f"run again {done} time{'s' if done > 1 else ''} for it already"
        return replace(told, words=already if done else "not run again, unless the rules say so")
    options = dict(failure.options)
    words = "as it is"
    for limited, name, steps, end in (
        (Cause.OUT_OF_MEMORY, "mem", ladder.memory, ladder.memory_end),
        (Cause.TIMEOUT, "time", ladder.time, ladder.time_end),
    ):
        if cause is limited:
            if done >= len(steps):
                return replace(told, words=end)
            words = f"{name} {options.get(name) or planned.get(name) or 'by default'} -> {steps[done]}"
            options[name] = steps[done]
    avoided = _avoided(str(options.get("exclude") or ladder.exclude), failure.nodes)
    if cause is Cause.NODE_FAIL and avoided and avoided.count(",") < ladder.may_exclude:
        options["exclude"] = avoided
        words = f"not on {avoided}"
    return replace(told, is_again=True, options=options, words=words)
