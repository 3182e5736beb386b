/** What the two HTTP lines share: asking for events, saying signals by POST, and an end. */

import { Mouth } from "./mouth.js";

const LOST = 1006;

export class HttpLine {
  #callbacks;
  #ending = new AbortController();
  #mouth;

  /** `signals(connection)` is an address. */
  constructor(signals, callbacks) {
    this.#callbacks = callbacks;
    this.#mouth = new Mouth({ address: signals, onAnswer: callbacks.onAnswer, onFailed: (bye) => this.#fail(bye) });
  }

  /** Aborted when nothing more is to be heard. */
  get ending() { return this.#ending.signal; }

  /**
   * GET frames. Returns the response, or null after telling why there is none: a server of ours says so with a `bye`;
   * what anything else on the way says is a lost line.
   */
  async ask(address, accept) {
    let response;
    try {
      // `error`: a captive portal redirects, our server never does.
      response = await fetch(address, { headers: { Accept: accept }, cache: "no-store", redirect: "error", signal: this.ending });
    } catch {
      this.end({ nobody: true });
      return null;
    }
    if (response.ok && response.headers.get("Content-Type")?.startsWith(accept)) return response;
    const body = await response.json().catch(() => null);
    this.#fail(body?.type === "bye" ? body : null, response.status >= 500);
    return null;
  }

  /** Pass a frame on; not after the end, which whoever heard the one before may have wished. */
  hear(frame, bytes) {
    if (this.ending.aborted) return;
    if (frame.type === "hello") this.#mouth.open(frame.connection);
    this.#callbacks.onFrame(frame, bytes);
  }

  send(signal) {
    return this.#mouth.say(signal);
  }

  end(how = {}) {
    if (this.ending.aborted) return;
    this.close();
    this.#callbacks.onClosed({ code: LOST, ...how });
  }

  close() {
    this.#ending.abort();
    this.#mouth.close();
  }

  #fail(bye, nobody = false) {
    if (bye) this.hear(bye, 0);
    this.end({ code: bye?.close ?? LOST, nobody });
  }
}
