"""What a person sees of a model's limits: that it no longer reads the beginning, and that an answer was too long."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import Story
from tests.browser.screen import until
from tests.browser.site import Site

pytestmark = pytest.mark.browser
LINE = "Earlier messages were summarised for the model"
PROGRESS = """() => {
  const progress = () => window.remembered.push(document.querySelector(".progress")?.textContent);
  window.remembered = [];
  new MutationObserver(progress).observe(document.getElementById("turns"), { childList: true, subtree: true });
}"""


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Site]:
    """Its model reads 300 tokens at once."""
    made = Site(tmp_path, CHAT_WINDOWS='{"scripted": 300}', CHAT_TOOLS="").start()
    yield made
    made.close()


async def test_the_cut_is_a_quiet_line_whose_text_is_there_for_who_opens_it(forgetful: Site, browser: Browser) -> None:
    story = Story(forgetful, browser)
    laptop, phone = await story.open(), await story.open(viewport={"width": 320, "height": 640})
    for number in range(3):
        await laptop.say(f"/rate 0 /long {80 + number}")
        await laptop.ended(*["completed"] * (number + 1))
    await laptop.page.evaluate(PROGRESS)
    await laptop.say("/rate 0 /long 10")
    await laptop.had("Summarising earlier messages…")
    for screen in (laptop, phone):
        await screen.shows(".summary > details > summary", LINE)
        await screen.ended(*["completed"] * 4)
    assert await laptop.texts(".summary .loaded") == []
    assert await laptop.texts(".progress") == []
    order = await laptop.page.eval_on_selector_all("#turns > *", "all => all.map((one) => one.className)")
    assert order == ["turn", "turn", "turn", "summary", "turn"]
    await story.same_as_reload(laptop)
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await phone.page.focus(".summary summary")
    await phone.page.keyboard.press("Enter")
    await phone.shows(".summary .loaded", "3 things were asked here, among them:")
    await story.over()


async def test_an_answer_that_was_too_long_goes_on_when_somebody_says_so(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 0 /long 5 /max")
    for screen in (laptop, phone):
        await screen.shows(".how.cut", "The answer reached its length limit and ends here.")
    await story.same_as_reload(laptop)
    await phone.page.click(".continue")
    for screen in (laptop, phone):
        await until(lambda screen=screen: screen.count(".turn:nth-of-type(2) .ending"), "another answer")  # type: ignore[misc]
        assert (await screen.prompts())[1] == "Continue exactly where your answer ended."
        assert await screen.page.locator(".continue").is_visible() is False
