"""Claude as an agent: thoughts, tools and what it found, against a server that refuses what the real one refuses."""

from collections.abc import AsyncIterator, Callable

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from chat.models import Conversation, Message, Run
from tests import acting
from tests.device import Device
from tests.messages_script import Redacted, Says, Thinks, Uses, Whole
from tests.messages_server import MessagesServer, Script

pytestmark = pytest.mark.usefixtures("quiet")
Make = Callable[..., Device]

SEARCH = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}


@pytest.fixture
async def server(tuned: None, settings: Settings) -> AsyncIterator[MessagesServer]:
    """The Messages API of this test, before the host starts."""
    acting.ran.clear()
    async with MessagesServer() as server:
        settings.ANTHROPIC_BASE_URL, settings.ANTHROPIC_API_KEY = server.url, "sk-ant-of-a-test"
        settings.CHAT_PROVIDER = "claude"
        settings.CHAT_TOOLS = ["tests.acting.note", "tests.acting.delete"]
        yield server


@pytest.fixture
async def laptop(server: MessagesServer, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def test_a_turn_with_thoughts_and_two_tools_is_gone_on_with_and_remembered(
    server: MessagesServer, laptop: Device
) -> None:
    both = [Uses("note", {"text": "milk"}, "toolu_a"), Uses("note", {"text": "eggs"}, "toolu_b")]
    server.script(
        Script(blocks=[Thinks("Two things."), Redacted(), Says("I note both."), *both], stop_reason="tool_use"),
        Script(blocks=[Says("Noted.")]),
    )
    ack = await laptop.ask("Milk and eggs.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert sorted(acting.ran) == ["eggs", "milk"]
    assert laptop.view.text_of(ack["run"]) == "I note both.Noted."
    second = server.requests[1].body
    assistant, user = second["messages"][-2:]
    assert [block["type"] for block in assistant["content"]] == [
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert [block["tool_use_id"] for block in user["content"]] == ["toolu_a", "toolu_b"]
    assert {tool["name"] for tool in second["tools"]} == {"note", "delete"}
    await laptop.ended((await laptop.ask("And now?"))["run"])
    assert [exchange.finished for exchange in server.journal] == [True] * 3
    run = await Run.objects.aget(pk=ack["run"])
    assert run.usage["output_tokens"] > 0


async def test_what_the_provider_did_itself_is_given_back_as_it_was(server: MessagesServer, laptop: Device) -> None:
    search = Uses("web_search", {"query": "milk"}, "srvtoolu_1", kind="server_tool_use")
    server.script(
        Script(blocks=[search, Whole(SEARCH), Says("Milk is white.")], stop_reason="pause_turn"),
        Script(blocks=[Says("Really.")]),
    )
    ack = await laptop.ask("Milk?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    answer = await Message.objects.aget(run=ack["run"])
    assert [part["type"] for part in answer.parts] == ["block", "block", "text", "text"]
    told = server.requests[1].body["messages"][-2]["content"]
    assert told[0]["input"] == {"query": "milk"}
    assert told[1] == SEARCH
    await laptop.ended((await laptop.ask("Thanks."))["run"])
    assert len(server.journal) == 3


async def test_what_arrives_whole_at_the_beginning_of_a_block_is_not_lost(
    server: MessagesServer, laptop: Device
) -> None:
    """As from servers that speak the protocol and stream nothing."""
    call = {"type": "tool_use", "id": "toolu_a", "name": "note", "input": {"text": "milk"}}
    server.script(
        Script(blocks=[Whole({"type": "text", "text": "Let me see."}), Whole(call)], stop_reason="tool_use"),
        Script(blocks=[Whole({"type": "text", "text": "It is noted."})]),
    )
    ack = await laptop.ask("Milk?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["milk"]
    assert laptop.view.text_of(ack["run"]) == "Let me see.It is noted."
    assert server.requests[1].body["messages"][-2]["content"][1]["input"] == {"text": "milk"}


RAN = {
    "type": "code_execution_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {
        "type": "code_execution_result",
        "stdout": "a\0b \\u0000",
        "stderr": "",
        "return_code": 0,
        "content": [],
    },
}


async def test_what_the_providers_tools_found_may_hold_what_no_database_keeps(
    server: MessagesServer, laptop: Device
) -> None:
    code = Uses("code_execution", {"code": "print('a\0b')"}, "srvtoolu_1", kind="server_tool_use")
    server.script(Script(blocks=[code, Whole(RAN), Says("It printed three.")]), Script(blocks=[Says("Yes.")]))
    assert (await laptop.ended((await laptop.ask("Run it."))["run"]))["state"] == "completed"
    assert (await laptop.ended((await laptop.ask("Really?"))["run"]))["state"] == "completed"
    told = server.requests[1].body["messages"][1]["content"]
    assert told[0]["input"] == {"code": "print('a\ufffdb')"}
    assert told[1]["content"]["stdout"] == "a\ufffdb \\u0000"


async def test_arguments_that_are_no_json_are_an_error_for_the_model(server: MessagesServer, laptop: Device) -> None:
    server.script(Script(blocks=[Uses("note", pieces=['{"text": ', "oops"])], stop_reason="tool_use"))
    ack = await laptop.ask("Note.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == []
    assert [exchange.finished for exchange in server.journal] == [True] * 2


async def test_what_only_speaks_of_a_character_that_no_database_keeps_is_kept(
    server: MessagesServer, laptop: Device
) -> None:
    both = [Uses("note", {"text": "\\u0000 and \\ud800"}, "toolu_a"), Uses("note", {"text": "a\0b"}, "toolu_b")]
    server.script(Script(blocks=both, stop_reason="tool_use"))
    ack = await laptop.ask("How are they written?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["\\u0000 and \\ud800"]


PAGE = {
    "type": "web_search_result_location",
    "url": "https://milk.example/white",
    "title": "On milk",
    "encrypted_index": "x",
    "cited_text": "Milk is\0 white.",
}
DOCUMENT = {
    "type": "char_location",
    "document_index": 0,
    "document_title": "cows.txt",
    "start_char_index": 0,
    "end_char_index": 4,
    "cited_text": "Cows",
}


async def test_what_an_answer_rests_on_is_part_of_it_and_of_no_later_prompt(
    server: MessagesServer, laptop: Device, device: Make, alice: User
) -> None:
    server.script(Script(blocks=[Says("Milk is white", cites=[PAGE]), Says(" and from cows.", cites=[DOCUMENT])]))
    ack = await laptop.ask("Milk?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "Milk is white and from cows."
    text, page, document = laptop.view.parts_of(ack["run"])
    assert (page["title"], page["url"], page["text"]) == (
        "On milk",
        "https://milk.example/white",
        "Milk is\ufffd white.",
    )
    assert (page["of"], text["text"][: page["at"]]) == (0, "Milk is white")
    assert (document["title"], document["url"], document["text"]) == ("cows.txt", "", "Cows")
    fresh = await (await device(alice, laptop.conversation).connect()).synced()
    assert fresh.view.comparable() == laptop.view.comparable()
    await laptop.ended((await laptop.ask("Thanks."))["run"])
    assert server.requests[1].body["messages"][1]["content"] == [
        {"type": "text", "text": "Milk is white and from cows."}
    ]
