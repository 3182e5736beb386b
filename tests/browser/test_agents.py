"""What an agent does, as people see it: thoughts, tools that are asked for, run, and come to something."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen, until
from tests.browser.test_looks import OVERFLOWS, SMALL, UNNAMED

pytestmark = pytest.mark.browser

THOUGHT = " ".join(f"thought{number}" for number in range(60))
TINY: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
OUTSIDE = """(all) => all.filter((one) => one.getBoundingClientRect().right > innerWidth + .5)
  .map((one) => one.outerHTML.slice(0, 80))"""
OUTCOMES = ("done", "error", "denied", "expired", "cancelled", "unknown")
# Milliseconds for each tenth of a megabyte that is appended, and what the page then has of it.
MEGABYTE = """async () => {
  const { append } = await import("/static/chat/text.js");
  const place = document.createElement("pre");
  place.className = "arguments";
  place.dataset.limit = "4000";
  document.getElementById("turns").append(place);
  const took = [];
  for (let tenth = 0; tenth < 10; tenth += 1) {
    const start = performance.now();
    for (let at = 0; at < 100_000; at += 20) append(place, tenth * 100_000 + at, "0123456789abcdefghij");
    place.getBoundingClientRect();
    took.push(performance.now() - start);
  }
  return [took, place.textContent.length, place.hasAttribute("data-cut")];
}"""


def result(part: dict[str, Any], outcome: str, text: str) -> dict[str, Any]:
    told = {"call": part["call"], "name": part["name"], "outcome": outcome, "error": outcome != "done", "step": 0}
    return {"type": "tool_result", **told, "text": text, "state": "done"}


def call(number: int, status: str, text: str, **more: Any) -> dict[str, Any]:
    ids = {"call": f"00000000-0000-4000-8000-{number:012d}", "id": f"toolu_{number}", "name": "tool_" * 12 + "name"}
    return {"type": "tool_use", **ids, "text": text, "input": {}, "status": status, "state": "done", "step": 0, **more}


async def reads(screen: Screen, selector: str, is_it: Callable[[str], bool]) -> str:
    """Wait until the one element of this kind has such a text, and return it."""

    async def there() -> str:
        found = await screen.texts(selector)
        return found[0].strip() if len(found) == 1 and is_it(found[0].strip()) else ""

    text: str = await until(there, f"the text of {selector}")
    return text


async def test_what_an_agent_does_is_the_same_on_every_screen_and_after_a_reload(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    gate = f"same-{story.number}"
    await laptop.say(
        f'/rate 0\n/think {THOUGHT}\n/tool repeat {{"text": "twice ", "times": 2}}\n'
        f'/tool refuse {{"why": "It is Sunday."}}\n/tool work {{"name": "{gate}"}}\n/tool nothing {{"a": 1'
    )
    for screen in (laptop, phone):
        await screen.page.wait_for_selector('.call[data-status="running"]')
        await screen.page.wait_for_selector('.call[data-status="done"]')
        await screen.page.wait_for_selector('.call[data-status="error"]')
    await story.same_as_reload(phone)
    story.site.let_go(gate)
    for screen in (laptop, phone):
        await screen.ended("completed")
        assert await screen.texts(".call .tool-name") == ["repeat", "refuse", "work"]
        assert await screen.texts(".call .status") == ["has run", "did not work", "has run"]
        assert await screen.texts(".result pre") == ["twice twice ", "It is Sunday.", f"worked on {gate}"]
        assert await screen.count("details[open]") == 0
        assert THOUGHT[:20] not in await screen.page.inner_html("#turns .answer")
    assert await laptop.normalised() == await phone.normalised()
    await story.same_as_reload(laptop)


async def test_arguments_are_seen_as_they_come(story: Story) -> None:
    laptop = await story.open()
    await laptop.say('/rate 15\n/tool repeat {"text": "one two three four five six seven eight nine ten", "times": 1}')
    await reads(laptop, "pre.arguments", lambda text: text.startswith('{"text"') and "ten" not in text)
    await laptop.shows(".call .status", "is being asked for")
    await laptop.ended("completed")
    assert await laptop.texts(".fold .arguments") == [
        '{"text": "one two three four five six seven eight nine ten", "times": 1}'
    ]


async def test_thoughts_are_not_on_the_page_until_they_are_opened_and_then_come_live(story: Story) -> None:
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await laptop.say(f"/rate 12\n/think {THOUGHT}\n/echo Well.")
    await laptop.page.wait_for_selector(".thought")
    await until(lambda: has_cursor(laptop, story, 8), "some of the thought")
    assert await laptop.count(".loaded") == 0
    await laptop.page.click(".thought summary")
    seen = await reads(laptop, ".loaded", lambda text: text.startswith("thought0 "))
    more = await reads(laptop, ".loaded", lambda text: len(text) > len(seen) + 20)
    assert THOUGHT.startswith(more)
    assert await laptop.texts(".thought summary") == ["Thinking…"]
    await laptop.page.evaluate("line.cut()")  # and what was missed meanwhile is there afterwards
    await laptop.ended("completed")
    assert await reads(laptop, ".loaded", lambda text: len(text) >= len(THOUGHT)) == THOUGHT
    assert await laptop.texts(".thought summary") == ["Thoughts"]
    assert await laptop.page.evaluate("document.querySelector('.thought').open")
    await laptop.page.click(".thought summary")
    await laptop.page.wait_for_selector(".loaded", state="detached")
    assert "thought7" not in await laptop.page.inner_html("#turns .answer")
    await story.same_as_reload(laptop)


async def has_cursor(screen: Screen, story: Story, beyond: int) -> bool:
    """The page has applied so many events."""
    head: int = story.site.call("head", conversation=story.conversation)
    return head > beyond and await screen.count(".thought") == 1


async def test_a_thought_that_cannot_be_loaded_says_so(story: Story) -> None:
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await laptop.say("/rate 0\n/think Hm.\n/echo Well.")
    await laptop.ended("completed")
    await laptop.page.route("**/parts/**", lambda route: route.abort())
    await laptop.page.click(".thought summary")
    await laptop.shows(".loaded", "could not be loaded")
    await laptop.page.unroute("**/parts/**")
    await laptop.page.click(".thought summary")
    await laptop.page.click(".thought summary")
    assert await reads(laptop, ".loaded", lambda text: text == "Hm.")


async def test_what_somebody_has_opened_stays_open_when_it_is_drawn_anew(story: Story) -> None:
    laptop = await story.open()
    gate = f"open-{story.number}"
    await laptop.say(f'/rate 0\n/think Hm.\n/tool work {{"name": "{gate}"}}\n/tool repeat {{"text": "x"}}')
    await laptop.page.wait_for_selector('.call[data-status="running"]')
    await laptop.page.wait_for_selector(".result")
    for fold in (".thought", ".tool_use:has([data-status=running]) .fold", ".result"):
        await laptop.page.click(f"{fold} > summary")
    await laptop.focused(".result > summary")
    story.site.let_go(gate)
    await laptop.ended("completed")
    assert await laptop.page.eval_on_selector_all(".answer details", "all => all.map((one) => one.open)") == [
        *(True, True, False, False, True)
    ]
    assert await reads(laptop, ".loaded", lambda text: text == "Hm.")
    await laptop.focused(".result > summary")
    assert await laptop.page.evaluate("document.activeElement.textContent.includes('x')")


async def test_how_far_a_tool_is_is_said_in_one_line_and_goes_with_it(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    gate = f"far-{story.number}"
    says = "\\n".join(f"{number} of 500" for number in range(1, 501))
    await laptop.say(f'/rate 0\n/tool work {{"name": "{gate}", "says": "{says}"}}')
    for screen in (laptop, phone):
        await screen.shows(".progress[id]", "500 of 500")
        assert await screen.count(".part .progress") == 1
        line = await screen.page.eval_on_selector(".part .progress", "one => [one.offsetHeight, one.scrollHeight]")
        assert max(line) < 30
    story.site.let_go(gate)
    for screen in (laptop, phone):
        await screen.ended("completed")
        assert await screen.count(".progress") == 0


async def test_how_far_a_tool_is_is_forgotten_in_time(story: Story) -> None:
    laptop = await story.open()
    gate = f"forgotten-{story.number}"
    await laptop.say(f'/rate 0\n/tool work {{"name": "{gate}", "says": "halfway"}}')
    await laptop.shows(".part .progress", "halfway")
    await laptop.page.evaluate(
        """async () => {
          const { whisper } = await import("/static/chat/whispers.js");
          const call = document.querySelector(".part .progress").id.slice("progress-".length);
          whisper({ type: "progress", run: "", call, text: "nearly", expires_in: .05 });
        }"""
    )
    await laptop.page.wait_for_selector(".part .progress:empty", state="attached")
    story.site.let_go(gate)
    await laptop.ended("completed")


async def test_stop_stops_a_tool_and_everybody_sees_how_it_ended(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say(f'/rate 0\n/tool work {{"name": "stop-{story.number}", "says": "busy"}}')
    await laptop.shows(".part .progress", "busy")
    await phone.page.wait_for_selector('.call[data-status="running"]')
    await phone.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        await screen.shows(".call .status", "may have run")
        await screen.shows(".decided", "nobody knows whether it took effect")
        await screen.shows(".how.stopped", f"Stopped by {phone.user}")
        assert await screen.count(".progress, .breathing") == 0
    await laptop.say("/rate 0 /echo And on.")
    await laptop.ended("cancelled", "completed")
    await story.same_as_reload(phone)


async def test_a_megabyte_of_arguments_costs_no_more_at_its_end(story: Story) -> None:
    laptop = await story.open()
    took, shown, is_cut = await laptop.page.evaluate(MEGABYTE)
    assert shown == 4_000
    assert is_cut
    assert sum(took[5:]) < 2 * sum(took[:5]) + 20


async def test_of_what_is_long_the_beginning_is_shown_and_where_all_of_it_is(story: Story) -> None:
    text = "0123456789" * 100_000
    long = call(1, "done", text)
    story.site.call("acted", conversation=story.conversation, parts=[long, result(long, "done", text)])
    laptop = await story.open()
    assert len(await laptop.page.content()) < 60_000
    assert await laptop.texts(".whole") == 2 * ["The first 2,000 of 1,000,000 characters. Show all of it"]
    for number, fold in enumerate((".fold:not(.result)", ".result")):
        await laptop.page.click(f"{fold} > summary")
        async with laptop.context.expect_page() as opened:
            await laptop.page.click(f"{fold} .whole a")
        whole = await opened.value
        assert await whole.inner_text("body") == text, number
        await whole.close()


async def test_nothing_of_it_needs_sideways_scrolling_or_a_small_finger(story: Story) -> None:
    wide = "w" * 400
    parts: list[dict[str, Any]] = [{"type": "reasoning", "text": wide, "state": "done", "step": 0}]
    for number, status in enumerate(OUTCOMES):
        decided = {"decision": status, "by": {"user": wide[:150], "device_name": wide[:80]}, "reason": wide}
        approval = {"hash": "0", "shown": wide, **decided}
        one = call(number, status, wide, **({"approval": approval} if status in ("denied", "expired") else {}))
        parts += [one, result(one, status, wide)]
    story.site.call("acted", conversation=story.conversation, parts=parts)
    phone = await story.open(**TINY)
    for summary in await phone.page.query_selector_all(".answer summary"):
        await summary.click()
    await phone.page.fill("#composer-text", f'/rate 0\n/tool erase {{"what": "{wide}"}}')
    await phone.page.click("#send")
    await phone.page.wait_for_selector(".approval")
    assert not await phone.page.evaluate(OVERFLOWS)
    assert await phone.page.evaluate(SMALL) == []
    assert await phone.page.evaluate(UNNAMED) == []
    assert await phone.page.eval_on_selector_all(".answer *", OUTSIDE) == []
