"""Values: what is read as what, and the text that reaches a program."""

import copy
import enum
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk.errors import SweepError
from nexa_sdk.values import WrittenFloat, WrittenInt, as_scalar, parse_scalar, text_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("0.10", 0.1),
        (".5", 0.5),
        ("5.", 5.0),
        ("+1.5", 1.5),
        ("12", 12),
        ("-0", 0),
        ("007", 7),
        ("0x10", 16),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_a_number_of_yaml_1_2_is_read_as_a_number(text, value):
    read = parse_scalar(text)
    assert read == value
    assert type(read) in (WrittenInt, WrittenFloat)


@pytest.mark.parametrize(
    "text", ["2:00:00", "1:30", "on", "yes", "No", "1_000", "0b11", "1e", "e3", ".", "-", "0x", "tRUE", "NaN", "٣", " 1", "1\n"]
)
def test_what_yaml_1_2_reads_as_no_number_stays_text(text):
    assert parse_scalar(text) == text
    assert type(parse_scalar(text)) is str


def test_words_for_booleans_and_null():
    assert [parse_scalar(word) for word in ("true", "True", "TRUE")] == [True] * 3
    assert [parse_scalar(word) for word in ("false", "False", "FALSE")] == [False] * 3
    assert [parse_scalar(word) for word in ("null", "~", "")] == [None] * 3


@pytest.mark.parametrize("text", ["1e-3", "0.10", "1E5", "0x10", "007", "+1", "-0", "1."])
def test_a_number_reaches_the_program_as_it_was_written(text):
    assert text_of(parse_scalar(text)) == text


def test_infinity_and_nan_reach_the_program_in_python_s_spelling():
    assert [text_of(parse_scalar(text)) for text in (".inf", "-.INF", ".NaN")] == ["inf", "-inf", "nan"]


def test_more_digits_than_python_reads_stay_text():
    assert parse_scalar("9" * 5000) == "9" * 5000


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_s_text_is_read_as_the_same_number(number):
    assert parse_scalar(text_of(number)) == number


@given(st.text())
def test_the_text_of_whatever_was_read_is_read_as_the_same(text):
    value = parse_scalar(text)
    again = parse_scalar(text_of(value))
    assert again == value or value in (math.inf, -math.inf) or value != value  # noqa: PLR0124  NaN; inf is .inf in YAML


@given(st.from_regex(r"[-+]?[0-9]{1,9}(\.[0-9]{0,9})?([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_no_spelling_of_a_number_is_lost(text):
    assert text_of(parse_scalar(text)) == text


def test_a_written_number_keeps_its_spelling_when_copied_and_pickled():
    for number in (parse_scalar("1e-3"), parse_scalar("0x10")):
        for twin in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
            assert (twin, twin.text) == (number, number.text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"),
        (1e-4, "0.0001"),
        (1e16, "1e+16"),
        (3, "3"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ("", ""),
        ("--x", "--x"),
    ],
)
def test_a_python_value_reaches_the_program_as_its_repr_and_words_as_in_yaml(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "scalar"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(2.5), 2.5),
        (Path("a/b"), "a/b"),
    ],
)
def test_numpy_scalars_and_paths_become_python_s_own(value, scalar):
    assert as_scalar("x", value) == scalar
    assert type(as_scalar("x", value)) is type(scalar)


class Colour(str, enum.Enum):  # noqa: UP042  as it is on older Pythons, with another str()
    RED = "red"


class Size(enum.IntEnum):
    BIG = 2


def test_an_enum_s_member_is_its_value():
    assert text_of(as_scalar("x", Colour.RED)) == "red"
    assert text_of(as_scalar("x", Size.BIG)) == "2"


@pytest.mark.parametrize("value", [[1, 2], (1,), {"a": 1}, {1}, object(), b"bytes", 1j, np.array([1, 2])])
def test_what_is_no_scalar_is_refused_with_its_name(value):
    with pytest.raises(SweepError, match=r"parameter 'x': .* is no scalar"):
        as_scalar("x", value)


def test_text_that_no_argument_can_hold_is_refused():
    with pytest.raises(SweepError, match="NUL"):
        as_scalar("x", "a\0b")
    with pytest.raises(SweepError, match="lone surrogate"):
        as_scalar("x", "a\ud800b")
