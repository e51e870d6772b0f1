"""Wait for the end of a run, and follow a log: in a cell that blocks, or in one that awaits."""

from __future__ import annotations

import codecs
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, PartlyUnreachable
from nexa_sdk.transports.base import MOST_AT_ONCE

if TYPE_CHECKING:
    import asyncio

    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run
    from nexa_sdk.transports.base import Transport

__all__ = ["finished", "follow", "wait", "with_trials"]

PATIENCE = 60.0  # seconds without news until a waiting cell asks by itself
LOOK, SELDOM = 0.5, 2.0  # seconds between two looks at logs that are followed, and where nothing comes


def wait(run: Run, timeout: float | None, *, progress: bool) -> None:
    """Wait until all trials have ended; see :meth:`nexa_sdk.run.Run.wait`."""
    from nexa_sdk.notebook.progress import Progress

    deadline = None if timeout is None else time.monotonic() + timeout
    news = threading.Event()
    run.refresh(max_age=1.0)
    with Progress(run, shown=progress) as bar:
        subscription = run.subscribe(news.set)
        try:
            while not run.is_finished:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{run.id} has not ended after {timeout:g} seconds; it goes on: {run.tally()}")
                news.wait(min(left if left is not None else PATIENCE, PATIENCE))
                news.clear()
                bar.update(run.try_refresh())
        except KeyboardInterrupt:
            print(f"Detached. The run goes on: nexa_sdk.attach({run.id!r}) finds it again.")
            raise
        finally:
            subscription.close()
    run.tell()  # a live table above shows the end before the next cell begins


async def finished(run: Run) -> None:
    """Wait until all trials have ended, without blocking."""
    import asyncio

    loop = asyncio.get_running_loop()
    news, asked = asyncio.Event(), time.monotonic()
    await asyncio.to_thread(run.refresh, max_age=1.0)
    subscription = run.subscribe(partial(_wake, loop, news))
    try:
        while not run.is_finished:
            # A kernel's interrupt is seen when the loop wakes: so it wakes often, and asks seldom.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await news.wait()
            if news.is_set() or time.monotonic() - asked > PATIENCE:
                news.clear()
                asked = time.monotonic()
                await asyncio.to_thread(run.try_refresh)
    finally:
        subscription.close()


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop was closed while a question was out
        loop.call_soon_threadsafe(news.set)


def follow(run: Run, chosen: Sequence[Attempt], transport: Transport) -> Iterator[tuple[Attempt, str]]:
    """Yield what attempts write as it comes, each until it ends; however many they are, they are looked at in one command."""
    logs = {f"{run.folder}/logs/{attempt.name}.log": _Followed(attempt) for attempt in chosen}
    news, asked, pause, is_cut = threading.Event(), time.monotonic(), LOOK, False
    subscription = run.subscribe(news.set)  # the poller asks; here its last answer is looked at
    try:
        while True:
            ended = {path for path, log in logs.items() if log.attempt.status.state.is_terminal}
            try:
                found = transport.read_on({path: log.offset for path, log in logs.items()})
            except ClusterError as error:
                if not error.may_pass:
                    raise
                if not is_cut:
                    print(f"{error}. The trials go on, and so do their logs, once the host is back …", file=sys.stderr)
                is_cut = True
                if not isinstance(error, PartlyUnreachable):
                    time.sleep(LOOK)
                    continue
                found, ended = error.found, ended - error.missing
            else:
                is_cut = False
            for path, content in found.items():
                if text := logs[path].take(content):
                    yield logs[path].attempt, text
            for path in ended - {path for path in found if len(found[path]) >= MOST_AT_ONCE}:
                if text := logs[path].take(b"", final=True):
                    yield logs[path].attempt, text
                del logs[path]
            if not logs:
                return
            if not any(len(content) >= MOST_AT_ONCE for content in found.values()):
                pause = LOOK if found else min(SELDOM, pause * 1.2)
                news.wait(pause)
            if news.is_set() or time.monotonic() - asked > PATIENCE:
                news.clear()
                asked = time.monotonic()
                if not run.try_refresh():
                    now = {(attempt.trial, attempt.number): attempt for attempt in run.known_attempts}
                    for log in logs.values():
                        log.attempt = now.get((log.attempt.trial, log.attempt.number), log.attempt)
    finally:
        subscription.close()


class _Followed:
    """A log that is followed, and how far it was read."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character

    def take(self, content: bytes, *, final: bool = False) -> str:
        """Return further bytes as text."""
        self.offset += len(content)
        return self._decoder.decode(content, final)


def with_trials(pieces: Iterable[tuple[Attempt, str]]) -> Iterator[str]:
    """Yield whole lines, each with its trial before it."""
    begun: dict[int, str] = {}
    for attempt, text in pieces:
        *whole, begun[attempt.trial] = f"{begun.get(attempt.trial, '')}{text}".split("\n")
        if whole:
            yield "".join(f"{attempt.trial} | {line}\n" for line in whole)
    yield "".join(f"{trial} | {line}\n" for trial, line in begun.items() if line)
