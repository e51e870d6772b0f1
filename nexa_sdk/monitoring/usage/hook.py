"""Where responses are caught: at ``send`` of httpx's clients, while a block is open.

The clients of OpenAI, Anthropic, Mistral, Groq, Together, Cohere, Gemini, LiteLLM and others send all they do
through ``httpx.Client.send`` or ``httpx.AsyncClient.send``, or those of httpx2, its successor: both are public
and the same in both (https://www.python-httpx.org/api/#client). So one place sees plain calls, raw ones,
streams and helpers, of any version, and after the client's own retries went the same way: a failed attempt
is a response without success, and is none of ours. Nothing of a request is read but its address, none is
changed, and a response is passed on as it came; a stream's bytes are kept beside as they go by.

Nothing is touched but POSTs whose path is that of a model's answer, and nothing at all while no block is open.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from nexa_sdk.monitoring.usage.recorder import Caught, Label, put

__all__ = ["install", "remove"]

_PATHS = re.compile(
    r"/(chat/completions|completions|responses|embeddings|messages|v\d/chat|v\d/embed|api/chat|api/generate)/?$"
    r"|:(streamGenerateContent|generateContent|rawPredict|streamRawPredict)$"
    r"|/model/[^/]+/(invoke|invoke-with-response-stream|converse|converse-stream)$"
)
_AGAIN = re.compile(r"/responses/[^/]+/?$")  # a response that went on in the background, asked for again
_MARK = "nexa_sdk.usage"
_TYPES = ("json", "event-stream", "eventstream")

Find = Callable[[], Label | None]

_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_users = 0
_patched: list[tuple[Any, Callable[..., Any], Callable[..., Any]]] = []


def install(find: Find) -> None:
    """Begin to catch; it may be said several times, and ends when :func:`remove` was said as often.

    Parameters
    ----------
    find : callable
        Returns whose a response is that is now asked for.
    """
    global _users  # noqa: PLW0603 - one for the process
    with _lock:
        _users += 1
        if _users > 1:
            return
        modules = [importlib.import_module(name) for name in ("httpx", "httpx2") if importlib.util.find_spec(name) is not None]
        clients = {client: module for module in modules for client in (module.Client, module.AsyncClient)}
        for client, module in clients.items():
            original = client.send
            wrapped = (_async_send if issubclass(client, module.AsyncClient) else _send)(original, module, find)
            client.send = wrapped
            _patched.append((client, original, wrapped))


def remove() -> None:
    """Catch no more; what others put around it meanwhile stays, and passes all on."""
    global _users  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users:
            return
        for client, original, wrapped in _patched:
            if client.send is wrapped:
                client.send = original
        _patched.clear()


def _send(original: Callable[..., Any], module: Any, find: Find) -> Callable[..., Any]:
    stream_class = _sync_stream(module)

    @functools.wraps(original)
    def send(self: Any, request: Any, **options: Any) -> Any:
        label = _label(request, find)
        response = original(self, request, **options)
        if label is not None:
            _catch(response, label, request, module, stream_class)
        return response

    return send


def _async_send(original: Callable[..., Any], module: Any, find: Find) -> Callable[..., Any]:
    stream_class = _async_stream(module)

    @functools.wraps(original)
    async def send(self: Any, request: Any, **options: Any) -> Any:
        label = _label(request, find)
        response = await original(self, request, **options)
        if label is not None:
            _catch(response, label, request, module, stream_class)
        return response

    return send


def _label(request: Any, find: Find) -> Label | None:
    """Say whose a request is; None where it asks no model."""
    path = request.url.path
    asks = request.method == "POST" and _PATHS.search(path)
    return find() if asks or (request.method == "GET" and _AGAIN.search(path)) else None


def _catch(response: Any, label: Label, request: Any, module: Any, stream_class: Callable[..., Any]) -> None:
    headers = response.headers
    if response.extensions.setdefault(_MARK, label) is not label:  # by another of these around it
        return
    content_type = headers.get("content-type", "").lower()
    if not response.is_success or not any(kind in content_type for kind in _TYPES):
        return
    url = request.url
    caught = Caught(
        label,
        time.time(),
        f"{url.host}:{url.port}" if url.port is not None else url.host,
        url.path,
        bytes,
        content_type,
        headers.get("x-request-id") or headers.get("request-id") or "",
        only_fills=request.method == "GET",
    )
    if response.is_closed:
        content = response.content
        put(caught._replace(content=lambda: content))
        return
    encoding = headers.get("content-encoding")

    def done(parts: list[bytes], *, is_whole: bool) -> None:
        put(caught._replace(at=time.time(), content=lambda: _decoded(module, parts, encoding), is_whole=is_whole))

    response.stream = stream_class(response.stream, done)


def _decoded(module: Any, parts: list[bytes], encoding: str | None) -> bytes:
    content = b"".join(parts)
    if encoding is None:
        return content
    try:
        return bytes(module.Response(200, headers={"content-encoding": encoding}, content=content).content)
    except module.DecodingError as error:
        raise ValueError(f"it is no whole {encoding}: {error}") from error


class _Seen:
    """What went by of a stream, and whether all did."""

    def __init__(self, stream: Any, done: Callable[..., None]) -> None:
        self._stream = stream
        self._done: Callable[..., None] | None = done
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:  # what httpx itself asks of its streams
        return getattr(self._stream, name)

    def _end(self, *, is_whole: bool) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self._parts, is_whole=is_whole)


def _sync_stream(module: Any) -> Callable[..., Any]:
    class Stream(_Seen, module.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._stream:
                self._parts.append(chunk)
                yield chunk
            self._end(is_whole=True)

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                self._end(is_whole=False)

    return Stream


def _async_stream(module: Any) -> Callable[..., Any]:
    class Stream(_Seen, module.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._stream:
                self._parts.append(chunk)
                yield chunk
            self._end(is_whole=True)

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                self._end(is_whole=False)

    return Stream
