"""What a cell wrote and showed, in order: its log, and what it showed besides text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Begun", "Cleared", "Ended", "Event", "Shown", "Tape", "Text", "overwritten"]


@dataclass(frozen=True)
class Begun:
    """It began: `host`, `executable` and `python`, the parts of its version."""

    host: str
    executable: str
    python: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """Text that it wrote, to stdout or stderr."""

    text: str


@dataclass(frozen=True)
class Shown:
    """A value or a picture, in one or several forms."""

    data: dict[str, Any]
    metadata: dict[str, Any]
    display_id: str | None = None
    is_update: bool = False


@dataclass(frozen=True)
class Cleared:
    """What came before is taken away: at once, or when something new comes."""

    wait: bool


@dataclass(frozen=True)
class Ended:
    """It came to its end.

    Attributes
    ----------
    outputs : dict
        By name, `size` in bytes and `has_code`.
    error : dict or None
        `type`, `words`, `traceback` (lines) and `line`.
    python : tuple of int
        The version that ran it.
    host : str
    """

    outputs: dict[str, dict[str, Any]]
    error: dict[str, Any] | None
    python: tuple[int, ...] = ()
    host: str = ""


Event = Begun | Text | Shown | Cleared | Ended


@dataclass
class Tape:
    """Puts the pieces of two files together as they are read.

    Attributes
    ----------
    read_log, read_shown : int
        Bytes that were taken of each.
    """

    read_log: int = 0
    read_shown: int = 0
    _text: bytearray = field(default_factory=bytearray)
    _lines: bytearray = field(default_factory=bytearray)
    _records: list[dict[str, Any]] = field(default_factory=list)
    _told: int = 0  # bytes of the log that were told
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self, log: bytes, shown: bytes, *, is_last: bool = False) -> Iterator[Event]:
        """Take further bytes, and yield what can be told of them by now, in order.

        Parameters
        ----------
        log, shown : bytes
            The log is to be read first: what it says was preceded by what was shown before.
        is_last : bool
            Whether nothing more will come.
        """
        self.read_log += len(log)
        self.read_shown += len(shown)
        self._text += log
        self._lines += shown
        *whole, rest = self._lines.split(b"\n")
        self._lines = bytearray(rest)
        self._records += [json.loads(line) for line in whole if line]
        while self._records and (is_last or self._records[0]["at"] <= self.read_log):
            record = self._records.pop(0)
            yield from self._up_to(max(0, record["at"] - self._told))
            yield _event(record)
        yield from self._up_to(len(self._text), is_last=is_last)

    def _up_to(self, count: int, *, is_last: bool = False) -> Iterator[Text]:
        piece = bytes(self._text[:count])
        del self._text[:count]
        self._told += len(piece)
        if text := self._decoder.decode(piece, is_last):
            yield Text(text)


def _event(record: dict[str, Any]) -> Event:
    match record["kind"]:
        case "begin":
            return Begun(record["host"], record["executable"], tuple(record["python"]))
        case "show":
            return Shown(record["data"], record["metadata"], record.get("id"), bool(record.get("update")))
        case "clear":
            return Cleared(record["wait"])
        case _:
            return Ended(record["outputs"], record["error"], tuple(record["python"]), record["host"])


def overwritten(text: str) -> str:
    r"""Leave out what a progress bar overwrote itself, as a terminal would show it: ``"1\r2\r3"`` becomes ``"1\r3"``.

    What stands before the first carriage return stays: it may be the rest of a line that was told
    before. Lines with escape sequences are left as they are.
    """
    return "\n".join(_one_line(line) for line in text.split("\n"))


def _one_line(line: str) -> str:
    begun, *states = line.split("\r")
    if len(states) < 2 or "\x1b" in line:
        return line
    end = "\r" if not states[-1] else ""  # what comes next overwrites it
    shown = ""
    for state in states:
        shown = state + shown[len(state) :]
    return f"{begun}\r{shown}{end}"
