"""The stand-in for the Messages API, as the real SDK reads it: every kind of block, every end, and what it refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anthropic
import pytest

from tests.messages_script import Fault, Redacted, Says, Script, Streamed, Thinks, Uses, Whole
from tests.messages_server import MessagesServer

TOOL = {"name": "clock", "input_schema": {"type": "object"}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "title": "Noon", "url": "https://a.example", "encrypted_content": "e"}],
}


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[tuple[MessagesServer, anthropic.AsyncAnthropic]]:
    async with (
        MessagesServer() as server,
        anthropic.AsyncAnthropic(api_key="k", base_url=server.url, max_retries=0) as client,
    ):
        server.script(*scripts)
        yield server, client


async def answer(client: anthropic.AsyncAnthropic, messages: Any = None, **more: Any) -> dict[str, Any]:
    asked = messages or [{"role": "user", "content": "What time is it?"}]
    body = {"model": "m", "max_tokens": 100, "messages": asked, "tools": [TOOL], **more}
    async with client.messages.stream(**cast("Any", body)) as stream:
        message = await stream.get_final_message()
    return message.model_dump(mode="json", exclude_none=True)


async def test_every_kind_of_block_arrives_as_it_was_told() -> None:
    blocks: list[Streamed] = [
        Thinks("Let me see. " * 3, signature="c2ln"),
        Redacted("ZGF0YQ=="),
        Says("I look at the clock."),
        Uses("web_search", {"query": "noon"}, id="srvtoolu_1", kind="server_tool_use"),
        Whole(FOUND),
        Uses("clock", {"zone": "Europe/Zürich", "exact": True}, id="toolu_1"),
        Uses("clock", id="toolu_2"),
    ]
    async with serving(Script(blocks=blocks, stop_reason="tool_use")) as (_, client):
        message = await answer(client)
    assert message["stop_reason"] == "tool_use"
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me see. " * 3, "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "I look at the clock."},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "noon"}},
        FOUND,
        {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {"zone": "Europe/Zürich", "exact": True}},
        {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
    ]


async def test_what_is_answered_can_be_sent_back_as_it_is() -> None:
    first = Script(blocks=[Thinks("Well."), Says("Wait."), Uses("clock", id="toolu_1")], stop_reason="tool_use")
    async with serving(first, Script(text="Noon.")) as (server, client):
        asked: list[dict[str, Any]] = [{"role": "user", "content": "What time is it?"}]
        made = (await answer(client, asked))["content"]
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12:00"}
        asked += [{"role": "assistant", "content": made}, {"role": "user", "content": [result]}]
        assert (await answer(client, asked))["content"] == [{"type": "text", "text": "Noon."}]
        assert len(server.requests) == 2


async def test_a_paused_turn_goes_on_from_its_own_words() -> None:
    search = Uses("web_search", {"query": "noon"}, id="srvtoolu_1", kind="server_tool_use")
    async with serving(Script(blocks=[search], stop_reason="pause_turn"), Script(blocks=[Whole(FOUND)])) as (_, client):
        asked: list[dict[str, Any]] = [{"role": "user", "content": "When is noon?"}]
        paused = await answer(client, asked)
        assert paused["stop_reason"] == "pause_turn"
        asked.append({"role": "assistant", "content": paused["content"]})
        assert (await answer(client, asked))["content"] == [FOUND]


async def test_a_call_may_be_cut_by_the_limit_or_by_a_fault() -> None:
    uses = Uses("clock", id="toolu_1", pieces=['{"zone": "Eu', "rope/"])
    async with serving(
        Script(blocks=[Says("So:"), uses], stop_reason="max_tokens"),
        Script(blocks=[Says("So:"), uses], fault=Fault.TRUNCATE, after=2),
    ) as (server, client):
        names = []
        for _ in range(2):
            body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
            async with await client.messages.create(**body, tools=cast("Any", [TOOL]), stream=True) as stream:
                events = [event async for event in stream]
            names.append([event.type for event in events])
            [*_, last] = [event for event in events if event.type == "content_block_delta"]
            assert last.delta.type == "input_json_delta"
        assert names[0][-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert names[1][-1] == "content_block_delta"
        assert [exchange.tokens_sent for exchange in server.journal] == [3, 2]


async def test_a_request_that_breaks_a_rule_is_refused_with_its_sentence() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": "b"},
    ]
    async with serving(Script(text="never")) as (_, client):
        with pytest.raises(anthropic.BadRequestError) as caught:
            await answer(client, asked)
    assert caught.value.type == "invalid_request_error"
    assert "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1" in str(caught.value)


async def test_only_streams_are_served() -> None:
    async with serving() as (_, client):
        with pytest.raises(anthropic.BadRequestError, match="only streams"):
            await client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}])
