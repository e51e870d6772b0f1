"""Distributions for ``Sweep(sample=…)``.

Anything with SciPy's ``rvs(random_state=…)`` works as well: ``scipy.stats.beta(2, 5)``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nexa_sdk.errors import SweepError

__all__ = ["choice", "loguniform", "normal", "randint", "uniform"]


class Distribution(Protocol):
    """Something that draws values."""

    def draw(self, rng: random.Random) -> Any:
        """Draw one value."""


@dataclass(frozen=True)
class uniform:  # noqa: N801  reads as in scipy.stats and numpy.random
    """Draw floats evenly between `low` and `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self)

    def draw(self, rng: random.Random) -> float:
        """Draw one value."""
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class loguniform:  # noqa: N801
    """Draw floats between `low` and `high`, evenly in their logarithm."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self)
        if self.low <= 0:
            raise SweepError(f"{self!r}: the low end of a logarithmic range must be above 0")

    def draw(self, rng: random.Random) -> float:
        """Draw one value."""
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


@dataclass(frozen=True)
class randint:  # noqa: N801
    """Draw integers from `low` to `high`, both included, as ``random.randint`` does."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_order(self)

    def draw(self, rng: random.Random) -> int:
        """Draw one value."""
        return rng.randint(self.low, self.high)


@dataclass(frozen=True)
class normal:  # noqa: N801
    """Draw floats from the normal distribution."""

    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.deviation < 0:
            raise SweepError(f"{self!r}: the deviation must not be negative")

    def draw(self, rng: random.Random) -> float:
        """Draw one value."""
        return rng.gauss(self.mean, self.deviation)


@dataclass(frozen=True)
class choice:  # noqa: N801
    """Draw one of `options`, each as likely as the others."""

    options: Sequence[Any]

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not len(self.options):
            raise SweepError(f"{self!r}: give a list of at least one option")

    def draw(self, rng: random.Random) -> Any:
        """Draw one value."""
        return rng.choice(self.options)


def _check_order(span: uniform | loguniform | randint) -> None:
    if not span.low <= span.high:
        raise SweepError(f"{span!r}: the low end must not be above the high end")


@dataclass(frozen=True)
class _Scipy:
    frozen: Any

    def draw(self, rng: random.Random) -> Any:
        return self.frozen.rvs(random_state=rng.getrandbits(32))


def as_distribution(name: str, given: Any) -> Distribution:
    """Return `given` as something that draws, or say what may stand there."""
    if hasattr(given, "draw"):
        return given  # type: ignore[no-any-return]
    if hasattr(given, "rvs"):
        return _Scipy(given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return choice(given)
    raise SweepError(
        f"sample of {name!r}: {given!r} is no distribution; give uniform(low, high), "
        "loguniform(low, high), randint(low, high), normal(mean, deviation), choice([…]), "
        "a list to choose from, or a frozen distribution of scipy.stats"
    )
