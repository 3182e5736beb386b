"""A tool that asks first: what exactly will run, who decides, and that everybody knows it at once."""

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import Story, on_one_loop
from tests.browser.screen import Screen, until
from tests.browser.site import Site

pytestmark = pytest.mark.browser

ASK = '/rate 0\n/tool erase {"what": "the attic"}'
ANNOUNCED = """() => { window.said = [];
  const line = document.getElementById("announce");
  new MutationObserver(() => window.said.push(line.lastChild.textContent)).observe(line, { childList: true }); }"""
DENY = "[data-decide=deny]"
APPROVE = "[data-decide=approve]"


@pytest.fixture(scope="module")
def hasty_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One on which nobody has much time to decide, only owners may, and an agent has one step."""
    settings = {"CHAT_APPROVAL_SECONDS": "8", "CHAT_MAX_STEPS": "1", "CHAT_APPROVERS": "owner"}
    made = Site(tmp_path_factory.mktemp("hasty"), **settings).start()
    yield made
    made.close()


@on_one_loop()
async def hasty(hasty_site: Site, browser: Browser) -> AsyncIterator[Story]:
    told = Story(hasty_site, browser)
    yield told
    await told.over()


async def asked(story: Story, laptop: Screen, *others: Screen, ask: str = ASK) -> None:
    """The laptop's question has led to one that everybody sees, on a run that waits."""
    await laptop.say(ask)
    for screen in (laptop, *others):
        await screen.page.wait_for_selector(".approval")
        await screen.page.wait_for_selector('.run-bar[data-live="waiting"]')


async def test_two_see_it_one_decides_and_the_other_knows_who_it_was(story: Story) -> None:
    story.add("bob", "editor")
    laptop, bobs = await story.open(), await story.open("bob")
    await laptop.page.evaluate(ANNOUNCED)
    await asked(story, laptop, bobs)
    await story.same_as_reload(laptop)
    await story.same_as_reload(bobs)
    for screen in (laptop, bobs):  # nothing of what is to be decided is behind the line with the stop button
        box, bar = [await screen.page.locator(one).last.bounding_box() for one in (".part", ".run-bar")]
        assert box is not None
        assert bar is not None
        assert box["y"] + box["height"] <= bar["y"]
        assert await screen.count(".approval .question") == 0  # which is what the agent asks, and looks otherwise
    assert (await laptop.page.title()).startswith("Decision needed · ")
    await bobs.page.fill(".decide input", "It is mine.")
    await bobs.page.click(DENY)
    for screen in (laptop, bobs):
        await screen.shows(".decided", f"Denied by {bobs.user}, ")
        await screen.shows(".decided", "“It is mine.”")
        await screen.shows(".call .status", "was denied")
        await screen.ended("completed")
        assert await screen.count(".approval") == 0
        assert "Decision" not in await screen.page.title()
    assert "It is mine." in await laptop.answer()
    said = " ".join(await laptop.page.evaluate("window.said"))
    assert "erase needs your decision." in said
    assert f"erase: Denied by {bobs.user}" in said
    assert "Answer goes on." in said or "Answer finished." in said
    # Each is a line: of what stands for a moment only nobody hears.
    lines = await laptop.texts("#announce > *")
    assert any(line.startswith(f"erase: Denied by {bobs.user}") for line in lines)
    assert lines[-1] == "Answer finished."
    await story.same_as_reload(laptop)


async def test_what_was_approved_runs(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await asked(story, laptop, phone)
    await phone.page.click(APPROVE)
    for screen in (laptop, phone):
        await screen.ended("completed")
        await screen.shows(".decided", f"Approved by {laptop.user}, ")
        assert await screen.texts(".result pre") == ["the attic is gone"]
    await story.same_as_reload(laptop)


async def test_whoever_comes_second_is_told(story: Story) -> None:
    """Its page has not heard of the first one."""
    story.add("bob", "editor")
    laptop, bobs = await story.open(), await story.open("bob")
    await asked(story, laptop, bobs)
    await bobs.page.evaluate("line.deaf = 'approval.decided|tool.result|data-into'")
    await laptop.page.click(DENY)
    await laptop.ended("completed")
    await bobs.page.click(APPROVE)
    await bobs.shows("#problem", f"{laptop.user}, ")
    await bobs.shows("#problem", "was faster")
    assert "is gone" not in await laptop.answer()


async def test_a_viewer_sees_it_and_cannot_decide(story: Story) -> None:
    story.add("vera", "viewer")
    laptop, veras = await story.open(), await story.open("vera")
    await veras.page.evaluate(ANNOUNCED)
    await asked(story, laptop, veras)
    assert "the attic" in (await veras.texts(".approval .arguments"))[0]
    assert await laptop.page.is_visible(APPROVE)
    for selector in (APPROVE, DENY, ".decide input"):
        assert not await veras.page.is_visible(selector)
    await veras.shows(".undecided", "Somebody else here decides about this.")
    assert "erase needs a decision." in " ".join(await veras.page.evaluate("window.said"))
    await laptop.page.click(DENY)
    await veras.shows(".decided", f"Denied by {laptop.user}")
    await veras.ended("completed")


async def test_the_list_says_that_a_decision_is_needed_until_there_is_one(story: Story) -> None:
    other = story.site.call("begin", owner=story.name("alice"), title="Elsewhere")
    laptop, listing = await story.open(), await story.screen()
    await listing.page.goto(f"{story.site.url}/")
    beside = await story.screen()
    beside.conversation = other
    await beside.open()
    await asked(story, laptop)
    await listing.shows(f"#row-{story.conversation} .pill", "needs an answer")
    await beside.shows(f"#beside-{story.conversation} .pill", "needs an answer")
    await laptop.page.click(APPROVE)
    await laptop.ended("completed")
    await listing.page.wait_for_selector(f"#row-{story.conversation}:not(:has(.pill))")
    await beside.page.wait_for_selector(f"#beside-{story.conversation}:not(:has(.pill))")


async def test_what_cannot_be_seen_is_shown(story: Story) -> None:
    laptop = await story.open()
    await asked(story, laptop, ask='/rate 0\n/tool erase {"what": "a\u202efdp.exe\u200b ⟨U+202E⟩"}')
    [shown] = await laptop.texts(".approval .arguments")
    assert shown == '{\n  "what": "a⟨U+202E⟩fdp.exe⟨U+200B⟩ ⟨U+27E8⟩U+202E⟩"\n}'
    assert await laptop.texts(".approval .arguments mark") == ["⟨U+202E⟩", "⟨U+200B⟩", "⟨U+27E8⟩"]
    await laptop.shows(".unseen-note", "cannot be seen")
    await laptop.page.click(DENY)
    await laptop.ended("completed")
    assert "\u202e" not in await laptop.page.inner_text(".tool_use")


async def test_it_can_be_decided_from_the_keyboard_which_stays_where_it_is(story: Story) -> None:
    story.add("bob", "editor")
    laptop, bobs = await story.open(), await story.open("bob")
    keyboard = laptop.page.keyboard
    await asked(story, laptop, bobs)
    await laptop.page.focus(".decide input")
    await keyboard.type("Because")
    await bobs.page.click(APPROVE)
    await laptop.shows(".decided", f"Approved by {bobs.user}")
    await laptop.focused(".part.tool_use")
    await laptop.ended("completed")
    await laptop.focused(".part.tool_use")
    await laptop.say(ASK)
    await laptop.page.wait_for_selector(".approval")
    await laptop.page.focus(".decide input")
    for wanted in (APPROVE, DENY):
        await keyboard.press("Tab")
        await laptop.focused(wanted)
    await keyboard.press("Enter")
    await laptop.ended("completed", "completed")
    await laptop.focused(".turn:last-child .part.tool_use")


async def test_a_reason_outlives_a_page_that_is_drawn_anew(story: Story) -> None:
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await asked(story, laptop)
    await laptop.page.focus(".decide input")
    await laptop.page.keyboard.type("Because it is")
    await laptop.page.keyboard.press("Home")
    await laptop.page.evaluate("""() => {
      document.querySelector(".approval").dataset.old = "";
      line.query = "&after=99999999";
      line.cut();
    }""")
    await laptop.page.wait_for_selector(".approval:not([data-old])")
    await laptop.focused(".decide input")
    await laptop.page.keyboard.type("No. ")
    assert await laptop.page.input_value(".decide input") == "No. Because it is"
    await laptop.page.evaluate("line.query = ''")
    await laptop.page.click(DENY)
    await laptop.shows(".decided", "“No. Because it is”")
    await laptop.ended("completed")


async def test_of_two_that_wait_each_is_decided_alone(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await asked_twice(laptop, phone)
    await laptop.page.fill(".approval >> nth=1 >> input", "kept")
    await phone.page.click(f".approval >> nth=0 >> {DENY}")
    await laptop.shows(".decided", "Denied")
    assert await laptop.count(".approval") == 1
    assert await laptop.page.input_value(".decide input") == "kept"
    await story.same_as_reload(phone)
    await laptop.page.click(APPROVE)
    for screen in (laptop, phone):
        await screen.ended("completed")
        assert await screen.texts(".call .status") == ["was denied", "has run"]
    await story.same_as_reload(phone)


async def asked_twice(*screens: Screen) -> None:
    await screens[0].say('/rate 0\n/tool erase {"what": "one"}\n/tool erase {"what": "two"}')
    for screen in screens:
        await screen.page.wait_for_selector(".approval >> nth=1")
        await screen.page.wait_for_selector('.run-bar[data-live="waiting"]')


async def test_stop_ends_what_waits_and_the_next_question_works(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await asked(story, laptop, phone)
    await phone.page.click(".run-bar .stop")
    for screen in (laptop, phone):
        await screen.ended("cancelled")
        await screen.shows(".call .status", "did not run")
        assert await screen.count(".approval, .decide") == 0
    await laptop.say("/rate 0 /echo And on.")
    await laptop.ended("cancelled", "completed")
    await story.same_as_reload(phone)


async def test_what_is_pressed_without_a_connection_is_not_done_after_somebody_has_changed_their_mind(
    story: Story,
) -> None:
    laptop = await story.screen()
    laptop.expects_network_trouble = True
    await laptop.page.clock.install()
    await laptop.open()
    await asked(story, laptop)
    await laptop.page.evaluate("line.silent = 'run.cancel|tool.decide'")
    await laptop.page.click(".run-bar .stop")
    await laptop.page.click(APPROVE)
    await laptop.shows(".run-bar .state", "Stopping…")
    await laptop.shows(APPROVE, "Approving…")
    await laptop.page.clock.run_for(10_500)
    await laptop.shows("#problem", "The server did not answer. Try it again.")
    await laptop.shows(APPROVE, "Approve")
    await laptop.page.wait_for_selector('.run-bar[data-live="waiting"]')  # nobody answers anything meanwhile
    await laptop.shows(".run-bar .state", "Waiting for an answer")
    await laptop.page.click(DENY)
    await laptop.page.evaluate("line.silent = null; line.cut()")
    await laptop.ended("completed")
    await laptop.shows(".decided", f"Denied by {laptop.user}, ")
    await story.same_as_reload(laptop)


async def test_it_waits_through_a_restart_of_the_server(fragile_story: Story) -> None:
    story = fragile_story
    laptop = await story.open()
    laptop.expects_network_trouble = True
    await asked(story, laptop)
    story.site.kill()
    story.site.start()
    await laptop.connected("reconnecting")
    await laptop.connected()
    await laptop.page.click(APPROVE)
    await laptop.ended("completed")
    assert "the attic is gone" in await laptop.answer()
    await story.same_as_reload(laptop)


async def test_an_editor_is_not_asked_where_only_owners_decide(hasty: Story) -> None:
    hasty.add("bob", "editor")
    laptop, bobs = await hasty.open(), await hasty.open("bob")
    await asked(hasty, laptop, bobs)
    assert await laptop.page.is_visible(APPROVE)
    assert await bobs.page.is_visible(".undecided")
    assert not await bobs.page.is_visible(APPROVE)
    await laptop.page.click(DENY)
    await bobs.ended("completed")


async def test_what_nobody_decides_about_does_not_run_and_one_step_is_all(hasty: Story) -> None:
    laptop, phone = await hasty.open(), await hasty.open()
    await asked(hasty, laptop, phone)
    left = await laptop.texts(".until time")

    async def goes_down() -> bool:
        return await laptop.texts(".until time") != left or await laptop.count(".until") == 0

    assert "(in " in left[0] or "any moment" in left[0]
    await until(goes_down, "the time that is left to change")
    for screen in (laptop, phone):
        await screen.ended("completed")
        await screen.shows(".call .status", "was not approved in time")
        await screen.shows(".decided", "Nobody decided in time.")
        await screen.shows(".how.cut", "all the steps it may take")
    await hasty.same_as_reload(phone)
