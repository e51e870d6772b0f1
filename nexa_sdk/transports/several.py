"""Several machines, as one place where a run's files lie: each has those of its own tasks."""

from __future__ import annotations

import builtins
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from functools import partial
from typing import TypeVar

from nexa_sdk.errors import ClusterError, InvalidInput, LoginFailed, PartlyUnreachable, Unreachable
from nexa_sdk.transports.base import Completed, Transport

__all__ = ["SeveralTransport", "leaving_out", "side_by_side", "start"]

T = TypeVar("T")

_OF_A_JOB = re.compile(r"(.+)-\d+_\d+")


class SeveralTransport(Transport):
    """Several machines at once.

    A file that is named after a job, as ``gpu1-12_0.log``, is asked of that job's machine alone.

    Parameters
    ----------
    hosts : mapping of str to Transport
        By the names that begin the ids of their jobs.
    """

    is_here = False

    def __init__(self, hosts: Mapping[str, Transport]) -> None:
        self.hosts = dict(hosts)

    @property
    def machines(self) -> Mapping[str, Transport]:
        """The machines by name."""
        return self.hosts

    def at(self, nodes: str | None) -> Transport:
        """Return one machine by its name; without, all of them."""
        return self if nodes is None else self.hosts.get(nodes, self)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command, where there is only one machine."""
        if len(self.hosts) > 1:
            raise InvalidInput(f"{argv[0]} can't be run on {', '.join(self.hosts)} at once; choose one of them by its own Cluster")
        return next(iter(self.hosts.values())).run(argv, env=env, stdin=stdin, timeout=timeout)

    def environment(self) -> dict[str, str]:
        """Return the environment of a login on the first that can be reached; its HOME has to be that of all.

        Raises
        ------
        InvalidInput
            The homes lie in different folders.
        """
        answers = side_by_side({name: host.environment for name, host in self.hosts.items()})
        found, problem = dict[str, dict[str, str]](), None
        for name, answer in answers.items():
            try:
                found[name] = answer.result()
            except ClusterError as error:
                if not error.may_pass:
                    raise
                problem = error
        if problem is not None and not found:
            raise problem
        homes = {name: variables.get("HOME", "") for name, variables in found.items()}
        (first, home), *_ = homes.items()
        for name, other in homes.items():
            if other != home:
                raise InvalidInput(
                    f"the home of {first} is {home}, and that of {name} is {other}: give a folder that every one of them may have, "
                    "by its whole path, as in runs='/scratch/ada/runs' (and so workdir=, if you give one)"
                )
        return found[first]

    # ---- files ---------------------------------------------------------------------------------

    def _owner(self, path: str) -> str | None:
        """Return the machine that has a file, where its name says it."""
        match = _OF_A_JOB.match(path.rpartition("/")[2])
        return match[1] if match is not None and match[1] in self.hosts else None

    def read(self, path: str, *, offset: int = 0) -> bytes:
        """Return a file of the first machine that has it; see the base class."""
        owner = self._owner(path)
        if owner is not None:
            return self.hosts[owner].read(path, offset=offset)
        answers = [start(partial(host.read, path, offset=offset), name=name) for name, host in self.hosts.items()]
        problem: ClusterError | None = None
        for answer in as_completed(answers):  # one that can't be reached is not waited for
            try:
                content: bytes = answer.result()
            except ClusterError as error:
                problem = problem or error
            else:
                if content:
                    return content
        if problem is not None:  # it may be there
            raise problem
        return b""

    def size(self, path: str) -> int:
        """Return how many bytes a file has, on the machine that has it; see the base class."""
        owner = self._owner(path)
        if owner is not None:
            return self.hosts[owner].size(path)
        answers = side_by_side({name: partial(host.size, path) for name, host in self.hosts.items()})
        return max(answer.result() for answer in answers.values())

    def read_many(self, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the named files that are there.

        Raises
        ------
        PartlyUnreachable
            It carries what the others have, if a machine that may have some can't be reached.
        """
        asked: dict[str, builtins.list[str]] = {}
        for file in names:
            owner = self._owner(f"{folder}/{file}")
            for name in [owner] if owner is not None else self.hosts:
                asked.setdefault(name, []).append(file)
        return _merged({name: partial(self.hosts[name].read_many, folder, some) for name, some in asked.items()}, asked)

    def read_on(self, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what files have beyond an offset; see the base class, and :meth:`read_many`."""
        asked: dict[str, dict[str, int]] = {}
        for path, offset in offsets.items():
            owner = self._owner(path)
            for name in [owner] if owner is not None else self.hosts:
                asked.setdefault(name, {})[path] = offset
        return _merged({name: partial(self.hosts[name].read_on, some) for name, some in asked.items()}, asked)

    def list(self, folder: str) -> list[str]:
        """Name what lies in a folder of any of them; see the base class."""
        answers = side_by_side({name: partial(host.list, folder) for name, host in self.hosts.items()})
        return sorted({entry for answer in answers.values() for entry in answer.result()})

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files wherever they are; one that is not there is no error."""
        answers = side_by_side({name: partial(host.remove, paths) for name, host in self.hosts.items()})
        for answer in answers.values():
            answer.result()

    def read_ends(self, paths: Sequence[str], *, lines: int) -> Sequence[str]:
        """Return the last lines of files; see the base class."""
        owners = [self._owner(path) for path in paths]
        works: dict[str, Callable[[], Sequence[str]]] = {}
        for name, host in self.hosts.items():
            of_host = [path for path, owner in zip(paths, owners, strict=True) if owner in (None, name)]
            if of_host:
                works[name] = partial(host.read_ends, of_host, lines=lines)
        found: dict[str, str] = {}
        for name, answer in side_by_side(works).items():
            of_host = [path for path, owner in zip(paths, owners, strict=True) if owner in (None, name)]
            for path, text in zip(of_host, answer.result(), strict=True):
                found[path] = found.get(path) or text
        return [found[path] for path in paths]


# ---- side by side ------------------------------------------------------------------------------


def _merged(works: Mapping[str, Callable[[], Mapping[str, bytes]]], asked: Mapping[str, Iterable[str]]) -> dict[str, bytes]:
    """Return the files that several machines have, of those that each is asked for.

    Raises
    ------
    PartlyUnreachable
    """
    found: dict[str, bytes] = {}
    problems: dict[str, ClusterError] = {}
    for name, answer in side_by_side(works).items():
        try:
            found.update(answer.result())
        except ClusterError as error:
            if not error.may_pass:
                raise
            problems[name] = error
    if problems and (missing := {file for name in problems for file in asked[name]} - set(found)):
        raise PartlyUnreachable("; ".join(map(str, problems.values())), found, missing)
    return found


def start(work: Callable[[], T], *, name: str) -> Future[T]:
    """Begin work in a thread of its own, for which no exit waits: a machine that hangs holds up nobody."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=do, name=f"nexa-{name}", daemon=True).start()
    return future


def side_by_side(works: Mapping[str, Callable[[], T]]) -> dict[str, Future[T]]:
    """Do works at once, by name, and return what came of each when all have come to an end.

    One that fails because a login asks something is done again by itself, where a person can be asked.
    """
    futures = {name: start(work, name=name) for name, work in works.items()}
    for name, future in futures.items():
        if needs_a_person(future.exception()):
            futures[name] = Future()
            try:
                futures[name].set_result(works[name]())
            except ClusterError as error:
                futures[name].set_exception(error)
    return futures


def needs_a_person(error: BaseException | None) -> bool:
    """Whether a login failed in a thread that nobody can be asked from, and this is one where somebody can."""
    return isinstance(error, LoginFailed) and threading.current_thread() is threading.main_thread()


def leaving_out(error: ClusterError, name: str, names: Sequence[str]) -> ClusterError:
    """Say of a machine that can't be reached how to go on without it; another error stays what it is."""
    others = [other for other in names if other != name]
    if not error.may_pass or not others:
        return error
    without = ", ".join(map(repr, others))
    return Unreachable(f"{error}. Nothing was sent. To leave it out: exclude={name!r}, or Cluster.hosts({without})")
