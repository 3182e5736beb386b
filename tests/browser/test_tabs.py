"""Many tabs in one browser, which opens six connections to a host and not one more, where sockets are blocked."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Route

from tests.browser.conftest import on_one_loop
from tests.browser.screen import Screen, until, words
from tests.browser.site import ROOT, Site
from tests.browser.test_transports import SLOTS, Abroad
from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.browser

STREAMS = 4  # as static/chat/slots.js has it
SLOTS_JS = (ROOT / "static/chat/slots.js").read_text()


class Office(Abroad):
    """A story whose screens are tabs of one browser."""

    first: Screen | None = None

    async def never_look(self) -> None:
        """Tabs from now on look at the slots when they are told, and not every five seconds as well."""
        patient = re.sub(r"(const (?:RENEW|LEASE|LEASE_HIDDEN) = )[\d_]+", r"\g<1>3600_000", SLOTS_JS)
        assert patient.count("3600_000") == 3
        self.first = await self.screen()

        async def give(route: Route) -> None:
            await route.fulfill(content_type="text/javascript", body=patient)

        await self.first.context.route("**/slots.js", give)

    async def tab(self) -> Screen:
        if self.first is None:
            self.first = await self.screen()
        if self.first.page.url == "about:blank":
            return await self.first.open()
        page = await self.first.context.new_page()
        self.screens.append(Screen(self.site, self.first.context, page, self.first.user, self.conversation))
        self.screens[-1].expects_network_trouble = True
        return await self.screens[-1].open()

    async def tabs(self, count: int) -> list[Screen]:
        made = [await self.tab()]
        while len(made) < count:  # not all at once: two of the six connections are left to load pages by
            made += await asyncio.gather(*(self.tab() for _ in range(min(3, count - len(made)))))
        return made


@on_one_loop()
async def office(site: Site, browser: Browser) -> AsyncIterator[Office]:
    async with FaultProxy(site.port) as network:
        told = Office(site, browser, network)
        told.build("refused")
        yield told
        await told.over()


async def ways(tabs: list[Screen]) -> list[str]:
    """How each tab is connected, in order of the names."""
    return sorted([str(await tab.page.get_attribute("body", "data-transport")) for tab in tabs])


async def one_that_polls(tabs: list[Screen]) -> Screen:
    found = [await tab.page.get_attribute("body", "data-transport") for tab in tabs]
    return tabs[found.index("poll")]


async def shared_out(tabs: list[Screen]) -> None:
    """Wait until as many as may have a stream have one, and the others poll."""
    streams = min(STREAMS, len(tabs))
    wanted = ["poll"] * (len(tabs) - streams) + ["sse"] * streams

    async def so() -> bool:
        return await ways(tabs) == wanted

    await until(so, f"{streams} streams in {len(tabs)} tabs")


async def test_twelve_tabs_are_all_live_and_show_every_word(office: Office) -> None:
    tabs = await office.tabs(12)
    await shared_out(tabs)
    await tabs[-1].say("/rate 60 /long 240")
    for tab in tabs:
        await tab.has_said(20)
    for tab in tabs:
        await tab.ended("completed")
        assert await tab.answer() == words(240)
    for tab in tabs:
        await tab.connected()
    await shared_out(tabs)


async def test_a_stream_that_becomes_free_goes_to_the_next_tab(office: Office) -> None:
    await office.never_look()
    tabs = await office.tabs(6)
    await shared_out(tabs)
    assert len(await tabs[0].page.evaluate(SLOTS)) == 6
    await tabs[0].page.close()
    await shared_out(tabs[1:])
    await tabs[1].page.goto("about:blank")
    await shared_out(tabs[2:])
    assert len(await tabs[2].page.evaluate(SLOTS)) == 4


async def test_the_tab_somebody_looks_at_gets_a_stream_first(office: Office) -> None:
    await office.never_look()
    tabs = await office.tabs(6)
    await shared_out(tabs)
    polling = await one_that_polls(tabs)
    await polling.page.click("#open-panel")
    await polling.page.click("#details summary")
    await polling.shows("#detail-transport", "other tabs use the streams")
    hide = """() => { Object.defineProperty(document, 'visibilityState', { value: 'hidden' });
        document.dispatchEvent(new Event('visibilitychange')); }"""
    for tab in tabs:
        if tab is not polling:
            await tab.page.evaluate(hide)
    await polling.shows("#detail-transport", "Event stream")
    await shared_out(tabs)


async def test_sockets_need_no_slot(office: Office) -> None:
    office.build("none")
    tabs = await office.tabs(7)
    assert await ways(tabs) == ["websocket"] * 7
    assert await tabs[0].page.evaluate(SLOTS) == []


async def test_a_tab_without_a_stream_can_do_everything(office: Office) -> None:
    tabs = await office.tabs(5)
    await shared_out(tabs)
    polling = await one_that_polls(tabs)
    await polling.say("/rate 40 /long 5000")
    await polling.has_said(20)
    await polling.page.click(".run-bar .stop")
    for tab in tabs:
        await tab.ended("cancelled")
    await polling.say("/rate 0 /echo next")
    await polling.ended("cancelled", "completed")
    assert await polling.answer() == "next"
    await office.same_as_reload(polling)
