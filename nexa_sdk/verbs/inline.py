"""Parameters on a line: ``lr=1e-3,1e-4 seed=0..2 epochs=5``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nexa_sdk.errors import SweepError
from nexa_sdk.values import Scalar, parse_scalar

__all__ = ["is_parameter", "join_values", "read_parameter"]

# Names as flags and as Hydra's overrides have them; what is wrong with one for a style, Sweep says.
_PARAMETER = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:-]*=")
_RANGE = re.compile(r"([-+]?\d+)\.\.([-+]?\d+)", re.ASCII)
MOST_LISTED = 10**6  # of a range among other values
_OPEN, _CLOSE = "([{", ")]}"


def is_parameter(word: str) -> bool:
    """Whether a word gives a parameter its values."""
    return _PARAMETER.match(word) is not None


def read_parameter(word: str) -> tuple[str, Scalar | Sequence[Scalar]]:
    r"""Read ``NAME=VALUES``: one value, or several with commas between them.

    ``0..3`` is the integers 0, 1, 2, 3. A comma inside brackets, or after a backslash, belongs to
    the value. Numbers keep their spelling; ``name=`` is the empty text.

    Raises
    ------
    SweepError
        For a range that goes downwards, and for a very long one among other values.

    Examples
    --------
    >>> read_parameter("seed=0..2,7")
    ('seed', [0, 1, 2, 7])
    """
    name, _, text = word.partition("=")
    parts = _split(text)
    if len(parts) == 1 and not _RANGE.fullmatch(parts[0]):
        return name, _value(parts[0])
    if len(parts) == 1:
        return name, _range(name, parts[0])
    values: list[Scalar] = []
    for part in parts:
        found = _range(name, part) if _RANGE.fullmatch(part) else [_value(part)]
        if isinstance(found, range) and found.stop - found.start > MOST_LISTED:
            raise SweepError(f"parameter {name!r}: {part} are more than {MOST_LISTED:,} values; so long a range stands alone")
        values += found
    return name, values


def join_values(texts: Sequence[str]) -> str:
    r"""Write values with commas between them, so that :func:`read_parameter` reads them again."""
    return ",".join(text if _split(text) == [text] else text.replace("\\", "\\\\").replace(",", "\\,") for text in texts)


def _value(text: str) -> Scalar:
    return parse_scalar(text) if text else ""


def _range(name: str, text: str) -> range:
    first, last = map(int, text.split(".."))
    if last < first:
        raise SweepError(f"parameter {name!r}: {text} holds nothing; a range goes upwards, both ends included: {last}..{first}")
    return range(first, last + 1)


def _split(text: str) -> list[str]:
    """Split at the commas that are outside brackets and behind no backslash."""
    parts, depth, escaped = [""], 0, False
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\" and text[place + 1 : place + 2] in (",", "\\"):
            escaped = True
            continue
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth = max(0, depth - 1)
        parts[-1] += letter
    if depth:  # brackets that are never closed are no brackets
        return _split_plainly(text)
    return parts


def _split_plainly(text: str) -> list[str]:
    pieces = re.split(r"(?<!\\),", text)
    return [re.sub(r"\\([,\\])", r"\1", piece) for piece in pieces]
