"""Real clients of LLM APIs, which reach a server on loopback as if it were their provider's."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest
from replies import KEY, Replies, serving


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients wait for nothing before they try again."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.001)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Replies]:
    with serving() as replies:
        yield replies


@pytest.fixture
def client(server: Replies) -> Iterator[openai.OpenAI]:
    with (
        httpx2.Client(proxy=server.url) as http,
        openai.OpenAI(api_key=KEY, base_url="http://api.openai.com/v1", http_client=http) as made,
    ):
        yield made


@pytest.fixture
def claude(server: Replies) -> Iterator[anthropic.Anthropic]:
    with (
        httpx2.Client(proxy=server.url) as http,
        anthropic.Anthropic(api_key=KEY, base_url="http://api.anthropic.com", http_client=http) as made,
    ):
        yield made
