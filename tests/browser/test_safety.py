"""Whatever people and models write is text. It never acts, live or after a reload."""

import pytest

from tests.browser.conftest import Story
from tests.browser.screen import Screen, until

pytestmark = pytest.mark.browser

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<svg/onload=alert(3)>",
    '<a href="javascript:alert(4)">a</a>',
    "[b](javascript:alert(5))",
    "[c](  java&#115;cript:alert(6))",
    "[d](data:text/html;base64,PHNjcmlwdD5hbGVydCg3KTwvc2NyaXB0Pg==)",
    '![e](x" onerror="alert(8))',
    "![f](https://example.org/seen.png)",
    "<div hx-get=/ hx-trigger=load hx-on:load=alert(9)>g</div>",
    '<iframe srcdoc="<script>alert(10)</script>"></iframe>',
    "<style>*{display:none}</style>",
    "<form action=/logout/><button>h</button></form>",
    "<span data-append=turns data-offset=0>i</span>",
    "</div></section><section id=turns data-into=turns>j</section>",
    '[k](https://example.org/?<script>alert(11)</script> "x" onmouseover="alert(12)")',
    '```"><img src=x onerror=alert(13)>\ncode\n```',
    "| <img src=x onerror=alert(14)> |\n|-|\n| <table onclick=alert(15)> |",
    "<details open ontoggle=alert(16)>",
    "&lt;img src=x onerror=alert(17)&gt; &amp;lt;",
    '<math><mi//xlink:href="data:x,<script>alert(18)</script>">',
    "<b id=composer>clobbered</b><input name=getElementById>",
    '<pre><code class="language-x" onclick=alert(19)>',
]  # fmt: skip
FOUND = """() => {
  const active = new Set(["SCRIPT", "IFRAME", "IMG", "OBJECT", "EMBED", "STYLE", "FORM", "INPUT", "LINK", "META",
    "BASE", "svg", "math"]);
  const isUrl = /^(href|src|action|formaction|xlink:href)$/i;
  const found = [];
  for (const element of document.querySelectorAll("#transcript *, #title, #people *, #queue *")) {
    if (active.has(element.nodeName)) found.push(element.nodeName);
    const isSaid = element.closest(".said, .rendered, .streaming, .how, .by, #title, #queue") !== null;
    for (const {name, value} of element.attributes) {
      if (/^on|^style$/i.test(name)) found.push(name);
      if (isUrl.test(name) && !/^(https?:|mailto:|\\/)/i.test(value.trim())) found.push(value);
      if (isSaid && /^(data-)?hx-/i.test(name)) found.push(name);
    }
  }
  for (const id of ["turns", "composer", "transcript"])
    if (document.querySelectorAll("#" + id).length !== 1) found.push("two of " + id);
  return found;
}"""


async def is_harmless(screen: Screen) -> None:
    assert await screen.page.evaluate(FOUND) == []
    assert screen.unexpected() == []


async def test_what_a_model_says_is_text(story: Story) -> None:
    live = await story.open()
    attack = "\n\n".join(ATTACKS)
    await live.say(f"/rate 300 /echo {attack}\n\n/usage")
    await live.has_said(200)
    await is_harmless(live)
    late = await story.open()
    for screen in (live, late):
        await screen.ended("completed")
        await is_harmless(screen)
    await live.reload()
    await is_harmless(live)
    assert "alert(2)" in await live.answer()
    await story.same_as_reload(late)


async def test_what_people_say_is_text(story: Story) -> None:
    for number, attack in enumerate(ATTACKS):
        story.site.call("begin", owner=story.name("alice"), title=attack[:70] + str(number))
    story.add("<i onclick=alert(1)>", "editor")
    live, other = await story.open(), await story.open()
    attack = "\n".join(ATTACKS)
    await live.say(f"{attack}\n/rate 20 /long 5000")
    await other.page.wait_for_selector(".run-bar")
    await live.say(attack)
    for screen in (live, other):
        await screen.page.wait_for_selector("#queue li")
        assert (await screen.prompts())[0] == f"{attack}\n/rate 20 /long 5000"
        assert await screen.waiting() == [attack]
        await is_harmless(screen)
    await other.reload()
    await is_harmless(other)


async def test_a_device_name_and_a_title_are_text(story: Story) -> None:
    live = await story.open()
    story.site.call("rename_device", name=story.name("alice"), device_name=ATTACKS[1])
    await live.say("/rate 50 /long 5000")
    await live.has_said(5)
    await live.page.click(".stop")
    await live.ended("cancelled")
    await live.shows(".how.stopped", ATTACKS[1])
    await live.page.click("#open-panel")
    await live.page.fill("#rename-title", ATTACKS[4] + ATTACKS[1])
    await live.page.click("#rename button")
    await live.shows("#title", ATTACKS[1])
    await is_harmless(live)
    await live.reload()
    await is_harmless(live)


async def test_every_character_arrives_as_it_was_said(story: Story) -> None:
    said = "tab\there 🙂👩‍👩‍👧 e\u0301 \u202eright\u202c <&> &amp; \u00a0 \u2028 end"
    live, other = await story.open(), await story.open()
    await live.page.evaluate(
        "(text) => { document.getElementById('composer-text').value = text; }", f"/rate 30 /echo {said}\n/hang"
    )
    await live.page.press("#composer-text", "Enter")

    async def all_said() -> bool:
        return await other.answer() == said

    await until(all_said, "all of it")  # and it stays, unrendered: the run hangs
    await live.page.click("#stop-all")
    await other.ended("cancelled")
    assert story.runs()[0]["text"] == said


async def test_the_policy_lets_no_other_script_run(story: Story) -> None:
    live = await story.open()
    live.expects("Content Security Policy")
    await live.page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.ran = true";
        document.body.append(script); }"""
    )
    await live.complained("Content Security Policy")
    assert not await live.page.evaluate("window.ran")
