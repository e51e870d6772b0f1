"""track_usage: what calls of LLM APIs within a block used and cost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from nexa_sdk.cost_report import CostReport
from nexa_sdk.errors import InvalidInput, JournalError
from nexa_sdk.monitoring.usage import hook
from nexa_sdk.monitoring.usage.answers import LONGEST, clean, read_body
from nexa_sdk.monitoring.usage.recorder import Label, call_of, flush
from nexa_sdk.monitoring.usage.store import keep, kept, place
from nexa_sdk.monitoring.usage.token_prices import check_installed, check_provider

if TYPE_CHECKING:
    from nexa_sdk.run import Run

__all__ = ["Usage", "track_usage"]


def track_usage(*, tag: str | None = None, run: Run | str | None = None, providers: str | Mapping[str, str] | None = None) -> Usage:
    """Record what calls of LLM APIs use and cost, for as long as a ``with`` block lasts.

    Parameters
    ----------
    tag : str, optional
        A word of your own to find them by: ``report.by("tag")``.
    run : Run or str, optional
        The run that they belong to; within a trial of nexa_sdk it is that one.
    providers : mapping of str to str, or str, optional
        Whose API an address is that genai-prices does not know, as ``{"gateway.example.org": "openai"}``:
        a host, or host:port. A name alone counts for all such. Without it, their cost is unknown.

    Returns
    -------
    Usage

    Raises
    ------
    InvalidInput
        genai-prices is not installed, or knows no such provider.

    Examples
    --------
    >>> with track_usage(tag="eval") as usage:
    ...     client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    >>> usage.report()
    """
    check_installed()
    if tag is not None and (not isinstance(tag, str) or not tag.strip() or clean(tag) != tag):
        raise InvalidInput(f"tag={tag!r}: give a word or some, {LONGEST} characters at most")
    of_run = run if isinstance(run, str) else getattr(run, "id", None) if run is not None else os.environ.get("NEXA_RUN", "")
    if not isinstance(of_run, str) or clean(of_run) != of_run:
        raise InvalidInput(f"run={run!r}: give a Run, or its id")
    trial = os.environ.get("NEXA_TRIAL", "") if of_run == os.environ.get("NEXA_RUN") else ""
    label = Label(place(), uuid4().hex, tag or "", of_run, trial, _named(providers))
    return Usage(label)


def _named(providers: str | Mapping[str, str] | None) -> Mapping[str, str]:
    if isinstance(providers, str):
        return {"": check_provider(providers)}
    if providers is not None and not isinstance(providers, Mapping):
        raise InvalidInput(f"providers={providers!r}: give a name, or names by host: {{'localhost:8000': 'openai'}}")
    for host in providers or {}:
        if not isinstance(host, str) or "/" in host:
            raise InvalidInput(f"providers: {host!r} is no host; write it as in 'gateway.example.org', or 'localhost:8000'")
    return {host: check_provider(name) for host, name in (providers or {}).items()}


class Usage:
    """A block in which calls of LLM APIs are recorded; :func:`track_usage` makes it.

    Caught is what goes through httpx, as the clients of OpenAI, Anthropic and others do: plain and
    raw calls, streams, sync and async, in this process. What goes another way (boto3, gRPC,
    websockets) is added by :meth:`add`. A call that was begun within the block counts, also where its
    stream is read later.

    Blocks can be nested, and each can be in a thread or a task of its own: a call belongs to the
    innermost that is open where it is made, and counts in the report of those around it as well. Around
    all threads are the blocks of the main one. A thread of a pool has no block open: its calls belong
    to the innermost of all, or, where several stand beside one another, to what is around them; where
    nothing is, they are in the ledger alone, without a tag. Each response counts once, by its id.
    Neither what was asked nor what was answered is kept, nor any key.

    Within a trial of nexa_sdk calls are kept in its run's folder, and ``run.cost()`` takes them into the
    ledger.
    """

    def __init__(self, label: Label) -> None:
        self._label = label
        self._parent: Usage | None = None
        self._children: list[Usage] = []
        self.is_open = False
        self._is_around = False

    @property
    def tag(self) -> str:
        """The word that its calls are found by."""
        return self._label.tag

    def __enter__(self) -> Usage:
        self._is_around = threading.current_thread() is threading.main_thread()
        self._begin()
        _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if _current.get() is self:
            _current.set(self._parent)
        self._end()
        try:
            flush()
        except JournalError as failure:
            if error is None:
                raise
            error.add_note(f"What LLM APIs used is not written down: {failure}")

    def start(self) -> Usage:
        """Open it for the whole process, until :meth:`stop`: what ``%nexa usage start`` does."""
        self._is_around = True
        self._begin()
        return self

    def stop(self) -> CostReport:
        """Close it, and return its report."""
        self._end()
        return self.report()

    def _begin(self) -> None:
        with _lock:
            if self.is_open or self._parent is not None or self._children:
                raise InvalidInput("this block was opened already; make another with track_usage()")
            self._parent = _own() or _common([block for block in _open if block._is_around])
            if self._parent is not None:
                self._parent._children.append(self)
            self.is_open = True
            _open.append(self)
        hook.install(_find)

    def _end(self) -> None:
        with _lock:
            if not self.is_open:
                return
            self.is_open = False
            _open.remove(self)
        hook.remove()

    # ---- what came in it -----------------------------------------------------------------------

    def add(self, response: Any, *, provider: str | None = None, model: str | None = None, id: str | None = None) -> None:  # noqa: A002
        """Record a response that did not come through httpx; one that is known already stays as it is.

        Parameters
        ----------
        response : mapping or object
            Its body, or the object that a client made of it.
        provider : str, optional
            Whose API it came from, as genai-prices has it: ``"openai"``. Without it the cost is unknown.
        model, id : str, optional
            Where the response does not say them.

        Raises
        ------
        InvalidInput
            It says no tokens, or has no id.
        JournalError
        """
        body = response if isinstance(response, Mapping) else _dumped(response)
        extra = {name: value for name, value in (("model", model), ("id", id)) if value is not None}
        answer = read_body({**body, **extra})
        if answer is None or answer.why:
            raise InvalidInput(
                f"this {type(response).__name__} does not say its tokens; give a response's body, with its id, model and usage"
            )
        name = answer.id or _request_id(response)
        if not name:
            raise InvalidInput(f"this {type(response).__name__} has no id, and would count again if it came again; give one: id='…'")
        owner = check_provider(provider) if provider is not None else self._label.providers.get("", "")
        at = answer.created if answer.created is not None else time.time()
        call = call_of(answer, self._label, response=name, provider=owner, at=at)
        if call.why.startswith("its tokens can't be read"):
            raise InvalidInput(f"this {type(response).__name__}: {call.why}")
        flush()  # it may have been caught
        keep(self._label.place(), [call])

    def report(self) -> CostReport:
        """Return what calls used and cost in it, and in the blocks inside it.

        Raises
        ------
        JournalError
        """
        flush()
        lines = kept(self._label.place(), self._blocks())
        return CostReport(lines, title=f"API usage{f' of {self.tag}' if self.tag else ''}")

    def _blocks(self) -> list[str]:
        with _lock:
            found, pending = [], [self]
            while pending:
                block = pending.pop()
                found.append(block._label.block)
                pending += block._children
        return found

    def __repr__(self) -> str:
        return (
            f"<Usage{f' {self.tag}' if self.tag else ''}: {'recording' if self.is_open else 'not recording'}; report() tells what it cost>"
        )


_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_open: list[Usage] = []
_current: ContextVar[Usage | None] = ContextVar("nexa_sdk_usage", default=None)


def _find() -> Label | None:
    """Say whose a call is that is made now; None where no block is open."""
    if not _open:
        return None
    with _lock:
        found = _own() or _common(_open)
        if found is not None or not _open:
            return found._label if found is not None else None
        return Label(_open[0]._label.place, run=_open[0]._label.run, trial=_open[0]._label.trial)


def _own() -> Usage | None:
    """Return the block that is open in this thread or task."""
    block = _current.get()
    while block is not None and not block.is_open:
        block = block._parent
    return block


def _common(blocks: Sequence[Usage]) -> Usage | None:
    """Return the innermost of blocks that stand within one another, else the innermost that is around all of them."""
    chains = [_chain(block) for block in blocks]
    longest = max(chains, key=len, default=[])
    if all(block in longest for block in blocks):
        return longest[0] if longest else None
    return next((block for block in longest if block.is_open and all(block in chain for chain in chains)), None)


def _chain(block: Usage) -> list[Usage]:
    """Return a block and those around it, the innermost first."""
    found = [block]
    while found[-1]._parent is not None:
        found.append(found[-1]._parent)
    return found


def _dumped(response: Any) -> Mapping[str, Any]:
    dump = getattr(response, "model_dump", None) or getattr(response, "to_dict", None)
    body = dump() if callable(dump) else None
    if not isinstance(body, Mapping):
        raise InvalidInput(f"a {type(response).__name__} is no response; give its body, or the object that a client made of it")
    return body


def _request_id(response: Any) -> str:
    found = getattr(response, "_request_id", None)
    return f"request {found}" if isinstance(found, str) and found else ""
