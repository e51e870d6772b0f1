"""A server on loopback that answers as LLM APIs do, from bodies as they are published; as itself, or as a proxy in front of their hosts."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

KEY = "sk-nobody-may-ever-read-this"
DATA = Path(__file__).parents[1] / "data" / "api"
NAMES = {
    "/chat/completions": ("chat", "chatcmpl-"),
    "/responses": ("response", "resp_"),
    "/embeddings": ("embeddings", ""),
    "/messages": ("message", "msg_01"),
    ":generateContent": ("gemini", ""),
}


class Replies:
    """What the server does.

    Attributes
    ----------
    url : str
    failures : list of int
        Statuses that the next requests fail with, before all goes well.
    id : str or None
        The same for all responses; each has its own unless given.
    change : dict
        Fields of a body that are others than recorded.
    hides_usage : bool
        Whether a stream leaves its tokens out, as OpenAI's does unless it is asked for them.
    cuts_at : int or None
        After how many events a stream's connection is cut.
    is_gzipped : bool
    delay : float
        Seconds before an answer.
    asked : list of str
        The paths that were asked.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.failures: list[int] = []
        self.id: str | None = None
        self.change: dict[str, Any] = {}
        self.hides_usage = False
        self.cuts_at: int | None = None
        self.is_gzipped = False
        self.delay = 0.0
        self.asked: list[str] = []


@contextmanager
def serving() -> Iterator[Replies]:
    """Serve on a port of loopback, until the block ends."""
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.replies = Replies(server.server_address[1])  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.replies  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that has read enough
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def replies(self) -> Replies:
        return self.server.replies  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.replies.asked.append(self.path)
        name = next((name for name in ("/responses/",) if name in self.path), None)
        if name is None:
            self._send(b"plain words", "text/plain")
            return
        body = json.loads((DATA / "response.json").read_text()) | {"id": urlsplit(self.path).path.rpartition("/")[2]}
        self._send(json.dumps(body | self.replies.change).encode(), "application/json")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = urlsplit(self.path).path
        self.replies.asked.append(path)
        time.sleep(self.replies.delay)
        if self.replies.failures:
            status = self.replies.failures.pop(0)
            self._send(json.dumps({"error": {"message": "not now", "type": "server_error"}}).encode(), "application/json", status)
            return
        found = next((names for ending, names in NAMES.items() if path.endswith(ending)), None)
        if found is None:
            self._send(json.dumps({"usage": "none of a model"}).encode(), "application/json")
            return
        name, prefix = found
        number = self.replies.id or f"{prefix}{uuid4().hex}"
        if asked.get("stream"):
            self._stream((DATA / f"{name}.sse").read_text().replace('"ID"', f'"{number}"'), asked)
        else:
            body = json.loads((DATA / f"{name}.json").read_text().replace('"ID"', f'"{number}"')) | self.replies.change
            self._send(json.dumps(body).encode(), "application/json")

    def _send(self, content: bytes, content_type: str, status: int = 200) -> None:
        content = gzip.compress(content) if self.replies.is_gzipped else content
        self._head(status, content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _head(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("x-request-id", f"req_{uuid4().hex}")
        if self.replies.is_gzipped:
            self.send_header("Content-Encoding", "gzip")

    def _stream(self, events: str, asked: dict[str, Any]) -> None:
        wants_usage = (asked.get("stream_options") or {}).get("include_usage") or "chat/completions" not in self.path
        parts = [part for part in events.split("\n\n") if part and (wants_usage or '"choices":[]' not in part)]
        self._head(200, "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        packer = gzip.GzipFile(fileobj=_Chunks(self.wfile), mode="wb") if self.replies.is_gzipped else None
        for k, part in enumerate(parts):
            if k == self.replies.cuts_at:
                self.close_connection = True
                self.connection.close()
                return
            data = f"{part}\n\n".encode()
            if packer is not None:
                packer.write(data)
                packer.flush()
            else:
                _Chunks(self.wfile).write(data)
        if packer is not None:
            packer.close()
        self.wfile.write(b"0\r\n\r\n")


class _Chunks:
    """Writes HTTP's chunks."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        if data:
            self._file.write(b"%x\r\n%b\r\n" % (len(data), data))
            self._file.flush()
        return len(data)

    def flush(self) -> None:
        self._file.flush()
