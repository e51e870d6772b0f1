"""Walltimes, as Slurm writes them (https://slurm.schedmd.com/sbatch.html#OPT_time)."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["format_walltime", "parse_walltime"]

_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d{1,2}))?(?::(?P<c>\d{1,2}))?")
_UNITS = re.compile(r"(?=.)(?:(\d+)\s*d)?\s*(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s)?", re.IGNORECASE)
_FORMS = "write '2:00:00' (hours:minutes:seconds), '1-12:00:00' (days-hours…), '90m', '2h' or a timedelta"


def parse_walltime(given: object) -> timedelta | None:
    """Read a walltime; None means without limit.

    Raises
    ------
    ValueError
        For a bare number (Slurm means minutes, others hours or seconds) and any other form.
    """
    if isinstance(given, timedelta):
        if given < timedelta(seconds=1):
            raise ValueError(f"a walltime of {given} would end every trial at once; give at least a second")
        return timedelta(seconds=_seconds(given))
    if isinstance(given, (int, float)) or (isinstance(given, str) and given.strip().isdecimal()):
        raise ValueError(f"{given!r} is ambiguous: Slurm would read minutes; {_FORMS}")
    if not isinstance(given, str):
        raise ValueError(f"{given!r} is no walltime; {_FORMS}")
    text = given.strip()
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    try:
        length = _clock(text)
        if length is None and (match := _UNITS.fullmatch(text)):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise ValueError(f"a walltime of {given!r} is longer than any; write 'UNLIMITED' for no limit") from None
    if length is None:
        raise ValueError(f"{given!r} is no walltime; {_FORMS}")
    if not length:
        raise ValueError(f"a walltime of {given!r} would end every trial at once; {_FORMS}")
    return length


def _clock(text: str) -> timedelta | None:
    match = _CLOCK.fullmatch(text)
    if not match:
        return None
    a, b, c = (int(match[part]) if match[part] is not None else None for part in "abc")
    assert a is not None
    if match["days"] is not None:  # days-hours[:minutes[:seconds]]
        if a > 23 or (b or 0) > 59 or (c or 0) > 59:
            return None
        return timedelta(days=int(match["days"]), hours=a, minutes=b or 0, seconds=c or 0)
    if c is not None:  # hours:minutes:seconds
        assert b is not None
        return timedelta(hours=a, minutes=b, seconds=c) if b < 60 and c < 60 else None
    if b is not None:  # Slurm reads minutes:seconds; hours:minutes is as common a meaning
        raise ValueError(
            f"{text!r} is ambiguous: Slurm would read minutes:seconds; write '{a}:{b:02}:00' for hours, '0:{a:02}:{b:02}' for minutes"
        )
    return None


def format_walltime(length: timedelta | None) -> str:
    """Write a walltime as Slurm does: ``02:00:00``, ``1-12:00:00``, ``UNLIMITED``."""
    if length is None:
        return "UNLIMITED"
    days, seconds = divmod(_seconds(length), 86400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{days}-{clock}" if days else clock


def _seconds(length: timedelta) -> int:
    return -(-length // timedelta(seconds=1))  # upwards: a limit is never shortened
