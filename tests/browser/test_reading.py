"""Long conversations, and a reader who is not at the end of one."""

from math import inf

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen, until

pytestmark = pytest.mark.browser

LONG = "\n\n".join(f"Paragraph {number}. " + "So it goes on, and on, and on. " * 8 for number in range(4))
# Where each turn was painted: an observer is told after layout, when a script in between may see what nobody sees.
PAINTED = """() => new Promise((done) => {
  const observer = new IntersectionObserver((entries) => {
    observer.disconnect();
    done(entries.map(({ target, boundingClientRect: { top, bottom } }) => [target.id, top, bottom]));
  });
  for (const turn of document.querySelectorAll(".turn")) observer.observe(turn);
})"""
OPENED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
TRIES = 4
SCROLL = "(top) => { document.getElementById('view').scrollTop = top; }"
DISTANCE = "() => { const v = document.getElementById('view'); return v.scrollHeight - v.clientHeight - v.scrollTop; }"
FRAMES = (
    "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"
)


async def settle(screen: Screen) -> None:
    await screen.page.evaluate(FRAMES)


async def seen(screen: Screen) -> tuple[str, float]:
    """The turn at the upper edge, and where it begins: what a reader looks at."""
    edge = 8 + await screen.page.evaluate("document.getElementById('view').getBoundingClientRect().top")
    turns = await screen.page.evaluate(PAINTED)
    return next((turn, top) for turn, top, bottom in turns if bottom > edge)


async def top_of(screen: Screen, wanted: str) -> float:
    return next(float(top) for turn, top, _ in await screen.page.evaluate(PAINTED) if turn == wanted)


async def is_at_end(screen: Screen) -> bool:
    return bool(await screen.page.evaluate(DISTANCE) < 2)


async def test_the_newest_page_comes_first_and_older_ones_leave_the_reader_in_place(story: Story) -> None:
    story.site.call("history", conversation=story.conversation, turns=70, answer=LONG)
    laptop = await story.open()
    assert await laptop.count(".turn") == 20
    assert (await laptop.prompts())[-1] == "Question 70"
    await until(lambda: is_at_end(laptop), "the end")
    for turns in (40, 60, 70):
        await laptop.page.hover("#view")
        turn, top = await seen(laptop)
        while await laptop.count(".turn") < turns:
            await laptop.page.evaluate("() => { document.getElementById('view').scrollTop -= 350; }")
            await settle(laptop)
            turn, top = await seen(laptop)
            await settle(laptop)
            assert await top_of(laptop, turn) == pytest.approx(top, abs=1)
        assert await top_of(laptop, turn) == pytest.approx(top, abs=1)
    assert await laptop.count("#older") == 0
    assert await laptop.prompts() == [f"Question {number}" for number in range(1, 71)]


async def test_p12_who_reads_further_up_is_not_moved_by_a_pixel(story: Story) -> None:
    story.site.call("history", conversation=story.conversation, turns=8, answer=LONG)
    laptop = await story.open()
    await laptop.say("/rate 200 /long 20000")
    await laptop.has_said(3000)
    await until(lambda: is_at_end(laptop), "the end, which goes on")
    await laptop.page.evaluate(SCROLL, 600)
    await settle(laptop)
    before = await seen(laptop)
    await laptop.page.wait_for_selector("#new-text", state="visible")
    for _ in range(20):
        await settle(laptop)
        assert await seen(laptop) == before
    await laptop.page.click("#new-text")
    await until(lambda: is_at_end(laptop), "the end")
    assert not await laptop.page.is_visible("#new-text")
    await laptop.page.click("#stop-all")  # which stays where it is: nothing need be scrolled to click it
    await laptop.ended(*["completed"] * 8, "cancelled")
    await settle(laptop)
    await until(lambda: is_at_end(laptop), "the end, still")


async def test_p3_other_messages_are_not_touched_while_an_answer_is_written(story: Story) -> None:
    story.site.call("history", conversation=story.conversation, turns=10, answer=LONG)
    laptop = await story.open()
    await laptop.page.evaluate(
        """() => { window.touched = [];
        const note = (records) => records.forEach(({target}) => {
          const turn = (target.closest ? target : target.parentElement).closest(".turn");
          if (turn && turn !== document.querySelector(".turn:last-child")) window.touched.push(turn.id); });
        new MutationObserver(note).observe(document.getElementById("transcript"),
          {subtree: true, childList: true, attributes: true, characterData: true}); }"""
    )
    await laptop.say("/rate 0 /long 500")
    await laptop.ended(*["completed"] * 11)
    assert await laptop.page.evaluate("window.touched") == []


async def reads_up_to(laptop: Screen, turns: int) -> None:
    """Go to the top again and again: what is put above moves what was there down, out of its sight."""

    async def are_there() -> bool:
        await laptop.page.evaluate(SCROLL, 0)
        return await laptop.count(".turn") >= turns

    await until(are_there, f"{turns} turns")


async def test_p1_a_thousand_messages_open_fast_and_keys_are_painted_while_an_answer_is_written(story: Story) -> None:
    story.site.call("history", conversation=story.conversation, turns=500, answer=LONG)
    laptop = await story.screen()
    await laptop.open()  # the first one warms both sides up
    opened, typed = inf, inf  # on a busy machine, the best of some
    for _ in range(TRIES):
        await laptop.reload()
        opened = min(opened, await laptop.page.evaluate(OPENED))
        if opened < 3000:
            break
    await laptop.page.click("#view")
    for turns in range(40, 501, 20):
        await reads_up_to(laptop, turns)
    await laptop.say("/rate 100 /long 20000")
    await laptop.has_said(100)
    await laptop.page.evaluate(
        """() => {
        document.getElementById("composer-text").addEventListener("input", () => {
          const begun = performance.now();
          requestAnimationFrame(() => setTimeout(() => window.painted.push(performance.now() - begun))); }); }"""
    )
    for _ in range(TRIES):
        await laptop.page.evaluate("window.painted = []")
        await laptop.page.locator("#composer-text").press_sequentially("typed while it writes " * 3, delay=20)
        await settle(laptop)
        painted = sorted(await laptop.page.evaluate("window.painted"))
        typed = min(typed, painted[len(painted) // 2])
        if typed < 150:
            break
    print(f"opened in {opened:.0f} ms; key to paint: median {typed:.0f}, worst {painted[-1]:.0f} ms")
    assert opened < 3000
    assert typed < 150
    assert await laptop.states() == [*["completed"] * 500, "running"]
    await laptop.page.click("#stop-all")
    await laptop.ended(*["completed"] * 500, "cancelled")


async def test_d3_the_back_button_shows_the_newest_state(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.page.click("#sidebar .brand")
    await phone.say("/echo said meanwhile")
    await phone.ended("completed")
    await laptop.page.go_back()
    await laptop.ended("completed")
    assert await laptop.answer() == "said meanwhile"
    await laptop.page.goto(f"{story.site.url}/")
    await laptop.page.click(f"#row-{story.conversation}")
    await laptop.ended("completed")


async def test_a_retry_of_an_old_turn_comes_where_it_belongs_or_not_at_all(story: Story) -> None:
    laptop = await story.open()
    await laptop.say("/rate 0 /fail overloaded")
    await laptop.ended("failed")
    story.site.call("history", conversation=story.conversation, turns=25, answer="Short.")
    late = await story.open()
    assert await late.count(".turn") == 20
    await laptop.page.click("text=Try again")
    await laptop.page.wait_for_selector(".answer[data-state=failed] >> nth=1")
    await until(lambda: caught_up(story, late), "the other screen has it, too")
    assert (await late.prompts())[0] == "Question 6"
    assert (await late.prompts())[-1] == "Question 25"


async def caught_up(story: Story, screen: Screen) -> bool:
    await screen.page.evaluate("document.getElementById('details').open = true")
    shown = await screen.page.inner_text("#detail-cursor") if await screen.page.is_visible("#panel") else None
    if shown is None:
        await screen.page.click("#open-panel")
        return False
    return shown == str(story.site.call("head", conversation=story.conversation))
