"""What a person sees of what they add to an answer: that it waits, that it was heard, or that it came too late."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import until

pytestmark = pytest.mark.browser
FLIGHTS = "Focus on flights only"
FRAMED = "(all) => all.map((one) => getComputedStyle(one).borderTopStyle !== 'none')"


async def test_what_is_added_waits_and_is_heard_on_every_screen(story: Story) -> None:
    laptop, phone = await story.open(), await story.open(viewport={"width": 320, "height": 640})
    await laptop.say("/rate 40 /long 120")
    await laptop.has_said(20)
    await laptop.say(FLIGHTS, "steer")
    for screen in (laptop, phone):
        await screen.shows(".steers .steer .said", FLIGHTS)
        await screen.shows(".steers .steer .status", "at the next step")
    for screen in (laptop, phone):
        await screen.ended("completed")
        await screen.shows(".part.steer .said", FLIGHTS)
        assert await screen.count(".steers .steer") == 0
        frames = await screen.page.eval_on_selector_all(".steer", FRAMED)
        assert sum(frames) == 1  # one frame, and not one in another
        assert await screen.count("#outbox > *") == 0
    await story.same_as_reload(laptop)
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_what_came_too_late_is_sent_with_one_click_from_any_screen(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 10 /long 400")
    await laptop.has_said(20)
    await laptop.say(FLIGHTS, "steer")
    await phone.shows(".steers .steer .said", FLIGHTS)
    await phone.page.click(".stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        await screen.shows(".steers .steer .status", "ended before it could hear this")
    await story.same_as_reload(laptop)
    await phone.page.click("[data-resend]")
    for screen in (laptop, phone):
        await screen.ended("cancelled", "completed")
        assert (await screen.prompts())[1] == FLIGHTS
        await until(lambda screen=screen: _gone(screen), "the offer to be gone")  # type: ignore[misc]
    await story.same_as_reload(laptop)


async def _gone(screen: object) -> bool:
    return await screen.count(".steers .steer") == 0  # type: ignore[attr-defined, no-any-return]
