"""The page's connection by itself: a fake clock, fake lines, no luck. Run where it lives, in a browser."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route

from tests.browser.conftest import on_one_loop
from tests.browser.site import Site

pytestmark = pytest.mark.browser

# `s.attempt()` makes a machine; `s.pass(ms)` lets time pass, `s.sleep(ms)` too, but every timer fires late; what a
# server would do to the newest line of a kind: `s.hello(name)`, `s.hear(name, frame)`, `s.end(name, how)`.
STAGE = """async () => {
  const { Machine, backoff } = await import("/static/chat/machine.js");
  const { LADDER, Ladder } = await import("/static/chat/ladder.js");
  const { Slots } = await import("/static/chat/slots.js");
  const { Events } = await import("/static/chat/sse.js");
  let now = 1e12, timers = [];
  const clock = {
    now: () => now,
    setTimeout: (act, delay) => { const timer = { act, at: now + delay }; timers.push(timer); return timer; },
    clearTimeout: (timer) => { timers = timers.filter((one) => one !== timer); },
  };
  const fire = (until) => {
    for (;;) {
      const next = timers.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) return;
      clock.clearTimeout(next);
      now = Math.max(now, next.at);
      next.act();
    }
  };
  const memory = new Map();
  const store = {
    get: (key) => memory.get(key) ?? null, set: (key, value) => memory.set(key, value),
    remove: (key) => memory.delete(key), keys: (prefix) => [...memory.keys()].filter((key) => key.startsWith(prefix)),
  };
  const ladder = new Ladder({ key: "failed", store, clock });
  const s = window.s = {
    Slots, Events, backoff, clock, store, ladder, memory,
    lines: [], states: [], whys: [], frames: [], taken: [], allowed: LADDER, missing: [], chance: 0.5, isOnline: true,
    pass: (ms) => { const until = now + ms; fire(until); now = until; },
    sleep: (ms) => { now += ms; fire(now); },
    setBack: (ms) => { now -= ms; for (const timer of timers) timer.at -= ms; },
    of: (name) => s.lines.filter((line) => line.name === name).at(-1),
    open: () => s.lines.filter(({ isOpen }) => isOpen).map(({ name }) => name),
    hear: (name, frame) => s.of(name).callbacks.onFrame(frame, 10),
    hello: (name, heartbeat = 20) => {
      s.of(name).isGreeted = true;
      s.hear(name, { type: "hello", heartbeat });
      s.hear(name, { type: "sync", serial: 1 });
    },
    end: (name, how = {}) => { s.of(name).isOpen = false; s.of(name).callbacks.onClosed({ code: 1006, ...how }); },
    machine: null,
    start: () => { s.machine = new Machine({
      ways: () => LADDER.filter((name) => s.allowed.includes(name)),
      open: (name, callbacks) => {
        if (s.missing.includes(name)) throw new Error("no such thing here");
        const line = { name, callbacks, said: [], isOpen: true, isGreeted: false };
        s.lines.push(line);
        return {
          send: (signal) => { if (line.isGreeted) line.said.push(signal.type); return line.isGreeted; },
          close: () => { line.isOpen = false; },
          echoes: name === "websocket", silent: name === "poll",
        };
      },
      memory: ladder, clock, random: () => s.chance, isOnline: () => s.isOnline,
      onFrame: (frame) => s.frames.push(frame.type), onLine: (name) => s.taken.push(name),
      onState: (state, why) => { s.states.push(state); s.whys.push(why); },
    }); s.machine.start(); },
  };
}"""


class Stage:
    """A page on which `s` is the stage. `play` does things there and returns what it ends with."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def play(self, script: str) -> Any:
        return await self.page.evaluate(f"() => {{ {script} }}")


@on_one_loop(scope="module")
async def theatre(browser: Browser, shared_site: Site) -> AsyncIterator[Page]:
    """One page for all of them: nothing here outlives its stage."""
    page = await browser.new_page()
    await page.goto(f"{shared_site.url}/login/")
    yield page
    await page.close()


@on_one_loop()
async def stage(theatre: Page) -> Stage:
    await theatre.evaluate(STAGE)
    return Stage(theatre)


# --- beginning ---


async def test_a_way_that_turns_out_to_be_useless_is_left_at_once_and_not_taken_again(stage: Stage) -> None:
    found = await stage.play(
        "s.allowed = ['sse', 'poll']; s.start(); s.hello('sse'); s.end('sse', { useless: true });"
        "return [s.states, s.open(), s.ladder.failed('sse')];"
    )
    assert found == [["connecting", "live", "reconnecting"], ["poll"], True]


async def test_the_best_way_is_taken_if_it_works(stage: Stage) -> None:
    found = await stage.play("s.start(); s.pass(200); s.hello('websocket'); s.pass(5000); return [s.states, s.open()];")
    assert found == [["connecting", "live"], ["websocket"]]


async def test_a_refused_way_gives_way_at_once_and_is_remembered(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(10); s.end('websocket'); const after = s.open(); s.hello('sse');"
        "return [after, s.states, s.ladder.failed('websocket'), s.ladder.failed('sse')];"
    )
    assert found == [["sse"], ["connecting", "live"], True, False]


async def test_a_black_hole_is_raced_and_the_loser_is_closed(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(999); const before = s.open(); s.pass(2); const beside = s.open(); s.hello('sse');"
        "return [before, beside, s.open(), s.machine.state, s.ladder.failed('websocket')];"
    )
    assert found == [["websocket"], ["websocket", "sse"], ["sse"], "live", True]


async def test_a_slow_socket_that_still_comes_first_wins(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(1500); s.hello('websocket'); return [s.open(), s.taken, s.ladder.failed('websocket')];"
    )
    assert found == [["websocket"], ["websocket"], False]


async def test_two_black_holes_lead_to_polling_in_two_seconds(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(2001); s.hello('poll'); return [s.open(), s.machine.state, "
        "s.ladder.failed('websocket'), s.ladder.failed('sse'), s.ladder.failed('poll')];"
    )
    assert found == [["poll"], "live", True, True, False]


async def test_what_failed_is_left_out_until_it_is_forgotten(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.start(); const first = s.open(); s.hello('sse'); s.machine.leave();"
        "s.pass(600001); s.machine.check(); return [first, s.open()];"
    )
    assert found == [["sse"], ["websocket"]]


async def test_a_network_that_is_down_puts_the_blame_on_no_way(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.end('websocket'); s.end('sse', { nobody: true });"
        "return [s.states, s.open(), s.lines.length, s.ladder.failed('websocket'), s.ladder.failed('sse')];"
    )
    assert found == [["connecting", "reconnecting"], [], 2, False, False]


async def test_where_nobody_is_reached_again_the_next_way_is_tried_and_none_is_blamed(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.end('websocket'); s.end('sse', { nobody: true }); const first = s.lines.length; s.pass(401);"
        "s.end('websocket'); s.end('sse', { nobody: true }); const next = s.open(); s.hello('poll');"
        "return [first, next, s.open(), s.states, s.ladder.failed('websocket'), s.ladder.failed('sse')];"
    )
    assert found == [2, ["poll"], ["poll", "websocket"], ["connecting", "reconnecting", "live"], False, False]


async def test_who_was_not_reached_by_one_way_and_then_by_another_may_have_just_come_back(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(2001); s.end('sse', { nobody: true }); s.hello('poll');"
        "const blamed = [s.ladder.failed('websocket'), s.ladder.failed('sse')];"
        "s.hello('websocket'); return [blamed, s.open()];"
    )
    assert found == [[False, False], ["websocket"]]


async def test_what_is_behind_a_closed_door_is_known_once_another_way_serves(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(2001); s.end('sse', { nobody: true }); s.hello('poll'); s.end('websocket');"
        "const beside = s.open(); s.end('sse', { nobody: true });"
        "return [beside, s.open(), s.ladder.failed('websocket'), s.ladder.failed('sse'), s.machine.state];"
    )
    assert found == [["poll", "sse"], ["poll"], True, True, "live"]


async def test_a_new_attempt_forgets_that_nobody_was_reached(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.end('websocket'); s.end('sse', { nobody: true }); s.pass(401); s.end('websocket');"
        "s.hello('sse'); return [s.open(), s.ladder.failed('websocket')];"
    )
    assert found == [["sse"], True]


async def test_where_nobody_is_ever_reached_a_slow_poll_has_its_time_and_a_silent_socket_has_not(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.end('websocket'); s.end('sse', { nobody: true }); s.pass(401); s.pass(2001);"
        "s.end('sse', { nobody: true }); s.pass(6000); const slow = s.open(); s.end('poll', { nobody: true });"
        "s.pass(2499); const then = s.open(); s.pass(2); return [slow, then, s.open(), s.states.length];"
    )
    assert found == [["websocket", "poll"], ["websocket"], [], 3]


async def test_where_nobody_is_reached_a_silent_socket_is_not_waited_for_long(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.pass(1001); s.end('sse', { nobody: true }); const before = s.machine.state; s.pass(2501);"
        "return [before, s.states, s.ladder.failed('websocket')];"
    )
    assert found == ["connecting", ["connecting", "reconnecting"], False]


async def test_a_browser_without_a_way_takes_the_next(stage: Stage) -> None:
    found = await stage.play("s.missing = ['websocket', 'sse']; s.start(); s.pass(1); return s.open();")
    assert found == ["poll"]


async def test_frames_of_a_loser_are_not_heard(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hear('websocket', { type: 'typing' }); s.pass(1001); s.hello('sse'); "
        "const heard = s.frames.length;"
        "s.hello('websocket'); s.end('websocket'); return [heard, s.frames.length, s.machine.state, s.taken];"
    )
    assert found == [2, 2, "live", ["sse"]]


async def test_an_attempt_without_any_answer_ends(stage: Stage) -> None:
    found = await stage.play("s.start(); s.pass(12001); return [s.states, s.machine.attempts, s.open()];")
    assert found == [["connecting", "reconnecting"], 1, []]


# --- coming back ---


async def test_waiting_grows_with_full_jitter_and_has_an_end(stage: Stage) -> None:
    delays = await stage.play(
        "return [0, 1, 3, 20].map((failures) => [0, 0.5, 1].map((x) => s.backoff(failures, () => x)));"
    )
    assert delays == [[0, 200, 400], [0, 400, 800], [0, 1600, 3200], [0, 7500, 15000]]


async def test_a_good_line_that_is_lost_comes_back_soon(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.pass(6000); s.end('websocket'); s.pass(199); "
        "const before = s.lines.length;"
        "s.pass(2); s.hello('websocket'); return [before, s.lines.length, s.states];"
    )
    assert found == [1, 2, ["connecting", "live", "reconnecting", "live"]]


async def test_after_five_failures_it_says_offline_and_goes_on(stage: Stage) -> None:
    found = await stage.play(
        """s.start();
        for (let n = 0; n < 5; n += 1) { s.end('websocket'); s.end('sse', { nobody: true }); s.pass(16000); }
        const down = s.machine.state; s.hello('websocket'); return [down, s.machine.state];"""
    )
    assert found == ["offline", "live"]


async def test_a_browser_that_says_it_is_offline_is_believed_in_words_only(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.isOnline = false; s.pass(6000); s.end('websocket'); "
        "const state = s.machine.state;"
        "s.pass(201); return [state, s.open()];"
    )
    assert found == ["offline", ["websocket"]]


async def test_a_goodbye_says_when_to_come_back(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.pass(6000);"
        "s.hear('websocket', { type: 'bye', code: 'drain', close: 4000, retry_in: 3 }); "
        "s.end('websocket', { code: 4000 });"
        "s.pass(2999); const before = s.open(); s.pass(2); "
        "return [before, s.open(), s.whys.at(-1).restarting, s.machine.state];"
    )
    assert found == [[], ["websocket"], True, "reconnecting"]


@pytest.mark.parametrize("name", ["websocket", "sse", "poll"])
async def test_a_goodbye_for_good_stops_for_good(stage: Stage, name: str) -> None:
    found = await stage.play(
        f"s.allowed = ['{name}']; s.start(); "
        f"s.hear('{name}', {{ type: 'bye', code: 'revoked', close: 4504, message: 'Gone.' }});"
        f"s.end('{name}', {{ code: 1000 }}); s.pass(1e6); s.machine.check(); s.machine.again(); s.machine.leave();"
        "return [s.states, s.whys.at(-1), s.lines.length];"
    )
    assert found == [["connecting", "stopped"], {"code": 4504, "reason": "revoked", "message": "Gone."}, 1]


async def test_a_close_code_of_the_server_ends_the_attempt_on_every_way(stage: Stage) -> None:
    found = await stage.play("s.start(); s.end('websocket', { code: 4503 }); return [s.states, s.lines.length];")
    assert found == [["connecting", "stopped"], 1]


async def test_r31_lines_that_die_young_lead_to_another_way_for_a_while(stage: Stage) -> None:
    found = await stage.play(
        """s.chance = 0; s.start();
        for (let n = 0; n < 4; n += 1) { s.hello('websocket'); s.pass(1000); s.end('websocket'); s.pass(1); }
        const then = s.open(); s.hello('sse', 3600); s.pass(60001); const beside = s.open(); s.hello('websocket');
        return [then, beside, s.open(), s.machine.state, s.ladder.failed('websocket')];"""
    )
    assert found == [["sse"], ["sse", "websocket"], ["websocket"], "live", False]


# --- noticing ---


async def test_nothing_heard_for_two_heartbeats_is_a_dead_line(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket', 1); s.pass(300); s.hear('websocket', { type: 'ping' });"
        "s.pass(1999); const before = [s.machine.state, s.lines.length]; s.pass(2); "
        "return [before, s.machine.state, s.lines.length];"
    )
    assert found == [["live", 1], "reconnecting", 2]


async def test_a_clock_that_is_set_back_does_not_make_a_dead_line_live(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket', 1); s.setBack(3600e3); s.pass(5000); return s.lines.length > 1;"
    )
    assert found is True


async def test_it_says_something_every_heartbeat_and_to_each_ping(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.pass(15000); s.hear('websocket', { type: 'ping' });"
        "const answered = [...s.of('websocket').said]; s.pass(15000); s.hear('websocket', { type: 'ping' }); "
        "s.pass(6000);"
        "return [answered, s.of('websocket').said];"
    )
    assert found == [["ping"], ["ping", "ping"]]


async def test_a_poll_is_a_sign_of_life_by_itself(stage: Stage) -> None:
    found = await stage.play(
        "s.allowed = ['poll']; s.start(); s.hello('poll'); for (let n = 0; n < 5; n += 1) { s.pass(19000);"
        "s.hear('poll', { type: 'ping' }); } return [s.of('poll').said, s.machine.state];"
    )
    assert found == [[], "live"]


async def test_whoever_looks_makes_it_ask_and_an_answer_is_enough(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.pass(5000); s.machine.check(); "
        "const said = [...s.of('websocket').said]; s.pass(100);"
        "s.hear('websocket', { type: 'pong' }); s.pass(5000); return [said, s.lines.length, s.states];"
    )
    assert found == [["ping"], 1, ["connecting", "live"]]


async def test_whoever_looks_at_a_half_open_socket_waits_no_longer_than_patience(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.pass(5000); s.machine.check(); s.pass(2499); "
        "const before = s.machine.state; s.pass(2);"
        "return [before, s.machine.state, s.open()];"
    )
    assert found == ["live", "reconnecting", ["websocket"]]


async def test_a_stream_that_cannot_be_asked_is_opened_again_beside_itself(stage: Stage) -> None:
    found = await stage.play(
        "s.allowed = ['sse', 'poll']; s.start(); s.hello('sse'); s.pass(5000); s.machine.check(); "
        "const beside = s.open();"
        "s.hello('sse'); s.pass(10000); return [beside, s.open(), s.states.includes('reconnecting')];"
    )
    assert found == [["sse", "sse"], ["sse"], False]


async def test_eight_hours_of_sleep_and_it_comes_back_at_once(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.sleep(8 * 3600e3); const state = s.machine.state; s.hello('websocket');"
        "return [state, s.lines.length, s.machine.state];"
    )
    assert found == ["reconnecting", 2, "live"]


async def test_a_short_sleep_is_noticed_by_a_late_timer(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.sleep(30e3); const then = s.machine.state; "
        "s.pass(2501); return [s.lines[0].said, then, s.machine.state];"
    )
    assert found == [["ping"], "live", "reconnecting"]


async def test_a_page_that_is_put_aside_keeps_nothing_open_and_comes_back(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.machine.leave(); s.pass(3600e3); "
        "const aside = [s.open(), s.lines.length];"
        "s.machine.check(); return [aside, s.open(), s.states];"
    )
    assert found == [[[], 1], ["websocket"], ["connecting", "live", "reconnecting"]]


async def test_looking_twice_while_it_opens_opens_one_line(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.machine.check(); s.machine.check(); s.pass(500); s.machine.check(); return s.lines.length;"
    )
    assert found == 1


# --- a better way ---


async def test_a_better_way_is_tried_beside_and_taken_without_a_gap(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.start(); s.hello('sse'); s.ladder.forget(); s.machine.reconsider(); "
        "const both = s.open();"
        "s.hello('websocket'); return [both, s.open(), s.states];"
    )
    assert found == [["sse", "websocket"], ["websocket"], ["connecting", "live", "live"]]


async def test_a_better_way_that_is_still_closed_costs_nothing(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.start(); s.hello('sse', 3600); s.pass(60001); s.end('websocket'); "
        "const again = s.open();"
        "s.pass(599e3); const quiet = s.lines.length; s.pass(2000); return [again, quiet, s.open(), s.states];"
    )
    assert found == [["sse"], 2, ["sse", "websocket"], ["connecting", "live"]]


async def test_from_polling_it_looks_at_every_better_way(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.ladder.fail('sse'); s.start(); s.hello('poll', 3600); s.pass(60001);"
        "s.end('websocket'); const next = s.open(); s.pass(5001); return [next, s.open(), s.ladder.failed('sse')];"
    )
    assert found == [["poll", "sse"], ["poll"], True]


async def test_a_way_another_tab_found_closed_is_kept_where_it_works(stage: Stage) -> None:
    found = await stage.play(
        "s.start(); s.hello('websocket'); s.ladder.fail('websocket'); s.machine.reconsider(); return s.open();"
    )
    assert found == ["websocket"]


async def test_a_stream_that_is_given_up_is_replaced_before_it_is_closed(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.start(); s.hello('sse'); s.allowed = ['websocket', 'poll']; "
        "s.machine.reconsider();"
        "const both = s.open(); s.hello('poll'); const polls = s.open(); s.allowed = ['websocket', 'sse', 'poll'];"
        "s.machine.reconsider(); s.hello('sse'); return [both, polls, s.open(), s.states.includes('reconnecting')];"
    )
    assert found == [["sse", "poll"], ["poll"], ["sse"], False]


async def test_a_slot_that_comes_and_goes_ends_on_the_best_way(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.start(); s.hello('sse'); s.allowed = ['websocket', 'poll']; "
        "s.machine.reconsider();"
        "s.allowed = ['websocket', 'sse', 'poll']; s.machine.reconsider(); s.hello('poll'); const both = s.open();"
        "s.hello('sse'); return [both, s.open()];"
    )
    assert found == [["poll", "sse"], ["sse"]]


async def test_after_hours_a_way_that_failed_has_a_short_head_start(stage: Stage) -> None:
    found = await stage.play(
        "s.ladder.fail('websocket'); s.ladder.fail('sse'); s.pass(600001); s.start(); s.pass(599); "
        "const before = s.open();"
        "s.pass(2); const after = s.open(); s.hello('websocket'); "
        "return [before, after, s.open(), s.ladder.doubts('websocket')];"
    )
    assert found == [["websocket", "sse"], ["websocket", "sse", "poll"], ["websocket"], False]


# --- sharing streams ---

TABS = """
  s.changes = [];
  s.tab = (id, visible = true) => {
    const tab = { visible };
    tab.slots = new s.Slots({ id, prefix: 'slot:', store: s.store, clock: s.clock, isVisible: () => tab.visible,
      onChange: () => s.changes.push([id, tab.slots.has()]) });
    return tab;
  };
  s.tabs = [1, 2, 3, 4, 5, 6].map((n) => { const tab = s.tab('t' + n); tab.slots.take(); s.pass(1); return tab; });
  s.told = () => s.tabs.forEach(({ slots }) => slots.heard('slot:'));
  s.having = () => s.tabs.map(({ slots }) => Number(slots.has())).join('');
"""


async def test_four_tabs_have_a_slot_and_a_closed_one_leaves_it_to_the_next(stage: Stage) -> None:
    found = await stage.play(
        TABS + "const first = s.having(); s.tabs[1].slots.leave(); s.told(); "
        "return [first, s.having().slice(2), s.changes];"
    )
    assert found == ["111100", "1110", [["t5", True]]]


async def test_a_tab_that_is_looked_at_takes_the_slot_of_one_that_is_not(stage: Stage) -> None:
    found = await stage.play(
        TABS + "s.tabs[0].visible = false; s.tabs[0].slots.look(); s.told(); return [s.having(), s.changes];"
    )
    assert found == ["011110", [["t1", False], ["t5", True]]]


async def test_a_tab_that_died_is_missed_after_its_lease(stage: Stage) -> None:
    found = await stage.play(
        TABS + "const { slots } = s.tabs[2];"
        "const lease = s.store.get('slot:t3'); slots.leave(); s.store.set('slot:t3', lease); s.told(); "
        "const dead = s.having()[4];"
        "s.pass(21000); return [dead, s.having()[4], s.having()[5], s.store.keys('slot:').includes('slot:t3')];"
    )
    assert found == ["0", "1", "0", False]


async def test_without_a_store_every_tab_thinks_it_has_a_slot(stage: Stage) -> None:
    found = await stage.play(
        "s.store = { get: () => null, set: () => false, remove() {}, keys: () => [] };" + TABS + "return s.having();"
    )
    assert found == "111111"


# --- reading a stream ---


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_read_whole_however_they_are_cut(stage: Stage, size: int) -> None:
    found = await stage.play(
        """const text = ': hi\\n\\nid: 4\\ndata: {"a":1}\\n\\ndata:two\\r\\n\\r\\n'
          + 'event: x\\ndata: three\\ndata: four\\n\\ndata: cut';
        const found = []; const events = new s.Events((data) => found.push(data));"""
        f"for (let at = 0; at < text.length; at += {size}) events.push(text.slice(at, at + {size})); return found;"
    )
    assert found == ['{"a":1}', "two", "three\nfour"]


# --- asking again and again ---


async def test_polls_that_somebody_else_answers_at_once_are_asked_once_a_second(stage: Stage) -> None:
    """With an answer to each, but nothing to say: a cache, or a proxy's page."""

    async def nothing(route: Route) -> None:
        await route.fulfill(json={"connection": "x", "frames": []})

    await stage.page.route("**/nothing", nothing)
    asked = await stage.page.evaluate(
        """async () => {
          const { openLongPoll } = await import("/static/chat/long_poll.js");
          const asked = [];
          await new Promise((done) => {
            const addresses = { events: () => (asked.push(performance.now()), "/nothing"), signals: () => "/nothing" };
            const onFrame = () => { if (asked.length === 3) { line.close(); done(); } };
            const line = openLongPoll({ ...addresses, patience: () => 20 }, { onFrame, onClosed: done });
          });
          return asked;
        }"""
    )
    await stage.page.unroute("**/nothing")
    assert len(asked) == 3
    assert all(later - earlier >= 990 for earlier, later in pairwise(asked))
