"""For a keyboard, for a small phone, for a finger, for a screen reader."""

from typing import Any

import pytest

from tests.browser.conftest import Story

pytestmark = pytest.mark.browser

OVERFLOWS = """() => [document.documentElement, document.getElementById("view")]
  .some((one) => one.scrollWidth > one.clientWidth)"""
SMALL = """() => [...document.querySelectorAll("button, select, textarea, summary, .button, .conversations a")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }))
  .map((one) => [one.id || one.textContent.trim(), one.getBoundingClientRect()])
  .filter(([, box]) => box.height && (box.height < 43.5 || box.width < 43.5)).map(([name]) => name)"""
UNNAMED = """() => [...document.querySelectorAll("button, select, textarea, input:not([type=hidden])")]
  .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
  .map((one) => one.outerHTML)"""
# What of the header is not wholly in it, or lies over something else there.
OUT_OF_PLACE = """() => {
  const header = document.querySelector(".top"), frame = header.getBoundingClientRect();
  const shown = [...header.querySelectorAll("button, #title, #connection")]
    .filter((one) => one.checkVisibility()).map((one) => [one.id, one.getBoundingClientRect()]);
  const outside = ({ left, right, top, bottom }) =>
    left < frame.left - .5 || right > frame.right + .5 || top < frame.top - .5 || bottom > frame.bottom + .5;
  const meet = (a, b) =>
    a.left < b.right - .5 && b.left < a.right - .5 && a.top < b.bottom - .5 && b.top < a.bottom - .5;
  return shown.filter(([, box]) => outside(box) || shown.some(([, other]) => other !== box && meet(box, other)))
    .map(([id]) => id);
}"""
# Buttons of the header that are higher than one line of words.
HIGH = """() => [...document.querySelectorAll(".top button")]
  .filter((one) => one.getBoundingClientRect().height > 45).map((one) => one.id)"""
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


async def test_a_phone_of_360_pixels_needs_no_sideways_scrolling(story: Story) -> None:
    story.add("bob-of-the-remarkably-long-and-unbroken-name-that-no-one-expected", "editor")
    phone = await story.open(**PHONE)
    wide = "w" * 300
    await phone.page.fill(
        "#composer-text", f"/rate 0 /echo ```\n{wide}\n```\n\n| {wide} | {wide} |\n|-|-|\n| a | b |\n\n{wide}"
    )
    await phone.page.click("#send")
    await phone.ended("completed")
    assert not await phone.page.evaluate(OVERFLOWS)
    for text in ("/rate 20 /long 900", f"waits {wide}"):
        await phone.page.fill("#composer-text", text)
        await phone.page.click("#send")
    await phone.page.wait_for_selector("#queue li")
    assert not await phone.page.evaluate(OVERFLOWS)
    assert await phone.page.evaluate(SMALL) == []
    await phone.page.click("#open-panel")
    assert not await phone.page.evaluate(OVERFLOWS)
    await phone.page.click("#panel .close")
    await phone.page.click("#open-drawer")
    await phone.page.wait_for_selector("#sidebar .brand", state="visible")
    assert await phone.page.evaluate(SMALL) == []
    await phone.page.keyboard.press("Escape")
    await phone.focused("#open-drawer")
    await phone.page.goto(f"{story.site.url}/")
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("options", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_the_header_holds_together_without_a_connection(story: Story, options: dict[str, Any]) -> None:
    screen = await story.open(**options)
    screen.expects_network_trouble = True
    await screen.page.fill("#composer-text", "/rate 20 /long 2000")
    await screen.page.click("#send")
    await screen.has_said(10)
    for state in ("live", "reconnecting", "offline"):
        if state == "reconnecting":  # and nothing brings it back
            await screen.page.route("**/events?*", lambda route: route.abort())
            await screen.page.evaluate("window.WebSocket = null; line.cut()")
        elif state == "offline":
            await screen.context.set_offline(True)
        await screen.connected(state)
        assert await screen.page.evaluate(OUT_OF_PLACE) == []
        assert await screen.page.evaluate(HIGH) == []
        assert await screen.page.evaluate("document.getElementById('title').clientWidth") > 80
        assert not await screen.page.evaluate(OVERFLOWS)
        assert await screen.page.evaluate(SMALL) == []
        assert await screen.page.is_visible("#stop-all")
        assert await screen.page.is_visible("#reconnect") == (state != "live")


async def test_headings_and_endings_have_one_line_on_a_desktop(story: Story) -> None:
    laptop = await story.open(**DESKTOP)
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    for line in (".how.stopped", ".prompt .by"):
        [height, lines] = await laptop.page.eval_on_selector(
            line,
            """(one) => { const { lineHeight, paddingTop, paddingBottom } = getComputedStyle(one);
            const room = one.clientHeight - parseFloat(paddingTop) - parseFloat(paddingBottom);
            return [room, room / parseFloat(lineHeight)]; }""",
        )
        assert lines < 1.5, (line, height)


@pytest.mark.parametrize("options", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_the_roles_of_people_are_in_one_line(story: Story, options: dict[str, Any]) -> None:
    story.add("bob", "editor")
    story.add("vera-of-the-remarkably-long-and-unbroken-name", "viewer")
    edges = "(all) => all.filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect().right)"
    for who in ("alice", "bob"):
        screen = await story.open(who, **options)
        await screen.page.click("#open-panel")
        right = await screen.page.eval_on_selector_all("#people :is(.role, select)", edges)
        assert len(right) == 3
        assert max(right) - min(right) < 1
        names = "(all) => Math.min(...all.map((one) => one.getBoundingClientRect().width))"
        assert await screen.page.eval_on_selector_all("#people .who", names) > 60
        await screen.page.wait_for_selector("#people li[data-online]")
        assert not await screen.page.evaluate(
            "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.getElementById('panel'))"
        )


async def test_the_dialog_that_edits_has_no_line_above_its_label(story: Story) -> None:
    laptop = await story.open()
    line = "(one) => getComputedStyle(one).borderTopWidth"
    assert await laptop.page.eval_on_selector("#editor-form", line) == "0px"
    assert await laptop.page.eval_on_selector("#rename", line) == "1px"


async def test_a_device_that_is_here_was_seen_just_now(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.goto(f"{story.site.url}/devices/")
    await laptop.shows(".device .about", "last seen just now")


async def test_enter_is_a_new_line_on_a_touch_keyboard(story: Story) -> None:
    phone = await story.open(**PHONE)
    await phone.page.fill("#composer-text", "one")
    await phone.page.press("#composer-text", "Enter")
    assert await phone.draft() == "one\n"


async def test_shift_and_enter_is_a_new_line_and_enter_sends(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.fill("#composer-text", "/echo one")
    await laptop.page.press("#composer-text", "Shift+Enter")
    await laptop.page.locator("#composer-text").press_sequentially("two")
    await laptop.page.press("#composer-text", "Enter")
    await laptop.ended("completed")
    assert await laptop.draft() == ""
    assert await laptop.prompts() == ["/echo one\ntwo"]


async def test_everything_can_be_done_from_the_keyboard(story: Story) -> None:
    laptop = await story.open()
    keyboard = laptop.page.keyboard

    async def tab_to(selector: str) -> None:
        for _ in range(60):
            await keyboard.press("Tab")
            if await laptop.page.evaluate(f"document.activeElement.matches({selector!r})"):
                outline = await laptop.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none" or selector == "#composer-text", (
                    f"{selector} does not show that it has the focus"
                )
                return
        raise AssertionError(f"Tab never comes to {selector}")

    await tab_to(".skip")
    await keyboard.press("Enter")
    await laptop.focused("#composer-text")
    await keyboard.type("/rate 50 /long 5000")
    await keyboard.press("Enter")
    await laptop.has_said(20)
    await keyboard.type("waits")
    await keyboard.press("Enter")
    await laptop.page.wait_for_selector("#queue li")
    await tab_to("#queue [data-edit]")
    await keyboard.press("Enter")
    await laptop.focused("#editor-text")
    await keyboard.press("Escape")
    await laptop.focused("#queue [data-edit]")
    await tab_to("#queue [data-signal='queue.remove']")
    await keyboard.press("Enter")
    await laptop.page.wait_for_selector("#queue", state="hidden")
    await tab_to(".run-bar .stop")
    await keyboard.press("Enter")
    await laptop.ended("cancelled")
    assert await laptop.page.evaluate("document.activeElement !== document.body")
    await tab_to("#open-panel")
    await keyboard.press("Enter")
    await tab_to("#details summary")
    await keyboard.press("Enter")
    await laptop.shows("#detail-epoch", await laptop.page.get_attribute("body", "data-epoch") or "")


async def test_a_button_that_goes_leaves_the_keyboard_on_the_page(story: Story) -> None:
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await laptop.say("/rate 20 /long 500")
    await laptop.has_said(10)
    await laptop.page.focus("#when-busy")
    phone = await story.open()
    await phone.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    await laptop.focused("#composer-text")
    await laptop.say("/rate 20 /long 500")
    await laptop.page.wait_for_selector("#stop-all", state="visible")
    await laptop.page.focus("#stop-all")
    await laptop.page.keyboard.press("Enter")
    await laptop.ended("cancelled", "cancelled")
    await laptop.page.wait_for_selector("#stop-all", state="hidden")
    await laptop.focused("#view")
    await laptop.context.set_offline(True)
    await laptop.page.evaluate("line.cut()")
    await laptop.page.wait_for_selector("#reconnect", state="visible")
    await laptop.page.focus("#reconnect")
    await laptop.context.set_offline(False)
    await laptop.page.keyboard.press("Enter")
    await laptop.connected()
    await laptop.page.wait_for_selector("#reconnect", state="hidden")
    await laptop.focused("#view")


async def test_beginnings_and_ends_are_announced_and_nothing_else(story: Story) -> None:
    laptop = await story.open()
    await laptop.page.evaluate(
        """() => { window.said = [];
        const line = document.getElementById("announce");
        new MutationObserver(() => window.said.push(line.lastChild.textContent)).observe(line, {childList: true}); }"""
    )
    await laptop.say("/rate 10 /long 30")  # a beginning and an end that come at once are announced as an end
    await laptop.ended("completed")
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(30)
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("completed", "cancelled")
    said = await laptop.page.evaluate("window.said")
    assert said == ["Answer started.", "Answer finished.", "Answer started.", "Answer stopped."]
    assert await laptop.count("[aria-live]") == 1


async def test_every_control_has_a_name(story: Story) -> None:
    story.add("bob", "editor")
    laptop = await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(10)
    await laptop.say("waits")
    await laptop.page.wait_for_selector("#queue li")
    assert await laptop.page.evaluate(UNNAMED) == []


async def test_code_can_be_copied(story: Story) -> None:
    laptop = await story.open()
    await laptop.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await laptop.say("/rate 0 /echo x\n\n```python\nprint('<a & b>')\n```")
    await laptop.ended("completed")
    await laptop.remember("button.copy")
    await laptop.page.click("button.copy")
    await laptop.had("Copied")
    assert await laptop.page.evaluate("navigator.clipboard.readText()") == "print('<a & b>')\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("/rate 0 /max", "length limit"),
        ("/rate 0 /refuse", "declined"),
        ("/rate 0 /lost", "Interrupted."),
        ("/rate 0 /fail overloaded", "Failed."),
    ],
)
async def test_how_an_answer_ended_is_said_in_words(story: Story, said: str, words: str) -> None:
    laptop = await story.open()
    await laptop.say(said)
    await laptop.shows(".how", words)
    await story.same_as_reload(laptop)
