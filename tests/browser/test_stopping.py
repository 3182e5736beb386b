"""Stop: on any screen, at any time, and only when somebody meant it."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import until

pytestmark = pytest.mark.browser


async def test_s6_stop_from_another_screen_ends_the_answer_on_both(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(50)
    phone = await story.open()
    await phone.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        await screen.shows(".how.stopped", f"Stopped by {laptop.user}, Chrome on Linux.")
        assert await screen.answer() == story.runs()[0]["text"]
    assert len(await laptop.answer()) >= 50
    assert not (await laptop.answer()).endswith("word5000")
    await story.same_as_reload(laptop)


async def test_only_a_whole_answer_says_exactly_how_much_was_written(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 0 /long 20")
    await laptop.ended("completed")
    await laptop.shows(".usage", "20 out")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("completed", "cancelled")
    first, second = await laptop.texts(".usage")
    assert "tokens in, 20 out" in first
    assert "tokens in, about " in second  # the provider had not come to count all of it
    await story.same_as_reload(laptop)


async def test_s18_the_control_says_stopping_at_once_and_ends_by_the_server_only(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.evaluate("line.silent = 'run.cancel'")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    pressed = "() => { const stop = document.querySelector('.stop'); stop.click(); return stop.textContent; }"
    assert await laptop.page.evaluate(pressed) == "Stopping…"
    await laptop.has_said(len(await laptop.answer()) + 40)
    assert await laptop.texts(".run-bar .state") == ["Stopping…"]
    await laptop.page.evaluate("line.silent = null; line.cut()")  # asked again, under the same id
    await laptop.ended("cancelled")


async def test_s18_without_any_answer_stop_can_be_pressed_again(story: Story) -> None:
    laptop = await story.screen()
    await laptop.page.clock.install()
    await laptop.open()
    await laptop.page.evaluate("line.silent = 'run.cancel'")
    await laptop.say("/slow 60")
    await laptop.page.click(".run-bar .stop")
    await laptop.page.clock.run_for(10_500)
    await laptop.shows(".run-bar .stop:not([aria-disabled])", "Stop")
    await laptop.page.evaluate("line.silent = null")
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")


async def test_s2_stop_after_a_reload_in_the_middle(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(50)
    await laptop.reload()
    assert await laptop.states() == ["running"]
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    assert await laptop.answer() == story.runs()[0]["text"]


async def test_s3_stop_before_the_first_token(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/slow 30 /long 10")
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    await laptop.shows(".how.stopped", "before a word was written")
    assert await laptop.answer() == ""


async def test_s11_a_lost_socket_leaves_the_stop_control_alone(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(50)
    await laptop.page.evaluate("line.cut()")
    await laptop.connected("reconnecting")
    assert await laptop.texts(".run-bar .stop") == ["Stop"]
    await laptop.connected()
    assert await laptop.texts(".run-bar .stop") == ["Stop"]
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")


async def test_s1_a_lost_tab_is_not_a_stop(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 200 /long 200")
    await laptop.has_said(20)
    await laptop.close()

    async def completed() -> bool:
        return [run["state"] for run in story.runs()] == ["completed"]

    await until(completed, "the end of the answer")


async def test_stop_all_ends_everything_and_shows_only_while_something_runs(story: Story) -> None:
    laptop = await story.open()
    assert not await laptop.page.is_visible("#stop-all")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.say("/rate 50 /long 4000", "alongside")
    await laptop.say("never answered")
    await laptop.shows("#queue", "never answered")
    await laptop.page.click("#stop-all")
    await laptop.ended("cancelled", "cancelled", "cancelled")
    assert not await laptop.page.is_visible("#stop-all")
    await story.same_as_reload(laptop)


async def test_stop_all_that_arrives_late_spares_what_was_asked_since(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 50 /long 5000")
    for screen in (laptop, phone):
        await screen.has_said(20)
    await laptop.page.evaluate("line.silent = 'run.cancel'")
    await laptop.page.click("#stop-all")
    await phone.say("/rate 50 /long 4000", "alongside")
    await laptop.page.wait_for_selector(".answer[data-state=running] >> nth=1")
    await laptop.page.evaluate("line.silent = null; line.cut()")
    await laptop.page.wait_for_selector(".answer[data-state=cancelled]")
    await laptop.shows("#stop-all:not([aria-disabled])", "Stop all")
    assert await laptop.states() == ["cancelled", "running"]
    await laptop.page.click("#stop-all")
    await laptop.ended("cancelled", "cancelled")


async def test_what_runs_in_a_turn_that_is_not_loaded_can_be_stopped(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/slow 60 /long 5")
    await laptop.page.wait_for_selector(".answer[data-state=running]")
    story.site.call("history", conversation=story.conversation, turns=25, answer="said before")
    phone = await story.open()
    assert await phone.count(".run-bar") == 0
    assert await phone.page.is_visible("#when-busy")
    await phone.page.click("#stop-all")
    await phone.page.wait_for_selector("#stop-all", state="hidden")
    assert story.runs()[0]["state"] == "cancelled"
