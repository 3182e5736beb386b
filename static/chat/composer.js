/** Where a person writes. It works at any time: while an answer runs, and without a connection. */

import { byId, keyOf, store } from "./page.js";

const DRAFT = keyOf("draft");
const DRAFT_DELAY = 300; // ms
const TYPING_EVERY = 3_000;
const MAX_TEXT = 65_536; // code points, as the server says in its limits

export class Composer {
  #text = byId("composer-text");
  #problem = byId("problem");
  #timer = 0;
  #typedAt = 0;
  #returned = []; // { text, order } of what came back and is still there as it came
  #passing = false; // what is complained of ends by itself, when nothing runs any more

  /** `send(text, whenBusy, files)`; `typing()` at most every few seconds; `tray` has the files. */
  constructor({ send, typing, tray }) {
    Object.assign(this, { send, typing, tray });
    this.#text.value = store.get(DRAFT) ?? "";
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    byId("composer").addEventListener("submit", (event) => { event.preventDefault(); this.#submit(); });
    addEventListener("pagehide", () => this.#keep());
  }

  /** A message that was refused comes back, before whatever was written since, with the nack; several in order. */
  giveBack(text, { code, message }, order, files = []) {
    this.tray.giveBack(files, code);
    const before = joined(this.#returned);
    const value = this.#text.value;
    const stays = before !== "" && (value === before || value.startsWith(`${before}\n\n`));
    const since = stays ? value.slice(before.length + 2) : value;
    this.#returned = [...(stays ? this.#returned : []), { text, order }].filter((one) => one.text).sort((a, b) => a.order - b.order);
    this.#text.value = [joined(this.#returned), since].filter(Boolean).join("\n\n");
    this.#keep();
    this.complain(message);
    this.#passing = code === "busy";
  }

  complain(reason) {
    this.#problem.textContent = reason;
    this.#problem.hidden = false;
    this.#passing = false;
  }

  /** Nothing runs any more: whoever was refused because of that can go on. */
  settle() {
    if (this.#passing) this.#problem.hidden = true;
  }

  focus() {
    this.#text.focus();
  }

  #key(event) {
    // On a touch keyboard there is no Shift+Enter: Enter is the new line there, and the button sends.
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch) return;
    event.preventDefault();
    this.#submit();
  }

  #typed() {
    this.#problem.hidden = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#keep(), DRAFT_DELAY);
    const now = performance.now();
    if (this.#typedAt && now - this.#typedAt < TYPING_EVERY) return;
    this.#typedAt = now;
    this.typing();
  }

  #submit() {
    const text = this.#text.value;
    if (!text.trim() && this.tray.isEmpty) return;
    if ([...text].length > MAX_TEXT) {
      this.complain(`This is too long: a message may have ${MAX_TEXT.toLocaleString("en")} characters.`);
      return;
    }
    if (this.tray.missing) { this.complain(this.tray.missing); return; }
    this.#problem.hidden = true;
    this.#text.value = "";
    this.#returned = [];
    this.#keep();
    // The choice is for one message; the next one waits in line again.
    const choice = byId("when-busy");
    const whenBusy = byId("when-busy-field").hidden ? "queue" : choice.value;
    choice.value = "queue";
    this.send(text, whenBusy, this.tray.take());
  }

  #keep() {
    clearTimeout(this.#timer);
    if (this.#text.value) store.set(DRAFT, this.#text.value);
    else store.remove(DRAFT);
  }
}

const joined = (returned) => returned.map(({ text }) => text).join("\n\n");
