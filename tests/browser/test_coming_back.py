"""Reloads, lost sockets, killed servers: nothing is lost, nothing is said twice."""

from urllib.parse import quote
from uuid import UUID

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import until

pytestmark = pytest.mark.browser


async def test_r3_a_reload_at_any_point_shows_what_was_written_and_goes_on(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 60 /long 240")
    whole = " ".join(f"word{number}" for number in range(1, 241))
    for characters in (1, 300, 700, 1200):
        before = await laptop.has_said(characters)
        await laptop.page.reload()
        shown = await laptop.answer()
        assert len(shown) >= len(before)
        assert whole.startswith(shown)
    await laptop.ended("completed")
    assert await laptop.answer() == whole
    await story.same_as_reload(laptop)


async def test_r2_many_lost_sockets_neither_lose_nor_repeat_a_word(story: Story) -> None:
    laptop = await story.open()
    await laptop.watch()
    await laptop.say("/rate 100 /long 20000")
    for characters in (50, 600, 1200):
        await laptop.has_said(characters)
        await laptop.page.evaluate("line.cut()")
        await laptop.connected("reconnecting")
        await laptop.connected()
    await laptop.has_said(1600)
    await story.stops_whole(laptop)
    assert len(await laptop.written()) >= 1600
    await story.same_as_reload(laptop)


async def test_r27_what_is_said_without_a_server_is_sent_once_when_it_is_back(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    story.site.kill()
    await laptop.connected("reconnecting")
    await laptop.say("/echo said in the tunnel")
    await laptop.page.fill("#composer-text", "half a thought")
    await laptop.shows(".pending", "said in the tunnel")
    story.site.start()
    # Not with the mouse: it may be back by itself already, and the button gone.
    await laptop.page.evaluate("document.getElementById('reconnect').click()")
    await laptop.connected()
    await laptop.ended("completed")
    assert await laptop.draft() == "half a thought"
    assert await laptop.count(".pending") == 0
    assert story.texts() == ["/echo said in the tunnel"]
    await story.same_as_reload(laptop)


async def test_what_could_not_be_sent_survives_the_page(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    story.site.kill()
    await laptop.connected("reconnecting")
    await laptop.say("/echo said before the lights went out")
    await laptop.page.goto("about:blank")
    story.site.start()
    await laptop.open()
    await laptop.ended("completed")
    assert story.texts() == ["/echo said before the lights went out"]
    await laptop.reload()
    assert await laptop.count(".pending") == 0
    assert len(await laptop.prompts()) == 1


@pytest.mark.parametrize("lost", ["line.silent = 'message.send'", "line.deaf = 'client_id|client-id|\"ack\"'"])
async def test_n4_an_unknown_outcome_keeps_its_id(story: Story, lost: str) -> None:
    laptop = await story.open()
    await laptop.page.evaluate(lost)
    await laptop.say("/echo once")
    await laptop.shows(".pending", "/echo once")
    if "deaf" in lost:
        await until(lambda: said(story), "the message in the database")
    await laptop.page.evaluate("line.silent = line.deaf = null; line.cut()")
    await laptop.ended("completed")
    assert story.texts() == ["/echo once"]
    assert await laptop.prompts() == ["/echo once"]
    assert await laptop.count(".pending") == 0


async def said(story: Story) -> bool:
    return story.texts() != []


async def test_r22_a_killed_server_leaves_an_interrupted_answer_and_a_way_on(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await laptop.say("/rate 15 /long 100")
    await laptop.has_said(60)
    story.site.kill()
    await laptop.connected("reconnecting")
    assert await laptop.states() == ["running"]
    story.site.start()
    await laptop.connected()
    await laptop.ended("interrupted")
    kept = await laptop.answer()
    assert kept == story.runs()[0]["text"]
    await laptop.page.click("text=Try again")
    await laptop.ended("interrupted", "completed")
    assert (await laptop.answer()).endswith("word100")
    assert not await laptop.page.is_visible("text=Try again")
    await story.same_as_reload(laptop)


async def test_a_server_killed_before_the_first_word_answers_when_it_is_back(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await laptop.say("/slow 2 /echo at last")
    await laptop.page.wait_for_selector(".answer[data-state=running]")
    story.site.kill()
    story.site.start()
    await laptop.ended("completed")
    assert await laptop.answer() == "at last"


async def test_a_deploy_sends_the_page_away_and_back(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    story.site.stop()
    await laptop.connected("reconnecting")
    story.site.start()
    await laptop.connected()
    await laptop.say("/echo still here")
    await laptop.ended("completed")


async def test_r33_a_lost_cursor_keeps_the_old_view_until_there_is_a_new_one(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/echo something")
    await laptop.ended("completed")
    await laptop.page.evaluate("document.body.dataset.epoch = '00000000-0000-4000-8000-000000000000'")
    await laptop.page.evaluate(
        "line.query = '&epoch=00000000-0000-4000-8000-000000000000'; line.deaf = 'snapshot'; line.cut()"
    )
    await laptop.page.wait_for_selector("body[data-stale]")
    assert await laptop.prompts() == ["/echo something"]
    await laptop.page.evaluate("line.query = ''; line.deaf = null; line.cut()")
    await laptop.page.wait_for_selector("body:not([data-stale])")
    assert await laptop.prompts() == ["/echo something"]
    await story.same_as_reload(laptop)


async def test_a_device_id_that_is_none_is_made_anew(story: Story) -> None:
    laptop = await story.open()
    key = f"conversation:device:{laptop.user}"
    await laptop.page.evaluate("(key) => localStorage.setItem(key, 'no id')", key)
    await laptop.reload()
    made = await laptop.page.evaluate("(key) => localStorage.getItem(key)", key)
    assert UUID(made).version == 4
    await laptop.reload()
    assert await laptop.page.evaluate("(key) => localStorage.getItem(key)", key) == made


async def test_what_is_being_written_survives_a_reload(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.fill("#composer-text", "half a\nthought")
    await laptop.reload()
    assert await laptop.draft() == "half a\nthought"


async def test_whoever_is_signed_out_is_sent_away_and_finds_their_words_again(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.fill("#composer-text", "not yet sent")
    laptop.expects_sign_out = True
    story.site.call("sign_out", session=story.session("alice"))
    await laptop.connected("stopped")
    back = quote(f"/conversations/{story.conversation}/", safe="")
    assert await laptop.page.get_attribute("#sent-away-link", "href") == f"/login/?next={back}"
    assert not await laptop.page.is_visible("#turns")
    del story.sessions["alice"]
    await laptop.context.add_cookies([{"name": "sessionid", "value": story.session("alice"), "url": story.site.url}])
    await laptop.open()
    assert await laptop.draft() == "not yet sent"


async def test_what_was_kept_and_cannot_be_sent_is_given_back_or_dropped(story: Story) -> None:
    laptop = await story.open()
    key = f"conversation:outbox:{laptop.user}:{story.conversation}:"
    huge = "too long " * 130_000  # more than a signal may be, whatever the page knows of it yet
    await laptop.page.evaluate(
        """([key, huge]) => {
          for (const broken of ["{", "null", "7", '{"text": 7}']) localStorage.setItem(key + broken.length, broken);
          const kept = { text: "/echo a good one", when_busy: "queue", at: 1 };
          localStorage.setItem(key + crypto.randomUUID(), JSON.stringify(kept));
          localStorage.setItem(key + crypto.randomUUID(), JSON.stringify({ ...kept, text: huge, at: 2 }));
        }""",
        [key, huge],
    )
    await laptop.reload()
    await laptop.shows("#problem", "too long to be sent")
    assert await laptop.draft() == huge
    await laptop.ended("completed")
    await laptop.shows("#problem", "too long to be sent")  # also when nothing runs any more: it is still so
    assert story.texts() == ["/echo a good one"]
    kept = "(key) => Object.keys(localStorage).filter((one) => one.startsWith(key)).length"
    assert await laptop.page.evaluate(kept, key) == 0
