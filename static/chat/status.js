/** What the page says of itself: the connection, what runs, who may do what. Text first, colour second. */

import { announce, byId, forgetDevice, hide, onChanged, page } from "./page.js";

const WORDS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting…", offline: "Offline", stopped: "Not connected" };
const TRANSPORTS = {
  websocket: "WebSocket",
  sse: "Event stream",
  poll: "Long polling",
};
const TAKING_TURNS = "Polling, because other tabs use the streams";
const RESTARTING = "The server is restarting…";
const SENT_AWAY = {
  4501: "You are signed out.",
  4503: "You are no longer in this conversation.",
  4504: "This device was signed out from another one.",
};
const SIGNED_OUT = 4501;
const REVOKED = 4504;
const ENDINGS = { completed: "Answer finished.", cancelled: "Answer stopped.", failed: "Answer failed.", interrupted: "Answer interrupted." };

let running = new Map(); // run → state, as announced
const begun = new Set();
let asking = new Map(); // call → { name of its tool, isMine }: what waits for a decision, as announced

/** The state of the connection; `stopped` says why and what can be done. */
export function showConnection(state, why, attempts) {
  document.body.dataset.connection = state;
  byId("connection-text").textContent = why.restarting ? RESTARTING : WORDS[state];
  hide(byId("reconnect"), state !== "offline" && state !== "reconnecting");
  byId("detail-connection").textContent = state;
  byId("detail-attempts").textContent = attempts;
  if (state === "stopped") showSentAway(why);
}

/** How the words come: of no interest to most, so it is said among the details only. */
export function showTransport(name, mayHold) {
  document.body.dataset.transport = name;
  byId("detail-transport").textContent = name === "poll" && !mayHold ? TAKING_TURNS : TRANSPORTS[name];
}

function showSentAway({ code, reason, message }) {
  const link = byId("sent-away-link");
  const revoked = code === REVOKED || reason === "revoked";
  if (revoked) forgetDevice();
  byId("sent-away-text").textContent = message || SENT_AWAY[revoked ? REVOKED : code] || "This conversation cannot be followed from here.";
  if (revoked || code === SIGNED_OUT) {
    link.textContent = "Sign in";
    link.href = `${page.login}?next=${encodeURIComponent(location.pathname)}`;
  }
  byId("sent-away").hidden = false;
}

/** For people who cannot see the page: that an answer began or ended, or needs them, never each word of it. */
function tell(now, questions) {
  const says = [];
  for (const [run, state] of now) if (state === "answering" && running.get(run) !== "answering") says.push(begun.has(run) ? "Answer goes on." : "Answer started.");
  for (const [call, { name, isMine }] of questions) if (!asking.has(call)) says.push(`${name} needs ${isMine ? "your" : "a"} decision.`);
  for (const [call, { name }] of asking) if (!questions.has(call)) says.push(`${name}: ${decisionAbout(call)}`);
  for (const run of running.keys()) if (!now.has(run)) says.push(ENDINGS[byId(`answer-${run}`)?.dataset.state]);
  const said = says.filter(Boolean).join(" ");
  if (said) announce(said);
}

/** What the page now says where it had asked. */
function decisionAbout(call) {
  const said = document.querySelector(`[data-call="${call}"] .decided`)?.textContent;
  return said ?? "nothing to decide any more.";
}

function questions() {
  const isMine = (roles) => roles.split(" ").includes(document.body.dataset.role);
  return new Map([...document.querySelectorAll(".approval")].map(({ dataset: { call, name, roles } }) => [call, { name, isMine: isMine(roles) }]));
}

function bars() {
  return new Map([...document.querySelectorAll(".run-bar")].map((bar) => [bar.id.slice(4), bar.dataset.live]));
}

/** Everything that runs, also in turns that are not loaded. */
export function liveRuns() {
  return [...new Set([...byId("live").dataset.runs.split(" ").filter(Boolean), ...bars().keys()])];
}

function refresh(onIdle) {
  const now = bars();
  const open = questions();
  tell(now, open);
  running = now;
  asking = open;
  for (const [run, state] of now) if (state !== "starting") begun.add(run);
  const idle = liveRuns().length === 0;
  if (idle && !byId("stop-all").hidden) onIdle();
  hide(byId("stop-all"), idle);
  hide(byId("when-busy-field"), idle, byId("composer-text"));
  document.title = `${open.size ? "Decision needed · " : ""}${byId("title").textContent} · Conversations`;
  const me = document.querySelector(`#people [data-person="${CSS.escape(page.user)}"]`);
  if (me !== null) document.body.dataset.role = me.dataset.role;
}

/** What this person wrote looks different to them only, so it is marked here and not by the server. */
function markMine(root) {
  const own = `[data-author="${CSS.escape(page.user)}"]`;
  if (root.matches?.(own)) root.classList.add("mine");
  for (const element of root.querySelectorAll(own)) element.classList.add("mine");
}

/** `onIdle()` when nothing runs any more. */
export function startStatus(onIdle) {
  htmx.onLoad(markMine);
  markMine(document.body);
  onChanged(() => refresh(onIdle));
  running = bars();
  asking = questions();
  refresh(onIdle);
}
