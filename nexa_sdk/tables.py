"""The tables of a run: attempts, parameters and reported results as DataFrames."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.attempts import Attempt
    from nexa_sdk.sweep import Sweep

__all__ = ["of_attempts", "of_results", "of_status", "read_lines"]


def of_status(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Tabulate the last attempt of each trial."""
    import pandas as pd

    columns = _state_columns(attempts)
    columns["attempt"] = [attempt.number for attempt in attempts]
    columns["job"] = _jobs(attempts)
    columns["reason"] = [attempt.status.reason for attempt in attempts]
    return pd.DataFrame(columns, index=pd.Index([attempt.trial for attempt in attempts], name="trial"))


def of_attempts(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Tabulate every attempt of every trial; `cause` is why it was run again, `change` what it had other than planned."""
    import pandas as pd

    ordered = sorted(attempts, key=lambda attempt: (attempt.trial, attempt.number))
    columns = {**_state_columns(ordered), "job": _jobs(ordered)}
    columns["cause"] = [attempt.array.cause for attempt in ordered]
    columns["change"] = [" ".join(f"{name}={value}" for name, value in attempt.array.options.items()) for attempt in ordered]
    index = pd.MultiIndex.from_tuples([(attempt.trial, attempt.number) for attempt in ordered], names=["trial", "attempt"])
    return pd.DataFrame(columns, index=index)


def of_results(sweep: Sweep, attempts: Sequence[Attempt], lines: Sequence[Sequence[dict[str, Any]]], *, every_line: bool) -> pd.DataFrame:
    """Join parameters, states and the lines that each attempt's program reported.

    A column that is there already keeps its name: a state becomes ``run.<name>``, a reported key
    ``result.<key>``.
    """
    import pandas as pd

    trials = [attempt.trial for attempt in attempts]
    frame = _parameter_frame(sweep, trials)
    for name, values in _state_columns(attempts).items():
        frame[name if name not in sweep.parameters else f"run.{name}"] = values
    if every_line:
        reported = [(trial, line) for trial, found in zip(trials, lines, strict=True) for line in (found or [{}])]
    else:
        reported = [
            (trial, {key: value for line in found for key, value in line.items()}) for trial, found in zip(trials, lines, strict=True)
        ]
    keys = dict.fromkeys(key for _, line in reported for key in line)
    columns = {key if key not in frame.columns else f"result.{key}": [line.get(key) for _, line in reported] for key in keys}
    results = pd.DataFrame(columns, index=pd.Index([trial for trial, _ in reported], name="trial"))
    return frame.join(results, how="right")


def _jobs(attempts: Sequence[Attempt]) -> list[str]:
    return [attempt.job if attempt.job_id else "" for attempt in attempts]


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


def read_lines(content: bytes) -> list[dict[str, Any]]:
    """Read JSON lines; the last one may be half written, and what is no object is left out."""
    found = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
