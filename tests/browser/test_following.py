"""Two people, several screens, the same words."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import Story, on_one_loop
from tests.browser.screen import words
from tests.browser.site import Site

pytestmark = pytest.mark.browser


@pytest.fixture
def quick_site(tmp_path: Path) -> Iterator[Site]:
    """One whose heart beats every second."""
    made = Site(tmp_path, CHAT_HEARTBEAT_SECONDS="1").start()
    yield made
    made.close()


@on_one_loop()
async def quick_story(quick_site: Site, browser: Browser) -> AsyncIterator[Story]:
    told = Story(quick_site, browser)
    yield told
    await told.over()


async def test_two_screens_see_question_and_answer_word_for_word(story: Story) -> None:
    story.add("bob", "editor")
    laptop, phone = await story.open(), await story.open("bob")
    await laptop.say("/rate 200 /long 200 /hang")
    for screen in (laptop, phone):
        await screen.writes(words(200))
    await laptop.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        assert await screen.prompts() == ["/rate 200 /long 200 /hang"]
        assert await screen.answer() == story.runs()[0]["text"] == words(200)
    assert await laptop.count("#outbox > *") == 0
    await story.same_as_reload(laptop)
    await story.same_as_reload(phone)


async def test_a_screen_opened_in_the_middle_of_an_answer_shows_it_whole(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 100 /long 900 /hang")
    await laptop.has_said(200)
    phone = await story.open()
    assert (await phone.answer()).startswith("word1 word2 word3 ")
    for screen in (laptop, phone):
        await screen.writes(words(900))
    await phone.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        assert await screen.answer() == story.runs()[0]["text"] == words(900)
    await story.same_as_reload(phone)


async def test_an_answer_goes_on_when_the_browser_that_asked_is_closed(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 100 /long 150")
    await laptop.has_said(50)
    await laptop.close()
    phone = await story.open()
    await phone.ended("completed")
    assert (await phone.answer()).endswith("word150")


async def test_a_very_long_answer_at_full_speed_arrives_whole(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 0 /long 30000")
    for screen in (laptop, phone):
        await screen.ended("completed")
        assert await screen.answer() == story.runs()[0]["text"]


async def test_a_socket_that_has_fallen_silent_is_noticed(quick_story: Story) -> None:
    laptop = await quick_story.open()
    await laptop.page.evaluate("line.deaf = '.'")
    await laptop.connected("reconnecting")
    await laptop.page.evaluate("line.deaf = null")
    await laptop.connected()


async def test_a_phone_that_wakes_up_looks_at_once(story: Story) -> None:
    phone = await story.open()
    await phone.page.evaluate("line.deaf = '.'")
    await phone.page.evaluate("dispatchEvent(new Event('online'))")
    await phone.connected("reconnecting")
    await phone.page.evaluate("line.deaf = null; dispatchEvent(new Event('online'))")
    await phone.connected()
