"""Parameter values: the scalars that a trial may hold, and the text that reaches its program."""

from __future__ import annotations

import math
import os
import re
import sys
from typing import Any, TypeAlias

from nexa_sdk.errors import SweepError

__all__ = ["Scalar", "WrittenFloat", "WrittenInt", "as_scalar", "parse_scalar", "text_of"]

Scalar: TypeAlias = str | int | float | bool | None


# MAX_ARG_STRLEN of the kernel, less the NUL at its end and room for --name=
LONGEST = 131_072 - 1 - 1024


class WrittenInt(int):
    """An integer that remembers how the user wrote it (``1_000``, ``0x10``)."""

    text: str

    def __new__(cls, value: int, text: str) -> WrittenInt:
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]
        return int(self), self.text


class WrittenFloat(float):
    """A float that remembers how the user wrote it (``1e-3``, ``0.10``)."""

    text: str

    def __new__(cls, value: float, text: str) -> WrittenFloat:
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        return float(self), self.text


# The core schema of YAML 1.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution.
# Sexagesimals are YAML 1.1: here 2:00:00 stays text.
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", "")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def parse_scalar(text: str) -> Scalar:
    """Read one plain scalar by the core schema of YAML 1.2; a number keeps its spelling."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        # Python reads no more digits than these (CVE-2020-10735); a longer number stays text.
        return WrittenInt(int(text), text) if len(text) <= sys.int_info.default_max_str_digits else text
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return WrittenInt(int(text, 0), text)
    if _FLOAT.fullmatch(text):
        return WrittenFloat(float(text), text)
    if _INFINITY.fullmatch(text):
        word = text.replace(".", "").lower()
        return WrittenFloat(float(word), word)
    if text in (".nan", ".NaN", ".NAN"):
        return WrittenFloat(math.nan, "nan")
    return text


def as_scalar(name: str, value: Any) -> Scalar:
    """Return `value` as a scalar that can reach a program, or say why it can't.

    NumPy scalars become Python's, paths become text.

    Raises
    ------
    SweepError
        For a list, a mapping or another object; for text with a NUL byte (no argument can hold
        one) or with a lone surrogate (it is no Unicode text).
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, (str, int, float, bool, type(None))):
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            # float32(0.1) is 0.1 to its user, and 0.10000000149011612 as Python's float
            value = WrittenFloat(value.item(), str(value)) if _is_short_float(value) else value.item()
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise SweepError(
                f"parameter {name!r}: {value!r} ({type(value).__name__}) is no scalar; give text, "
                "a number, a boolean or None, and join a list into one text that the program splits"
            )
    if isinstance(value, str):
        check_text(f"parameter {name!r}", value)
        return str.__str__(value)  # numpy.str_ and an enum's member are a str, with another repr
    if isinstance(value, float) and not isinstance(value, WrittenFloat):
        return float(value)  # numpy.float64 is a float, with another repr
    if isinstance(value, int) and not isinstance(value, (bool, WrittenInt)):
        return int(value)  # so is an IntEnum's member an int
    return value


def _is_short_float(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") == "f" and value.dtype.itemsize < 8


def check_text(what: str, text: str) -> None:
    """Refuse text that no argument of a program can hold."""
    if "\0" in text:
        raise SweepError(f"{what}: {text[:200]!r} holds a NUL byte, which no argument can; leave it out")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise SweepError(f"{what}: {text[:200]!r} holds a lone surrogate and is no Unicode text; decode it first") from None
    if size > LONGEST:
        raise SweepError(f"{what}: a text of {size:,} bytes, and Linux passes at most {LONGEST:,} in one argument; pass a file's name")


def text_of(value: Scalar) -> str:
    """Return the text that reaches the program: as the user wrote it, else Python's repr.

    Booleans are ``true`` and ``false`` and None is ``null``, as in YAML, JSON and Hydra.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (WrittenInt, WrittenFloat)):
        return value.text
    return repr(value)
