"""A browser on somebody's desk: one context with its own storage, one page, and a record of what went wrong on it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import BrowserContext, ConsoleMessage, Dialog, Error, Page

from tests.browser.site import Site

DEADLINE = 30.0  # for a busy machine; two heartbeats are longer
# All but what may differ between two pages: white space between blocks, who is online just now, which attribute
# comes first, what is never stored, times that run, and text being written, which the one page has a moment before the
# other.
NORMALISED = """() => {
  const shown = (node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      const keeps = getComputedStyle(node.parentElement).whiteSpace.startsWith("pre");
      return keeps ? node.data : node.data.replace(/\\s+/g, " ").trim();
    }
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    const isFleeting = node.id.startsWith("text-") || node.matches(".progress, [data-until]");
    const inside = isFleeting ? "" : [...node.childNodes].map(shown).filter(Boolean).join("");
    const attributes = [...node.attributes]
      .filter(({name, value}) => name !== "data-online" && name !== "data-length" && !(name === "class" && !value))
      .map(({name, value}) => `${name}=${JSON.stringify(value)}`).sort();
    return `<${[node.localName, ...attributes].join(" ")}>${inside}</${node.localName}>\\n`;
  };
  return ["title", "people", "transcript", "queue", "live"].map((id) => shown(document.getElementById(id))).join("\\n");
}"""
# An ended answer is drawn anew from the database: what was written before that is looked at while it is there.
WATCH = """() => new MutationObserver(() => {
  const text = document.querySelector(".turn:last-child .streaming");
  if (text && text.textContent) window.written = text.textContent;
}).observe(document.getElementById("flow"), { subtree: true, childList: true, characterData: true })"""
NETWORK = ("net::ERR_", "WebSocket connection to", "console: htmx:", "503 (Service Unavailable)")
# The list beside may be asked for before the page has heard of it.
SIGN_OUT = ("401 (Unauthorized)", "Status Error Code 401", "console: htmx:")
# By the page itself: it goes, or another way was faster.
ALWAYS = ("WebSocket is closed before the connection is established",)
# Whether the page is in this state now, or was for a moment since it was last found in one.
CONNECTION = """(state) => {
  const at = document.body.dataset.connection === state ? Infinity : state === "live" ? -1 : line.states.indexOf(state);
  line.states.splice(0, at + 1);
  return at >= 0;
}"""
# Every text an element had from now on, or the last line of it.
REMEMBER = """(element) => { window.remembered = [];
  new MutationObserver(() => window.remembered.push(element.lastChild?.textContent ?? ""))
    .observe(element, { childList: true }); }"""


def words(count: int) -> str:
    """What `/long count` says."""
    return " ".join(f"word{number}" for number in range(1, count + 1))


async def until(condition: Callable[[], Awaitable[Any]], what: str, deadline: float = DEADLINE) -> Any:
    """Poll until the condition is true and return its value; fail with `what` at the deadline."""
    end = time.monotonic() + deadline
    while True:
        if value := await condition():
            return value
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.02)


class Screen:
    """What a person can do and see. `problems` is what the browser complained of; a story may expect some."""

    def __init__(self, site: Site, context: BrowserContext, page: Page, user: str, conversation: str) -> None:
        self.site = site
        self.context = context
        self.page = page
        self.user = user
        self.conversation = conversation
        self.problems: list[str] = []
        self.expected: list[str] = []
        self.expects_network_trouble = False
        self.expects_sign_out = False
        page.on("console", self._console)
        page.on("pageerror", self._error)
        page.on("dialog", self._dialog)

    async def open(self, *, live: bool = True) -> "Screen":
        await self.page.goto(f"{self.site.url}/conversations/{self.conversation}/")
        if live:
            await self.connected()
        return self

    async def reload(self) -> None:
        await self.page.reload()
        await self.connected()

    async def connected(self, state: str = "live") -> None:
        """Wait until the page says so; "live" must last, any other state may have come and gone since the last wait."""

        async def said() -> bool:
            return bool(await self.page.evaluate(CONNECTION, state))

        await until(said, f"the connection is {state}")

    async def close(self) -> None:
        await self.context.close()

    # --- doing ---

    async def say(self, text: str, when_busy: str = "") -> None:
        await self.page.fill("#composer-text", text)
        if when_busy:
            await self.page.select_option("#when-busy", when_busy)
        await self.page.press("#composer-text", "Enter")

    async def draft(self) -> str:
        return await self.page.input_value("#composer-text")

    # --- seeing ---

    async def watch(self) -> None:
        """From now on, remember what `written` is asked for."""
        await self.page.evaluate(WATCH)

    async def written(self) -> str:
        """The newest answer's text as it was last seen being written, piece by piece."""
        text: str = await self.page.evaluate("window.written")
        return text

    async def texts(self, selector: str) -> list[str]:
        found: list[str] = await self.page.eval_on_selector_all(selector, "all => all.map(one => one.textContent)")
        return found

    async def prompts(self) -> list[str]:
        return await self.texts("#turns .said")

    async def waiting(self) -> list[str]:
        return await self.texts("#queue .said")

    async def answer(self) -> str:
        """The newest turn's newest answer's text, being written or rendered."""
        found = await self.texts(".turn:last-child .answer:last-of-type :is(.streaming, .rendered)")
        return found[-1].strip("\n") if found else ""

    async def states(self) -> list[str]:
        found: list[str] = await self.page.eval_on_selector_all(".answer", "all => all.map(one => one.dataset.state)")
        return found

    async def count(self, selector: str) -> int:
        return await self.page.locator(selector).count()

    async def ended(self, *states: str) -> None:
        """Wait until the answers have ended, in these ways."""

        async def all_ended() -> bool:
            return await self.states() == list(states)

        await until(all_ended, f"answers {states}")

    async def has_said(self, characters: int) -> str:
        """Wait until the answer to what was said last is at least so long."""

        async def long_enough() -> bool:
            return await self.count("#outbox > *") == 0 and len(await self.answer()) >= characters

        await until(long_enough, f"{characters} characters of an answer")
        return await self.answer()

    async def shows(self, selector: str, text: str) -> None:
        """Wait until exactly one visible element of this kind has this text in it."""

        async def shown() -> bool:
            found = self.page.locator(selector).filter(has_text=text)
            return await found.count() == 1 and await found.is_visible()

        await until(shown, f"{text!r} in {selector}")

    async def writes(self, text: str) -> None:
        """Wait until an answer that has not ended, and so is not drawn anew, has exactly this text."""

        async def written() -> bool:
            return await self.texts(".turn:last-child .streaming") == [text]

        await until(written, "all of it")

    async def focused(self, selector: str) -> None:
        """Wait until the keyboard is there."""

        async def there() -> bool:
            return bool(await self.page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector))

        await until(there, f"the focus in {selector}")

    async def remember(self, selector: str) -> None:
        """From now on, remember every text of this element, for `had`."""
        await self.page.eval_on_selector(selector, REMEMBER)

    async def had(self, text: str) -> None:
        """Wait until the remembered element has had this text, which may last a moment only."""

        async def seen() -> bool:
            return text in await self.page.evaluate("window.remembered")

        await until(seen, f"{text!r} for a moment")

    async def normalised(self) -> str:
        found: str = await self.page.evaluate(NORMALISED)
        return found

    # --- what the browser says ---

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")

    def _error(self, error: Error) -> None:
        self.problems.append(f"script: {error}")

    async def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def expects(self, *words: str) -> None:
        """Complaints with these words are not held against the page, whenever they come."""
        self.expected += words

    async def complained(self, words: str) -> None:
        """Wait for such a complaint."""

        async def did() -> bool:
            return any(words in problem for problem in self.problems)

        await until(did, f"a complaint: {words}")

    def unexpected(self) -> list[str]:
        trouble = (*ALWAYS, *self.expected, *self._trouble())
        return [problem for problem in self.problems if not any(word in problem for word in trouble)]

    def _trouble(self) -> tuple[str, ...]:
        return (NETWORK if self.expects_network_trouble else ()) + (SIGN_OUT if self.expects_sign_out else ())
