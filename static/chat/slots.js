/**
 * Over HTTP/1.1 a browser opens six connections to one host, for all of its tabs. So four of the tabs may keep one
 * open, and two are left for everything else. Which four: each tab writes a lease of its own and reads the others', and
 * all come to the same order: who is looked at first, then who was there first. Nobody writes what another one wrote, so
 * there is nothing to race for. `navigator.locks` would do, but not without https.
 */

const SLOTS = 4;
const RENEW = 5_000; // ms
const LEASE = 15_000;
const LEASE_HIDDEN = 75_000; // a hidden tab's timers may sleep for a minute

export class Slots {
  #since = 0;
  #timer = null;
  #had = false;

  /** `id` of this tab; `isVisible()`; `onChange()` when it was given a slot or lost it. */
  constructor({ id, prefix, store, clock, isVisible, onChange }) {
    Object.assign(this, { key: prefix + id, prefix, store, clock, isVisible, onChange });
  }

  /** Take part, as long as this tab needs a connection that is held. Asking again changes nothing. */
  take() {
    if (this.#timer !== null) return;
    this.#since = this.clock.now();
    this.#renew();
    this.#had = this.has();
  }

  leave() {
    this.clock.clearTimeout(this.#timer);
    this.#timer = null;
    this.#had = false;
    this.store.remove(this.key);
  }

  /** Whether this tab is among the first, or would be if it took part. If nothing can be stored, every tab thinks so. */
  has() {
    return this.#order().indexOf(this.key) < SLOTS;
  }

  /** Another tab came, went or was looked at; or this one was. */
  look() {
    if (this.#timer === null) return;
    this.#write();
    this.#tell();
  }

  /** The same, without writing: what we write makes the others look, and then us again. */
  heard(key) {
    if (this.#timer !== null && (key === null || key.startsWith(this.prefix))) this.#tell();
  }

  #renew() {
    this.#write();
    this.#timer = this.clock.setTimeout(() => { this.#renew(); this.#tell(); }, RENEW);
  }

  #tell() {
    const has = this.has();
    if (has === this.#had) return;
    this.#had = has;
    this.onChange();
  }

  #write() {
    const visible = this.isVisible();
    const until = this.clock.now() + (visible ? LEASE : LEASE_HIDDEN);
    this.store.set(this.key, JSON.stringify({ since: this.#since, visible, until }));
  }

  #order() {
    const now = this.clock.now();
    const leases = [{ key: this.key, visible: this.isVisible(), since: this.#timer === null ? now : this.#since }];
    for (const key of this.store.keys(this.prefix)) {
      if (key === this.key) continue;
      const lease = read(this.store.get(key));
      if (lease !== null && lease.until > now && lease.until <= now + LEASE_HIDDEN) leases.push({ key, ...lease });
      else this.store.remove(key); // a tab that died
    }
    leases.sort((a, b) => b.visible - a.visible || a.since - b.since || (a.key < b.key ? -1 : 1));
    return leases.map(({ key }) => key);
  }
}

function read(text) {
  try {
    const { since, visible, until } = JSON.parse(text);
    return { since: Number(since), visible: Boolean(visible), until: Number(until) };
  } catch {
    return null;
  }
}
