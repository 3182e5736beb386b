/**
 * Applies frames to the page, each once, in order. `chat/fragments.py` says how a fragment finds its place.
 * The cursor is the last serial applied; whatever happens to the connection, the next question is what comes after.
 */

import { keeping } from "./kept.js";
import { byId, changed } from "./page.js";
import { append } from "./text.js";

const ACK_FRAMES = 32;
const ACK_BYTES = 16_384; // a third of the window: the server never has to wait for us
const ACK_DELAY = 250; // ms
const TEXT = /^<span data-append="([\w-]+)" data-offset="(\d+)">([^<]*)<\/span>$/;
const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&#13;": "\r" };
const AT_ONCE = { swapDelay: 0, settleDelay: 0 };

export class Frames {
  #owed = { frames: 0, bytes: 0 };
  #timer = 0;

  /** `send` for acknowledgements; `restart` when frames do not join up; `onText` after each frame that was applied. */
  constructor({ cursor, epoch, send, restart, onText }) {
    Object.assign(this, { cursor, epoch, send, restart, onText });
  }

  /** Any frame; those that are not about the page's content are left to others. */
  receive(frame, bytes) {
    if (frame.type === "hello") this.epoch = frame.epoch;
    else if (frame.type === "reset") this.#reset();
    else if (frame.type === "snapshot") this.#snapshot(frame);
    else if ("after" in frame && "serial" in frame) this.#event(frame, bytes);
  }

  /** Ask for a fresh view: the text on the page has a hole that events cannot fill. */
  renew() {
    this.#reset();
    this.restart();
  }

  #event(frame, bytes) {
    if (this.cursor === null || frame.after > this.cursor) { this.restart(); return; }
    if (frame.serial <= this.cursor) return;
    const whole = this.#apply(frame.html);
    this.cursor = frame.serial;
    if (!whole) { this.renew(); return; }
    this.#acknowledge(bytes);
    this.onText();
  }

  /** The old view stays until there is a new one: an empty page would say that nothing was ever said. */
  #reset() {
    this.cursor = null;
    document.body.toggleAttribute("data-stale", true);
  }

  #snapshot(frame) {
    for (const piece of parse(frame.html)) place(piece);
    this.cursor = frame.serial;
    document.body.removeAttribute("data-stale");
    this.onText();
    changed();
  }

  #apply(html) {
    const text = TEXT.exec(html);
    if (text) return appendTo(text[1], Number(text[2]), text[3].replace(/&(lt|gt|amp|#13);/g, (name) => ENTITIES[name]));
    let whole = true;
    for (const piece of parse(html)) {
      if (piece.dataset.append) whole = appendTo(piece.dataset.append, Number(piece.dataset.offset), piece.textContent) && whole;
      else place(piece);
    }
    changed();
    return whole;
  }

  #acknowledge(bytes) {
    this.#owed.frames += 1;
    this.#owed.bytes += bytes;
    if (this.#owed.frames >= ACK_FRAMES || this.#owed.bytes >= ACK_BYTES) this.#flow();
    else if (!this.#timer) this.#timer = setTimeout(() => this.#flow(), ACK_DELAY);
  }

  #flow() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#owed = { frames: 0, bytes: 0 };
    if (this.cursor !== null) this.send({ type: "flow", serial: this.cursor });
  }
}

/** Elements that do nothing yet: in a template's document nothing loads and nothing runs. */
function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return [...template.content.children];
}

/** True also if the text has no place here: its turn is not loaded, or is shown rendered already. */
function appendTo(id, offset, text) {
  const element = byId(id);
  return element === null || append(element, offset, text);
}

function place(piece) {
  const there = byId(piece.id);
  if (there !== null) {
    if (!("keep" in piece.dataset)) keeping(there, () => htmx.swap(there, piece.outerHTML, { swapStyle: "outerHTML", ...AT_ONCE }));
    return;
  }
  const into = byId(piece.dataset.into);
  if (into === null) return;
  const next = "place" in piece.dataset ? later(into, Number(piece.dataset.place)) : null;
  if (next === null) htmx.swap(into, piece.outerHTML, { swapStyle: "beforeend", ...AT_ONCE });
  // A turn from before the first one on a page that has not loaded everything comes with its page.
  else if (next.previousElementSibling?.id !== "older") htmx.swap(next, piece.outerHTML, { swapStyle: "beforebegin", ...AT_ONCE });
}

/** The first turn after this place. Looked for from the end, where it nearly always is: nowhere. */
function later(into, wanted) {
  let next = null;
  for (let turn = into.lastElementChild; turn && Number(turn.dataset.place) > wanted; turn = turn.previousElementSibling) next = turn;
  return next;
}
