"""What the agent asks of the devices of its person: questions they answer, and what a page answers by itself."""

import json
from typing import Any

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen
from tests.browser.test_looks import OVERFLOWS, PHONE, SMALL, UNNAMED

pytestmark = pytest.mark.browser

COLOURS = {"question": "Which colour shall the door have?", "options": ["Red", "Green", "A very dark blue"]}


async def asked(screen: Screen, **arguments: Any) -> None:
    """Let the agent ask this, and wait until it is there."""
    await screen.say(f"/rate 0\n/tool ask_user {json.dumps(arguments)}")
    await screen.page.wait_for_selector("form.ask:visible")


async def test_an_answer_from_the_phone_is_everywhere_and_the_agent_goes_on(story: Story) -> None:
    story.add("bob", "editor")
    laptop, phone, bob = await story.open(), await story.open(**PHONE), await story.open("bob")
    await asked(laptop, **COLOURS)
    await phone.page.wait_for_selector("form.ask:visible")
    await bob.shows(".question .for-the-others", f"Only {laptop.user} can answer.")
    assert await bob.page.locator("form.ask:visible").count() == 0
    await laptop.shows(".run-bar .state", "Waiting for an answer")
    await phone.page.get_by_label("Green", exact=True).check()
    await phone.page.fill("form.ask textarea", "but only outside")
    await phone.page.click("form.ask button:text-is('Answer')")
    for screen in (laptop, phone, bob):
        await screen.ended("completed")
        await screen.shows(".replied .words", "Green\nbut only outside")
        await screen.shows(".replied .who", laptop.user)
        assert await screen.page.locator("form.ask").count() == 0
    assert "Green" in await laptop.answer()
    await story.same_as_reload(laptop)
    await story.same_as_reload(bob)


async def test_of_two_screens_that_answer_the_first_is_shown_on_both(story: Story) -> None:
    laptop, phone = await story.open(), await story.open(**PHONE)
    await asked(laptop, **COLOURS)
    await phone.page.wait_for_selector("form.ask:visible")
    await laptop.page.get_by_label("Red").check()
    await phone.page.get_by_label("Green", exact=True).check()
    for screen in (laptop, phone):
        await screen.page.evaluate("document.querySelector('form.ask').requestSubmit()")
    for screen in (laptop, phone):
        await screen.ended("completed")
    [one], [other] = await laptop.texts(".replied .words"), await phone.texts(".replied .words")
    assert one == other
    assert one in {"Red", "Green"}
    await story.same_as_reload(phone)


async def test_what_is_half_written_outlives_a_reload_and_a_fresh_view(story: Story) -> None:
    laptop = await story.open()
    await asked(laptop, **COLOURS)
    await laptop.page.get_by_label("A very dark blue").check()
    await laptop.page.fill("form.ask textarea", "like the se")
    await laptop.reload()
    await laptop.page.wait_for_selector("form.ask:visible")
    assert await laptop.page.get_by_label("A very dark blue").is_checked()
    assert await laptop.page.input_value("form.ask textarea") == "like the se"
    await laptop.page.locator("form.ask textarea").press("End")
    await laptop.page.keyboard.type("a")
    await laptop.page.keyboard.press("Enter")
    await laptop.ended("completed")
    await laptop.shows(".replied .words", "A very dark blue\nlike the sea")
    assert await laptop.page.evaluate("Object.keys(sessionStorage).filter((key) => key.startsWith('question'))") == []


async def test_a_keyboard_answers_and_a_screen_reader_hears_of_the_question(story: Story) -> None:
    laptop = await story.open()
    await laptop.remember("#announce")
    await asked(laptop, question="Tea or coffee?", options=["Tea", "Coffee"], free_text=False)
    await laptop.had("A question for you: Tea or coffee?")
    form = laptop.page.get_by_role("form", name="Tea or coffee?")
    await form.get_by_role("button", name="Answer").press("Enter")
    await laptop.shows("form.ask [role=alert]", "Choose an answer first, or skip the question.")
    await laptop.focused("form.ask input[value='Tea']")
    await laptop.page.keyboard.press("Space")
    await laptop.page.keyboard.press("ArrowDown")
    assert await form.get_by_role("radio", name="Coffee").is_checked()
    await laptop.page.keyboard.press("Enter")
    await laptop.ended("completed")
    await laptop.shows(".replied .words", "Coffee")
    await laptop.focused(".part.tool_use")  # where the answer is read


async def test_an_answer_that_did_not_arrive_is_not_given_after_another_one(story: Story) -> None:
    laptop = await story.screen()
    laptop.expects_network_trouble = True
    await laptop.page.clock.install()
    await laptop.open()
    await asked(laptop, question="Tea or coffee?", options=["Tea", "Coffee"], free_text=False)
    await laptop.page.evaluate("line.silent = 'tool.result'")
    await laptop.page.get_by_role("radio", name="Tea").check()
    reply = laptop.page.get_by_role("button", name="Answer", exact=True)
    await reply.click()
    await laptop.page.clock.run_for(10_500)
    await laptop.shows("#problem", "The server did not answer. Try it again.")
    await laptop.page.get_by_role("radio", name="Coffee").check()
    await reply.click()
    await laptop.page.evaluate("line.silent = null; line.cut()")
    await laptop.ended("completed")
    await laptop.shows(".replied .words", "Coffee")


async def test_who_skips_a_question_lets_the_agent_go_on(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await asked(laptop, question="How old are you?")
    await laptop.page.click("form.ask button:text-is('Skip')")
    for screen in (laptop, phone):
        await screen.ended("completed")
        await screen.shows(".no-reply", f"{laptop.user} did not want to answer.")
    assert "chose not to answer" in await laptop.answer()
    await story.same_as_reload(laptop)


async def test_a_stop_takes_the_form_from_every_screen(story: Story) -> None:
    laptop, phone = await story.open(), await story.open(**PHONE)
    await asked(laptop, **COLOURS)
    await phone.page.wait_for_selector("form.ask:visible")
    await laptop.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        assert await screen.count("form.ask") == 0
        await screen.shows(".no-reply", "Stopped before there was an answer.")
    await story.same_as_reload(phone)


async def test_a_viewer_reads_the_question_and_has_no_form(story: Story) -> None:
    story.add("bob", "viewer")
    laptop = await story.open()
    await asked(laptop, **COLOURS)
    bob = await story.open("bob")
    await bob.shows(".asks", "Which colour shall the door have?")
    await bob.shows(".for-the-others", f"Only {laptop.user} can answer.")
    assert await bob.page.locator("form.ask:visible").count() == 0


@pytest.mark.parametrize("width", [320, 1280])
async def test_a_question_has_room_and_every_control_a_name_and_a_size(story: Story, width: int) -> None:
    screen = await story.open(viewport={"width": width, "height": 900}, has_touch=width < 400, is_mobile=width < 400)
    long = "w" * 60
    given = {"question": f"Is it {long * 5}?", "options": [long * 2, "Yes", "<b>No</b> & \u202enever"], "several": True}
    await screen.page.fill("#composer-text", f"/rate 0\n/tool ask_user {json.dumps(given)}")
    await screen.page.click("#send")
    await screen.page.wait_for_selector("form.ask:visible")
    assert not await screen.page.evaluate(OVERFLOWS)
    assert await screen.page.evaluate(SMALL) == []
    assert await screen.page.evaluate(UNNAMED) == []
    high = "all => all.every((one) => one.getBoundingClientRect().height >= 44)"
    assert await screen.page.eval_on_selector_all(".option", high)
    assert await screen.count(".option b") == 0


# What the page says about tools from now on.
OVERHEARD = """() => { const socket = line.sockets.at(-1), send = socket.send.bind(socket); window.said = [];
  socket.send = (data) => { if (/tool.result/.test(data)) said.push(JSON.parse(data)); send(data); }; }"""


async def test_a_page_answers_by_itself_what_it_knows_of_its_device_and_once(story: Story) -> None:
    story.add("bob", "editor")
    options = {"timezone_id": "Pacific/Chatham", "locale": "de-AT"}
    laptop, other, bob = await story.open(**options), await story.open(**options), await story.open("bob")
    for screen in (laptop, other, bob):
        await screen.page.evaluate(OVERHEARD)
    await laptop.say("/rate 0\n/tool this_device")
    for screen in (laptop, other, bob):
        await screen.ended("completed")
    assert '"time_zone":"Pacific/Chatham"' in await laptop.answer()
    assert '"language":"de-AT"' in await laptop.answer()
    assert "Answered by" in await laptop.answer()
    assert await bob.page.evaluate("said") == []
    for screen in (laptop, other):
        assert len(await screen.page.evaluate("said")) <= 1
    await story.same_as_reload(bob)


async def test_what_was_offered_before_a_page_was_loaded_it_answers_as_well(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.evaluate("line.silent = 'tool.result'")
    await laptop.say("/rate 0\n/tool this_device")
    await laptop.page.wait_for_selector("[data-offer]")
    await laptop.shows(".tool_use .status", "waits for a device")
    await laptop.shows(".run-bar .state", "Waiting for an answer")
    await laptop.reload()
    await laptop.ended("completed")
    assert "time_zone" in await laptop.answer()
