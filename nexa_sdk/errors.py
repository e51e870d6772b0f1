"""Every error that nexa_sdk raises.

::

    NexaError
    ├── InvalidInput (ValueError)      what the user gave can't be meant; nothing was sent
    │   ├── SweepError                 a sweep, its parameters or its values
    │   ├── JobError                   a job's resources or surroundings
    │   ├── DefinitionError            a YAML definition; carries the line
    │   ├── FileError                  a file of the user's; carries the file and the line
    │   │   ├── ProfileError           a file of clusters
    │   │   └── RatesError             a file of prices
    │   └── BadUsage                   a line of %nexa or of the console command
    ├── ClusterError                   a cluster did not do what it was asked
    │   ├── ClusterNotFound            no cluster of that name, or no scheduler behind it
    │   ├── CommandFailed              a command ended with an exit status; carries its own words
    │   ├── CommandTimeout             a command did not answer in time
    │   ├── Unreachable                a host could not be reached: nothing was sent
    │   │   ├── LoginFailed            it let nobody in
    │   │   ├── HostKeyUnknown         its key was never accepted; carries the fingerprint
    │   │   ├── HostKeyChanged         its key is another than the one that is known
    │   │   └── PartlyUnreachable      some of several machines could not be reached; carries what the others said
    │   ├── ConnectionLost             the line went while a command ran: it may go on, or have been done
    │   ├── SubmissionRejected         the scheduler said no: nothing was submitted
    │   │   └── SubmissionUnsent       the scheduler could not be reached: launching the same again sends it
    │   ├── SubmissionUnknown          nobody can say whether it was submitted: never sent again unasked
    │   ├── SubmissionVoided           another process gave this sending up before it arrived
    │   └── PreflightFailed            a check before the launch failed; nothing was sent
    │       └── BudgetExceeded         it could cost more than a budget leaves, or nobody knows what it costs
    ├── SandboxError                   the throw-away Slurm could not be started or reached
    ├── JournalError                   the record of what was submitted, or of what it cost, can't be read or written
    ├── RunNotFound (KeyError)         no run of that id is known here
    └── RunFailed                      trials of a run did not complete; carries the run
        └── CellFailed                 the code of a remote cell raised; carries the traceback from there

Each message says what happened, to which value, and what to do next. And one warning: BudgetWarning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BadUsage",
    "BudgetExceeded",
    "BudgetWarning",
    "CellFailed",
    "ClusterError",
    "ClusterNotFound",
    "CommandFailed",
    "CommandTimeout",
    "ConnectionLost",
    "DefinitionError",
    "FileError",
    "HostKeyChanged",
    "HostKeyUnknown",
    "InvalidInput",
    "JobError",
    "JournalError",
    "LoginFailed",
    "NexaError",
    "PartlyUnreachable",
    "PreflightFailed",
    "ProfileError",
    "RatesError",
    "RunFailed",
    "RunNotFound",
    "SandboxError",
    "SubmissionRejected",
    "SubmissionUnknown",
    "SubmissionUnsent",
    "SubmissionVoided",
    "SweepError",
    "Unreachable",
]


class NexaError(Exception):
    """The root of every error here."""


class InvalidInput(NexaError, ValueError):
    """What the user gave can't be meant; nothing was sent."""


class SweepError(InvalidInput):
    """A sweep, a parameter or a value can't be meant."""


class JobError(InvalidInput):
    """A job's resources or surroundings can't be meant."""


class DefinitionError(InvalidInput):
    """A YAML definition can't be meant.

    Attributes
    ----------
    line : int or None
        The line, counted from 1, where it is known.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line is not None else message)
        self.line = line


class FileError(InvalidInput):
    """A file of the user's can't be meant.

    Attributes
    ----------
    path : path
        The file.
    line : int or None
        The line, counted from 1, where it is known.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str], line: int | None = None) -> None:
        where = os.fspath(path) if line is None else f"{os.fspath(path)}, line {line}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line


class ProfileError(FileError):
    """A file of clusters can't be meant."""


class RatesError(FileError):
    """A file of prices can't be meant."""


class BadUsage(InvalidInput):
    """A line of ``%nexa`` or of the console command can't be meant."""


class ClusterError(NexaError):
    """A cluster did not do what it was asked.

    Attributes
    ----------
    may_pass : bool
        Whether it may be another in a minute, with nobody doing anything: a line that went, a host that is down.
    """

    may_pass = False


class ClusterNotFound(ClusterError):
    """There is no cluster of that name, or no scheduler behind it."""


class CommandFailed(ClusterError):
    """A command ended with an exit status that is no success.

    Attributes
    ----------
    command : str
        The program, without its arguments: those may be long.
    returncode : int
    stderr : str
        The command's own words.
    """

    def __init__(self, command: str, returncode: int, stderr: str) -> None:
        words = stderr.strip() or "it said nothing"
        super().__init__(f"{command} failed with exit status {returncode}: {words}")
        self.command = command
        self.returncode = returncode
        self.stderr = stderr


class CommandTimeout(ClusterError):
    """A command did not answer in time; what it was doing may have happened."""

    may_pass = True


class Unreachable(ClusterError):
    """A host could not be reached. Nothing was sent."""

    may_pass = True


class LoginFailed(Unreachable):
    """A host let nobody in. Nothing was sent."""

    may_pass = False


class HostKeyUnknown(Unreachable):
    """A host's key was never accepted. Nothing was sent.

    Attributes
    ----------
    fingerprint : str
        What it showed: ``SHA256:…``.
    """

    may_pass = False

    def __init__(self, message: str, fingerprint: str) -> None:
        super().__init__(message)
        self.fingerprint = fingerprint


class HostKeyChanged(Unreachable):
    """A host's key is another than the one that is known. Nothing was sent."""

    may_pass = False


class PartlyUnreachable(Unreachable):
    """Some of several machines could not be reached.

    Attributes
    ----------
    found : dict of str to bytes
        The files that the others have, by name.
    missing : set of str
        Those of which nobody can say anything.
    """

    def __init__(self, message: str, found: dict[str, bytes], missing: set[str]) -> None:
        super().__init__(message)
        self.found = found
        self.missing = missing


class ConnectionLost(ClusterError):
    """The line went while a command ran: it may go on, or have been done."""

    may_pass = True


class SubmissionRejected(ClusterError):
    """The scheduler said no. Nothing was submitted."""


class SubmissionUnsent(SubmissionRejected):
    """The scheduler could not be reached. Nothing was submitted, and the same may be sent once it answers."""


class SubmissionUnknown(ClusterError):
    """Nobody can say whether the scheduler accepted it; it is not sent again unasked."""


class SubmissionVoided(ClusterError):
    """Another process gave this sending up before it arrived. Nothing was submitted by it."""


class PreflightFailed(ClusterError):
    """A check before the launch failed. Nothing was sent."""


class BudgetExceeded(PreflightFailed):
    """It could cost more than a budget leaves, or nobody knows what it costs. Nothing was sent."""


class BudgetWarning(UserWarning):
    """Most of a run's budget is used, or it is spent."""


class SandboxError(NexaError):
    """The throw-away Slurm could not be started or reached."""


class JournalError(NexaError):
    """The record of what was submitted, or of what it cost, can't be read or written."""


class RunNotFound(NexaError, KeyError):
    """No run of that id is known here."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class RunFailed(NexaError):
    """Trials of a run did not complete.

    Attributes
    ----------
    run : nexa_sdk.run.Run
    """

    def __init__(self, message: str, run: object) -> None:
        super().__init__(message)
        self.run = run


class CellFailed(RunFailed):
    """A remote cell did not come to its end, or its outputs did not come here.

    Attributes
    ----------
    traceback : list of str
        The lines that Python wrote there; none where it was not the code that raised.
    kind : str
        The class of the exception there: ``"ZeroDivisionError"``.
    """

    def __init__(self, message: str, run: object, *, traceback: Iterable[str], kind: str = "") -> None:
        super().__init__(message, run)
        self.traceback = list(traceback)
        self.kind = kind

    def _render_traceback_(self) -> list[str]:
        """Show a notebook the traceback of there, and not of what waited here."""
        return [*self.traceback, f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known words there are, the nearest first: the tail of an error message."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)
