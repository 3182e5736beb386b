/**
 * What is offered to this person's devices: a call that the page shows, whether it came live or was there when the page
 * was loaded, is begun once. The server takes the first answer of all devices, and the page shows which it was.
 */

import { toolNamed } from "./device_tools.js";
import { onChanged, page } from "./page.js";

const LATER = 1_500; // ms: a page that nobody looks at lets the others go first
const TOO_MUCH = new Set(["too_large", "invalid"]);

const begun = new Map(); // call → AbortController; also those that are over

const after = (delay) => new Promise((done) => { setTimeout(done, delay); });

async function outcome(act, given, about) {
  try {
    const result = await act(given, about);
    return { result: typeof result === "string" ? result : JSON.stringify(result ?? null) };
  } catch (error) {
    return { error: String(error?.message || "It did not work here.").slice(0, 1_000) };
  }
}

async function begin({ offer: call, run, tool, user, arguments: given }, ask) {
  const act = toolNamed(tool);
  if (act === undefined || user !== page.user || document.body.dataset.role === "viewer" || begun.has(call)) return;
  const stop = new AbortController();
  begun.set(call, stop);
  if (document.visibilityState === "hidden") await after(LATER);
  if (stop.signal.aborted) return;
  const said = await outcome(act, JSON.parse(given), { call, run, signal: stop.signal });
  if (stop.signal.aborted) return;
  const answer = await ask("tool.result", { run, call, ...said });
  if (answer.type === "nack" && TOO_MUCH.has(answer.code)) ask("tool.result", { run, call, error: `The device's answer was refused: ${answer.message}` });
}

function look(root, ask) {
  for (const { dataset } of [root, ...root.querySelectorAll("[data-offer]")]) if (dataset?.offer) begin(dataset, ask);
}

/** Somebody else was faster, or it was stopped. */
function drop() {
  for (const [call, stop] of begun) if (document.querySelector(`[data-offer="${call}"]`) === null) stop.abort();
}

export function startOffers(ask) {
  htmx.onLoad((root) => look(root, ask));
  onChanged(drop);
  look(document.body, ask);
}
