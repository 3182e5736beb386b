/**
 * Buttons that ask for something: stop, try again, and what can be done to waiting messages. A button shows at once
 * that it was pressed; what then happens on the page is the server's word, the same on every device.
 */

import { byId, onChanged } from "./page.js";
import { liveRuns } from "./status.js";

// ms without an answer; then the button can be pressed again, and what was pressed is not asked for any more: who
// presses the other one has changed their mind.
const FALLBACK = 10_000;

export class Controls {
  #stopping = new Map(); // run → timer
  #before = new WeakMap(); // bar → what it said before it was to stop
  #stoppingAll = new Set(); // what ran when "Stop all" was pressed
  #pressedAt = new Map(); // button → timer
  #editing = null; // { message }, another object each time the dialog opens
  #focused = null;

  /**
   * `cursor()` is how far the page is: what was asked for later is not meant by a "Stop all". `say(text)` sends it.
   */
  constructor({ ask, complain, cursor, device, say }) {
    Object.assign(this, { ask, complain, cursor, device, say });
    document.addEventListener("click", (event) => this.#click(event));
    byId("editor-form").addEventListener("submit", (event) => { event.preventDefault(); this.#saveEdit(); });
    byId("editor-cancel").addEventListener("click", () => byId("editor").close());
    document.addEventListener("focusin", (event) => { this.#focused = event.target; });
    onChanged(() => this.#refresh());
  }

  #click(event) {
    const button = event.target.closest("button");
    if (button === null || button.getAttribute("aria-disabled") === "true") return;
    const item = button.closest("#queue li");
    if (button.dataset.signal === "run.cancel") this.#cancel(button);
    else if (button.dataset.decide) this.#decide(button);
    else if (button.dataset.resend) this.#resend(button);
    else if (button.dataset.say) { this.#pressed(button); this.say(button.dataset.say); }
    else if (button.dataset.signal) this.#simple(button);
    else if (button.dataset.move) this.#move(item, button);
    else if ("edit" in button.dataset) this.#edit(item);
  }

  // --- stop ---

  async #cancel(button) {
    const { run, scope } = button.dataset;
    const runs = run ? [run] : liveRuns();
    for (const one of runs) this.#hold(one);
    if (scope) this.#stoppingAll = new Set(runs);
    if (scope) this.#pressed(button, "Stopping…", "Stop all");
    const until = this.cursor();
    const all = until === null ? { scope } : { scope, until };
    const answer = await this.ask("run.cancel", run ? { run } : all, FALLBACK);
    if (answer.type !== "nack") { for (const one of runs) clearTimeout(this.#stopping.get(one)); return; }
    for (const one of runs) this.#release(one);
    if (scope) this.#done(button, "Stop all");
    this.complain(answer.message);
  }

  /** "Stopping…" from the press until the server says that it ended; without any answer, not for ever. */
  #hold(run) {
    clearTimeout(this.#stopping.get(run));
    this.#stopping.set(run, setTimeout(() => this.#release(run), FALLBACK));
    this.#showStopping(run);
  }

  #release(run) {
    clearTimeout(this.#stopping.get(run));
    this.#stopping.delete(run);
    const bar = byId(`run-${run}`);
    if (bar === null) return;
    const { live, state } = this.#before.get(bar) ?? { live: "answering", state: "Answering…" };
    bar.dataset.live = live;
    bar.querySelector(".state").textContent = state;
    ready(byId(`stop-${run}`), "Stop");
  }

  #showStopping(run) {
    const bar = byId(`run-${run}`);
    if (bar === null || bar.dataset.live === "stopping") return;
    const place = bar.querySelector(".state");
    this.#before.set(bar, { live: bar.dataset.live, state: place.textContent });
    bar.dataset.live = "stopping";
    place.textContent = "Stopping…";
    busy(byId(`stop-${run}`), "Stopping…");
  }

  /** A bar may be drawn anew between the press and the server's word. */
  #refresh() {
    for (const [run, timer] of this.#stopping) {
      if (byId(`run-${run}`) === null) { clearTimeout(timer); this.#stopping.delete(run); } else this.#showStopping(run);
    }
    const live = new Set(liveRuns());
    if (![...this.#stoppingAll].some((run) => live.has(run))) this.#done(byId("stop-all"), "Stop all");
    // A button that did its work is gone; the keyboard goes on from where it was, not from the top of the page.
    if (this.#focused?.isConnected === false && document.activeElement === document.body) byId("view").focus({ preventScroll: true });
  }

  // --- everything else ---

  async #simple(button) {
    const { signal, run, message } = button.dataset;
    this.#pressed(button);
    const answer = await this.ask(signal, run ? { run } : { message }, FALLBACK);
    this.#done(button);
    if (answer.type === "nack") this.complain(answer.message);
  }

  /** The first decision stands, whoever made it; the page shows which. */
  async #decide(button) {
    const { decide, run, call, hash } = button.dataset;
    const [approve, deny] = [byId(`approve-${call}`), byId(`deny-${call}`)];
    this.#pressed(approve, decide === "approve" ? "Approving…" : "Approve", "Approve");
    this.#pressed(deny, decide === "deny" ? "Denying…" : "Deny", "Deny");
    const reason = byId(`reason-${call}`).value;
    const answer = await this.ask("tool.decide", { run, call, decision: decide, arguments_hash: hash, reason }, FALLBACK);
    this.#done(approve, "Approve");
    this.#done(deny, "Deny");
    if (answer.type === "nack") this.complain(answer.message);
    else if (!answer.by) this.complain("That came too late: nobody decided in time, or it was stopped.");
    else if (answer.by.device !== this.device) this.complain(`${answer.by.user}${answer.by.device_name ? `, ${answer.by.device_name},` : ""} was faster.`);
  }

  /** What an answer ended before it could hear, as a message of its own: once, whoever presses first. */
  async #resend(button) {
    this.#pressed(button, "Sending…", "Send as a message");
    const text = button.parentElement.querySelector(".said").textContent;
    const answer = await this.ask("message.send", { text, steer: button.dataset.resend }, FALLBACK);
    this.#done(button, "Send as a message");
    if (answer.type === "nack") this.complain(answer.message);
  }

  async #move(item, button) {
    const before = button.dataset.move === "up" ? item.previousElementSibling : item.nextElementSibling?.nextElementSibling;
    const answer = await this.ask("queue.move", { message: item.dataset.message, before: before?.dataset.message ?? null });
    if (answer.type === "nack") this.complain(answer.message);
  }

  #pressed(button, during, after) {
    this.#done(button);
    busy(button, during);
    this.#pressedAt.set(button, setTimeout(() => this.#done(button, after), FALLBACK));
  }

  /** The timer of one press must not end a later one. */
  #done(button, text) {
    clearTimeout(this.#pressedAt.get(button));
    this.#pressedAt.delete(button);
    ready(button, text);
  }

  // --- editing a waiting message: outside the queue, which is drawn anew whenever it changes ---

  async #edit(item) {
    const editing = this.#editing = { message: item.dataset.message };
    const said = item.querySelector(".said");
    const text = byId("editor-text");
    const { whole } = said.dataset;
    text.value = whole ? "" : said.textContent;
    text.disabled = byId("editor-save").disabled = Boolean(whole);
    byId("editor-problem").hidden = true;
    byId("editor").showModal();
    if (!whole) return;
    const found = await load(whole);
    if (this.#editing !== editing) return;
    if (found === null) { this.#problem("The message could not be loaded."); return; }
    text.value = found;
    text.disabled = byId("editor-save").disabled = false;
    text.focus();
  }

  async #saveEdit() {
    const editing = this.#editing;
    const answer = await this.ask("queue.edit", { message: editing.message, text: byId("editor-text").value });
    if (this.#editing !== editing || !byId("editor").open) {
      if (answer.type === "nack") this.complain(answer.message);
    } else if (answer.type === "ack") byId("editor").close();
    else this.#problem(answer.message);
  }

  #problem(text) {
    byId("editor-problem").textContent = text;
    byId("editor-problem").hidden = false;
  }
}

/** A long waiting message, of which the queue shows the beginning only. */
async function load(address) {
  try {
    const response = await fetch(address);
    return response.ok ? await response.text() : null;
  } catch { return null; }
}

/** Not `disabled`, which would throw the keyboard's focus away. */
function busy(button, text) {
  button.setAttribute("aria-disabled", "true");
  if (text) button.textContent = text;
}

function ready(button, text) {
  button.removeAttribute("aria-disabled");
  if (text && button.textContent !== text) button.textContent = text;
}
