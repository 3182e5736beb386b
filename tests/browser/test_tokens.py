"""Making an access token, copying its secret, taking it back."""

import re

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen
from tests.browser.test_looks import PHONE, UNNAMED

pytestmark = pytest.mark.browser

SMALL = """() => [...document.querySelectorAll("main :is(button, input:not([type=hidden]))")]
  .filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect())
  .filter((box) => box.height < 43.5 || box.width < 43.5).length"""
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


async def at_the_page(screen: Screen) -> Screen:
    await screen.page.goto(f"{screen.site.url}/devices/")
    return screen


async def test_a_token_is_made_copied_and_revoked_from_the_keyboard(story: Story) -> None:
    laptop = await at_the_page(await story.screen())
    await laptop.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, keyboard = laptop.page, laptop.page.keyboard
    await page.focus("#token-name")
    await keyboard.type("Nightly report")
    await keyboard.press("Enter")
    await laptop.shows(".secret", "Copy it now: it is never shown again.")
    secret = await page.inner_text(".secret .code code")
    assert re.fullmatch(r"cvt_[\w-]{43}", secret)
    await laptop.focused(".secret .copy")
    await laptop.remember(".secret .copy")
    await keyboard.press("Enter")
    await laptop.had("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == secret
    assert await page.input_value("#token-name") == ""

    # Neither the way back has it, nor a page that the browser keeps as it was left.
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    assert await laptop.count(".secret") == 0
    await page.goto(f"{story.site.url}/")
    await page.go_back()
    await laptop.shows(".token", "Nightly report")
    assert secret not in await page.content()

    await page.focus(".token button")
    await keyboard.press("Enter")
    await laptop.shows(".token", "revoked")
    assert await laptop.count(".token button") == 0
    await laptop.focused(".token")
    shown = await page.inner_text(".tokens")
    await page.reload()
    assert await page.inner_text(".tokens") == shown


async def test_a_revoked_token_takes_its_secret_along(story: Story) -> None:
    laptop = await at_the_page(await story.screen())
    await laptop.page.fill("#token-name", "A mistake")
    await laptop.page.click("text=Make a token")
    await laptop.page.wait_for_selector(".secret")
    await laptop.page.click(".token >> text=Revoke")
    await laptop.page.wait_for_selector(".secret", state="detached")


async def test_a_name_that_cannot_be_is_said_where_it_was_typed(story: Story) -> None:
    laptop = await at_the_page(await story.screen())
    laptop.expects("422")
    await laptop.page.fill("#token-name", "\u2060")
    await laptop.page.click("text=Make a token")
    await laptop.shows("#tokens .errors", "Give it a name that can be read.")
    await laptop.focused("#token-name")


async def test_who_was_signed_out_meanwhile_gets_the_sign_in_page_and_not_a_piece_of_it(story: Story) -> None:
    laptop = await at_the_page(await story.screen())
    story.site.call("sign_out", session=story.session("alice"))
    await laptop.page.fill("#token-name", "Too late")
    await laptop.page.click("text=Make a token")
    await laptop.page.wait_for_url(f"{story.site.url}/login/?next=/devices/")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_all_of_it(story: Story, scheme: str) -> None:
    phone = await at_the_page(await story.screen(**PHONE, color_scheme=scheme))
    for name in ("w" * 80, "Nightly report"):
        await phone.page.fill("#token-name", name)
        await phone.page.click("text=Make a token")
        await phone.shows(".secret", "Copy it now")
        await phone.shows(".token", name)
    assert await phone.page.evaluate(FITS)
    assert await phone.page.evaluate(SMALL) == 0
    assert await phone.page.evaluate(UNNAMED) == []
