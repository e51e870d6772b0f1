"""Files of JSON lines with calls of LLM APIs: all or nothing, once, with the line of a mistake."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nexa_sdk import CostReport
from nexa_sdk.errors import FileError, InvalidInput
from nexa_sdk.monitoring.usage.lines import import_usage

DATA = Path(__file__).parents[1] / "data" / "api"
LINE: dict[str, Any] = {
    "id": "call-000000000001", "provider": "openai", "model": "gpt-4o-mini", "at": "2026-11-01T12:00:00Z",
    "input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 96,
}  # fmt: skip
COST = (176 * Decimal("0.15") + 1024 * Decimal("0.075") + 96 * Decimal("0.60")) / 10**6
CHAT = json.loads((DATA / "chat.json").read_text()) | {"id": "chatcmpl-BPdZx9oVn2mXkT7wRqLc"}
MESSAGE = json.loads((DATA / "message.json").read_text()) | {"id": "msg_01XFDUDYJgAACzvnptvVoYEL"}


def written(*lines: object) -> Path:
    path = Path("calls.jsonl")
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_the_same_file_any_number_of_times_counts_once() -> None:
    path = written(LINE, "", {**LINE, "id": "call-000000000002", "tag": "eval", "run": "a-0a1b2c3d", "trial": 3, "user": "ada"})
    first = import_usage(path, tag="logs")
    assert first.notes == ("2 of 2 calls are new",)
    assert first.total == 2 * COST
    again = import_usage(path)
    assert again.notes == ("0 of 2 calls are new",)
    assert again.lines == first.lines
    path.write_text(path.read_text() + json.dumps({**LINE, "id": "call-000000000003"}))
    assert import_usage(path).notes == ("1 of 3 calls are new",)
    report = CostReport.between("2026-11-01", "2026-11-02")
    assert (report.calls, report.total) == (3, 3 * COST)
    assert [(line.tag, line.run, line.trial, line.user != "ada") for line in first.lines] == [
        ("logs", "", "", True),
        ("eval", "a-0a1b2c3d", "3", False),
    ]


def test_a_call_that_is_twice_in_a_file_counts_once() -> None:
    report = import_usage(written(LINE, LINE, {**LINE, "output_tokens": 97}))
    assert report.notes == ("1 of 3 calls are new", "1 were known with other tokens: the ledger's stay")
    assert report.total == COST


def test_what_the_call_cost_may_stand_in_the_line() -> None:
    own = {**LINE, "provider": "our-gateway", "model": "our-model", "cost": "0.0123", "currency": "EUR"}
    report = import_usage(written(own, {**LINE, "id": "call-000000000002", "cost": 0.1}))
    assert report.totals == {"EUR": Decimal("0.0123"), "USD": Decimal("0.1")}
    assert report.in_currency("USD", {"EUR": "1.10"}).total == Decimal("0.11353")
    assert {line.price.source for line in report.lines} == {"calls.jsonl"}


def test_other_fields_are_left_aside_and_not_kept(home: Path) -> None:
    import_usage(written({**LINE, "prompt": "what nobody may ever keep", "latency_ms": 17.5, "messages": [{"role": "user"}]}))
    assert b"ever keep" not in (home / "ledger.sqlite").read_bytes()


def test_bodies_of_responses() -> None:
    report = import_usage(written(CHAT, {**MESSAGE, "provider": "anthropic", "at": 1790000000}), provider="openai")
    assert [line.model for line in report.lines] == ["gpt-4o-mini-2024-07-18", "claude-haiku-4-5-20251001"]
    assert report.total == COST + Decimal("0.0009134")


@pytest.mark.parametrize("created", [1762000000000, 1e30, "yesterday", -5])
def test_a_response_that_was_made_at_no_time_is_dated_by_its_line_or_refused(created: object) -> None:
    body = {**CHAT, "created": created}
    with pytest.raises(FileError, match="at is missing"):
        import_usage(written(body), provider="openai")
    report = import_usage(written({**body, "at": "2026-11-01T12:00:00Z"}), provider="openai")
    assert report.by("day").index.tolist() == ["2026-11-01"]
    assert report.total is not None


def test_a_response_that_names_no_time_zone_is_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        report = import_usage(written({**CHAT, "created": "2026-10-31T23:30:00"}), provider="openai")
        assert report.by("day").index.tolist() == ["2026-10-31"]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_results_of_batches_have_the_price_of_batches() -> None:
    openai = {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": CHAT}, "error": None}
    failed = {"id": "batch_req_2", "custom_id": "b", "response": {"status_code": 400, "body": {"error": {}}}, "error": None}
    expired = {"id": "batch_req_3", "custom_id": "c", "response": None, "error": {"code": "batch_expired"}}
    report = import_usage(written(openai, failed, expired), provider="openai")
    assert report.lines[0].why == "genai-prices has no price of processing 'batch' of gpt-4o-mini-2024-07-18", "not so long ago"
    openai["response"]["body"] = CHAT | {"created": 1795000000, "id": "chatcmpl-CPdZx9oVn2mXkT7wRqLc"}
    report = import_usage(written(openai, failed, expired), provider="openai")
    assert report.total == (176 * Decimal("0.075") + 1024 * Decimal("0.075") + 96 * Decimal("0.30")) / 10**6
    assert report.notes[1] == "2 lines are of requests that failed: they used nothing"
    anthropic = {"custom_id": "d", "result": {"type": "succeeded", "message": MESSAGE}}
    errored = {"custom_id": "e", "result": {"type": "errored", "error": {}}}
    of_claude = import_usage(written(anthropic, errored), provider="anthropic", at=1795000000.0)
    assert (of_claude.calls, of_claude.lines[0].start) == (1, 1795000000000)
    assert of_claude.total == Decimal("0.0009134") / 2


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in LINE.items() if key != name}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'id': 1}", "this is no JSON: "),
        ('{"id": "call-1"', "this is no JSON: "),
        ("[" * 100_000, "this is no JSON: "),
        ("[1, 2]", "this is no object"),
        ("null", "this is no object"),
        (without("id"), "id is missing"),
        (without("model"), "model is missing"),
        (without("input_tokens"), "input_tokens is missing"),
        (without("output_tokens"), "output_tokens is missing"),
        (without("at"), "at is missing: when it was, as in '2026-11-01T12:00:00Z'"),
        (without("provider"), "provider is missing: write it into the line, or give one for all of them"),
        (LINE | {"provider": "opneai"}, "genai-prices knows no provider 'opneai'; did you mean 'openai'?; with a cost of its own it may have any"),
        (LINE | {"input_tokens": -1}, "input_tokens is -1: from 0 to 100,000,000,000 can be"),
        (LINE | {"input_tokens": 10**12}, "input_tokens is 1000000000000: from 0"),
        (LINE | {"input_tokens": 1.5}, "input_tokens is a whole number, not "),
        (LINE | {"output_tokens": True}, "output_tokens is a whole number, not true"),
        (LINE | {"output_tokens": "96"}, 'output_tokens is a whole number, not "96"'),
        ('{"id": "x", "model": "m", "input_tokens": NaN, "output_tokens": 1}', "NaN is no number"),
        (LINE | {"at": "yesterday"}, 'at is no time: "yesterday"'),
        (LINE | {"at": -5}, "at is no time: -5"),
        (LINE | {"at": "0001-01-01T00:00:00+05:00"}, 'at is no time: "0001'),
        (LINE | {"at": 1790000000000}, "at is no time: 1790000000000; write '2026-11-01T12:00:00Z', or seconds since 1970"),
        (LINE | {"id": 17}, "id is text, of 500 characters at most, not 17"),
        (LINE | {"id": " "}, "id is text"),
        (LINE | {"model": "x" * 501}, "model is text"),
        (LINE | {"model": "half \ud83d"}, "model is text"),
        (LINE | {"tag": ["eval"]}, "tag is text, of 500 characters at most, not a list"),
        (LINE | {"cost": -1}, "cost is -1: from 0 to 1,000,000 can be"),
        (LINE | {"cost": "1e99"}, "cost is an amount of money, 0 or more, not"),
        (LINE | {"cost": "much"}, "cost is an amount of money, 0 or more, not"),
        (LINE | {"cost": 1, "currency": "dollars"}, "currency is three letters, as in 'USD'"),
        (without("output_tokens") | {"ouput_tokens": 96}, "'ouput_tokens' is not known; did you mean 'output_tokens'?"),
        (LINE | {"cache_read_tokns": 5} | {"cache_read_tokens": None}, "'cache_read_tokns' is not known"),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 1}, "provider": "openai"}, "this response has no id"),
        ({"id": "call-000000000009", "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "provider": "openai"}, "this response does not say its model"),
        (CHAT | {"provider": "openai", "usage": {"prompt_tokens": "1"}}, "its tokens can't be read"),
        (MESSAGE | {"provider": "anthropic"}, "at is missing"),
        ({"custom_id": "a", "response": {"status_code": 200, "body": {"id": "x"}}}, "this result of a batch does not say its tokens"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_meant_is_named_and_nothing_is_written(line: object, words: str) -> None:
    if isinstance(line, dict) and "cache_read_tokns" in line:
        line = {key: value for key, value in line.items() if value is not None}
    path = written({**LINE, "id": "call-000000000000"}, line)
    with pytest.raises(FileError) as caught:
        import_usage(path)
    assert str(caught.value).startswith(f"calls.jsonl, line 2: {words}")
    assert caught.value.line == 2
    assert CostReport.between("2000-01-01").calls == 0


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(FileError, match=r"nothing.jsonl: it can't be read: No such file"):
        import_usage(Path("nothing.jsonl"))
    with pytest.raises(FileError, match="it can't be read: Is a directory"):
        import_usage(Path())
    path = Path("calls.jsonl")
    path.write_bytes(json.dumps(LINE).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(FileError, match="line 2: this is no JSON"):
        import_usage(path)
    path.write_bytes(b"")
    assert import_usage(path).notes == ("0 of 0 calls are new",)
    with pytest.raises(InvalidInput, match="did you mean 'openai'"):
        import_usage(path, provider="opneai")
