"""LogTail: the end of a trial's log, read on as it grows; of a large one no more than that travels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa_sdk.transports.base import MOST_AT_ONCE

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.transports.base import Transport

__all__ = ["LogTail"]

MOST = 64 * 1024  # bytes that are kept


class LogTail:
    """The end of what an attempt wrote.

    Get one from :meth:`nexa_sdk.Run.log_tail`.

    Attributes
    ----------
    attempt : Attempt
        Whose log it is.
    is_cut : bool
        Whether there was more before what is kept.
    """

    def __init__(self, attempt: Attempt, path: str, transport: Transport, *, silence: Callable[[Attempt], str]) -> None:
        self.attempt = attempt
        self.is_cut = False
        self._path = path
        self._transport = transport
        self._silence = silence  # says why nothing was written
        self._words = ""
        self._content = b""
        self._offset: int | None = None
        self._lock = threading.Lock()

    @property
    def text(self) -> str:
        """What is kept, as text; of an empty log, why it is."""
        return self._content.decode(errors="replace") or self._words

    def read_on(self, attempt: Attempt | None = None) -> bool:
        """Read what is new; whether there was anything.

        Parameters
        ----------
        attempt : Attempt, optional
            The same attempt, as it is known now.

        Raises
        ------
        ClusterError
            When the machine does not answer; what was read is kept.
        """
        with self._lock:
            before = self.text
            self.attempt = attempt or self.attempt
            if not self._read():  # more than one answer holds: what lies between is left out
                self._offset = None
                self._read()
            self._words = "" if self._content else self._silence(self.attempt)
            return self.text != before

    def _read(self) -> bool:
        """Read once; whether that was all."""
        if self._offset is None:
            self._offset = max(0, self._transport.size(self._path) - MOST)
            self.is_cut, self._content = self._offset > 0, b""
        content = self._transport.read_on({self._path: self._offset}).get(self._path, b"")
        self._offset += len(content)
        is_begun_within = self.is_cut and not self._content
        self._content += content
        if len(self._content) > 2 * MOST:  # seldom: what is shown then begins elsewhere
            self._content, self.is_cut, is_begun_within = self._content[-MOST:], True, True
        if is_begun_within:  # half a line is none
            self._content = self._content.partition(b"\n")[2] or self._content
        return len(content) < MOST_AT_ONCE
