"""Rows of values that lie beside a script: small files in the run's folder, a thousand trials each.

A table of many trials would make the script long, and bash reads all of it for every task. Here a
task reads the one file that holds its trial's row: a line of assignments, ``row=17 lr=0.1 seed=3``.
A parameter that the trial lacks is not assigned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from nexa_sdk.scheduling.slurm.bash import CONTROL, quote, variable_names
from nexa_sdk.values import Scalar, text_of

if TYPE_CHECKING:
    from nexa_sdk.sweep import Sweep

__all__ = ["RowFiles", "reading"]

IN_A_FILE = 1000
_FILE = re.compile(r"trials/(0|[1-9][0-9]*)\.sh", re.ASCII)
_NOT_BARE = re.compile(r"[^\w@%+=:,./-]", re.ASCII)  # as shlex.quote has it


def reading(variables: Iterable[str]) -> list[str]:
    """Return the lines of bash that read the row of ``$NEXA_TRIAL`` into its variables."""
    names = " ".join(["row", *variables])
    return [
        f"rows=$run/trials/$((NEXA_TRIAL / {IN_A_FILE})).sh",
        f"unset -v {names}",
        f"declare {names}  # what the row lacks stays unset",
        f'eval "$(sed -n "$((NEXA_TRIAL % {IN_A_FILE} + 1)){{p;q;}}" "$rows")"',
        '[[ ${row-} == "$NEXA_TRIAL" ]] || fail "the row of trial $NEXA_TRIAL is not in $rows"',
    ]


class RowFiles(Mapping[str, bytes]):
    """The files of a sweep's rows, by their paths in the run's folder; each is rendered when it is asked for."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._total = len(sweep)
        names = [name for factor in sweep.space.factors for name in factor.columns]
        self._variables = list(variable_names(names).values())

    def __len__(self) -> int:
        return -(-self._total // IN_A_FILE)

    def __iter__(self) -> Iterator[str]:
        return (f"trials/{number}.sh" for number in range(len(self)))

    def __getitem__(self, path: str) -> bytes:
        match = _FILE.fullmatch(path)
        if match is None or int(match[1]) >= len(self):
            raise KeyError(path)
        first = int(match[1]) * IN_A_FILE
        trials = range(first, min(first + IN_A_FILE, self._total))
        formats: list[str] = ["row=%d"]
        columns: list[Sequence[Any]] = [trials]
        for variable, values in zip(self._variables, _columns(self._sweep, trials), strict=True):
            written, items = _assignments(variable, values)
            formats.append(written)
            columns.append(items)
        # One format for all lines: twice as fast as a line at a time.
        return (("".join(formats) + "\n") * len(trials) % tuple(chain.from_iterable(zip(*columns, strict=True)))).encode()


def _columns(sweep: Sweep, trials: range) -> Iterator[Sequence[Scalar]]:
    """Give each column's values of some trials."""
    numbers = sweep.selection.numbers[trials.start : trials.stop]
    for factor, stride in zip(sweep.space.factors, sweep.space.strides, strict=True):
        if isinstance(numbers, range) and len(sweep.space.factors) == 1:
            yield from (values[numbers.start : numbers.stop] for values in factor.columns.values())
            continue
        places = [number // stride % factor.size for number in numbers]
        yield from ([values[place] for place in places] for values in factor.columns.values())


def _assignments(variable: str, values: Sequence[Scalar]) -> tuple[str, Sequence[Any]]:
    """Return a %-format, and for each value what it formats into `` variable=word``; None into nothing."""
    kinds = set(map(type, values))
    if type(None) in kinds:
        written, items = _assignments(variable, [value for value in values if value is not None])
        given = map(written.__mod__, items)
        return "%s", ["" if value is None else next(given) for value in values]
    if kinds <= {int, float}:
        return f" {variable}=%r", values
    if kinds == {str}:
        together = "".join(values)  # type: ignore[arg-type]
        if not _NOT_BARE.search(together) and all(values):
            return f" {variable}=%s", values
        if "'" not in together and not CONTROL.search(together):
            return f" {variable}='%s'", values
    return f" {variable}=%s", [quote(text_of(value)) for value in values]
