/**
 * The connection of this page: the machine, with a real clock, real lines and a real browser around it. Knows nothing of
 * what frames mean but the few that are about the connection itself.
 */

import { LADDER, Ladder } from "./ladder.js";
import { LONGEST_WAIT, openLongPoll } from "./long_poll.js";
import { Machine } from "./machine.js";
import { newId, page, store } from "./page.js";
import { Slots } from "./slots.js";
import { openSse } from "./sse.js";
import { openWebSocket } from "./websocket.js";

// What the network lets through is the same for all who use this browser.
const FAILED = "conversation:failed-transports";
const TABS = "conversation:stream:";
const SHARED_WAIT = 5; // where tabs share few connections: how long one that has lost its slot may still hold it

// The wall clock and not `performance.now()`, which stands still while some computers sleep.
const clock = {
  now: () => Date.now(),
  setTimeout: (act, delay) => setTimeout(act, delay),
  clearTimeout: (timer) => clearTimeout(timer),
};

export class Connection {
  #machine;
  #ladder = new Ladder({ key: FAILED, store, clock });
  #slots = new Slots({
    id: newId(), prefix: TABS, store, clock,
    isVisible: () => document.visibilityState === "visible",
    onChange: () => { this.#machine.reconsider(); this.#tell(); },
  });
  #name = null;

  /**
   * `query()` is asked at each attempt, for the cursor moves. `onTransport(name, mayHold)` when another way is taken, or
   * this tab may now hold a connection open, or may not any more.
   */
  constructor({ query, onFrame, onState, onTransport }) {
    this.query = query;
    this.onTransport = onTransport;
    this.#machine = new Machine({
      ways: () => LADDER.filter((name) => name !== "sse" || this.#mayHold()),
      open: (name, callbacks) => this.#open(name, callbacks),
      memory: this.#ladder,
      clock,
      random: Math.random,
      isOnline: () => navigator.onLine,
      onFrame,
      onState,
      onLine: (name) => this.#lineIs(name),
    });
  }

  get attempts() { return this.#machine.attempts; }

  start() {
    const machine = this.#machine;
    const look = () => { machine.check(); machine.reconsider(); };
    const leave = () => { machine.leave(); this.#slots.leave(); };
    // Hints only: a server on this machine is there without a network, and a network may lead nowhere.
    const moved = () => { this.#ladder.forget(); look(); };
    addEventListener("online", moved);
    addEventListener("offline", () => machine.check());
    this.#watchKind(moved);
    addEventListener("pagehide", leave);
    addEventListener("pageshow", (event) => event.persisted && look());
    // What is frozen can neither read nor beat.
    document.addEventListener("freeze", leave);
    document.addEventListener("resume", look);
    document.addEventListener("visibilitychange", () => {
      this.#slots.look();
      if (document.visibilityState === "visible") look();
    });
    addEventListener("storage", ({ key }) => {
      this.#slots.heard(key);
      if (key === FAILED) machine.reconsider();
    });
    machine.start();
  }

  send(signal) { return this.#machine.send(signal); }

  check() { this.#machine.check(); }

  again() { this.#machine.again(); }

  /** From Wi-Fi to cellular. The event comes for a guess of the speed, too, which says nothing. */
  #watchKind(moved) {
    const network = navigator.connection; // not in every browser
    let kind = network?.type;
    network?.addEventListener("change", () => { if (network.type !== kind) { kind = network.type; moved(); } });
  }

  #lineIs(name) {
    this.#name = name;
    if (name === "websocket") this.#slots.leave();
    this.#tell();
  }

  #tell() {
    if (this.#name !== null) this.onTransport(this.#name, this.#mayHold());
  }

  #open(name, callbacks) {
    const conversation = `/conversations/${page.conversation}`;
    const query = (more) => new URLSearchParams({ ...this.query(), ...more });
    if (name === "websocket") {
      return openWebSocket(`${location.origin.replace("http", "ws")}/ws${conversation}/?${query({})}`, callbacks);
    }
    if (isLimited()) this.#slots.take();
    const { device, name: browser } = this.query();
    const addresses = {
      events: (more = {}) => `/api${conversation}/events?${query({ encoding: "html", ...more })}`,
      signals: (connection) => `/api${conversation}/signals?${new URLSearchParams({ device, name: browser, connection })}`,
    };
    if (name === "sse") {
      if (!this.#mayHold()) throw new Error("another tab was faster");
      return openSse(addresses, callbacks);
    }
    const patience = () => (this.#mayHold() ? (isLimited() ? SHARED_WAIT : LONGEST_WAIT) : 0);
    return openLongPoll({ ...addresses, patience }, callbacks);
  }

  #mayHold() {
    return !isLimited() || this.#slots.has();
  }
}

/** Over HTTP/2 and 3 all of a browser's tabs share one connection, and there is no such limit. */
function isLimited() {
  const [how] = performance.getEntriesByType("navigation");
  return !["h2", "h3"].includes(how?.nextHopProtocol);
}
