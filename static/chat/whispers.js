/** What is never stored: who is here, who is typing, what an answer is busy with. Each ends by itself. */

import { byId, onChanged, page } from "./page.js";

const typing = new Map(); // user → timer
const present = new Map();
const progress = new Map(); // call or run → { text, timer }

/** Remember that something holds of these for so many seconds. */
function hold(map, names, seconds, show) {
  for (const name of names) {
    clearTimeout(map.get(name));
    map.delete(name);
    if (seconds > 0) map.set(name, setTimeout(() => { map.delete(name); show(); }, seconds * 1000));
  }
  show();
}

function showTyping() {
  const names = [...typing.keys()];
  const who = names.length > 2 ? `${names.length} people` : names.join(" and ");
  byId("typing").textContent = names.length ? `${who} ${names.length === 1 ? "is" : "are"} typing…` : "";
}

function showPresent() {
  for (const item of document.querySelectorAll("#people [data-person]")) {
    const { person } = item.dataset;
    item.toggleAttribute("data-online", person === page.user || present.has(person));
  }
}

/** A frame of the ephemeral kind; others are left alone. */
export function whisper(frame) {
  if (frame.type === "typing" && frame.user !== page.user) hold(typing, [frame.user], frame.expires_in, showTyping);
  else if (frame.type === "presence") hold(present, frame.users, frame.online ? frame.expires_in : 0, showPresent);
  else if (frame.type === "progress") getOn(frame.call ?? frame.run, frame);
}

/** The newest there is. Its line comes with the event that something runs, which may be behind; and goes with its end. */
function getOn(what, { text, expires_in: seconds }) {
  clearTimeout(progress.get(what)?.timer);
  progress.set(what, { text, timer: setTimeout(() => { progress.delete(what); showLine(what, ""); }, seconds * 1000) });
  showLine(what, text);
}

function showLine(what, text) {
  const line = byId(`progress-${what}`);
  if (line !== null && line.textContent !== text) line.textContent = text;
}

function showProgress() {
  for (const [what, { text }] of progress) showLine(what, text);
}

const said = new Set(); // messages that are known already: the queue is drawn anew when it changes

/** Who has just said something is not typing it any more. */
function heard(root) {
  const inside = [...root.querySelectorAll("[data-client-id]")];
  for (const { dataset } of root.matches?.("[data-client-id]") ? [root, ...inside] : inside) {
    if (said.has(dataset.clientId)) continue;
    said.add(dataset.clientId);
    hold(typing, [dataset.author], 0, showTyping);
  }
}

/** People are drawn anew when they change, or when somebody was named who cannot be added. */
export function startWhispers() {
  heard(document.body);
  htmx.onLoad((root) => {
    heard(root);
    if (root.id === "people") showPresent();
  });
  onChanged(showPresent);
  onChanged(showProgress);
  showPresent();
}
