"""The thinnest whole path, through the WebSocket door: ask, watch, stop, come back."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from chat.agent.scripted import long_text
from chat.models import Conversation, Participant
from tests.device import Device, until

Make = Callable[..., Device]


async def test_a_question_is_answered_on_every_device(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    phone = await (await device(alice, conversation).connect()).synced()
    ack = await laptop.ask("/echo Hello over there.")
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "completed"
        assert one.view.text_of(ack["run"]) == "Hello over there."
    assert laptop.view.comparable() == phone.view.comparable()


async def test_stop_keeps_what_was_shown(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    phone = await (await device(alice, conversation).connect()).synced()
    ack = await laptop.ask("/rate 200 /long 5000")
    await until(lambda: len(laptop.view.text_of(ack["run"])) > 100)
    assert (await phone.say("run.cancel", run=ack["run"]))["outcome"] == "cancelling"
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    await phone.ended(ack["run"])
    assert laptop.view.comparable() == phone.view.comparable()
    assert 100 < len(laptop.view.text_of(ack["run"])) < len(long_text(5000))


async def test_a_device_that_was_away_gets_what_it_missed(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    phone = await (await device(alice, conversation).connect()).synced()
    ack = await laptop.ask("/rate 400 /long 600")
    await until(lambda: len(phone.view.text_of(ack["run"])) > 50)
    await phone.disconnect()
    await until(lambda: len(laptop.view.text_of(ack["run"])) > 2000)
    await phone.connect()
    await phone.ended(ack["run"])
    await laptop.ended(ack["run"])
    assert laptop.view.comparable() == phone.view.comparable()
    fresh = await (await device(alice, conversation).connect()).synced()
    assert fresh.view.comparable() == laptop.view.comparable()


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("  What now?\n\nAnd then? ", "What now? And then?"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("word " * 30, "word " * 14 + "word" + "…"),
        (f"On {'x' * 100}", f"On {'x' * 76}…"),
    ],
)
def test_it_is_called_by_what_was_said_first(alice: User, conversation: Conversation, said: str, title: str) -> None:
    by = Participant.objects.select_related("conversation", "user").get(conversation=conversation, user=alice)
    for text in (said, "Something else."):
        conversation.send(by=by, text=text, client_id=uuid4())
        assert Conversation.objects.get(pk=conversation.pk).title == title
