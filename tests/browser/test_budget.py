"""What an answer has used, what is left of a budget, and how a refusal looks."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import until

pytestmark = pytest.mark.browser


async def test_what_an_answer_used_stands_under_it_on_every_device_and_after_a_reload(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 0 /long 2000")
    for screen in (laptop, phone):
        await screen.shows(".usage", "4 tokens in, 2,000 out · about 0.0300 USD (pretended)")
        await screen.page.click("#open-panel")
        await screen.shows("#spent", "4 tokens in, 2,000 out · about 0.0300 USD")
        await screen.page.keyboard.press("Escape")
        await story.same_as_reload(screen)


async def test_a_budget_warns_and_then_refuses_with_the_text_kept_in_the_composer(story: Story) -> None:
    laptop = await story.open()
    story.site.call("budget", name=laptop.user, limit="0.01")
    await laptop.say("/rate 0 /long 550")
    await laptop.shows("#budget", "Your budget for this month is used to 82 %")
    await laptop.say("/rate 0 /long 150")
    await laptop.shows("#budget", "Your budget for this month is used up: ")
    await laptop.page.fill("#composer-text", "What I wanted to say")
    await laptop.page.click("#send")
    await laptop.shows("#problem", "An administrator of this site can raise it.")
    assert await laptop.draft() == "What I wanted to say"
    assert await laptop.count(".turn") == 2
    await story.same_as_reload(laptop)
    page = laptop.page
    await page.goto(f"{story.site.url}/usage/")
    assert "of 0.01 USD" in await page.inner_text(".sum")
    assert await page.get_by_role("meter", name="Budget used").count() == 1
    assert "its price is pretended" in await page.inner_text("main")
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320


async def test_an_answer_that_the_budget_stops_says_so_and_can_be_tried_again_later(story: Story) -> None:
    laptop = await story.open()
    story.site.call("budget", name=laptop.user, limit="0.01")
    await laptop.say("/rate 400 /long 3000")
    await laptop.ended("cancelled")
    await laptop.shows(".how.cut", f"Stopped. The budget of {laptop.user} for ")
    await story.same_as_reload(laptop)
    await laptop.page.click(".retry")
    await laptop.shows("#problem", "Your budget for ")
    story.site.call("budget", name=laptop.user, limit="5")
    await laptop.page.click(".retry")

    async def answers() -> bool:
        return await laptop.count(".run-bar") == 1

    await until(answers, "another try")
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled", "cancelled")
