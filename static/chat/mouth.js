/**
 * Signals by POST, for lines that can only be heard. One at a time, so that they arrive in the order they were said and
 * take one of the browser's six connections at most.
 */

const PATIENCE = 15_000; // ms; the server answers at once
const KEPT_ALIVE = 32_000; // characters; of what outlives its page a browser takes 64 KB
const ONLY_NEWEST = new Set(["flow", "ping", "typing"]);

export class Mouth {
  #connection = null;
  #waiting = [];
  #isSaying = false;

  /**
   * `onAnswer(frame)`; `onFailed(bye)` if one may not have arrived, or the server said goodbye instead: whoever said it
   * says it again on another line.
   */
  constructor({ address, onAnswer, onFailed }) {
    Object.assign(this, { address, onAnswer, onFailed });
  }

  /** The server has greeted us, and calls this connection so. */
  open(connection) {
    this.#connection = connection;
  }

  /** What is on its way stays so: it may be the last word of a page that goes. */
  close() {
    this.#connection = null;
    this.#waiting = [];
  }

  say(signal) {
    if (this.#connection === null) return false;
    if (ONLY_NEWEST.has(signal.type)) this.#waiting = this.#waiting.filter(({ type }) => type !== signal.type);
    this.#waiting.push(signal);
    if (!this.#isSaying) this.#sayAll();
    return true;
  }

  async #sayAll() {
    this.#isSaying = true;
    while (this.#waiting.length) {
      const answer = await this.#post(this.#waiting.shift());
      const hasFailed = answer === undefined || answer?.type === "bye";
      if (hasFailed && this.#connection !== null) this.onFailed(answer);
      if (hasFailed) break;
      if (answer !== null) this.onAnswer(answer);
    }
    this.#isSaying = false;
  }

  /** The frame that answers, null if none does, undefined if nobody knows. */
  async #post(signal) {
    const body = JSON.stringify(signal);
    try {
      const response = await fetch(this.address(this.#connection), {
        method: "POST", headers: { "Content-Type": "application/json" }, body, redirect: "error",
        keepalive: body.length < KEPT_ALIVE, signal: AbortSignal.timeout(PATIENCE),
      });
      if (response.status === 204) return null;
      const frame = await response.json().catch(() => null);
      if (typeof frame?.type === "string") return frame;
      // Not ours, but of a proxy, and the same again would be refused again.
      if (response.status === 413) return { type: "nack", id: signal.id, code: "too_large", message: "This is too long to be sent from here." };
    } catch { /* lost on the way, there or back */ }
    return undefined;
  }
}
