"""TOML files of the user's whose values know their lines: what can't be meant is said with its line.

Numbers with a point are Decimals: they may be money.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from nexa_sdk.errors import FileError

__all__ = ["Place", "TomlFile", "plain", "shown"]

Place = tuple[str, ...]


class TomlFile:
    """A file: what it says, and on which lines.

    Attributes
    ----------
    path : Path
    content : dict

    Raises
    ------
    FileError
        The file can't be read, or is no TOML.
    """

    Error: type[FileError] = FileError

    def __init__(self, path: Path) -> None:
        import tomllib
        from decimal import Decimal

        self.path = path
        try:
            self._text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
            self.content = tomllib.loads(self._text, parse_float=Decimal)
        except OSError as error:
            raise self.Error(f"it can't be read: {error.strerror}", path=path) from None
        except UnicodeDecodeError as error:
            raise self.Error("this is no UTF-8 text", path=path, line=error.object.count(b"\n", 0, error.start) + 1) from None
        except tomllib.TOMLDecodeError as error:
            words, _, where = str(error).rpartition(" (at ")
            number = re.match(r"line (\d+)", where)
            line = int(number[1]) if number else self._text.rstrip().count("\n") + 1
            raise self.Error(f"this is no TOML: {words}; text stands in quotes", path=path, line=line) from None

    def table(self, place: Place, given: Any) -> dict[str, Any]:
        """Take a value for a table."""
        if not isinstance(given, dict):
            self.fail(place, f"{place[-1]} is a table, [{'.'.join(place)}], not {shown(given)}")
        return given

    def fail(self, place: Place, words: str) -> NoReturn:
        """Refuse what stands at a place."""
        raise self.Error(words, path=self.path, line=self.line(place))

    def line(self, place: Place) -> int:
        """Return the line that a key stands on first, or the nearest one around it."""
        lines: dict[Place, int] = {}
        for line, key in _keys(self._text):
            lines.setdefault(key, line)
        return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 1)


def _keys(text: str) -> Iterator[tuple[int, Place]]:
    """Say which keys stand on which lines of a TOML text, as they come.

    The parser tells no lines. But a statement ends at the first line end where it is a TOML text
    by itself, so that each can be read alone; one that begins with a bracket heads a table.
    """
    import tomllib

    section: Place = ()
    piece, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        piece, first = (f"{piece}{line}\n", first) if piece else (f"{line}\n", number)
        try:
            content = tomllib.loads(piece)
        except tomllib.TOMLDecodeError:
            continue  # the array or the text goes on below
        found = list(_places(content))
        is_header = piece.lstrip().startswith("[")
        yield from ((first, place if is_header else (*section, *place)) for place in found)
        section = found[-1] if is_header else section
        piece = ""


def _places(content: dict[str, Any], around: Place = ()) -> Iterator[Place]:
    for key, value in content.items():
        yield (*around, key)
        if isinstance(value, dict):
            yield from _places(value, (*around, key))


def plain(value: Any) -> Any:
    """Return a value of TOML as a user of Python would give it."""
    from datetime import time
    from decimal import Decimal

    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, time):
        return value.isoformat()  # 02:00:00 without quotes is a time of day
    return float(value) if isinstance(value, Decimal) else value


def shown(value: Any) -> str:
    """Show a value in a message."""
    found = plain(value)
    return (
        "a table"
        if isinstance(found, dict)
        else "a list"
        if isinstance(found, list)
        else str(found).lower()
        if isinstance(found, bool)
        else repr(found)
    )
