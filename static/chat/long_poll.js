/**
 * A line of questions: "what is new?", and the server waits with its answer until something is. For networks where
 * nothing else comes through. Without a slot (see slots.js) it asks for what is there now, and then pauses, so that no
 * connection is held. Asking acknowledges what came, and says that we are here.
 */

import { HttpLine } from "./http.js";

export const LONGEST_WAIT = 20; // seconds a poll may be held
const AGAIN = 1_000; // ms between two short polls
const AGAIN_HIDDEN = 5_000;
const CATCHING_UP = 100;

/** `events(more)` and `signals(connection)` are addresses; `patience()` how many seconds a poll may hold a connection. */
export function openLongPoll({ events, signals, patience }, callbacks) {
  const line = new HttpLine(signals, callbacks);
  poll(line, events, patience);
  // A cursor in the next question says the same as `flow`.
  return { silent: true, send: (signal) => signal.type === "flow" || line.send(signal), close: () => line.close() };
}

async function poll(line, events, patience) {
  let heartbeat = LONGEST_WAIT;
  let isSynced = false;
  const hear = (frame) => {
    if (frame.type === "hello") { heartbeat = frame.heartbeat; isSynced = false; }
    else if (frame.type === "sync") isSynced = true;
    line.hear(frame, 0);
    if (frame.type === "bye") line.end({ code: frame.close });
  };
  for (let more = {}; !line.ending.aborted;) {
    const wait = Math.min(patience(), heartbeat);
    const asked = performance.now();
    const response = await line.ask(events({ wait, ...more }), "application/json");
    const answer = await response?.json().catch(() => null);
    if (answer === undefined) return;
    if (answer === null) { line.end(); return; }
    more = { connection: answer.connection };
    // That there is nothing to hear is an answer, too: the line is alive.
    for (const frame of answer.frames.length ? answer.frames : [{ type: "nothing" }]) hear(frame);
    if (wait === 0) await pause(isSynced ? between(heartbeat) : CATCHING_UP, line.ending);
    // Something on the way answers for the server: it must not be asked as fast as it can.
    else if (!answer.frames.length) await pause(AGAIN - (performance.now() - asked), line.ending);
  }
}

const between = (heartbeat) => Math.min(document.visibilityState === "visible" ? AGAIN : AGAIN_HIDDEN, heartbeat * 1000);

/** A hidden page that is shown asks at once. */
const pause = (delay, ending) => new Promise((resume) => {
  const done = () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", done);
    ending.removeEventListener("abort", done);
    resume();
  };
  const timer = setTimeout(done, delay);
  document.addEventListener("visibilitychange", done);
  ending.addEventListener("abort", done);
});
