/**
 * The ways to the server, best first, and which of them do not work from here. Remembered by the browser for all of its
 * tabs, and only for a while: laptops move, proxies are mended.
 */

export const LADDER = ["websocket", "sse", "poll"];
const REMEMBERED = 600_000; // ms

export class Ladder {
  #key;
  #store;
  #clock;
  #known = {}; // name → when it may be tried again; here, too, for a browser that stores nothing

  constructor({ key, store, clock }) {
    this.#key = key;
    this.#store = store;
    this.#clock = clock;
  }

  failed(name) {
    const left = (this.#read()[name] ?? 0) - this.#clock.now();
    return left > 0 && left <= REMEMBERED; // more than that: the clock was set back
  }

  /** It failed once, and has not worked since. */
  doubts(name) {
    return name in this.#read();
  }

  fail(name) {
    this.#write({ ...this.#read(), [name]: this.#clock.now() + REMEMBERED });
  }

  worked(name) {
    const { [name]: failure, ...rest } = this.#read();
    if (failure !== undefined) this.#write(rest);
  }

  /** The network is another one. */
  forget() {
    this.#write({});
  }

  #read() {
    try {
      const known = JSON.parse(this.#store.get(this.#key));
      if (known !== null && typeof known === "object") this.#known = known;
    } catch { /* somebody else wrote it; what we know is as good */ }
    return this.#known;
  }

  #write(known) {
    this.#known = known;
    this.#store.set(this.#key, JSON.stringify(known));
  }
}
