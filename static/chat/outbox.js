/**
 * What this device asks for. Each signal has an id made here and is asked again under the same id until it was
 * answered, so it is carried out once, however often the connection breaks. Three outcomes: accepted, refused, and
 * unknown, which keeps its id. Messages survive the page: they wait in localStorage, one key each, so that two tabs
 * never overwrite each other's.
 */

import { backoff } from "./machine.js";
import { byId, keyOf, newId, onChanged, page, store } from "./page.js";

const TRY_AGAIN = new Set(["storage", "rate", "draining"]);
const TRIES = 6;
const SIGNAL_BYTES = 262_144; // until the server says its own limit
const STORED = keyOf("outbox");
const SENDING = "sending…";
const TOO_LARGE = { type: "nack", code: "too_large", message: "This is too long to be sent." };
const UNANSWERED = { type: "nack", code: "unanswered", message: "The server did not answer. Try it again." };
const KEPT = "will be sent when you are back";

export class Outbox {
  #open = new Map(); // id → { signal, settle, tries }
  #accepted = new Map(); // id of a message → serial of its event, which is still to come
  #transmit;
  #cursor;
  #order = 0;
  #state = KEPT;
  signalBytes = SIGNAL_BYTES;

  /** `transmit(signal)` sends if it can; `cursor()` is how far the page is; `onRefused(text, nack, order, files)` for messages. */
  constructor({ transmit, cursor, onRefused }) {
    this.#transmit = transmit;
    this.#cursor = cursor;
    this.onRefused = onRefused;
    onChanged(() => this.#reconcile());
  }

  /** Messages that an earlier page of this browser could not get an answer for. */
  restore() {
    const entries = store.keys(STORED).map(readStored).filter((entry) => entry !== null);
    for (const { id, text, when_busy, files } of entries.sort((a, b) => a.at - b.at)) this.#enqueue(id, text, when_busy, files ?? []);
    this.#reconcile();
  }

  /** Say something. It is on the page at once, and on its way for as long as it takes. */
  message(text, whenBusy, files) {
    const id = newId();
    store.set(STORED + id, JSON.stringify({ text, when_busy: whenBusy, files, at: Date.now() }));
    this.#enqueue(id, text, whenBusy, files);
  }

  /** `files`: the parts of what was uploaded. */
  #enqueue(id, text, whenBusy, files) {
    if (this.#open.has(id)) return;
    byId("outbox").append(bubble(id, text, files, this.#state));
    const order = this.#order += 1;
    const signal = { type: "message.send", id, text, when_busy: whenBusy };
    if (files.length) signal.files = files.map(({ file }) => file);
    this.#ask(signal).then((answer) => this.#answeredMessage(id, text, files, answer, order));
  }

  #answeredMessage(id, text, files, answer, order) {
    store.remove(STORED + id);
    if (answer.type === "ack") {
      this.#accepted.set(id, answer.serial);
      this.#reconcile();
      return;
    }
    byId(`sending-${id}`)?.remove();
    this.onRefused(text, answer, order, files);
  }

  /**
   * Ask for anything else. The promise is of the ack or the nack; it does not fail. What is of no use late is given
   * up after `patience` ms: it is not asked again, and its answer is that there was none.
   */
  ask(type, fields = {}, patience = 0) {
    const signal = { type, id: newId(), ...fields };
    const given = this.#ask(signal);
    if (patience) setTimeout(() => this.#settle(signal.id, UNANSWERED), patience);
    return given;
  }

  #ask(signal) {
    return new Promise((settle) => {
      this.#open.set(signal.id, { signal, settle, tries: 0 });
      this.#send(signal);
    });
  }

  /** The server would close the connection on a signal that is too long, and be sent the same when it is back. */
  #send(signal) {
    if (bytesOf(signal) > this.signalBytes) this.#settle(signal.id, TOO_LARGE);
    else this.#transmit(signal);
  }

  #settle(id, answer) {
    const asked = this.#open.get(id);
    this.#open.delete(id);
    asked?.settle(answer);
  }

  /** The connection is there again: everything that has no answer, in the order it was asked. */
  flush() {
    for (const { signal } of [...this.#open.values()]) this.#send(signal);
  }

  /** Say on each message that waits here whether it is on its way. */
  connection(isLive) {
    this.#state = isLive ? SENDING : KEPT;
    for (const state of byId("outbox").querySelectorAll(".sending")) state.textContent = this.#state;
  }

  /** An ack or a nack. Unknown ids are answers to something asked twice. */
  answered(frame) {
    const asked = this.#open.get(frame.id);
    if (asked === undefined) return;
    if (frame.type === "nack" && TRY_AGAIN.has(frame.code) && asked.tries < TRIES) {
      asked.tries += 1;
      const delay = (frame.retry_after ?? 0) * 1000 + backoff(asked.tries);
      setTimeout(() => this.#open.has(frame.id) && this.#transmit(asked.signal), delay);
      return;
    }
    this.#settle(frame.id, frame);
  }

  /** Messages the page now shows as everybody sees them. The event may come before the ack, or instead of it. */
  #reconcile() {
    for (const sending of [...byId("outbox").children]) {
      const id = sending.dataset.pending;
      const serial = this.#accepted.get(id);
      const isThere = document.querySelector(`[data-client-id="${id}"]`) !== null;
      if (!isThere && !(serial !== undefined && this.#cursor() >= serial)) continue;
      sending.remove();
      this.#accepted.delete(id);
      this.answered({ type: "ack", id, serial: 0 });
    }
  }
}

const encoder = new TextEncoder();
const bytesOf = (signal) => encoder.encode(JSON.stringify(signal)).length;

/** One message as it was kept, or null, and dropped, if it is not one any more. */
function readStored(key) {
  try {
    const entry = JSON.parse(store.get(key));
    if (typeof entry.text === "string") return { ...entry, id: key.slice(STORED.length) };
  } catch { /* it cannot be read */ }
  store.remove(key);
  return null;
}

function bubble(id, text, files, sending) {
  const article = document.createElement("article");
  article.id = `sending-${id}`;
  article.dataset.pending = id;
  article.className = "prompt mine pending";
  article.setAttribute("aria-label", `${page.user}, not yet accepted`);
  const said = document.createElement("div");
  said.className = "said";
  said.textContent = [text, ...files.map(({ name }) => name)].filter(Boolean).join("\n");
  const state = document.createElement("p");
  state.className = "sending";
  state.textContent = sending;
  article.append(said, state);
  return article;
}
