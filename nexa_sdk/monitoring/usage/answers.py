"""What a response of an LLM API says of itself, whole or as a stream of events: its id, its model, its tokens. Its text is let go.

Read are the bodies of OpenAI's chat completions, responses and embeddings, of Anthropic's messages and of
Gemini's ``generateContent``, and what others made after these.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from nexa_sdk.states import State

__all__ = ["LATEST", "LONGEST", "TOOLS", "Answer", "clean", "identity", "read_answer", "read_body", "read_events"]

# All that is taken out of a body: nothing that was asked or answered.
_KEPT = (
    "id",
    "responseId",
    "model",
    "modelVersion",
    "created",
    "created_at",
    "object",
    "type",
    "service_tier",
    "status",
    "usage",
    "usageMetadata",
)
_FINAL = ("message_stop", "response.completed", "response.failed", "response.incomplete", "response.done")
_STATES = {"failed": State.FAILED, "cancelled": State.CANCELLED}
LONGEST = 500  # characters of a name
LATEST = 10**11  # seconds since the epoch: more is milliseconds, or a slip of the pen
_UNTOLD = re.compile(rb'"usage"\s*:\s*null')

# OpenAI's tools that cost something, and what genai-prices calls that; None has no name there.
TOOLS = {
    "web_search_call": "web_searches",
    "file_search_call": "storage_searches",
    "code_interpreter_call": "code_executions",
    "image_generation_call": None,
}

CUT = "the stream was cut before it said its tokens"
SILENT = "the response does not say its tokens"
STREAM = "the stream does not say its tokens: ask for them with stream_options={'include_usage': True}"


class Answer(NamedTuple):
    """What a response says of itself.

    Attributes
    ----------
    id : str
        What tells it from all others; empty where it has none.
    model : str
        Empty where it does not say it.
    body : dict
        What is left of it: its tokens, as its provider writes them.
    created : float or None
        When, in seconds since the epoch.
    state : State
        COMPLETED, FAILED, or CANCELLED when its reader left before the end.
    why : str
        Why its tokens are not known; empty where they are.
    """

    id: str
    model: str
    body: dict[str, Any]
    created: float | None
    state: State
    why: str


def read_answer(content: bytes, content_type: str, *, is_whole: bool) -> Answer | None:
    """Read what came; None where it is no answer of a model.

    Parameters
    ----------
    is_whole : bool
        Whether it was read to its end.

    Raises
    ------
    ValueError
        It is no JSON.
    """
    if "event-stream" in content_type:
        return read_events(content, is_whole=is_whole)
    if not is_whole:
        return Answer("", "", {}, None, State.CANCELLED, CUT)
    return read_body(json.loads(content))


def read_body(body: object) -> Answer | None:
    """Read a body; None where it is no answer of a model."""
    if isinstance(body, list):  # Gemini's stream without events is one array
        parts = [part for part in body if isinstance(part, Mapping)]
        body = {name: value for part in parts for name, value in part.items() if value is not None}
    if not isinstance(body, Mapping):
        return None
    kept = {name: body[name] for name in _KEPT if body.get(name) is not None} | _tools(body)
    has_usage = isinstance(kept.get("usage", kept.get("usageMetadata")), Mapping)
    if not has_usage and (body.get("error") or not (_id(kept) and _model(kept))):
        return None
    return _answer(kept, _STATES.get(str(kept.get("status")), State.COMPLETED), "" if has_usage else SILENT)


def read_events(content: bytes, *, is_whole: bool) -> Answer | None:
    """Read a stream of events: the tokens stand in its last ones."""
    kept: dict[str, Any] = {}
    is_final = is_done = has_failed = False
    for data in _events(content):
        if data == b"[DONE]":
            is_done = True
            continue
        if kept and (b'"usage' not in data or _UNTOLD.search(data)) and b'"message_' not in data and b'"error"' not in data:
            continue
        event = json.loads(data)
        if not isinstance(event, Mapping):
            continue
        kind = event.get("type")
        has_failed = has_failed or kind == "error" or bool(event.get("error"))
        is_done = is_done or kind in _FINAL
        is_final = is_final or kind == "message_delta"
        inner = next((event[name] for name in ("response", "message") if isinstance(event.get(name), Mapping)), event)
        for name in _KEPT:
            if (value := inner.get(name)) is not None and not (name == "type" and inner is event):
                is_both = name == "usage" and isinstance(value, Mapping) and isinstance(kept.get(name), Mapping)
                kept[name] = {**kept[name], **{key: part for key, part in value.items() if part is not None}} if is_both else value
        kept |= _tools(inner)
    if not kept:
        return None
    if "usageMetadata" in kept or (kept.get("type") != "message" and "usage" in kept):
        is_final = True
    is_over = is_done or (is_whole and (is_final or not has_failed))
    state = _STATES.get(str(kept.get("status"))) or (State.FAILED if has_failed else State.COMPLETED if is_over else State.CANCELLED)
    if is_final and ("usage" in kept or "usageMetadata" in kept):
        return _answer(kept, state, "")
    kept.pop("usage", None)  # Anthropic's first event has the tokens of the prompt, and a guess at the others
    return _answer(kept, state, STREAM if is_over and not has_failed else CUT)


def _answer(kept: dict[str, Any], state: State, why: str) -> Answer:
    return Answer(identity(_id(kept), kept.get("created") or kept.get("created_at")), _model(kept), kept, _created(kept), state, why)


def _events(content: bytes) -> Iterator[bytes]:
    """Return the data of each event; https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    lines: list[bytes] = []
    for line in (*content.splitlines(), b""):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Count the tools that the model called at its provider: they are charged apart from the tokens."""
    output = body.get("output")
    items = output if isinstance(output, list) else []
    called = Counter(str(item.get("type")) for item in items if isinstance(item, Mapping))
    tools = {name: count for name, count in called.items() if name in TOOLS}
    return {"tools": tools} if tools else {}


def _id(kept: Mapping[str, Any]) -> str:
    found = kept.get("id") or kept.get("responseId")
    return clean(found) if isinstance(found, str) else ""


def _model(kept: Mapping[str, Any]) -> str:
    found = kept.get("model") or kept.get("modelVersion")
    return clean(found) if isinstance(found, str) else ""


def clean(text: str) -> str:
    """Return text that a ledger can hold: JSON may have halves of characters, and names without an end."""
    return text.encode("utf-8", "backslashreplace").decode()[:LONGEST]


def identity(name: str, created: object) -> str:
    """Return what tells an answer from all others: some servers number theirs by three digits, and begin anew."""
    is_short = len(re.split(r"[-_]", name, maxsplit=1)[-1]) < 12
    return f"{name}@{created}" if name and is_short and created is not None else name


def _created(kept: Mapping[str, Any]) -> float | None:
    """Return when it was made, as it says, in seconds since the epoch; None where that is no time that it can have been."""
    found = kept.get("created") or kept.get("created_at")
    if isinstance(found, str):
        try:
            moment = datetime.fromisoformat(found)
        except ValueError:
            return None
        found = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    is_number = isinstance(found, (int, float, Decimal)) and not isinstance(found, bool)
    return float(found) if is_number and 0 < found < LATEST else None  # type: ignore[operator, arg-type]
