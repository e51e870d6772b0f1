"""Find out why trials did not complete, and decide by rules which are run again and with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, CommandFailed
from nexa_sdk.retry import EVERYWHERE, LINES, Cause, Failure, Ladder, Retry, Step, cause_of, decide, fails_everywhere
from nexa_sdk.states import State
from nexa_sdk.walltime import format_walltime

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.attempts import Attempt
    from nexa_sdk.job import Job
    from nexa_sdk.transports.base import Transport

__all__ = ["Diagnosis", "groups", "planned", "table", "told"]


class Diagnosis:
    """Why attempts of a run did not complete; each log is looked at once."""

    def __init__(self, folder: str, transport: Transport) -> None:
        self._folder = folder
        self._transport = transport
        self._causes: dict[str, Cause | None] = {}

    def causes(self, attempts: Sequence[Attempt]) -> dict[str, Cause | None]:
        """Return the cause of each, by its name."""
        new = [attempt for attempt in attempts if attempt.name not in self._causes]
        unclear = [attempt for attempt in new if attempt.status.state in (State.FAILED, State.UNKNOWN)]
        whole = {attempt.name: attempt.job for attempt in unclear if _left_no_end(attempt)}
        ends = self._log_ends(list(dict.fromkeys([*(attempt.name for attempt in unclear), *whole.values()])))
        for attempt in new:
            status = attempt.status
            cause = cause_of(status.state, status.exit_code, ends.get(attempt.name, ""))
            if attempt.name in whole and cause in (None, Cause.FAILED):
                cause = cause_of(status.state, status.exit_code, ends[whole[attempt.name]])
            self._causes[attempt.name] = cause
        return {attempt.name: self._causes[attempt.name] for attempt in attempts}

    def _log_ends(self, names: Sequence[str]) -> dict[str, str]:
        try:
            ends = self._transport.read_ends([f"{self._folder}/logs/{name}.log" for name in names], lines=LINES)
        except CommandFailed as error:
            raise ClusterError(f"the logs in {self._folder} can't be read: {error.stderr.strip()}") from error
        return dict(zip(names, ends, strict=True))

    def steps(
        self, chosen: Sequence[Attempt], everything: Sequence[Attempt], *, rules: Retry, ladder: Ladder, job: Job
    ) -> list[tuple[Attempt, Step]]:
        """Decide about failed attempts.

        Parameters
        ----------
        chosen : sequence of Attempt
            The last attempts of trials, failed.
        everything : sequence of Attempt
            All attempts of the run.
        """
        by_array: dict[str, list[Attempt]] = {}
        before: dict[int, list[str]] = {}
        seen: set[tuple[int, str]] = set()
        for attempt in everything:
            by_array.setdefault(attempt.array.token, []).append(attempt)
            if attempt.array.cause and (attempt.trial, attempt.array.token) not in seen:  # a requeue is the same array
                before.setdefault(attempt.trial, []).append(attempt.array.cause)
                seen.add((attempt.trial, attempt.array.token))
        causes = self.causes(chosen)
        everywhere = {token for token in {attempt.array.token for attempt in chosen} if self._is_everywhere(by_array[token])}
        lost = tuple(dict.fromkeys(a.status.node for a in chosen if causes[a.name] is Cause.NODE_FAIL and a.status.node))
        decided = []
        for attempt in chosen:
            failure = Failure(
                trial=attempt.trial,
                attempt=attempt.number,
                cause=causes[attempt.name],
                state=attempt.status.state,
                before=tuple(before.get(attempt.trial, ())),
                options=attempt.array.options,
                nodes=lost,
            )
            step = decide(failure, rules, ladder, planned=planned(job))
            if attempt.array.token in everywhere:
                step = Step(trial=step.trial, attempt=step.attempt, cause=step.cause, is_again=False, words=EVERYWHERE)
            decided.append((attempt, step))
        return decided

    def _is_everywhere(self, attempts: Sequence[Attempt]) -> bool:
        last = {attempt.trial: attempt for attempt in attempts}.values()
        if any(attempt.status.state not in (State.FAILED, State.CANCELLED) for attempt in last):
            return False
        causes = self.causes(list(last))
        return fails_everywhere((attempt.status.state, causes[attempt.name], _seconds(attempt)) for attempt in last)


def _left_no_end(attempt: Attempt) -> bool:
    """Whether a trial of a packed task went down with it: Slurm said why in the task's log, not in the trial's."""
    return attempt.slot is not None and (attempt.status.exit_code is None or attempt.status.start is None)


def _seconds(attempt: Attempt) -> float | None:
    start, end = attempt.status.start, attempt.status.end
    return end - start if start is not None and end is not None else None


def planned(job: Job) -> dict[str, str]:
    """Return what a job gives its trials of what rules may raise."""
    found = {"mem": job.mem or "", "time": format_walltime(job.limit) if job.limit is not None else ""}
    return {name: value for name, value in found.items() if value}


def groups(steps: Sequence[tuple[Attempt, Step]]) -> list[tuple[str, dict[str, Any], list[Attempt]]]:
    """Group what is run again by what it is given: cause, options, attempts."""
    found: dict[tuple[str, str], tuple[str, dict[str, Any], list[Attempt]]] = {}
    for attempt, step in steps:
        if step.is_again:
            key = (step.cause, repr(sorted(step.options.items())))
            found.setdefault(key, (step.cause, dict(step.options), []))[2].append(attempt)
    return list(found.values())


def table(steps: Sequence[tuple[Attempt, Step]]) -> pd.DataFrame:
    """Tabulate what is decided: a row for each failed trial."""
    import pandas as pd

    return pd.DataFrame(
        {
            "attempt": [step.attempt for _, step in steps],
            "cause": [step.cause for _, step in steps],
            "again": [step.is_again for _, step in steps],
            "change": [step.words for _, step in steps],
        },
        index=pd.Index([step.trial for _, step in steps], name="trial"),
    )


def told(steps: Sequence[tuple[Attempt, Step]]) -> str:
    """Say what is decided, a line for each kind."""
    from nexa_sdk.tasks import format_tasks

    kinds: dict[tuple[bool, str, str], list[int]] = {}
    for _, step in steps:
        kinds.setdefault((step.is_again, step.cause, step.words), []).append(step.trial)
    lines = []
    for (is_again, cause, words), trials in kinds.items():
        who = f"trial{'s' if len(trials) > 1 else ''} {format_tasks(sorted(trials))}"
        lines.append(f"{who}: {cause}, {'run again: ' if is_again else 'not run again: '}{words}")
    return "\n".join(lines)
