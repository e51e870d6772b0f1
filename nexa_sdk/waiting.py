"""Wait for the end of a run, and follow a log: in a cell that blocks, or in one that awaits."""

from __future__ import annotations

import codecs
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError

if TYPE_CHECKING:
    import asyncio

    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run
    from nexa_sdk.transports.base import Transport

__all__ = ["finished", "follow", "wait"]

PATIENCE = 60.0  # seconds without news until a waiting cell asks by itself
LOOK = 0.5  # seconds between two looks at a log that is followed


def wait(run: Run, timeout: float | None, *, progress: bool) -> None:
    """Wait until all trials have ended; see :meth:`nexa_sdk.run.Run.wait`."""
    from nexa_sdk.notebook.live import Progress

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


def follow(run: Run, chosen: Attempt, transport: Transport, *, slowest: float) -> Iterator[str]:
    """Yield an attempt's log as it grows, until the attempt ends.

    Parameters
    ----------
    slowest : float
        The seconds between two questions of the poller at most.
    """
    path, offset, is_cut = f"{run.folder}/logs/{chosen.name}.log", 0, False
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a read may end within a character
    subscription = run.subscribe(lambda: None)  # the poller asks; here its last answer is looked at
    try:
        while True:
            ended = chosen.status.state.is_terminal
            try:
                content = transport.read(path, offset=offset)
            except ClusterError as error:
                if not error.may_pass:
                    raise
                if not is_cut:
                    print(f"{error}. The trial goes on, and so does its log, once the host is back …", file=sys.stderr)
                is_cut = True
                time.sleep(LOOK)
                continue
            is_cut = False
            offset += len(content)
            if text := decode(content, final=ended):
                yield text
            if ended:
                return
            time.sleep(LOOK)
            if not run.try_refresh(max_age=slowest + 5):
                chosen = run.choose(chosen.trial, chosen.number, max_age=slowest + 5)
    finally:
        subscription.close()
