"""What only HTTP can get wrong: who speaks without listening, requests that are cut off, what a cookie may say."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from chat import host as hosts
from chat.models import Conversation, Device, Message
from chat.transport.connection import TYPING_SECONDS
from chat.transport.post import signals
from tests import device as devices_of
from tests.conftest import with_settings
from tests.device import sign_in, until
from tests.doors import exchange
from tests.poller import Poller

pytestmark = pytest.mark.usefixtures("quiet")
Make = Callable[..., devices_of.Device]


@pytest.fixture
async def poller(host: hosts.Host, alice: User, conversation: Conversation) -> Poller:
    return Poller(conversation, await sync_to_async(sign_in)(alice))


@with_settings(CHAT_SIGNALS_PER_SECOND=2.0)
async def test_a_new_device_for_each_signal_brings_no_new_allowance(poller: Poller) -> None:
    answers = []
    began = time.monotonic()
    for _ in range(30):
        signal = {"type": "run.cancel", "id": str(uuid.uuid4()), "scope": "all"}
        answers.append(await poller.post(signal, device=str(uuid.uuid4())))
    refused = [said for status, said in answers if status == 429]
    assert len(answers) - len(refused) <= 11 + 2 * (time.monotonic() - began), "a burst, and two a second"
    assert refused[0]["code"] == "rate"
    assert (await poller.post({"type": "flow", "serial": 0}))[0] == 204, "what costs nothing is not counted"


async def test_a_flood_of_typing_by_post_is_not_passed_on(
    poller: Poller, device: Make, alice: User, conversation: Conversation
) -> None:
    phone = device(alice, conversation)
    await (await phone.connect()).synced()
    began = time.monotonic()
    for _ in range(40):
        assert (await poller.post({"type": "typing"}, device=str(uuid.uuid4())))[0] == 204
    await poller.say(type="conversation.rename", title="After the flood")
    await until(lambda: phone.view.title == "After the flood")
    passed = time.monotonic() - began
    assert 1 <= sum(frame["type"] == "typing" for frame in phone.frames) <= 1 + passed / (TYPING_SECONDS / 4)


async def test_who_types_by_post_is_not_told_of_it_on_their_stream(poller: Poller) -> None:
    first = await poller.begin()
    said = await poller.post({"type": "typing"}, connection=first["connection"])
    assert said == (204, {})
    await poller.say(type="conversation.rename", title="Then this")
    heard = await poller.hear("conversation.renamed", {**first, "frames": []})
    assert "typing" not in [frame["type"] for frame in heard["frames"]]


@pytest.mark.in_process  # a server that hands over half a body is played here
async def test_a_body_that_is_cut_off_is_not_carried_out(
    poller: Poller, conversation: Conversation, host: hosts.Host
) -> None:
    whole = json.dumps({"type": "message.send", "id": str(uuid.uuid4()), "text": "/echo All of it?"}).encode()
    come: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": whole, "more_body": True},
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "query_string": f"device={poller.device}".encode(),
        "headers": [(name.encode(), value.encode()) for name, value in poller.known.items()],
        "cookies": {"sessionid": poller.known["cookie"].partition("=")[2]},
        "url_route": {"kwargs": {"conversation": conversation.pk}},
    }
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return come.pop()

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async with asyncio.timeout(10):
        await signals(scope, receive, send)
    assert said == []
    assert not await Message.objects.filter(conversation=conversation).aexists()


async def test_another_device_of_the_user_does_not_acknowledge_for_this_one(poller: Poller, host: hosts.Host) -> None:
    first = await poller.begin()
    connection: Any = next(iter(host.roster))
    before = connection.heard_at
    name = first["connection"].partition(".")[0]
    flow = {"type": "flow", "serial": 0}
    assert (await poller.post(flow, device=str(uuid.uuid4()), connection=name))[0] == 204
    assert (await poller.post(flow, device=str(uuid.uuid4()), connection=name))[0] == 204
    await poller.say(type="conversation.rename", title="All news before this have come")
    await until(lambda: connection.cursor > 0)
    assert connection.heard_at == before
    assert (await poller.post(flow, connection=name))[0] == 204
    await until(lambda: connection.heard_at > before)


@pytest.mark.parametrize("session", ['"abcdefghijk\\000lm"', "abc\x7fdefgh", "a" * 500, "übersee", ""])
async def test_a_session_that_cannot_be_one_is_signed_out(poller: Poller, session: str) -> None:
    poller.known["cookie"] = f"sessionid={session}"
    asked = poller.ask(wait="0")
    goodbye = json.loads(await asked.whole())
    assert (asked.status, goodbye["code"]) == (401, "signed_out")


async def test_a_device_is_called_by_what_can_be_shown_of_its_name(poller: Poller) -> None:
    await poller.answer(name="My\x00 pho\x1bne\u2028")
    assert (await Device.objects.aget(pk=poller.device)).name == "My phone"
    other = Poller.__new__(Poller)
    other.__dict__.update(poller.__dict__, device=str(uuid.uuid4()))
    await other.answer(name="\x00")
    assert (await Device.objects.aget(pk=other.device)).name == "A browser"


async def test_an_empty_origin_is_none(poller: Poller) -> None:
    poller.known["origin"] = ""
    status, said = await poller.post({"type": "ping"})
    assert (status, said["code"]) == (403, "csrf")


async def test_the_id_of_a_stream_moves_when_all_of_the_snapshot_is_there(
    poller: Poller, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = device(alice, conversation)
    await (await laptop.connect()).synced()
    run = (await laptop.ask("/rate 0 /long 20000"))["run"]
    await until(lambda: laptop.view.state_of(run) == "completed", deadline=30)
    stream = exchange(
        "GET",
        f"{poller.path}/events",
        {"device": poller.device},
        {**poller.known, "accept": "text/event-stream"},
    )
    kinds: list[tuple[str, bool]] = []
    pending = b""
    async for part in stream.parts():
        *events, pending = (pending + part).split(b"\n\n")
        for event in events:
            data = next(line for line in event.split(b"\n") if line.startswith(b"data: "))
            kinds.append((json.loads(data[6:])["type"], event.startswith(b"id: ")))
        if kinds and kinds[-1][0] == "sync":
            break
    await stream.end()
    assert ("snapshot.text", False) in kinds, "it is too long for the snapshot itself"
    assert kinds[-1] == ("sync", True)
    assert [kind for kind, has_id in kinds if has_id] == ["sync"]
