"""Writes down what was caught: by a thread of its own, so that no call waits for the ledger's disk."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from nexa_sdk.errors import JournalError
from nexa_sdk.monitoring.usage.answers import Answer, clean, read_answer
from nexa_sdk.monitoring.usage.calls import ApiCall
from nexa_sdk.monitoring.usage.store import keep
from nexa_sdk.monitoring.usage.token_prices import charge, provider_at, tokens_of
from nexa_sdk.states import State

__all__ = ["Caught", "Label", "call_of", "flush", "put"]


class Label(NamedTuple):
    """What a block writes beside each of its calls, and where."""

    place: Callable[[], Path]
    block: str = ""
    tag: str = ""
    run: str = ""
    trial: str = ""
    providers: Mapping[str, str] = {}


class Caught(NamedTuple):
    """A response as it came.

    Attributes
    ----------
    label : Label
    at : float
        Seconds since the epoch.
    host, path : str
        Where it came from.
    content : callable
        Returns its bytes, decoded.
    content_type, request_id : str
    is_whole : bool
        Whether it was read to its end.
    only_fills : bool
        Whether it was asked for again, and is no new call.
    """

    label: Label
    at: float
    host: str
    path: str
    content: Callable[[], bytes]
    content_type: str
    request_id: str
    is_whole: bool = True
    only_fills: bool = False


SOON = 0.02  # seconds in which what comes close upon another shares its transaction

_waiting: deque[Caught] = deque()
_is_asked = False
_worker: ThreadPoolExecutor | None = None
_gate = threading.Lock()


def put(caught: Caught) -> None:
    """Have a response written down, soon; it returns at once."""
    global _is_asked  # noqa: PLW0603
    _waiting.append(caught)
    with contextlib.suppress(RuntimeError):  # the interpreter ends, and takes no more work: _at_exit does it
        if not _is_asked:
            _is_asked = True
            _submit(_write_soon)


def flush() -> None:
    """Return when all is written down that was caught before.

    Raises
    ------
    JournalError
        The ledger can't be written; what was caught stays, and the next writing tries again.
    """
    if _waiting or _worker is not None:
        _submit(_write_down).result()


def _submit(work: Callable[[], None]) -> Future[None]:
    global _worker  # noqa: PLW0603 - one for the process
    with _gate:
        if _worker is None:
            _worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nexa-usage")
        return _worker.submit(work)


def _write_soon() -> None:
    global _is_asked  # noqa: PLW0603
    time.sleep(SOON)
    _is_asked = False
    _write_down()


def _write_down() -> None:
    some = list(_waiting)
    calls: dict[Path, list[ApiCall]] = {}
    for caught in some:
        if (call := _read(caught)) is not None:
            calls.setdefault(caught.label.place(), []).append(call)
    for path, of_file in calls.items():
        keep(path, of_file)
    for _ in some:
        _waiting.popleft()


def _read(caught: Caught) -> ApiCall | None:
    """Say what a response used; one that can't be read is a call of which the tokens are not known."""
    try:
        answer = read_answer(caught.content(), caught.content_type, is_whole=caught.is_whole)
    except (ValueError, RecursionError) as error:
        state = State.COMPLETED if caught.is_whole else State.CANCELLED
        answer = Answer("", "", {}, None, state, f"the response can't be read: {error}")
    if answer is None:
        return None
    providers = caught.label.providers
    named = providers.get(caught.host) or providers.get(caught.host.rpartition(":")[0])
    provider = named or provider_at(caught.host, caught.path) or providers.get("", "") or caught.host
    response = answer.id or (f"request {caught.request_id}" if caught.request_id else f"unnamed {uuid4()}")
    return call_of(answer, caught.label, response=response, provider=provider, at=caught.at, only_fills=caught.only_fills)


def call_of(answer: Answer, label: Label, *, response: str, provider: str, at: float, only_fills: bool = False) -> ApiCall:
    """Return the call that an answer comes of."""
    used, why = {}, answer.why
    if not why:
        try:
            used = tokens_of(answer.body, provider)
        except (ValueError, ArithmeticError) as error:
            why = f"its tokens can't be read: {error}"
    charged = charge(used, provider=provider, model=answer.model, at=at, body=answer.body) if used else None
    return ApiCall(
        response=response,
        at=int(at * 1000),
        provider=provider,
        model=answer.model or "(unnamed)",
        run=label.run,
        trial=label.trial,
        user=getpass.getuser(),
        tag=label.tag,
        state=answer.state.value,
        why=clean(why or (charged.why if charged is not None else "it used nothing, as it says")),
        block=label.block,
        used=used,
        billed=charged.billed if charged is not None else {},
        price=charged.price if charged is not None else None,
        only_fills=only_fills,
    )


def _before_fork() -> None:
    """Let the worker finish, and none begin: a process that forked would inherit the locks that it holds, for ever."""
    _gate.acquire()
    if _worker is not None:
        wait([_worker.submit(int)])


def _in_child() -> None:
    """Forget in a forked process what is its parent's to write."""
    global _worker, _is_asked
    _worker, _is_asked = None, False
    _waiting.clear()
    _gate.release()


def _at_exit() -> None:
    """Write down what is left when the process ends and its threads have; say what can't be."""
    try:
        _write_down()
    except JournalError as error:
        print(f"nexa_sdk: {len(_waiting)} responses of LLM APIs are not written down: {error}", file=sys.stderr)


os.register_at_fork(before=_before_fork, after_in_parent=_gate.release, after_in_child=_in_child)
atexit.register(_at_exit)
