"""What calls of LLM APIs used and cost: real clients over real HTTP, caught once each, whichever way they are made."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from replies import DATA, KEY, Replies

from nexa_sdk import CostReport, track_usage
from nexa_sdk.errors import InvalidInput, JournalError

SECRET = "what nobody may ever keep"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": SECRET}]}
ASK_CLAUDE: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": ASK["messages"]}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}

# USD for a million tokens: 1,024 of 1,200 in come from the cache, 96 go out.
CHAT = (176 * Decimal("0.15") + 1024 * Decimal("0.075") + 96 * Decimal("0.60")) / 10**6
EMBEDDINGS = 8000 * Decimal("0.02") / 10**6
# Of 100 that are written into the cache 60 stay for five minutes, 40 for an hour.
CLAUDE = (176 * Decimal(1) + 1024 * Decimal("0.10") + 60 * Decimal("1.25") + 40 * Decimal(2) + 96 * Decimal(5)) / 10**6


def only(report: CostReport) -> Any:
    (line,) = report.lines
    return line


def spent(report: CostReport) -> list[tuple[str, int, int]]:
    return [(line.tag, line.used.get("input_tokens", 0), line.used.get("output_tokens", 0)) for line in report.lines]


def fail_after(client: openai.OpenAI) -> None:
    client.chat.completions.create(**ASK)
    raise ZeroDivisionError


# ---- every way to call ---------------------------------------------------------------------------


def read_all(stream: Any) -> None:
    for _ in stream:
        pass


def chat_streamed_raw(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        response.json()


def chat_lines(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**ASK, **WITH_USAGE) as response:
        assert list(response.iter_lines())[-2] == "data: [DONE]"


def chat_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as stream:
        assert stream.get_final_completion().usage.total_tokens == 1296


WAYS: dict[str, Callable[[openai.OpenAI], object]] = {
    "chat": lambda client: client.chat.completions.create(**ASK),
    "chat, raw": lambda client: client.chat.completions.with_raw_response.create(**ASK).parse(),
    "chat, response as a stream": chat_streamed_raw,
    "chat, stream": lambda client: read_all(client.chat.completions.create(**ASK, **WITH_USAGE)),
    "chat, lines of a stream": chat_lines,
    "chat, helper": chat_helper,
    "responses": lambda client: client.responses.create(model="gpt-4o-mini", input=SECRET),
    "responses, stream": lambda client: read_all(client.responses.create(model="gpt-4o-mini", input=SECRET, stream=True)),
}


@pytest.mark.parametrize("is_gzipped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_openai(client: openai.OpenAI, server: Replies, way: str, is_gzipped: bool) -> None:
    server.is_gzipped = is_gzipped
    with track_usage(tag="eval") as usage:
        WAYS[way](client)
    line = only(usage.report())
    assert (line.provider, line.model, line.state, line.tag) == ("openai", "gpt-4o-mini-2024-07-18", "COMPLETED", "eval")
    assert line.used == {"input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 96}
    assert usage.report().total == CHAT
    assert usage.report().currency == "USD"
    assert line.price.source.startswith("genai-prices")


async def chat_async(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(**ASK)


async def stream_async(client: openai.AsyncOpenAI) -> None:
    async for _ in await client.chat.completions.create(**ASK, **WITH_USAGE):
        pass


async def responses_async(client: openai.AsyncOpenAI) -> None:
    async for _ in await client.responses.create(model="gpt-4o-mini", input=SECRET, stream=True):
        pass


@pytest.mark.parametrize("way", [chat_async, stream_async, responses_async])
def test_openai_async(server: Replies, way: Callable[[openai.AsyncOpenAI], Any]) -> None:
    async def call() -> None:
        async with httpx2.AsyncClient(proxy=server.url) as http:
            await way(openai.AsyncOpenAI(api_key=KEY, base_url="http://api.openai.com/v1", http_client=http))

    with track_usage() as usage:
        asyncio.run(call())
    assert usage.report().total == CHAT


def claude_helper(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(**ASK_CLAUDE) as stream:
        assert stream.get_final_message().usage.output_tokens == 96


CLAUDES: dict[str, Callable[[anthropic.Anthropic], object]] = {
    "messages": lambda claude: claude.messages.create(**ASK_CLAUDE),
    "raw": lambda claude: claude.messages.with_raw_response.create(**ASK_CLAUDE).parse(),
    "stream": lambda claude: read_all(claude.messages.create(**ASK_CLAUDE, stream=True)),
    "helper": claude_helper,
    "beta": lambda claude: claude.beta.messages.create(**ASK_CLAUDE),
}


@pytest.mark.parametrize("way", CLAUDES)
def test_anthropic(claude: anthropic.Anthropic, way: str) -> None:
    with track_usage() as usage:
        CLAUDES[way](claude)
    line = only(usage.report())
    assert (line.provider, line.model) == ("anthropic", "claude-haiku-4-5-20251001")
    assert (line.used["input_tokens"], line.used["output_tokens"], line.used["cache_write_1h_tokens"]) == (1300, 96, 40)
    assert usage.report().total == CLAUDE


def test_anthropic_async(server: Replies) -> None:
    async def call() -> None:
        async with (
            httpx2.AsyncClient(proxy=server.url) as http,
            anthropic.AsyncAnthropic(api_key=KEY, base_url="http://api.anthropic.com", http_client=http) as claude,
        ):
            await claude.messages.create(**ASK_CLAUDE)
            async for _ in await claude.messages.create(**ASK_CLAUDE, stream=True):
                pass

    with track_usage() as usage:
        asyncio.run(call())
    assert usage.report().total == 2 * CLAUDE


def test_what_has_no_id_is_told_apart_by_its_request(client: openai.OpenAI) -> None:
    with track_usage() as usage:
        client.embeddings.create(model="text-embedding-3-small", input=SECRET)
        made = client.embeddings.create(model="text-embedding-3-small", input=SECRET)
        usage.add(made, provider="openai")
    assert usage.report().total == 2 * EMBEDDINGS


def test_other_clients_of_httpx_and_other_apis(server: Replies) -> None:
    with track_usage() as usage, httpx.Client(proxy=server.url) as plain:
        plain.post("http://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent", json={"contents": SECRET})
        plain.post("http://api.deepseek.com/chat/completions", json=ASK)
    assert {(line.provider, line.model, line.used["input_tokens"], line.used["output_tokens"]) for line in usage.report().lines} == {
        ("google", "gemini-2.5-flash", 1200, 96),
        ("deepseek", "gpt-4o-mini-2024-07-18", 1200, 96),
    }


def test_an_older_httpx_below_the_client(server: Replies) -> None:
    with track_usage() as usage, httpx.Client(proxy=server.url) as http:
        client = openai.OpenAI(api_key=KEY, base_url="http://api.openai.com/v1", http_client=http)  # type: ignore[arg-type]
        client.chat.completions.create(**ASK)
        read_all(client.chat.completions.create(**ASK, **WITH_USAGE))
    assert usage.report().total == 2 * CHAT


# ---- once each -----------------------------------------------------------------------------------


def test_what_the_client_tries_again_counts_once(client: openai.OpenAI, claude: anthropic.Anthropic, server: Replies) -> None:
    with track_usage() as usage:
        server.failures = [429, 500]
        client.chat.completions.create(**ASK)
        server.failures = [529]
        claude.messages.create(**ASK_CLAUDE)
    assert len(server.asked) == 5
    assert usage.report().calls == 2
    assert usage.report().total == CHAT + CLAUDE


def test_an_error_of_the_provider_counts_for_nothing_and_reaches_the_caller(client: openai.OpenAI, server: Replies) -> None:
    server.failures = [400]
    with track_usage() as usage, pytest.raises(openai.BadRequestError, match="not now"):
        client.chat.completions.create(**ASK)
    assert usage.report().calls == 0
    assert usage.report().total is None


def test_the_same_response_again_counts_once(client: openai.OpenAI, server: Replies) -> None:
    server.id = "chatcmpl-BPdZx9oVn2mXkT7wRqLc"  # a proxy that caches
    with track_usage() as first:
        client.chat.completions.create(**ASK)
        made = client.chat.completions.create(**ASK)
        first.add(made, provider="openai")
        first.add(made)
        first.add(json.loads((DATA / "chat.json").read_text()) | {"id": server.id})
    with track_usage() as second:
        client.chat.completions.create(**ASK)
    assert (first.report().calls, second.report().calls) == (1, 0)
    assert CostReport.between("1 day").total == CHAT


def test_a_server_that_numbers_from_anew_is_not_taken_for_repeating(client: openai.OpenAI, server: Replies) -> None:
    server.id = "chatcmpl-417"
    with track_usage() as usage:
        client.chat.completions.create(**ASK)
        server.change = {"created": 1790000007}
        client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    assert usage.report().calls == 2


def test_a_response_in_the_background_is_one_call(client: openai.OpenAI, server: Replies) -> None:
    server.change = {"usage": None, "status": "queued", "output": []}
    with track_usage(tag="slow") as usage:
        made = client.responses.create(model="gpt-4o-mini", input=SECRET, background=True)
        assert usage.report().total is None
        server.change = {}
        client.responses.retrieve(made.id)
        client.responses.retrieve(made.id)
        client.responses.retrieve("resp_of_another_day_0123456789")
    line = only(usage.report())
    assert (line.job, line.tag, line.state) == (made.id, "slow", "COMPLETED")
    assert usage.report().total == CHAT
    assert CostReport.between("1 day").total == CHAT, "the sums of days follow"


# ---- blocks --------------------------------------------------------------------------------------


def test_an_exception_leaves_what_was_recorded(client: openai.OpenAI) -> None:
    usage = track_usage()
    with pytest.raises(ZeroDivisionError) as caught, usage:
        fail_after(client)
    assert not hasattr(caught.value, "__notes__")
    assert usage.report().total == CHAT


def test_outside_of_a_block_nothing_is_touched(client: openai.OpenAI) -> None:
    before = [kind.send for module in (httpx, httpx2) for kind in (module.Client, module.AsyncClient)]
    with track_usage() as usage:
        assert httpx2.Client.send is not before[2]
    assert [kind.send for module in (httpx, httpx2) for kind in (module.Client, module.AsyncClient)] == before
    client.chat.completions.create(**ASK)
    assert usage.report().calls == 0


def test_other_requests_pass_as_they_are(server: Replies) -> None:
    with track_usage() as usage, httpx2.Client() as http:
        with http.stream("GET", f"{server.url}/data") as response:
            assert type(response.stream).__module__.startswith("httpx2")
        assert http.post(f"{server.url}/upload", json={}).json() == {"usage": "none of a model"}
    assert usage.report().calls == 0


def test_what_others_put_around_send_stays(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    with track_usage() as usage:
        inner = httpx2.Client.send
        monkeypatch.setattr(httpx2.Client, "send", lambda self, request, **more: seen.append(request) or inner(self, request, **more))
        client.chat.completions.create(**ASK)
    client.chat.completions.create(**ASK)
    with track_usage() as again:  # now around what was left
        client.embeddings.create(model="text-embedding-3-small", input=SECRET)
    assert len(seen) == 3
    assert (usage.report().calls, again.report().calls) == (1, 1)


def test_blocks_within_blocks(client: openai.OpenAI) -> None:
    with track_usage(tag="all") as outer:
        client.chat.completions.create(**ASK)
        with track_usage(tag="part") as inner:
            client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    assert [tag for tag, *_ in spent(inner.report())] == ["part"]
    assert sorted(tag for tag, *_ in spent(outer.report())) == ["all", "all", "part"]
    assert outer.report().by("tag")["cost"].to_dict() == {"all": 2 * CHAT, "part": CHAT}


def test_a_stream_that_is_read_after_its_block(client: openai.OpenAI) -> None:
    with track_usage(tag="asked") as usage:
        stream = client.chat.completions.create(**ASK, **WITH_USAGE)
    assert usage.report().calls == 0
    with track_usage(tag="another") as other:
        read_all(stream)
    assert (usage.report().total, other.report().calls) == (CHAT, 0)


def test_tasks_have_blocks_of_their_own(server: Replies) -> None:
    async def work(client: openai.AsyncOpenAI, tag: str, barrier: asyncio.Barrier) -> tuple[str, list[tuple[str, int, int]]]:
        with track_usage(tag=tag) as usage:
            for _ in range(3):
                await barrier.wait()
                await chat_async(client)
                await asyncio.gather(chat_async(client), stream_async(client))
        return tag, spent(usage.report())

    async def all_of_them() -> list[tuple[str, list[tuple[str, int, int]]]]:
        barrier = asyncio.Barrier(4)
        async with httpx2.AsyncClient(proxy=server.url) as http:
            client = openai.AsyncOpenAI(api_key=KEY, base_url="http://api.openai.com/v1", http_client=http)
            return await asyncio.gather(*(work(client, f"task {k}", barrier) for k in range(4)))

    with track_usage() as around:
        for tag, found in asyncio.run(all_of_them()):
            assert found == [(tag, 1200, 96)] * 9
    assert around.report().calls == 36


def test_threads_of_a_pool_belong_to_the_block_that_is_open(client: openai.OpenAI) -> None:
    with track_usage(tag="pool") as usage, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.chat.completions.create(**ASK), range(40)))
    assert spent(usage.report()) == [("pool", 1200, 96)] * 40


def test_blocks_beside_one_another(client: openai.OpenAI) -> None:
    """Each thread's calls are its block's; those of a thread that has none are what is around both."""
    both = threading.Barrier(3, timeout=240)
    reports = {}

    def work(tag: str) -> None:
        with track_usage(tag=tag) as usage:
            both.wait()
            client.chat.completions.create(**ASK)
            both.wait()
        reports[tag] = spent(usage.report())

    def with_and_without(around: contextvars.Context | None) -> None:
        run = around.run if around is not None else lambda function, *more: function(*more)
        threads = [threading.Thread(target=run if k == 0 else work, args=(work, "a") if k == 0 else ("b",)) for k in (0, 1)]
        for thread in threads:
            thread.start()
        both.wait()
        client.chat.completions.create(**ASK)
        both.wait()
        for thread in threads:
            thread.join()
        assert reports == {"a": [("a", 1200, 96)], "b": [("b", 1200, 96)]}

    with_and_without(None)  # a thread without a block, beside two
    assert CostReport.between("1 day", attempts=True).by("tag")["calls"].to_dict() == {"": 1, "a": 1, "b": 1}
    with track_usage(tag="around") as around:
        with_and_without(contextvars.copy_context())
    assert around.report().by("tag")["calls"].to_dict() == {"a": 1, "around": 1, "b": 1}


def test_a_block_is_opened_once() -> None:
    usage = track_usage()
    with usage, pytest.raises(InvalidInput, match="was opened already"):
        usage.__enter__()
    assert repr(usage) == "<Usage: not recording; report() tells what it cost>"


# ---- what is not known ---------------------------------------------------------------------------


def test_a_stream_that_does_not_say_its_tokens(client: openai.OpenAI) -> None:
    with track_usage() as usage:
        read_all(client.chat.completions.create(**ASK, stream=True))
        client.chat.completions.create(**ASK)
    report = usage.report()
    assert (report.calls, report.total, report.totals) == (2, None, {"USD": CHAT})
    assert report.money_text == "0.0001608 USD, and 1 API call without a known price"
    assert report.summary[1].endswith("ask for them with stream_options={'include_usage': True}")


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_a_stream_that_its_reader_leaves(client: openai.OpenAI, claude: anthropic.Anthropic, server: Replies, is_gzipped: bool) -> None:
    server.is_gzipped = is_gzipped
    with track_usage() as usage:
        for stream in (client.chat.completions.create(**ASK, **WITH_USAGE), claude.messages.create(**ASK_CLAUDE, stream=True)):
            next(iter(stream))
            stream.close()
    report = usage.report()
    assert [(line.state, line.used, line.nanos) for line in report.lines] == [("CANCELLED", {}, None)] * 2
    assert report.failed.calls == 2


def test_a_stream_whose_line_goes(client: openai.OpenAI, server: Replies) -> None:
    server.cuts_at = 2
    with track_usage() as usage, pytest.raises((openai.APIError, httpx2.HTTPError)):
        read_all(client.chat.completions.create(**ASK, **WITH_USAGE))
    line = only(usage.report())
    assert (line.state, line.model, line.why) == ("CANCELLED", "gpt-4o-mini-2024-07-18", "the stream was cut before it said its tokens")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "gpt-77"}, "genai-prices knows no model 'gpt-77' of openai"),
        ({"service_tier": "express"}, "genai-prices has no price of service tier 'express' of gpt-4o-mini-2024-07-18"),
        ({"usage": {"prompt_tokens": "many"}}, "its tokens can't be read: "),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 4}}, "its tokens can't be read: "),
        ({"usage": {"prompt_tokens": 10**15, "completion_tokens": 4}}, "its tokens can't be read: input_tokens is 1000000000000000"),
        (
            {"usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 11}}},
            "genai-prices can't price it",
        ),
        ({"usage": None}, "the response does not say its tokens"),
        ({"model": "half a \ud83d"}, "genai-prices knows no model 'half a \\\\ud83d' of openai"),
    ],
)
def test_a_price_is_never_made_up(client: openai.OpenAI, server: Replies, change: dict[str, Any], why: str) -> None:
    server.change = change
    with track_usage() as usage:
        client.chat.completions.with_raw_response.create(**ASK)
        server.change = {}
        client.chat.completions.create(**ASK)
    report = usage.report()
    assert (report.calls, report.total, report.totals) == (2, None, {"USD": CHAT})
    assert next(line.why for line in report.lines if line.nanos is None).startswith(why)


def test_tools_at_the_provider_are_charged_apart(client: openai.OpenAI, server: Replies) -> None:
    searched = [{"id": f"ws_{k}", "type": "web_search_call", "status": "completed"} for k in range(3)]
    server.change = {"output": searched}
    with track_usage() as usage:
        client.responses.create(model="gpt-4o-mini", input=SECRET)
    assert only(usage.report()).used["web_searches"] == 3
    assert usage.report().total == CHAT + 3 * Decimal(10) / 1000
    server.change = {"output": [{"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": None}]}
    with track_usage() as usage:
        client.responses.create(model="gpt-4o-mini", input=SECRET)
    assert only(usage.report()).why == "genai-prices has no price of image_generation_call"


def test_a_server_of_ones_own_has_no_price_unless_somebody_names_one(server: Replies) -> None:
    client = openai.OpenAI(api_key=KEY, base_url=f"{server.url}/v1")
    with track_usage() as usage:
        client.chat.completions.create(**ASK)
    line = only(usage.report())
    assert (line.provider, line.nanos, line.used["output_tokens"]) == (f"127.0.0.1:{server.port}", None, 96)
    assert line.why.startswith("whose API it is is not known")
    for providers in ("openai", {f"127.0.0.1:{server.port}": "openai"}, {"127.0.0.1": "openai"}):
        with track_usage(providers=providers) as usage:
            client.chat.completions.create(**ASK)
        assert usage.report().total == CHAT
    client.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"providers": "opneai"}, "genai-prices knows no provider 'opneai'; did you mean 'openai'?"),
        ({"providers": {"http://localhost:8000/v1": "openai"}}, "is no host; write it as in 'gateway.example.org'"),
        ({"providers": ["openai"]}, "give a name, or names by host"),
        ({"tag": ""}, "give a word or some"),
        ({"tag": "x" * 501}, "give a word or some"),
        ({"run": 17}, "give a Run, or its id"),
    ],
)
def test_a_block_that_cannot_be_meant(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("?", r"\?")):
        track_usage(**given)


def test_without_genai_prices_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(InvalidInput, match=r"pip install 'nexa_sdk\[usage\]'"):
        track_usage()


# ---- added by hand -------------------------------------------------------------------------------


def test_responses_that_came_another_way() -> None:
    body = json.loads((DATA / "message.json").read_text()) | {"id": "msg_01XFDUDYJgAACzvnptvVoYEL"}
    usage = track_usage(tag="boto3")
    usage.add(body, provider="anthropic")
    usage.add(anthropic.types.Message.model_validate(body | {"id": "msg_02XFDUDYJgAACzvnptvVoYEL"}), provider="anthropic")
    assert usage.report().total == 2 * CLAUDE
    usage.add({"usage": {"prompt_tokens": 5, "completion_tokens": 1}}, id="call-000000000001", model="my-llama")
    assert usage.report().calls == 3
    assert usage.report().total is None


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ({"id": "x", "model": "m"}, "does not say its tokens"),
        ({"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}, "has no id, and would count again"),
        ({"id": "x", "model": "m", "usage": {"prompt_tokens": None}}, "its tokens can't be read"),
        ("words", "a str is no response"),
        (None, "a NoneType is no response"),
    ],
)
def test_what_is_no_response(response: object, words: str) -> None:
    usage = track_usage()
    with pytest.raises(InvalidInput, match=words):
        usage.add(response)
    assert usage.report().calls == 0


# ---- the ledger ----------------------------------------------------------------------------------


def test_neither_what_was_asked_nor_what_was_answered_nor_a_key_is_kept(
    client: openai.OpenAI, claude: anthropic.Anthropic, home: Path
) -> None:
    with track_usage() as usage:
        for way in WAYS.values():
            way(client)
        for of_claude in CLAUDES.values():
            of_claude(claude)
    assert usage.report().calls == len(WAYS) + len(CLAUDES)
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"gpt-4o-mini" in kept
    for words in (SECRET, "the answer", "nobody keeps", KEY):
        assert words.encode() not in kept


def test_a_ledger_that_cannot_be_written_harms_no_call_and_is_said(client: openai.OpenAI, home: Path) -> None:
    home.write_text("no folder")
    usage = track_usage()
    with pytest.raises(JournalError, match="can't be opened"), usage:
        assert client.chat.completions.create(**ASK).usage.total_tokens == 1296
    home.unlink()
    assert usage.report().total == CHAT, "it was kept until it could be written"


def test_a_ledger_that_cannot_be_written_hides_no_other_error(client: openai.OpenAI, home: Path) -> None:
    home.write_text("no folder")
    usage = track_usage()
    with pytest.raises(ZeroDivisionError) as caught, usage:
        fail_after(client)
    assert "is not written down" in caught.value.__notes__[0]
    home.unlink()
    assert usage.report().calls == 1


KERNEL = """
import os, signal, sys
import httpx2, openai
from nexa_sdk import track_usage
client = openai.OpenAI(api_key="k", base_url="http://api.openai.com/v1", http_client=httpx2.Client(proxy=sys.argv[1]))
def ask(count):
    for _ in range(count):
        client.chat.completions.create(model="gpt-4o-mini", messages=[])
"""


def kernel(server: Replies, code: str) -> subprocess.Popen[str]:
    # Newer Pythons warn of every fork where there are threads.
    words = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", KERNEL + code, server.url]
    return subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(one: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a kernel's end, and return its exit status and what it said."""
    with one:
        try:
            return (*one.communicate(timeout=120), one.returncode)[::-1]
        except subprocess.TimeoutExpired:
            one.kill()
            raise


def test_several_kernels_at_once(server: Replies) -> None:
    kernels = [kernel(server, "with track_usage(tag='many'):\n    ask(15)") for _ in range(3)]
    assert [ended(one) for one in kernels] == [(0, "", "")] * 3
    report = CostReport.between("1 day")
    assert (report.calls, report.total) == (45, 45 * CHAT)


def test_several_kernels_that_get_the_same_response(server: Replies) -> None:
    server.id = "chatcmpl-BPdZx9oVn2mXkT7wRqLc"
    kernels = [kernel(server, "with track_usage():\n    ask(5)") for _ in range(3)]
    assert [ended(one) for one in kernels] == [(0, "", "")] * 3
    assert CostReport.between("1 day").total == CHAT


def test_a_kernel_that_is_killed_leaves_what_was_written(server: Replies) -> None:
    one = kernel(server, "with track_usage() as usage:\n    ask(3)\n    usage.report()\n    os.kill(os.getpid(), signal.SIGKILL)")
    assert ended(one)[0] == -signal.SIGKILL
    assert CostReport.between("1 day").total == 3 * CHAT


def test_a_process_that_ends_within_a_block_loses_nothing(server: Replies) -> None:
    one = kernel(server, "track_usage(tag='all').start()\nask(4)")
    assert ended(one) == (0, "", "")
    assert CostReport.between("1 day").total == 4 * CHAT


def test_a_process_that_forks_within_a_block(server: Replies) -> None:
    code = """
with track_usage(tag="forked"):
    ask(2)
    if (child := os.fork()) == 0:
        ask(1)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    one = kernel(server, code)
    assert ended(one) == (0, "", "")
    report = CostReport.between("1 day")
    assert (report.total, [line.tag for line in report.lines]) == (3 * CHAT, ["forked"])


def test_a_trial_says_whose_it_is_and_keeps_it_in_its_runs_folder(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    monkeypatch.setenv("NEXA_RUN", "eval-0a1b2c3d")
    monkeypatch.setenv("NEXA_TRIAL", "7")
    monkeypatch.setenv("NEXA_RESULTS", str(tmp_path / "run" / "results" / "17_7.jsonl"))
    (tmp_path / "run").mkdir()
    with track_usage() as usage:
        client.chat.completions.create(**ASK)
    assert (only(usage.report()).run, only(usage.report()).trial) == ("eval-0a1b2c3d", "7")
    usage.add(json.loads((DATA / "chat.json").read_text()) | {"id": only(usage.report()).job})
    assert usage.report().total == CHAT
    with track_usage(run="other-0a1b2c3d") as usage:
        client.chat.completions.create(**ASK)
    assert (only(usage.report()).run, only(usage.report()).trial) == ("other-0a1b2c3d", "")
    (file,) = (tmp_path / "run" / "usage").iterdir()
    assert file.name.startswith("17_7-")
    assert b"nobody" not in file.read_bytes()
    assert not home.exists()
    (tmp_path / "run" / "usage").rename(tmp_path / "gone")
    (tmp_path / "run" / "usage").write_text("no folder")
    with pytest.raises(JournalError, match="can't be written"), track_usage() as usage:
        client.chat.completions.create(**ASK)
    (tmp_path / "run" / "usage").unlink()
    assert usage.report().total == CHAT


def test_the_file_has_one_row_for_each_response(client: openai.OpenAI, home: Path) -> None:
    with track_usage() as usage:
        client.chat.completions.create(**ASK)
        client.chat.completions.create(**ASK)
    connection = sqlite3.connect(home / "ledger.sqlite")
    assert connection.execute("SELECT count(*), count(DISTINCT response), sum(nanos) FROM calls").fetchone() == (2, 2, 2 * 160_800)
    assert connection.execute("SELECT calls, units, nanos FROM call_days").fetchall() == [(2, 0, 2 * 160_800)]
    connection.close()
    assert os.stat(home / "ledger.sqlite").st_size > 0
    assert usage.report().calls == 2
