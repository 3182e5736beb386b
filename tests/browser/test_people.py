"""Owner, editor, viewer, stranger."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import until

pytestmark = pytest.mark.browser


async def test_a_viewer_follows_but_cannot_speak_and_is_told(story: Story) -> None:
    story.add("vera", "viewer")
    laptop, viewer = await story.open(), await story.open("vera")
    assert not await viewer.page.is_visible("#composer")
    await viewer.shows(".for-viewer", "You can read this conversation but not change it.")
    await laptop.say("/rate 50 /long 5000")
    await viewer.has_said(20)
    for control in (".stop", "#stop-all", "#queue button"):
        assert not await viewer.page.locator(control).first.is_visible()
    await story.same_as_reload(viewer)


async def test_the_owner_lets_somebody_in_changes_their_role_and_sends_them_away(story: Story) -> None:
    story.session("bob")
    laptop = await story.open()
    await laptop.page.click("#open-panel")
    await laptop.page.fill("#add-name", story.name("bob"))
    await laptop.page.select_option("#add-role", "viewer")
    await laptop.page.click("#add-person button")
    await laptop.shows("#people li", story.name("bob"))

    # The others hear of it as soon as whoever asked gets the answer, which empties the field.
    async def emptied() -> bool:
        return await laptop.page.input_value("#add-name") == ""

    await until(emptied, "the field to be empty")
    guest = await story.open("bob")
    assert not await guest.page.is_visible("#composer")
    await laptop.page.get_by_label(f"What {story.name('bob')} may do").select_option("editor")
    await guest.page.wait_for_selector("#composer", state="visible")
    await guest.say("/echo I can speak")
    await laptop.page.wait_for_selector(".answer[data-state=completed]")
    await laptop.page.click("text=Remove >> nth=0")
    await guest.connected("stopped")
    assert not await guest.page.is_visible("#turns")
    assert await guest.page.is_visible("#sent-away-link")
    guest.expects("404")
    response = await guest.page.goto(f"{story.site.url}/conversations/{story.conversation}/")
    assert response
    assert response.status == 404
    await guest.shows("h1", "Not found")


async def test_a_wrong_name_is_said_where_it_was_typed(story: Story) -> None:
    laptop = await story.open()
    laptop.expects("422")
    await laptop.page.click("#open-panel")
    await laptop.page.fill("#add-name", "nobody-of-that-name")
    await laptop.page.click("#add-person button")
    await laptop.shows("#people .errors", "There is nobody of that name.")
    assert await laptop.page.input_value("#add-name") == "nobody-of-that-name"
    await laptop.page.wait_for_selector("#people li[data-online]", timeout=10_000)  # sooner than anybody says so again


async def test_a_guest_leaves(story: Story) -> None:
    story.add("bob", "editor")
    guest = await story.open("bob")
    await guest.page.click("#open-panel")
    await guest.page.click("text=Leave this conversation")
    await guest.page.wait_for_url(f"{story.site.url}/")
    assert await guest.count(".conversations li") == 0


async def test_somebody_typing_is_seen_and_forgotten(story: Story) -> None:
    story.add("bob", "editor")
    laptop, guest = await story.open(), await story.open("bob")
    await guest.page.locator("#composer-text").press_sequentially("hm")
    await laptop.shows("#typing", f"{guest.user} is typing…")
    assert await guest.page.inner_text("#typing") == ""
    await laptop.page.wait_for_selector("#typing:empty", state="attached")


async def test_who_is_here_is_seen_and_said_and_forgotten(story: Story) -> None:
    story.add("bob", "editor")
    story.session("charlie")
    laptop = await story.open()
    row = f"#people [data-person={story.name('bob')}]"
    await laptop.page.click("#open-panel")
    assert "is here" not in await laptop.page.inner_text(row)
    assert "is here" in await laptop.page.inner_text(f"#people [data-person={laptop.user}]")
    guest = await story.open("bob")
    await laptop.page.wait_for_selector(f"{row}[data-online]")
    assert "is here" in await laptop.page.inner_text(row)
    await laptop.page.fill("#add-name", story.name("charlie"))
    await laptop.page.click("#add-person button")
    await laptop.shows("#people li", story.name("charlie"))  # the list was drawn anew
    await laptop.page.wait_for_selector(f"{row}[data-online]")
    late = await story.open()  # one that comes later is told, too
    await late.page.wait_for_selector(f"{row}[data-online]", state="attached")
    await story.same_as_reload(laptop)
    await guest.close()
    for screen in (laptop, late):
        await screen.page.wait_for_selector(f"{row}:not([data-online])", state="attached")
    assert "is here" not in await laptop.page.inner_text(row)


async def test_a_new_title_reaches_every_screen(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.page.click("#open-panel")
    await laptop.page.fill("#rename-title", "Night train <b>")
    await laptop.page.click("#rename button")
    await phone.shows("#title", "Night train <b>")
    await phone.shows("#beside a", "Night train <b>")
    assert await phone.page.title() == "Night train <b> · Conversations"
    await story.same_as_reload(phone)


async def test_d14_the_list_beside_shows_what_runs_elsewhere(story: Story) -> None:
    other = story.site.call("begin", owner=story.name("alice"), title="Elsewhere")
    laptop, phone = await story.open(), await story.screen()
    phone.conversation = other
    await phone.open()
    await phone.say("/rate 50 /long 5000")
    await laptop.page.wait_for_selector(f"#beside-{other} .pill")
    await phone.page.click(".run-bar .stop")
    await laptop.page.wait_for_selector(f"#beside-{other}:not(:has(.pill))")
