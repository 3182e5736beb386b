/**
 * A line of server-sent events, read with `fetch`: `EventSource` shows neither a status nor a body, and comes back by
 * itself, with a cursor of its own.
 */

import { HttpLine } from "./http.js";

// The answer to a POSTed ping comes on the stream as well. If for so long after we were greeted neither it nor anything
// else came, something on the way holds back what is small, and text would come in lumps, or at the end.
const PROOF = 2_500; // ms

/** `events()` and `signals(connection)` are addresses. */
export function openSse({ events, signals }, callbacks) {
  const line = new HttpLine(signals, callbacks);
  listen(line, events());
  return { echoes: true, send: (signal) => line.send(signal), close: () => line.close() };
}

/** Asks for proof when we are greeted. Is told of every frame, and of every piece that came. */
function prover(line) {
  let timer = 0;
  let isOwed = false;
  const stop = () => clearTimeout(timer);
  line.ending.addEventListener("abort", stop);
  return {
    heard({ type }) {
      if (type === "hello") { isOwed = true; line.send({ type: "ping" }); }
      else if (type === "pong") isOwed = false;
    },
    came() {
      stop();
      if (isOwed && !line.ending.aborted) timer = setTimeout(() => line.end({ useless: true }), PROOF);
    },
  };
}

async function listen(line, address) {
  const response = await line.ask(address, "text/event-stream");
  if (response === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const proof = prover(line);
  const events = new Events((data) => {
    const frame = JSON.parse(data);
    line.hear(frame, data.length);
    proof.heard(frame);
  });
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true })); // cut in the middle, or by ourselves
    if (done) { line.end(); return; }
    events.push(decoder.decode(value, { stream: true }));
    proof.came();
  }
}

/** Text in pieces of any size → the data of each event. Other fields say nothing that the frame does not. */
export class Events {
  #begun = ""; // a line that has not ended
  #data = [];

  constructor(onData) {
    this.onData = onData;
  }

  push(text) {
    const lines = (this.#begun + text).split("\n");
    this.#begun = lines.pop();
    for (const line of lines) this.#line(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  #line(line) {
    if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    if (line !== "" || this.#data.length === 0) return;
    const data = this.#data.join("\n");
    this.#data = [];
    this.onData(data);
  }
}
