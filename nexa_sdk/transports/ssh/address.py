"""Where to: ``ssh://user@host:port``, or a host's name as ``~/.ssh/config`` has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nexa_sdk.errors import InvalidInput

__all__ = ["HOSTS", "Address", "read_hosts", "write_hosts"]

HOSTS = "hosts://"  # what the address of several machines begins with

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


def read_hosts(text: str) -> dict[str, Address]:
    """Read ``hosts://user@gpu1:22,gpu2``: several hosts, by names that begin the ids of their jobs and the names of their files.

    Raises
    ------
    InvalidInput
        For what is no such address, or a host that is given twice.
    """
    found: dict[str, Address] = {}
    for word in text.removeprefix(HOSTS).rstrip("/").split(","):
        if not word.strip():
            raise InvalidInput(f"{text!r} leaves a host out; write hosts://gpu1,gpu2 or Cluster.hosts('gpu1', 'gpu2')")
        address = Address.read(word.strip())
        if address in found.values():
            raise InvalidInput(f"{str(address).removeprefix('ssh://')} is given twice; give it once")
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", address.host).lstrip(".-")
        names = [plain, *(f"{plain}.{more}" for more in (address.port, address.user) if more), *(f"{plain}.{n}" for n in range(2, 1000))]
        found[next(name for name in names if name not in found)] = address
    return found


def write_hosts(hosts: Mapping[str, Address]) -> str:
    """Write several hosts as ``hosts://…``."""
    return HOSTS + ",".join(str(address).removeprefix("ssh://") for address in hosts.values())
