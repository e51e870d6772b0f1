"""Host keys: known, unknown or changed. None is accepted unseen."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import HostKeyChanged, HostKeyUnknown, InvalidInput

if TYPE_CHECKING:
    import paramiko

    from nexa_sdk.transports.ssh.config import SshSettings

__all__ = ["accept", "check", "fingerprint", "known_types"]


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as OpenSSH shows it: ``SHA256:…``."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def check(settings: SshSettings, key: paramiko.PKey) -> None:
    """Compare a host's key with what is known of it.

    Raises
    ------
    HostKeyUnknown
        Nothing is known; the words show the fingerprint and how to accept it.
    HostKeyChanged
        Another key is known, or this one was revoked.
    """
    host, shown = settings.address.host, fingerprint(key)
    known = list(_entries(settings))
    if any(marker == "@revoked" and known_key == key for marker, known_key in known):
        raise HostKeyChanged(f"{host} shows the key {shown}, which is marked as revoked in {_files(settings)}. Nothing was sent")
    keys = [known_key for marker, known_key in known if not marker]
    if key in keys:
        return
    of_its_kind = [known_key for known_key in keys if known_key.get_name() == key.get_name()] or keys
    if of_its_kind:
        raise HostKeyChanged(
            f"THE KEY OF {settings.known_as} HAS CHANGED. It shows {shown} ({key.get_name()}), and {_files(settings)} knows "
            f"{fingerprint(of_its_kind[0])}. Somebody may be listening in, or the machine was set up anew: ask its administrators. "
            f"Nothing was sent. If it is right: ssh-keygen -R '{settings.known_as}', then accept the new one"
        )
    raise HostKeyUnknown(
        f"{settings.known_as} is not known yet. It shows the key {shown} ({key.get_name()}). If that is what its administrators publish, "
        f"accept it: Cluster.trust({str(settings.address)!r}, {shown!r}), or %nexa connect {settings.address} --accept-fingerprint {shown}",
        shown,
    )


def known_types(settings: SshSettings) -> list[str]:
    """Name the types of the keys that are known of a host: those are asked for first."""
    return list(dict.fromkeys(key.get_name() for marker, key in _entries(settings) if not marker))


def accept(settings: SshSettings, key: paramiko.PKey, shown: str) -> Path:
    """Write a host's key down as known, if its fingerprint is the one that the user has compared.

    Returns
    -------
    Path
        The file that it was written to.

    Raises
    ------
    InvalidInput
        It is another's fingerprint.
        Or there is no file that it can be written to.
    HostKeyChanged
        Another key is known already.
    """
    if shown.strip().rstrip("=") != fingerprint(key):
        raise InvalidInput(f"{settings.known_as} shows {fingerprint(key)}, not {shown or 'an empty text'}: nothing was accepted")
    try:
        check(settings, key)
    except HostKeyUnknown:
        pass
    else:
        return next(path for path in settings.known_hosts if path.exists())
    path = settings.own_known_hosts
    if path is None or (path.exists() and not path.is_file()):
        raise InvalidInput(
            f"UserKnownHostsFile of {settings.address.host} is {path or 'none'}, which keeps nothing, and no key is taken unseen here: "
            "leave it out of the configuration of SSH, or name a file. Nothing was accepted"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{settings.known_as} {key.get_name()} {key.get_base64()}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
    return path


def _entries(settings: SshSettings) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield marker and key of each line that speaks of the host."""
    import paramiko

    for path in settings.known_hosts:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        for line in lines:
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#") or not _names(words[0], settings.known_as):
                continue
            try:
                entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(words[:3]))
            except (paramiko.hostkeys.InvalidHostKey, paramiko.SSHException, ValueError):  # no key: OpenSSH passes over such a line, too
                continue
            if entry is not None and entry.key is not None:
                yield marker, entry.key


def _names(field: str, known_as: str) -> bool:
    """Whether a line's first field names a host: hashed, or as patterns."""
    from fnmatch import fnmatchcase

    import paramiko

    if field.startswith("|1|"):
        return paramiko.HostKeys.hash_host(known_as, field) == field
    patterns = field.lower().split(",")
    is_meant = [pattern for pattern in patterns if fnmatchcase(known_as.lower(), _pattern(pattern.removeprefix("!")))]
    return bool(is_meant) and not any(pattern.startswith("!") for pattern in is_meant)


def _pattern(text: str) -> str:
    return text.replace("[", "[[]")  # OpenSSH knows * and ? alone


def _files(settings: SshSettings) -> str:
    there: Sequence[Path] = [path for path in settings.known_hosts if path.exists()] or settings.known_hosts[:1]
    return " or ".join(map(str, there))
