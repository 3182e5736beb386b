"""What to do with a message while an answer is being written."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen, until

pytestmark = pytest.mark.browser


async def waits(screen: Screen, *texts: str) -> None:
    async def as_wanted() -> bool:
        return await screen.waiting() == list(texts)

    await until(as_wanted, f"waiting: {texts}")


async def test_waiting_messages_are_changed_from_any_screen_and_survive_a_reload(story: Story) -> None:
    story.add("bob", "editor")
    laptop, phone = await story.open(), await story.open("bob")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    for text in ("/echo one", "/echo two", "/echo three"):
        await laptop.say(text)
        await laptop.shows("#queue", text)

    async def both_wait(*texts: str) -> None:
        for screen in (laptop, phone):
            await waits(screen, *texts)

    await both_wait("/echo one", "/echo two", "/echo three")
    await phone.page.locator("#queue li").nth(2).get_by_label("Move up").click()
    await both_wait("/echo one", "/echo three", "/echo two")
    await phone.page.locator("#queue li").nth(0).get_by_label("Move down").click()
    await both_wait("/echo three", "/echo one", "/echo two")
    await phone.page.locator("#queue li").nth(1).get_by_text("Edit").click()
    assert await phone.page.input_value("#editor-text") == "/echo one"
    await phone.page.fill("#editor-text", "/echo one and a half")
    await phone.page.click("#editor button:has-text('Save')")
    await both_wait("/echo three", "/echo one and a half", "/echo two")
    await phone.page.locator("#queue li").nth(2).get_by_text("Remove").click()
    await both_wait("/echo three", "/echo one and a half")
    await laptop.reload()
    await waits(laptop, "/echo three", "/echo one and a half")
    await story.same_as_reload(phone)
    await phone.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled", "completed", "completed")
        assert (await screen.prompts())[1:] == ["/echo three", "/echo one and a half"]
        await waits(screen)
    await story.same_as_reload(laptop)


async def test_the_choice_shows_only_while_something_runs(story: Story) -> None:
    laptop = await story.open()
    assert not await laptop.page.is_visible("#when-busy")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(10)
    assert await laptop.page.is_visible("#when-busy")
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    assert not await laptop.page.is_visible("#when-busy")


async def test_two_answers_side_by_side(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 15 /long 150")
    await laptop.has_said(10)
    await phone.say("/rate 15 /long 100", "alongside")
    await laptop.page.wait_for_selector(".answer[data-state=running] >> nth=1")
    for screen in (laptop, phone):
        await screen.ended("completed", "completed")
        first, second = [text.strip() for text in await screen.texts(".rendered")]
        assert first.endswith("word150")
        assert second.endswith("word100")
    await story.same_as_reload(phone)


async def test_stop_and_send(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await phone.say("/echo the other thing", "interrupt")
    for screen in (laptop, phone):
        await screen.ended("cancelled", "completed")
        assert await screen.answer() == "the other thing"
    await story.same_as_reload(laptop)


async def test_a_refused_message_comes_back_with_the_reason(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.say("only if nothing runs", "reject")
    await laptop.shows("#problem", "An answer is still running.")
    assert await laptop.draft() == "only if nothing runs"
    assert await laptop.count(".pending") == 0
    assert len(story.texts()) == 1
    await laptop.page.click("#stop-all")
    await laptop.ended("cancelled")
    await until(lambda: laptop.page.is_hidden("#problem"), "the reason is gone with what was running")


async def test_editing_what_has_started_meanwhile_says_so(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.say("/slow 20")
    await laptop.page.click("#queue [data-edit]")
    phone = await story.open()
    await phone.page.click(".run-bar .stop")
    await waits(laptop)
    await laptop.page.fill("#editor-text", "too late")
    await laptop.page.click("#editor button:has-text('Save')")
    await laptop.shows("#editor-problem", "no longer waits")


async def test_an_edit_that_is_too_long_to_be_sent_says_so_in_the_dialog(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.say("short")
    await laptop.page.click("#queue [data-edit]")
    await laptop.page.fill("#editor-text", "x" * 1_200_000)
    await laptop.page.click("#editor-save")
    await laptop.shows("#editor-problem", "too long to be sent")
    assert await laptop.page.evaluate("line.sockets.length") == 1
    await laptop.page.fill("#editor-text", "short again")
    await laptop.page.click("#editor-save")
    await waits(laptop, "short again")
    await laptop.page.wait_for_selector("#editor", state="hidden")  # by the answer; the queue is news to all


async def test_a_long_waiting_message_is_shown_in_part_and_edited_whole(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    long = "waits <b> & " * 400
    await laptop.say(long)
    await waits(laptop, long[:2000] + "…")
    await laptop.page.click("#queue [data-edit]")
    await laptop.page.wait_for_selector("#editor-text:enabled")
    assert await laptop.page.input_value("#editor-text") == long
