"""Files: attached, dropped, pasted, refused, tried again, sent, and the same on every screen."""

from functools import partial
from typing import Any

import pytest

from tests.attaching import picture
from tests.browser.conftest import Story
from tests.browser.screen import Screen, until

pytestmark = pytest.mark.browser

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
# Files that come by the clipboard or by a drag, as the browser would make the event.
BRING = """([kind, name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "text/plain" }));
  const place = document.getElementById("composer-text");
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  return place.dispatchEvent(event);
}"""
# How the newest message's first image has its place, and whether it has come.
IMAGE = """() => {
  const image = document.querySelector(".turn:last-child .file img");
  if (!image) return null;
  const { width, height } = image.getBoundingClientRect();
  return { width: Math.round(width), height: Math.round(height), loaded: image.complete && image.naturalWidth > 0 };
}"""


def file(name: str, data: bytes) -> Any:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


async def attach(screen: Screen, *files: Any) -> None:
    await screen.page.set_input_files("#attach-input", list(files))


async def in_tray(screen: Screen, *states: str) -> None:
    async def as_wanted() -> bool:
        found = await screen.page.eval_on_selector_all(".tray-item", "all => all.map(one => one.dataset.state)")
        return bool(found == list(states))

    await until(as_wanted, f"in the tray: {states}")


async def test_a_picture_is_attached_sent_and_the_same_on_every_screen_and_after_a_reload(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await attach(laptop, file("lake.png", picture(1200, 600)), file("notes.txt", b"Swim at noon."))
    await in_tray(laptop, "done", "done")
    await laptop.say("/echo Lovely")
    await laptop.ended("completed")
    await phone.ended("completed")
    for screen in (laptop, phone):
        assert await screen.texts(".turn .chip .file-name") == ["notes.txt"]
        assert (await screen.texts(".turn .chip .file-size"))[0].replace("\xa0", " ") == "13 bytes"
        await until(partial(_image, screen), "the image")
        assert (await screen.page.evaluate(IMAGE))["height"] == 160
    assert await laptop.count(".tray-item") == 0
    before = await phone.normalised()
    await phone.reload()
    assert await phone.normalised() == before
    await story.same_as_reload(laptop)
    link = phone.page.get_by_role("link", name="lake.png")
    async with phone.context.expect_page() as opening:
        await link.click()
    opened = await opening.value
    await opened.wait_for_load_state()
    assert opened.url.endswith("/")
    assert await opened.evaluate("document.contentType") == "image/png"


async def _image(screen: Screen) -> bool:
    found = await screen.page.evaluate(IMAGE)
    return bool(found and found["loaded"])


async def test_an_image_has_its_place_before_it_comes(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await phone.page.route("**/view/", lambda route: None)  # it never comes
    await attach(laptop, file("tall.png", picture(600, 1200)))
    await in_tray(laptop, "done")
    await laptop.say("/echo Tall")
    await phone.ended("completed")
    assert await phone.page.evaluate(IMAGE) == {"width": 120, "height": 240, "loaded": False}
    await phone.page.unroute_all()


async def test_a_message_of_files_alone_waits_for_them_and_survives_a_reload_before_it_is_sent(story: Story) -> None:
    laptop = await story.open()
    held: list[Any] = []
    await laptop.page.route("**/files?*", lambda route: held.append(route))
    await attach(laptop, file("a.txt", b"A"))
    await in_tray(laptop, "sending")
    await laptop.page.click("#send")
    await laptop.shows("#problem", "a.txt is still being uploaded.")
    await until(lambda: _any(held), "the upload")
    await held[0].continue_()
    await in_tray(laptop, "done")
    await laptop.page.unroute_all()
    await laptop.reload()
    await in_tray(laptop, "done")
    await laptop.page.click("#send")
    await laptop.ended("completed")
    assert "a.txt: a text of 1 characters" in await laptop.answer()
    assert await laptop.prompts() == []
    await story.same_as_reload(laptop)


async def _any(held: list[Any]) -> bool:
    return bool(held)


async def test_what_is_refused_says_why_and_can_be_removed_by_keyboard(story: Story) -> None:
    laptop = await story.open()
    laptop.expects("415")
    await attach(laptop, file("drawing.svg", SVG), file("huge.txt", b"x" * 11_000_000), file("good.txt", b"Good"))
    await in_tray(laptop, "refused", "refused", "done")
    why = await laptop.texts(".tray-why")
    assert why[0].startswith("This type of file is not taken. What is: PNG images")
    assert why[1] == "It is too large: a file may have 10.0 MB."
    await laptop.page.focus("#attach")
    await laptop.page.get_by_label("Remove drawing.svg").focus()
    await laptop.page.keyboard.press("Enter")
    await laptop.focused("[aria-label='Remove huge.txt']")
    await laptop.say("/echo Only the good one")
    await laptop.ended("completed")
    assert await laptop.texts(".turn .file-name") == ["good.txt"]
    assert await laptop.count(".tray-item") == 0


async def test_when_the_network_breaks_the_upload_can_be_tried_again_or_taken_back(story: Story) -> None:
    laptop = await story.open()
    laptop.expects("net::ERR_FAILED")
    await laptop.page.route("**/files?*", lambda route: route.abort())
    await attach(laptop, file("one.txt", b"One"), file("two.txt", b"Two"))
    await in_tray(laptop, "failed", "failed")
    assert await laptop.texts(".tray-why") == ["The network broke."] * 2
    await laptop.page.click("#send")
    await laptop.shows("#problem", "one.txt was not uploaded. Try again or remove it.")
    await laptop.page.unroute_all()
    await laptop.page.get_by_label("Upload one.txt again").click()
    await in_tray(laptop, "done", "failed")
    await laptop.page.get_by_label("Remove two.txt").click()
    await laptop.page.click("#send")
    await laptop.ended("completed")
    assert await laptop.texts(".turn .file-name") == ["one.txt"]


async def test_files_can_be_pasted_and_dropped(story: Story) -> None:
    laptop = await story.open()
    assert not await laptop.page.evaluate(BRING, ["paste", "pasted.txt", "P"]), "the browser leaves it to us"
    await in_tray(laptop, "done")
    assert not await laptop.page.evaluate(BRING, ["dragover", "dropped.txt", "D"])
    assert await laptop.count("body[data-dropping]") == 1
    assert not await laptop.page.evaluate(BRING, ["drop", "dropped.txt", "D"])
    assert await laptop.count("body[data-dropping]") == 0
    await in_tray(laptop, "done", "done")
    await laptop.page.click("#send")
    await laptop.ended("completed")
    assert await laptop.texts(".turn .file-name") == ["pasted.txt", "dropped.txt"]


async def test_a_waiting_message_shows_its_files_on_every_screen(story: Story) -> None:
    laptop, phone = await story.open(), await story.open()
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await attach(laptop, file("later.txt", b"Later"))
    await in_tray(laptop, "done")
    await laptop.say("/echo Then this")
    await phone.shows("#queue li", "later.txt")
    await phone.page.click("#queue li >> text=Edit")
    await phone.page.fill("#editor-text", "")
    await phone.page.click("#editor-save")
    await phone.page.wait_for_selector("#editor", state="hidden")
    await laptop.shows("#queue li", "later.txt")
    await story.same_as_reload(phone)
    await phone.page.click(".run-bar .stop")
    await laptop.ended("cancelled", "completed")
    assert await laptop.texts(".turn .file-name") == ["later.txt"]


async def test_there_is_room_on_a_small_phone(story: Story) -> None:
    phone = await story.open()
    await phone.page.set_viewport_size({"width": 320, "height": 560})
    await attach(
        phone, file("a-very-long-name-without-a-space-" * 3 + ".txt", b"x"), file("wide.png", picture(2000, 300))
    )
    await in_tray(phone, "done", "done")
    assert await phone.page.evaluate("document.documentElement.scrollWidth") <= 320
    assert await phone.page.locator("#send").is_visible()
    await phone.say("/echo Small")
    await phone.ended("completed")
    assert await phone.page.evaluate("document.getElementById('view').scrollWidth") <= 320
