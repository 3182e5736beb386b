"""How the parts of an answer look: each in one frame of its own, nothing on top of another."""

from typing import Any

import pytest

from tests.browser.conftest import Story
from tests.browser.test_agents import call, result
from tests.browser.test_looks import DESKTOP, PHONE

pytestmark = pytest.mark.browser

BY = {"user": "alice", "device_name": "Chrome on Linux"}
STEER = {"type": "steer", "text": "Focus on flights", "who": BY, "step": 1}
# Of the elements inside a part, and the part itself, those that have a frame or a line beside them.
FRAMES = """(part) => [part, ...part.querySelectorAll("*")].filter((one) => one.localName !== "button"
  && parseFloat(getComputedStyle(one).borderLeftWidth) > 0 && one.checkVisibility()).length"""
MIDDLES = "(all) => all.map((one) => one.getBoundingClientRect()).map(({ top, bottom }) => (top + bottom) / 2)"
LEFT = "(one) => one.getClientRects()[0].left"
# How far below the parts the bar is that says what runs; negative: it covers some of them.
ROOM = """() => {
  const shown = [...document.querySelectorAll(".part, .steers > .steer")].map((one) => one.getBoundingClientRect());
  const end = Math.max(...shown.map(({ bottom }) => bottom));
  return document.querySelector(".run-bar").getBoundingClientRect().top - end;
}"""


async def test_what_was_added_and_what_is_cited_have_one_frame_each(story: Story) -> None:
    states = ("done", "missed", "sent")
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Well.", "state": "done", "step": 0}]
    parts += [{"type": "citation", "title": "A source", "url": "", "text": "", "of": 0, "at": 2, "state": "done"}]
    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(3)]
    parts += [{**STEER, "steer": steer, "state": state} for steer, state in zip(ids, states, strict=True)]
    story.site.call("acted", conversation=story.conversation, parts=parts)
    laptop = await story.open()
    for kind, many in (("steer", 3), ("citation", 1)):
        frames = [await one.evaluate(FRAMES) for one in await laptop.page.query_selector_all(f".part.{kind}")]
        assert frames == many * [1], kind


async def test_a_decision_is_no_question_of_the_agents(story: Story) -> None:
    laptop = await story.open()
    await laptop.say('/rate 0\n/tool erase {"what": "the letters"}')
    await laptop.page.wait_for_selector(".approval")
    assert await laptop.page.eval_on_selector(".approval > p", FRAMES) == 0


@pytest.mark.parametrize("options", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_a_name_that_is_long_stays_beside_its_mark(story: Story, options: dict[str, Any]) -> None:
    long = call(1, "done", "{}")
    long["name"] = "mcp__a_server_with_a_name__" + "and_a_tool_with_another_" * 4
    story.site.call("acted", conversation=story.conversation, parts=[long, result(long, "done", "x")])
    screen = await story.open(**options)
    [dot, name] = [await screen.page.query_selector(f".call {one}") for one in (".dot", ".tool-name")]
    assert dot is not None
    assert name is not None
    assert await dot.evaluate("one => one.getBoundingClientRect().right") <= await name.evaluate(LEFT)
    tops = [await one.evaluate("(one) => one.getClientRects()[0].top") for one in (dot, name)]
    assert 0 <= tops[0] - tops[1] < 16


async def test_what_says_that_it_runs_covers_nothing_at_the_end(story: Story) -> None:
    phone = await story.open(**PHONE)
    gate = f"covers-{story.number}"
    lines = "\n".join('/tool repeat {"text": "x"}' for _ in range(8))
    await phone.page.fill("#composer-text", f'/rate 0\n{lines}\n/tool work {{"name": "{gate}"}}')
    await phone.page.click("#send")
    await phone.page.wait_for_selector('.call[data-status="running"]')
    await phone.page.locator('.call[data-status="done"]').nth(7).wait_for()
    assert await phone.page.evaluate(ROOM) >= 4
    await phone.page.fill("#composer-text", "And this")
    await phone.page.select_option("#when-busy", "steer")
    await phone.page.click("#send")
    await phone.page.wait_for_selector(".steers > .steer")
    assert await phone.page.evaluate(ROOM) >= 4
    story.site.let_go(gate)
    await phone.ended("completed")


async def test_what_attaches_files_stays_where_it_is(story: Story) -> None:
    phone = await story.open(**PHONE)
    where = "(one) => one.getBoundingClientRect().left"
    idle = await phone.page.eval_on_selector("#attach", where)
    await phone.page.fill("#composer-text", "/rate 20 /long 500")
    await phone.page.click("#send")
    await phone.page.wait_for_selector("#when-busy", state="visible")
    assert await phone.page.eval_on_selector("#attach", where) == idle
    await phone.page.click(".run-bar .stop")
    await phone.ended("cancelled")


async def test_where_one_can_go_from_the_sidebar_stands_in_one_line(story: Story) -> None:
    laptop = await story.open(**DESKTOP)
    middles = await laptop.page.eval_on_selector_all(".sidebar .account :is(a, button)", MIDDLES)
    assert len(middles) == 3
    assert max(middles) - min(middles) < 2


async def test_a_phone_has_room_for_who_one_is_and_for_what_a_message_is_made_of(story: Story) -> None:
    phone = await story.open(**PHONE)
    await phone.say("/rate 0\n/think A thought of some length, so that there is something to read.\n/echo Well.")
    await phone.page.click("#send")
    await phone.ended("completed")
    await phone.page.goto(f"{story.site.url}/usage/")
    found = await phone.page.eval_on_selector_all(".site .account :is(.who, a, button)", MIDDLES)
    assert len(found) == 4
    assert max(found) - min(found) < 2
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    story.site.call("promote", name=phone.user)
    phone.expects("404 (Not Found)")  # a browser looks for an icon that the admin does not name
    await phone.page.goto(f"{story.site.url}/admin/chat/message/{story.runs()[0]['answer']}/change/")
    assert await phone.page.eval_on_selector("table.parts pre", "(one) => one.clientWidth") > 200
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
