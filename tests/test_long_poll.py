"""What only polls can get wrong: two at once, and answers that nobody has read."""

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from chat import host as hosts
from chat.models import Conversation
from tests.device import sign_in, until
from tests.poller import Poller

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
async def poller(host: hosts.Host, alice: User, conversation: Conversation) -> Poller:
    return Poller(conversation, await sync_to_async(sign_in)(alice))


def kinds(answer: dict[str, Any]) -> list[str]:
    return [frame["type"] for frame in answer["frames"]]


async def test_a_poll_that_took_over_hears_on_when_the_one_before_it_dies(poller: Poller, host: hosts.Host) -> None:
    first = await poller.begin_quietly()
    after = poller.after
    old = poller.ask(connection=first["connection"], after=after, wait="20")
    await until(lambda: len(host.roster) == 1)
    new = poller.ask(connection=first["connection"], after=after, wait="20")
    await asyncio.sleep(0)
    await old.end()
    await poller.say(type="conversation.rename", title="Heard")
    async with asyncio.timeout(10):
        heard = json.loads(await new.whole())
    assert kinds(heard) == ["conversation.renamed"]


async def test_a_poll_that_is_taken_over_is_told_nothing_and_cannot_go_on(poller: Poller) -> None:
    first = await poller.begin_quietly()
    after = poller.after
    old = poller.ask(connection=first["connection"], after=after, wait="20")
    for _ in range(10):
        await asyncio.sleep(0)
    new = poller.ask(connection=first["connection"], after=after, wait="20")
    for _ in range(10):
        await asyncio.sleep(0)
    await poller.say(type="conversation.rename", title="For the new one")
    heard, nothing = json.loads(await new.whole()), json.loads(await old.whole())
    assert "conversation.renamed" in kinds(heard)
    assert nothing == {"connection": first["connection"], "frames": []}
    anew = await poller.begin(connection=nothing["connection"], after=after)
    assert kinds(anew)[0] == "hello"
    assert "conversation.renamed" in kinds(anew)


async def test_an_answer_that_was_lost_is_given_again(poller: Poller) -> None:
    first = await poller.begin_quietly()
    after = poller.after
    await poller.say(type="conversation.rename", title="Once")
    lost = await poller.answer(connection=first["connection"], after=after)
    assert kinds(lost) == ["conversation.renamed"]
    again = await poller.begin(connection=first["connection"], after=after)
    assert kinds(again)[0] == "hello"
    assert [kind for kind in kinds(again) if kind.startswith("conversation.")] == ["conversation.renamed"]


async def test_a_short_poll_holds_nothing(poller: Poller) -> None:
    first = await poller.begin_quietly()
    async with asyncio.timeout(10):
        nothing = await poller.answer(connection=first["connection"], after=poller.after, wait="0")
    assert kinds(nothing) == []


@pytest.mark.parametrize("wait", ["-1", "nan", "soon", ""])
async def test_a_wait_that_is_none_does_no_harm(poller: Poller, wait: str) -> None:
    assert kinds(await poller.answer(wait=wait))[0] == "hello"
