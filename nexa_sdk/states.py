"""The states of a trial: Slurm's own names, and UNKNOWN."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["State"]


class State(StrEnum):
    """What became of a trial.

    The names are those of ``sacct`` (https://slurm.schedmd.com/job_state_codes.html). A state is
    terminal only on positive evidence: what can't be reached is UNKNOWN, never FAILED.
    """

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETING = "COMPLETING"
    REQUEUED = "REQUEUED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    UNKNOWN = "UNKNOWN"

    @property
    def is_terminal(self) -> bool:
        """Whether the trial will not go on by itself."""
        return self in _TERMINAL

    @property
    def is_failure(self) -> bool:
        """Whether the trial ended without completing: what ``retry`` runs again."""
        return self in _FAILURES

    @classmethod
    def read(cls, text: str) -> State:
        """Read a state as squeue and sacct print it (``CANCELLED by 1000``, ``RUNNING+``)."""
        words = text.split()
        word = words[0].rstrip("+") if words else ""
        if word in cls.__members__:
            return cls[word]
        return _OTHER_WORDS.get(word, cls.UNKNOWN)


_FAILURES = frozenset(
    {
        State.FAILED,
        State.CANCELLED,
        State.TIMEOUT,
        State.OUT_OF_MEMORY,
        State.NODE_FAIL,
        State.PREEMPTED,
        State.BOOT_FAIL,
        State.DEADLINE,
    }
)

_TERMINAL = _FAILURES | {State.COMPLETED}

# States that squeue shows and that mean, for a trial, one of those above.
_OTHER_WORDS = {
    "REQUEUE_FED": State.PENDING,
    "REQUEUE_HOLD": State.PENDING,
    "RESV_DEL_HOLD": State.PENDING,
    "SPECIAL_EXIT": State.PENDING,
    "RESIZING": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STAGE_OUT": State.COMPLETING,
    "STOPPED": State.SUSPENDED,
    "REVOKED": State.CANCELLED,
    "LAUNCH_FAILED": State.FAILED,
    "RECONFIG_FAIL": State.FAILED,
}
