/**
 * A line of server-sent events, read with `fetch`: `EventSource` shows neither a status nor a body, and comes back by
 * itself, with a cursor of its own.
 */

import { HttpLine } from "./http.js";

// The answer to a POSTed ping comes on the stream as well. If for so long after the POST was answered neither it nor
// anything else came, something on the way holds back what is small, and text would come in lumps, or at the end.
const PROOF = 2_500; // ms

/** `events()` and `signals(connection)` are addresses. */
export function openSse({ events, signals }, callbacks) {
  const proof = new Proof();
  const onAnswer = (frame) => { proof.answered(frame); callbacks.onAnswer(frame); };
  const line = new HttpLine(signals, { ...callbacks, onAnswer });
  proof.of(line);
  listen(line, events(), proof);
  return { echoes: true, send: (signal) => line.send(signal), close: () => line.close() };
}

/** That the stream flows: asked for when we are greeted and when all is there. */
class Proof {
  #asks = new Set(["hello", "sync"]);
  #isOwed = false;
  #timer = null;
  #line = null;

  of(line) {
    this.#line = line;
    line.ending.addEventListener("abort", () => this.#stop());
  }

  /** A frame on the stream. */
  heard({ type }) {
    if (type === "pong") { this.#isOwed = false; this.#stop(); }
    else if (this.#asks.delete(type) && !this.#isOwed) this.#isOwed = this.#line.send({ type: "ping" });
  }

  /** A frame as the answer to a POST. */
  answered({ type }) {
    if (type === "pong" && this.#isOwed) this.#wait();
  }

  /** A piece of the stream. */
  came() {
    if (this.#timer !== null) this.#wait();
  }

  #wait() {
    this.#stop();
    if (!this.#line.ending.aborted) this.#timer = setTimeout(() => this.#line.end({ useless: true }), PROOF);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }
}

async function listen(line, address, proof) {
  const response = await line.ask(address, "text/event-stream");
  if (response === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
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
