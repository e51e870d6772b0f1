"""Laying out bash arrays: many numbers at once look as if each had been laid out by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk.scheduling.slurm.bash import array_items, number_items, quote

NUMBERS = st.lists(st.floats() | st.integers(), min_size=1, max_size=300)


@given(NUMBERS)
def test_numbers_are_laid_out_as_words_are(numbers: list[float]) -> None:
    assert number_items(numbers) == array_items([quote(repr(number)) for number in numbers])


@pytest.mark.parametrize("count", [96, 97, 9_999, 10_000, 10_001, 123_456])
def test_many_numbers_are_laid_out_as_words_are(count: int) -> None:
    numbers = [k / 7 for k in range(count)]
    assert number_items(numbers) == array_items(map(repr, numbers))
    assert number_items(range(count)) == array_items(map(str, range(count)))


@pytest.mark.parametrize("digits", [93, 94, 95, 200])
def test_a_number_as_long_as_a_line_stands_alone(digits: int) -> None:
    numbers = [1] * 100 + [10 ** (digits - 1)] * 2 + [2]
    assert number_items(numbers) == array_items(map(repr, numbers))
