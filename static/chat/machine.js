/**
 * The life of a connection: which way to the server is taken, when it counts as dead, when to come back.
 *
 * It knows nothing of the browser and little of frames (`hello`, `sync`, `ping`, `bye`). Time, chance, the ways and
 * the memory of which of them failed are given to it. Losing a line is normal: whoever uses it keeps the cursor.
 *
 * A line is what `open(name, {onFrame, onAnswer, onClosed})` returns: `send(signal)`, `close()`, and
 *   `echoes`  a `ping` is answered on the line itself, so that asking tells whether it lives;
 *   `silent`  being there is a sign of life; no `ping` need be said.
 * It calls back later, never from within `open`. `onClosed({code, nobody, useless})`: `nobody` if no server was reached,
 * `useless` if it was, but this is no way to live.
 *
 * Beginning is a race with a head start: the best way first, the next one beside it if it fails or has said no `hello`
 * within RACE ms, and so on. The first `hello` wins. Better ways that lost are remembered as failed; if nobody wins,
 * nothing is: then the network is down, and no way is to blame. Nor is one if the server was not reached at first: it
 * may have come back in between.
 */

const FIRST_DELAY = 400; // ms
const LONGEST_DELAY = 15_000;
const RACE = 1_000; // a black hole costs so much, once; twice this still is live within 2.5 s
const RACE_DOUBTED = 300; // ahead of a way that failed when it was last tried
const OPENING = 12_000; // a whole attempt
const PATIENCE = 2_500; // for an answer to "are you there?"
const BESIDE = 5_000; // for a better way, tried while another one works
const SETTLED = 5_000; // a line that lasted so long was a good one; shorter ones keep backing off
const SHORT_LIVED = 4; // lines of one kind in a row that did not settle: something on the way ends them
const HEARTBEAT = 20_000; // until `hello` says otherwise
const BETTER_SOON = 60_000; // the first look for a better way may follow a mere stumble of the server
const BETTER_LATER = 600_000;
const FAILURES_OFFLINE = 5;
const COME_BACK_BELOW = 4500;
const SAID_BY_SERVER = 4000; // close codes from here on are our server's own: it was reached
const LOST = 1006;

const ANYTIME = { synced: "live", lost: "reconnecting", unreachable: "offline", refused: "stopped" };
/** What becomes of each state. What is not in a row cannot happen there, and changes nothing. */
export const TRANSITIONS = {
  idle: { begun: "connecting" },
  connecting: ANYTIME,
  live: ANYTIME,
  reconnecting: ANYTIME,
  offline: ANYTIME,
  stopped: {}, // until a person does something: another page, another session
};

/** Full jitter: devices that lost the same server do not come back at the same moment. */
export const backoff = (failures, random = Math.random) => random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures);

export class Machine {
  #line = null; // { name, ... }: the one that won
  #beside = null; // a better one, or the same again, being tried while `#line` serves
  #racing = []; // those that have not said hello
  #beaten = []; // names that failed in this attempt
  #untried = [];
  #isBlameless = false; // nobody was reached by one of the ways of this attempt
  #timers = {};
  #failures = 0;
  #shortLived = 0;
  #attemptAt = 0;
  #liveSince = 0;
  #heardAt = 0;
  #spokeAt = 0;
  #heartbeat = HEARTBEAT;
  #goodbye = null;
  state = "idle";
  attempts = 0;

  /**
   * `ways()`: the names that may be used now, best first, at least one. `memory`: `failed(name)`, `doubts(name)`,
   * `fail(name)`, `worked(name)`. `onLine(name)` when another line serves; `onState(state, why)` also if it stays the same.
   */
  constructor({ ways, open, memory, clock, random, isOnline, onFrame, onLine, onState }) {
    Object.assign(this, { ways, open, memory, clock, random, isOnline, onFrame, onLine, onState });
  }

  // --- what the page says ---

  start() {
    this.#become("begun");
    this.#attempt();
  }

  /** Send an object if the server has greeted us. False: it was not sent. */
  send(signal) {
    if (this.#line === null || !this.#line.send(signal)) return false;
    this.#spokeAt = this.clock.now();
    return true;
  }

  /** Somebody looks, or something has happened to the network: find out now whether the line is alive. */
  check() {
    if (this.state === "stopped" || this.state === "idle") return;
    const now = this.clock.now();
    if (this.#line === null) {
      if (this.#racing.length === 0 || now - this.#attemptAt > PATIENCE) this.#attempt();
    } else if (this.#silence(now) >= 2 * this.#heartbeat) this.#comeBack();
    else if (this.#line.echoes) {
      this.send({ type: "ping" });
      this.#after("patience", PATIENCE, () => this.#heardAt < now && this.#comeBack());
    } else if (this.#beside === null) this.#tryBeside(this.#line.name, PATIENCE, () => this.#comeBack());
  }

  /** The network is another one, or the tabs have shared out their streams anew: is there a better way now? */
  reconsider() {
    if (this.#line === null) return;
    const isAllowed = this.ways().includes(this.#line.name);
    const other = isAllowed ? this.#betterThan(this.#line).find((name) => !this.memory.failed(name)) : this.#order()[0];
    if (other === undefined) return;
    const asked = this.clock.now();
    this.#tryBeside(other, BESIDE, () => {
      this.#notBetter(other);
      if (this.#line !== null && this.#heardAt < asked) this.check();
      else this.reconsider(); // the next best
    });
  }

  /** Drop the line and open another one, for whoever found that frames do not join up. */
  again() {
    if (this.#line !== null) this.#lost(LOST);
  }

  /** The page is put aside, perhaps for good: what is open would keep it from being kept. `check` brings it back. */
  leave() {
    if (this.state === "stopped" || this.state === "idle") return;
    this.#drop();
    this.#become("lost");
  }

  // --- beginning ---

  #attempt() {
    this.#drop();
    this.attempts += 1;
    this.#attemptAt = this.clock.now();
    this.#untried = this.#order();
    this.#after("opening", OPENING, () => this.#lost(LOST));
    this.#tryNext();
  }

  /** What may be used and has not failed lately; the last resort always. */
  #order() {
    const ways = this.ways();
    return ways.filter((name, at) => at === ways.length - 1 || !this.memory.failed(name));
  }

  #tryNext() {
    if (this.#untried.length === 0) return;
    const name = this.#untried.shift();
    this.#racing.push(this.#open(name));
    // A server that is slow to greet everybody is not helped by more connections.
    const ahead = (this.memory.doubts(name) ? RACE_DOUBTED : RACE) * 2 ** Math.min(this.#failures, 2);
    if (this.#untried.length) this.#after("race", ahead, () => this.#tryNext());
  }

  #open(name) {
    const line = { name, close() {}, send: () => false };
    const callbacks = {
      onFrame: (frame, bytes) => this.#receive(line, frame, bytes),
      onAnswer: (frame) => this.onFrame(frame, 0),
      onClosed: (how) => this.#closed(line, how),
    };
    try {
      const { send, close, echoes, silent } = this.open(name, callbacks);
      Object.assign(line, { send, close, echoes, silent });
    } catch {
      this.clock.setTimeout(() => this.#closed(line, { code: LOST }), 0); // it is not to be had after all
    }
    return line;
  }

  #adopt(line) {
    const better = this.#betterThan(line);
    const raced = [...this.#beaten, ...this.#racing.map(({ name }) => name)];
    for (const name of raced) if (better.includes(name) && !this.#isBlameless) this.memory.fail(name);
    this.memory.worked(line.name);
    for (const other of [this.#line, this.#beside, ...this.#racing]) if (other !== null && other !== line) other.close();
    for (const name of ["race", "opening", "beside", "patience"]) this.#stop(name);
    this.#line = line;
    this.#beside = null;
    this.#racing = [];
    this.#beaten = [];
    this.#goodbye = null;
    this.onLine(line.name);
    if (better.length) this.#lookForBetter(BETTER_SOON);
    else this.#stop("better");
    this.reconsider(); // what was not to be had when this one was opened may be by now
  }

  // --- living ---

  #receive(line, frame, bytes) {
    if (line !== this.#line) {
      if (line !== this.#beside && !this.#racing.includes(line)) return;
      if (frame.type === "bye") line.goodbye = frame;
      if (frame.type !== "hello") return;
      this.#adopt(line);
    }
    this.#heardAt = this.clock.now();
    if (frame.type === "hello") this.#hello(frame);
    else if (frame.type === "sync") this.#synced();
    else if (frame.type === "ping") this.#speak();
    else if (frame.type === "bye") line.goodbye = frame;
    this.onFrame(frame, bytes);
  }

  #hello({ heartbeat }) {
    this.#heartbeat = heartbeat * 1000;
    this.#spokeAt = this.#heardAt;
    this.#beat();
    this.#watch();
  }

  #synced() {
    if (this.#liveSince === 0) this.#liveSince = this.#heardAt;
    this.#become("synced");
  }

  /** The server must hear of us. Also said when its own ping comes: a hidden page's timers may sleep for a minute. */
  #speak() {
    if (!this.#line.silent && this.clock.now() - this.#spokeAt >= this.#heartbeat / 2) this.send({ type: "ping" });
  }

  #beat() {
    const due = this.clock.now() + this.#heartbeat;
    this.#after("beat", this.#heartbeat, () => {
      this.#beat();
      // A timer that is late, and nothing heard since it was due: this computer has slept.
      if (this.clock.now() - due > PATIENCE && this.#heardAt < due) this.check();
      else this.#speak();
    });
  }

  /** A half-open line looks open for minutes. Whatever it says: nothing heard for two heartbeats, and it is dead. */
  #watch() {
    const left = 2 * this.#heartbeat - this.#silence(this.clock.now());
    if (left <= 0) this.#comeBack();
    else this.#after("silence", left, () => this.#watch());
  }

  /** How long nothing was heard. A clock that was set back must not make it never. */
  #silence(now) {
    this.#heardAt = Math.min(this.#heardAt, now);
    return now - this.#heardAt;
  }

  // --- a better way, while another one serves ---

  #lookForBetter(delay) {
    this.#after("better", delay, () => this.#tryBetter(this.#betterThan(this.#line)));
  }

  #betterThan(line) {
    const ways = this.ways();
    return ways.slice(0, Math.max(0, ways.indexOf(line.name)));
  }

  #tryBetter([name, ...rest]) {
    if (name === undefined) { this.#lookForBetter(BETTER_LATER); return; }
    this.#tryBeside(name, BESIDE, () => { this.#notBetter(name); if (this.#line !== null) this.#tryBetter(rest); });
  }

  #notBetter(name) {
    if (!this.ways().includes(this.#line.name)) this.#comeBack(); // what serves may not be used any more
    else if (this.#betterThan(this.#line).includes(name)) { this.memory.fail(name); this.#lookForBetter(BETTER_LATER); }
  }

  #tryBeside(name, patience, failed) {
    this.#beside?.close();
    this.#beside = this.#open(name);
    this.#beside.failed = () => {
      this.#stop("beside");
      this.#beside.close();
      this.#beside = null;
      failed();
    };
    this.#after("beside", patience, this.#beside.failed);
  }

  // --- ending ---

  #closed(line, { code, nobody = false, useless = false }) {
    if (line === this.#line && useless) { this.memory.fail(line.name); this.#comeBack(); return; }
    if (line === this.#line) { this.#goodbye = line.goodbye ?? null; this.#lost(code); return; }
    if (line === this.#beside) { this.#beside.failed(); return; }
    const at = this.#racing.indexOf(line);
    if (at < 0) return;
    this.#racing.splice(at, 1);
    this.#goodbye = line.goodbye ?? null;
    if (this.#goodbye !== null || code >= SAID_BY_SERVER) { this.#lost(code); return; }
    this.#beaten.push(line.name);
    if (nobody) {
      this.#isBlameless = true;
      const isFirst = this.#failures === 0;
      if (isFirst) this.#untried = []; // another way leads to the same closed door; if it stays closed, we shall see
      const isLast = this.#untried.length === 0 && at === this.#racing.length; // what still races is better
      if (isFirst || isLast) this.#after("opening", PATIENCE, () => this.#lost(LOST));
    }
    if (this.#untried.length) this.#tryNext();
    else if (this.#racing.length === 0) this.#lost(code);
  }

  /** It is dead, as far as we can tell, and not by anybody's wish: there is nothing to wait for. */
  #comeBack() {
    this.#drop();
    this.#become("lost");
    this.#attempt();
  }

  #lost(closed) {
    const { close: code = closed, code: reason, message, retry_in } = this.#goodbye ?? {};
    const name = this.#line?.name;
    const lasted = this.#liveSince ? this.clock.now() - this.#liveSince : 0;
    this.#goodbye = null;
    this.#drop();
    if (code >= COME_BACK_BELOW) { this.#become("refused", { code, reason, message }); return; }
    this.#failures = lasted > SETTLED ? 0 : this.#failures + 1;
    if (lasted > SETTLED) this.#shortLived = 0;
    else if (name && reason === undefined && ++this.#shortLived >= SHORT_LIVED) { this.memory.fail(name); this.#shortLived = 0; }
    const restarting = reason === "drain";
    const isReachable = restarting || (this.isOnline() && this.#failures < FAILURES_OFFLINE);
    this.#become(isReachable ? "lost" : "unreachable", { restarting });
    const delay = retry_in === undefined ? backoff(this.#failures, this.random) : retry_in * 1000;
    this.#after("retry", delay, () => this.#attempt());
  }

  #drop() {
    for (const name of Object.keys(this.#timers)) this.#stop(name);
    for (const line of [this.#line, this.#beside, ...this.#racing]) line?.close();
    this.#line = this.#beside = null;
    this.#racing = [];
    this.#beaten = [];
    this.#untried = [];
    this.#isBlameless = false;
    this.#liveSince = 0;
  }

  #after(name, delay, act) {
    this.#stop(name);
    this.#timers[name] = this.clock.setTimeout(() => { delete this.#timers[name]; act(); }, delay);
  }

  #stop(name) {
    this.clock.clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  #become(event, why = {}) {
    const next = TRANSITIONS[this.state][event];
    if (next === undefined) return;
    this.state = next;
    this.onState(next, why);
  }
}
