"""A real server, a real Chromium, and screens for whoever is in the story."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright
from pytest_asyncio import is_async_test

from tests.browser.screen import Screen, until, words
from tests.browser.site import Site

on_one_loop = partial(pytest_asyncio.fixture, loop_scope="session")
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A socket that can be cut, made silent (what it would send, matching a pattern, is lost) or deaf (what it would
# receive is), or made to open with something else in its address. Whatever else is asked for events waits until the
# socket has had its word: on a busy machine a good one may need longer than the head start it has. And every state the
# page was in is remembered, for one may last a moment only.
LINE = """
const Real = WebSocket;
const ask = fetch.bind(window);
const lost = (pattern, data) => pattern && new RegExp(pattern).test(data);
window.line = {
  sockets: [], states: [], silent: null, deaf: null, query: "", cut: () => line.sockets.at(-1).close(3000),
};
window.WebSocket = class extends Real {
  constructor(url, protocol) {
    super(url + line.query, protocol);
    line.sockets.push(this);
    this.word = new Promise((said) => { for (const what of ["message", "close"]) this.addEventListener(what, said); });
  }
  send(data) { if (!lost(line.silent, data)) super.send(data); }
  set onmessage(react) { super.onmessage = react && ((event) => lost(line.deaf, event.data) || react(event)); }
};
window.fetch = (address, options) => {
  if (!/[/]events[?]/.test(address)) return ask(address, options);
  return Promise.resolve(line.sockets.at(-1)?.word).then(() => ask(address, options));
};
new MutationObserver(() => line.states.push(document.body.dataset.connection))
  .observe(document, { subtree: true, attributeFilter: ["data-connection"] });
"""


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site")).start()
    yield made
    made.close()


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The server most stories share; each has users of its own."""
    return shared_site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A server to kill."""
    made = Site(tmp_path).start()
    yield made
    made.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All on one event loop, so that they share one browser: to start it takes longer than most stories do."""
    for item in items:
        if Path(__file__).parent in item.path.parents and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@on_one_loop(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"NO BROWSER: {CHROMIUM} is missing, so nothing of what a person sees was tested")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        await launched.close()


_stories = count(1)


class Story:
    """One conversation of Alice's on one site. `open` gives somebody a screen of their own on it."""

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site = site
        self.browser = browser
        self.number = next(_stories)
        self.screens: list[Screen] = []
        self.sessions: dict[str, str] = {}
        self.session("alice")
        self.conversation: str = site.call("begin", owner=self.name("alice"))

    def name(self, who: str) -> str:
        """Alice of this story: others have an Alice, too."""
        return f"{who}{self.number}"

    def session(self, who: str) -> str:
        if who not in self.sessions:
            self.sessions[who] = self.site.call("sign_in", name=self.name(who))
        return self.sessions[who]

    def add(self, who: str, role: str) -> None:
        self.session(who)
        self.site.call("add", conversation=self.conversation, name=self.name(who), role=role)

    async def screen(self, who: str = "alice", **options: Any) -> Screen:
        """A browser with nothing in it but this user's session."""
        context = await self.browser.new_context(**options)
        await context.add_cookies(
            [{"name": "sessionid", "value": self.session(who), "url": self.site.url, "httpOnly": True}]
        )
        await context.add_init_script(LINE)
        page = await context.new_page()
        self.screens.append(Screen(self.site, context, page, self.name(who), self.conversation))
        return self.screens[-1]

    async def open(self, who: str = "alice", **options: Any) -> Screen:
        """The same, with the conversation open and live."""
        return await (await self.screen(who, **options)).open()

    async def same_as_reload(self, live: Screen) -> None:
        """What has come live is, element by element, what a fresh load shows."""
        fresh = await self.open(live.user.rstrip("0123456789"))

        async def same() -> bool:
            return await live.normalised() == await fresh.normalised()

        with contextlib.suppress(AssertionError):  # said below, with what differs
            await until(same, "the same", 5)
        assert await live.normalised() == await fresh.normalised()
        await fresh.close()

    async def stops_whole(self, screen: Screen) -> None:
        """Stop the one answer, `/long`, of a screen that watches: it has lost no word and said none twice."""
        await screen.page.click(".run-bar .stop")
        await screen.ended("cancelled")
        answer = await screen.answer()
        assert answer == self.runs()[0]["text"]
        assert words(len(answer.split())).startswith(answer)
        assert answer.startswith(await screen.written())

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.call("runs", conversation=self.conversation)
        return found

    def texts(self) -> list[str]:
        found: list[str] = self.site.call("texts", conversation=self.conversation)
        return found

    async def over(self) -> None:
        """Nobody looks any more, and no browser has complained."""
        problems = [problem for screen in self.screens for problem in screen.unexpected()]
        for screen in self.screens:
            await screen.close()
        assert problems == []


@on_one_loop()
async def story(site: Site, browser: Browser) -> AsyncIterator[Story]:
    told = Story(site, browser)
    yield told
    await told.over()


@on_one_loop()
async def fragile_story(own_site: Site, browser: Browser) -> AsyncIterator[Story]:
    """One whose server dies."""
    told = Story(own_site, browser)
    yield told
    await told.over()
