"""Networks that do not let everything through: the page finds a way by itself, and a person does not notice which."""

import copy
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from playwright.async_api import Browser, Route

from tests.browser.conftest import Story, on_one_loop
from tests.browser.screen import DEADLINE, Screen, until, words
from tests.browser.site import Site
from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.browser

IN_TIME = 2.5  # seconds from opening a page to live text, whatever the network does to it
USUAL = 1.2  # the same with nothing in the way, on two quiet cores
AT_ONCE = 2.0  # seconds; who waits for an answer of the old connection first takes longer
TRIES = 5
# What a network does to it → what the page then uses.
WALLS = {"none": "websocket", "refused": "sse", "silent": "sse", "buffered": "poll"}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SLOTS = "() => Object.keys(localStorage).filter((key) => key.startsWith('conversation:stream:'))"
# Every text the newest answer was seen to have.
TYPED = """() => { window.typed = []; new MutationObserver(() => {
  const text = document.querySelector(".turn:last-child :is(.streaming, .rendered)");
  if (text && text.textContent !== window.typed.at(-1)) window.typed.push(text.textContent);
}).observe(document.getElementById("flow"), { subtree: true, childList: true, characterData: true }); }"""


@pytest.fixture(scope="module")
def quick_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One whose heart beats every second."""
    made = Site(tmp_path_factory.mktemp("quick"), CHAT_HEARTBEAT_SECONDS="1").start()
    yield made
    made.close()


class Abroad(Story):
    """A story whose screens reach the site through `network`."""

    def __init__(self, site: Site, browser: Browser, network: FaultProxy) -> None:
        beyond = copy.copy(site)
        beyond.url = network.url
        super().__init__(beyond, browser)
        self.network = network

    def build(self, wall: str) -> None:
        faults = self.network.faults
        faults.refuse_upgrade = 403 if wall in {"refused", "buffered"} else 0
        faults.buffer_responses = wall == "buffered"

    async def screen(self, who: str = "alice", **options: Any) -> Screen:
        made = await super().screen(who, **options)
        made.expects_network_trouble = True
        return made

    async def behind(self, wall: str, *, clock: bool = False, **options: Any) -> Screen:
        """A screen that has found its way past this wall, if wanted with a clock that can be set."""
        self.build(wall)
        screen = await self.screen("alice", **options)
        if wall == "silent":
            await screen.context.add_init_script("line.deaf = '.'")
        if clock:
            await screen.page.clock.install()
        await screen.open()
        await uses(screen, WALLS[wall])
        return screen


@on_one_loop()
async def abroad(site: Site, browser: Browser) -> AsyncIterator[Abroad]:
    async with FaultProxy(site.port) as network:
        told = Abroad(site, browser, network)
        yield told
        await told.over()


@on_one_loop()
async def quick_abroad(quick_site: Site, browser: Browser) -> AsyncIterator[Abroad]:
    async with FaultProxy(quick_site.port) as network:
        told = Abroad(quick_site, browser, network)
        yield told
        await told.over()


async def uses(screen: Screen, transport: str) -> None:
    await screen.page.wait_for_selector(f'body[data-transport="{transport}"]', timeout=DEADLINE * 1000)


@pytest.mark.parametrize("wall", [wall for wall in WALLS if wall != "none"])
async def test_live_text_comes_in_time_whatever_is_blocked(abroad: Abroad, wall: str) -> None:
    direct = await abroad.behind("none")
    await direct.say("/rate 40 /long 20000")
    await direct.has_said(20)
    took: list[float] = []
    while not took or (min(took) > IN_TIME and len(took) < TRIES):
        # On a busy machine any page takes its time: what is more than usual of that is not the fallback's.
        usual = await until_live_text(abroad, "none")
        took.append(await until_live_text(abroad, wall) - max(0.0, usual - USUAL))
    assert min(took) < IN_TIME, took
    abroad.network.heal()
    await direct.page.click("#stop-all")
    await direct.ended("cancelled")


async def until_live_text(abroad: Abroad, wall: str) -> float:
    """Seconds from opening a page."""
    screen = await abroad.behind(wall)
    await screen.has_said(len(await screen.answer()) + 1)
    took: float = await screen.page.evaluate("performance.now()")
    await screen.context.close()
    return took / 1000


@pytest.mark.parametrize("wall", WALLS)
async def test_everything_works_the_same(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    await laptop.say("/rate 200 /long 100")
    await laptop.ended("completed")
    assert await laptop.answer() == words(100)
    await laptop.say("/rate 50 /long 5000")
    await laptop.has_said(20)
    await laptop.say("/echo waits")
    await laptop.shows("#queue", "/echo waits")
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("completed", "cancelled", "completed")
    assert await laptop.answer() == "waits"
    assert abroad.texts() == ["/rate 200 /long 100", "/rate 50 /long 5000", "/echo waits"]
    assert await laptop.count("#outbox > *") == 0
    await uses(laptop, WALLS[wall])
    await abroad.same_as_reload(laptop)


@pytest.mark.parametrize("wall", [wall for wall in WALLS if wall != "silent"])
async def test_an_agent_is_seen_and_decided_about_the_same(abroad: Abroad, wall: str) -> None:
    laptop, phone = await abroad.behind(wall), await abroad.open()
    gate = f"{wall}-{abroad.number}"
    await phone.say(
        f'/rate 0\n/think Hm.\n/tool erase {{"what": "it"}}\n/tool work {{"name": "{gate}", "says": "busy"}}'
    )
    await laptop.shows(".part .progress", "busy")
    abroad.site.let_go(gate)
    await laptop.page.wait_for_selector('.run-bar[data-live="waiting"]')
    await abroad.same_as_reload(laptop)
    await laptop.page.click(".thought summary")
    await laptop.shows(".loaded", "Hm.")
    await laptop.page.click("[data-decide=approve]")
    for screen in (laptop, phone):
        await screen.ended("completed")
        await screen.shows(".decided", f"Approved by {laptop.user}")
        assert await screen.texts(".result pre") == ["it is gone", f"worked on {gate}"]
    await uses(laptop, WALLS[wall])
    await laptop.page.click(".thought summary")
    await abroad.same_as_reload(laptop)


async def test_a_poll_goes_on_where_the_last_one_ended(abroad: Abroad) -> None:
    laptop = await abroad.behind("buffered")
    asked: list[str] = []
    laptop.page.on("request", lambda request: asked.append(request.url) if "/events?" in request.url else None)
    await laptop.say("/rate 100 /long 20000")

    async def often() -> bool:
        return len(asked) > 5

    await until(often, "more than five polls")
    await laptop.page.click("#stop-all")
    await laptop.ended("cancelled")
    assert all("connection=" in address for address in asked)


@pytest.mark.parametrize("last", ["hello", "sync"])
async def test_a_stream_that_is_held_back_after_its_greeting_is_left_for_polls(abroad: Abroad, last: str) -> None:
    abroad.build("refused")
    abroad.network.faults.hold_after = f'"type":"{last}"'.encode()
    laptop = await abroad.screen()
    await laptop.open()
    await uses(laptop, "poll")
    await laptop.say("/rate 100 /long 60")
    await laptop.ended("completed")
    await laptop.reload()
    await uses(laptop, "poll")
    await abroad.same_as_reload(laptop)


@pytest.mark.parametrize("wall", ["refused", "silent", "buffered"])
async def test_what_failed_is_remembered_and_not_tried_by_the_next_page(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    await laptop.reload()
    await uses(laptop, WALLS[wall])
    assert await laptop.page.evaluate("line.sockets.length") == 0


async def test_many_messages_in_a_moment_arrive_in_order_and_once(abroad: Abroad) -> None:
    laptop = await abroad.behind("refused")
    said = [f"/rate 0 /echo number {number}" for number in range(8)]
    await laptop.page.evaluate(
        """(said) => { const text = document.getElementById("composer-text");
        for (const one of said) { text.value = one; document.getElementById("composer").requestSubmit(); } }""",
        said,
    )
    await laptop.ended(*["completed"] * 8)
    assert abroad.texts() == said


@pytest.mark.parametrize("wall", WALLS)
async def test_a_black_hole_is_noticed_and_costs_no_word(quick_abroad: Abroad, wall: str) -> None:
    laptop = await quick_abroad.behind(wall)
    await laptop.watch()
    await laptop.say("/rate 100 /long 20000")
    before = await laptop.has_said(100)
    quick_abroad.network.faults.black_hole = True
    await laptop.connected("reconnecting")  # after two heartbeats, as test_machine.py has it to the millisecond
    quick_abroad.network.faults.black_hole = False
    await laptop.connected()
    await laptop.has_said(len(before) + 500)
    await quick_abroad.stops_whole(laptop)
    await quick_abroad.same_as_reload(laptop)


@pytest.mark.parametrize("wall", ["refused", "buffered"])
async def test_resets_neither_lose_nor_repeat_a_word(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    await laptop.watch()
    await laptop.say("/rate 100 /long 20000")
    for characters in (50, 600, 1200):
        await laptop.has_said(characters)
        abroad.network.reset()
        if wall != "buffered":  # a poll that was reset is asked again by the browser itself
            await laptop.connected("reconnecting")
        await laptop.connected()
    await laptop.has_said(1600)
    await abroad.stops_whole(laptop)
    await abroad.same_as_reload(laptop)


@pytest.mark.parametrize("wall", ["refused", "buffered"])
async def test_n4_a_send_whose_answer_was_lost_is_carried_out_once(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    abroad.network.faults.delay = 0.4
    await laptop.say("/rate 0 /echo once")

    async def said() -> bool:
        return abroad.texts() != []

    await until(said, "the message in the database")
    abroad.network.reset()  # its answer is on the way
    abroad.network.faults.delay = 0
    await laptop.ended("completed")
    assert abroad.texts() == ["/rate 0 /echo once"]
    assert await laptop.count(".pending") == 0


@pytest.mark.parametrize("wall", ["refused", "buffered"])
async def test_r27_a_signal_that_did_not_get_through_is_said_again(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    lost: list[str] = []

    async def lose_the_first(route: Route) -> None:
        said = route.request.post_data or ""
        if "message.send" in said and not lost:
            lost.append(said)
            await route.abort()
        else:
            await route.continue_()

    await laptop.page.route("**/signals?*", lose_the_first)
    await laptop.say("/rate 0 /echo once")
    await laptop.ended("completed")
    assert len(lost) == 1
    assert abroad.texts() == ["/rate 0 /echo once"]
    assert await laptop.count(".pending") == 0


async def test_it_returns_to_the_socket_on_a_new_network_without_a_gap(abroad: Abroad) -> None:
    laptop = await abroad.behind("refused")
    await laptop.say("/rate 60 /long 200 /hang")
    await laptop.has_said(60)
    abroad.network.heal()
    await laptop.page.evaluate("dispatchEvent(new Event('online'))")
    await uses(laptop, "websocket")
    await laptop.writes(words(200))
    assert set(await laptop.page.evaluate("line.states")) <= {"live"}
    assert await laptop.page.evaluate(SLOTS) == []
    await laptop.page.click(".run-bar .stop")
    await laptop.ended("cancelled")
    await laptop.reload()
    await uses(laptop, "websocket")
    await abroad.same_as_reload(laptop)


async def test_a_socket_that_is_still_blocked_costs_nothing(abroad: Abroad) -> None:
    laptop = await abroad.behind("refused")
    await laptop.say("/rate 60 /long 200")
    await laptop.has_said(60)
    await laptop.page.evaluate("dispatchEvent(new Event('online'))")

    async def tried() -> bool:
        return bool(await laptop.page.evaluate("line.sockets.length === 2"))

    await until(tried, "another try")
    await laptop.ended("completed")
    await uses(laptop, "sse")
    assert await laptop.answer() == words(200)


@pytest.mark.parametrize("wall", WALLS)
async def test_eight_hours_later_it_is_all_there_at_once(abroad: Abroad, site: Site, wall: str) -> None:
    laptop = await abroad.behind(wall, clock=True)
    await laptop.page.fill("#composer-text", "half a thought")
    at_home = copy.copy(abroad)
    at_home.site = site
    phone = await at_home.open()
    took: list[float] = []
    while not took or (min(took) > AT_ONCE and len(took) < TRIES):  # on a busy machine, the best of some
        answers = ["completed"] * len(took)
        await laptop.page.evaluate(TYPED)
        abroad.network.faults.black_hole = True  # the lid is closed
        await phone.say("/rate 0 /long 3000")
        await phone.ended(*answers, "completed")
        assert await laptop.states() == answers
        abroad.network.reset()
        abroad.network.faults.black_hole = False
        await laptop.page.clock.fast_forward("08:00:00")
        began = time.monotonic()
        await laptop.ended(*answers, "completed")
        took.append(time.monotonic() - began)
        assert await laptop.answer() == words(3000)
        assert await laptop.page.evaluate("window.typed.length") == 1
    assert min(took) < AT_ONCE, took
    assert await laptop.draft() == "half a thought"


@pytest.mark.parametrize("wall", WALLS)
async def test_a_page_that_is_put_aside_holds_nothing_and_comes_back_whole(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    await laptop.say("/rate 30 /long 150")
    await laptop.has_said(20)
    await laptop.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    await laptop.connected("reconnecting")
    assert await laptop.page.evaluate("line.sockets.every(({ readyState }) => readyState > 1)")
    assert await laptop.page.evaluate(SLOTS) == []
    await until(lambda: completed(abroad), "the end of the answer")
    assert await laptop.states() == ["running"]
    await laptop.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await laptop.ended("completed")
    assert await laptop.answer() == words(150)
    await abroad.same_as_reload(laptop)


async def completed(abroad: Abroad) -> bool:
    return [run["state"] for run in abroad.runs()] == ["completed"]


@pytest.mark.parametrize("wall", WALLS)
async def test_who_is_signed_out_is_told_on_every_way(abroad: Abroad, wall: str) -> None:
    laptop = await abroad.behind(wall)
    laptop.expects_sign_out = True
    abroad.site.call("sign_out", session=abroad.session("alice"))
    await laptop.connected("stopped")
    await laptop.shows("#sent-away", "Sign in")
    del abroad.sessions["alice"]


@pytest.mark.parametrize(
    ("wall", "said"), [("none", "WebSocket"), ("refused", "Event stream"), ("buffered", "Long polling")]
)
@pytest.mark.parametrize("options", [PHONE, {}], ids=["phone", "desktop"])
async def test_the_details_say_which_way_and_the_header_does_not(
    abroad: Abroad, wall: str, said: str, options: dict[str, Any]
) -> None:
    screen = await abroad.behind(wall, **options)
    await screen.page.click("#open-panel")
    await screen.page.click("#details summary")
    await screen.shows("#detail-transport", said)
    assert await screen.texts("#connection-text") == ["Live"]
    assert await screen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("wall", ["none", "refused", "buffered"])
async def test_a_tab_that_was_frozen_comes_back_whole(abroad: Abroad, site: Site, wall: str) -> None:
    laptop = await abroad.behind(wall)
    life = await laptop.context.new_cdp_session(laptop.page)
    await life.send("Page.setWebLifecycleState", {"state": "frozen"})
    at_home = copy.copy(abroad)
    at_home.site = site
    phone = await at_home.open()
    await phone.say("/rate 0 /long 3000")
    await phone.ended("completed")
    await life.send("Page.setWebLifecycleState", {"state": "active"})
    await laptop.ended("completed")
    assert await laptop.answer() == words(3000)
    await abroad.same_as_reload(laptop)
