"""Where to: ``ssh://user@host:port``, or a host's name as ``~/.ssh/config`` has it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nexa_sdk.errors import InvalidInput

__all__ = ["Address"]

# What OpenSSH takes as well: nothing of it is special to a shell, and none begins like an option.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.%:-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*\$?")
_WRITTEN = re.compile(r"(?:ssh://)?(?:(?P<user>.*)@)?(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:/@\[\]]*))(?::(?P<port>[^:/]*))?/?", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """A host, and what overrides the configuration for it.

    Attributes
    ----------
    host : str
        A name or an address, or an alias of ``~/.ssh/config``.
    user : str, optional
    port : int, optional
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def read(cls, text: str) -> Address:
        """Read ``ssh://user@host:port``; all but the host may be missing.

        Raises
        ------
        InvalidInput
            For what is no such address, or holds what no host's name does.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None or not (match["host"] or match["six"]):
            raise InvalidInput(f"{text!r} is no address of a host; write ssh://user@host:port, or a name of ~/.ssh/config")
        host, user, port = match["host"] or match["six"], match["user"], match["port"]
        if user is not None and ":" in user:  # it is not repeated
            raise InvalidInput(
                "an address with a password in it is not taken: write ssh://user@host; what the host asks is asked when it asks"
            )
        if not _HOST.fullmatch(host):
            raise InvalidInput(f"{text!r}: {host!r} is no host's name; it has letters, digits and . - _ alone")
        if user is not None and not _USER.fullmatch(user):
            raise InvalidInput(f"{text!r}: {user!r} is no user's name")
        if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidInput(f"{text!r}: {port!r} is no port; give 1 to 65535")
        return cls(host, user, int(port) if port is not None else None)

    def __str__(self) -> str:
        """Write it as ``ssh://…``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{host}{f':{self.port}' if self.port else ''}"
