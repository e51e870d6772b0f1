"""The space that a sweep walks: a product of factors, worked out from a trial's number.

A factor is one axis of a grid, or a table whose columns vary together (zipped values, drawn
samples, explicit trials). Trial *i* of a product needs *i* alone: with sizes 2 and 3, trial 4 is
value ``4 // 3 % 2`` of the first factor and ``4 % 3`` of the last, which varies fastest.
"""

from __future__ import annotations

import math
import random
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import itemgetter
from typing import Any

from nexa_sdk.errors import SweepError
from nexa_sdk.values import LONGEST, Scalar, as_scalar, check_text

__all__ = ["Factor", "Selection", "Space", "Trial"]

Trial = dict[str, Scalar]
Predicate = Callable[[Trial], bool]

MAX_COUNTED = 10**7  # a predicate is asked about each combination: some ten seconds for these


@dataclass(frozen=True)
class Factor:
    """Columns of one length that vary together; if they were drawn, from what and how."""

    columns: Mapping[str, Sequence[Scalar]]
    drawn: tuple[Mapping[str, Any], int, int] | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class Space:
    """The product of `factors`, the last varying fastest."""

    factors: tuple[Factor, ...]

    @cached_property
    def size(self) -> int:
        """How many combinations there are."""
        return math.prod(factor.size for factor in self.factors)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """How many combinations pass until a factor moves on, for each factor."""
        strides, stride = [], 1
        for factor in reversed(self.factors):
            strides.append(stride)
            stride *= factor.size
        return tuple(reversed(strides))

    def combination(self, i: int) -> Trial:
        """Work out combination `i`."""
        return {
            name: values[i // stride % factor.size]
            for factor, stride in zip(self.factors, self.strides, strict=True)
            for name, values in factor.columns.items()
        }


@dataclass(frozen=True, eq=False)
class Selection:
    """Some combinations of a space, in their order: where a predicate holds, or a list of them."""

    space: Space
    where: Predicate | None = None
    only: Sequence[int] | None = None
    fixed: Mapping[str, Scalar] = field(default_factory=dict)  # what a predicate is told besides

    @cached_property
    def numbers(self) -> Sequence[int]:
        """The chosen combinations' numbers.

        Raises
        ------
        SweepError
            When a predicate would have to be asked about more than 10⁷ combinations.
        """
        if self.where is None:
            return range(self.space.size) if self.only is None else self.only
        if self.only is None and self.space.size > MAX_COUNTED:
            raise SweepError(
                f"where= is counted only up to {MAX_COUNTED:,} combinations, and this sweep has "
                f"{self.space.size:,}: draw some with sweep.sample(n), look at some with "
                "sweep.trials(first=n), or make the grid smaller"
            )
        return array("q", self._matching())

    @property
    def is_everything(self) -> bool:
        """Whether trial *i* is combination *i*."""
        return self.where is None and self.only is None

    def _matching(self) -> Iterator[int]:
        candidates = range(self.space.size) if self.only is None else self.only
        if self.where is None:
            yield from candidates
            return
        for number in candidates:
            if self._holds(number):
                yield number

    def _holds(self, number: int) -> bool:
        assert self.where is not None
        trial = {**self.space.combination(number), **self.fixed}
        try:
            return bool(self.where(trial))
        except Exception as error:
            raise SweepError(
                f"where= failed on {trial}: {type(error).__name__}: {error}; it is called with a "
                "trial's parameters as a dict, and says whether the trial stays"
            ) from error

    @property
    def size(self) -> int:
        """How many are chosen; len() of the numbers ends at 2⁶³."""
        return self.space.size if self.is_everything else len(self.numbers)

    def first(self, count: int) -> list[int]:
        """Return the first `count` numbers, without counting all."""
        if count < 0:
            raise SweepError(f"first={count}: give the number of trials to look at, from 0 on")
        return list(islice(self._matching(), count))

    def draw(self, count: int, seed: int) -> list[int]:
        """Draw `count` different numbers, in ascending order.

        Raises
        ------
        SweepError
            When there are fewer, or a predicate holds so rarely that they are not found.
        """
        rng = random.Random(seed)
        if self.is_everything or self.only is not None or self.space.size <= MAX_COUNTED:
            if count > self.size:
                raise SweepError(f"can't draw {count:,} different trials from {self.size:,}")
            if self.size <= sys.maxsize:
                return sorted(self.numbers[k] for k in rng.sample(range(self.size), count))
        found: set[int] = set()
        for _ in range(1000 * count + 10_000):
            number = rng.randrange(self.space.size)
            if number not in found and (self.where is None or self._holds(number)):
                found.add(number)
                if len(found) == count:
                    return sorted(found)
        raise SweepError(
            f"where= holds so rarely that {len(found)} of {count} trials were found among "
            f"{1000 * count + 10_000:,} draws; make the grid smaller"
        )


def axis(name: str, values: Any) -> Factor:
    """Make a factor of one parameter's values; a range stays a range."""
    return Factor({name: column(name, values)})


def table(columns: Mapping[str, Any], *, what: str) -> Factor:
    """Make a factor of columns that vary together."""
    made = {name: column(name, values) for name, values in columns.items()}
    sizes = {name: len(values) for name, values in made.items()}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise SweepError(f"{what} needs lists of one length; these have {lengths}")
    return Factor(made)


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns; what a row lacks is None.

    Raises
    ------
    SweepError
        For no rows, a row that is no mapping, and rows without any parameter.
    """
    if not rows:
        raise SweepError("from_trials needs at least one trial: the sweep is empty")
    kinds = set(map(type, rows))
    if not all(issubclass(kind, Mapping) for kind in kinds):
        number, row = next((number, row) for number, row in enumerate(rows) if not isinstance(row, Mapping))
        raise SweepError(f"trial {number}: {row!r} is no mapping of names to values")
    # A million rows, which have the same keys mostly, are taken a column at a time.
    if kinds == {dict} and set(map(len, rows)) == {len(rows[0])} and rows[0]:
        with suppress(KeyError):
            return {name: list(map(itemgetter(name), rows)) for name in rows[0]}
    names = list(dict.fromkeys(key for row in rows for key in row))
    if not names:
        raise SweepError("the trials have no parameters, so all would be the same; give each a seed")
    return {name: [row.get(name) for row in rows] for name in names}


def sampled(given: Mapping[str, Any], n: int, seed: int) -> Factor:
    """Draw `n` rows from distributions."""
    from nexa_sdk.distributions import as_distribution

    distributions = {name: as_distribution(name, value) for name, value in given.items()}
    rng = random.Random(seed)
    rows = [[drawn.draw(rng) for drawn in distributions.values()] for _ in range(n)]
    return Factor({name: column(name, [row[k] for row in rows]) for k, name in enumerate(given)}, (distributions, n, seed))


def column(name: str, values: Any) -> Sequence[Scalar]:
    """Check a list of values and return it as scalars."""
    if isinstance(values, range):
        if not values:
            raise SweepError(f"parameter {name!r} has no values ({values!r}): the sweep is empty")
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise SweepError(f"parameter {name!r}: {values!r} is one value; write a list, [{values!r}], or put it into fixed=")
    if isinstance(values, (set, frozenset, Mapping)):
        raise SweepError(f"parameter {name!r}: a {type(values).__name__} has no order that a trial's number could follow; write a list")
    if getattr(values, "ndim", 1) != 1:
        raise SweepError(f"parameter {name!r}: an array of {values.ndim} dimensions; give a list of scalars")  # type: ignore[attr-defined]
    short = getattr(getattr(values, "dtype", None), "itemsize", 8) < 8  # float32 keeps its own spelling: see as_scalar
    scalars: list[Any] = values.tolist() if hasattr(values, "tolist") and not short else list(values)
    if not scalars:
        raise SweepError(f"parameter {name!r} has no values: the sweep is empty")
    kinds = set(map(type, scalars))
    if kinds <= {int, float, bool, type(None)}:
        return scalars
    if kinds == {str}:
        check_text(f"a value of parameter {name!r}", _suspect(scalars))
        return scalars
    return [as_scalar(name, value) for value in scalars]


def _suspect(texts: list[str]) -> str:
    """Return a text that can't be an argument, or an empty one: a million are checked at once."""
    together = "".join(texts)
    try:
        together.encode()
        clean = "\0" not in together and (len(together) <= LONGEST // 4 or max(map(len, texts)) <= LONGEST // 4)
    except UnicodeEncodeError:
        clean = False
    if clean:
        return ""
    return next(
        (t for t in texts if "\0" in t or any("\ud800" <= c <= "\udfff" for c in t)),
        max(texts, key=lambda text: len(text.encode(errors="surrogatepass"))),
    )
