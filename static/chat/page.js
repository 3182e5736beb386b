/**
 * Where we are and who we are: read once from the body, and the keys under which this browser remembers things.
 * Keys carry user and conversation, so that two people who share a browser never see each other's words.
 */

const { conversation, user, login } = document.body.dataset;

export const page = { conversation, user, login };

/** An element that the page template always has. */
export const byId = (id) => document.getElementById(id);

/** Hide or show. What is hidden while the keyboard is in it hands it on: it must not begin at the top of the page. */
export function hide(element, isHidden, next = byId("view")) {
  const hadFocus = isHidden && element.contains(document.activeElement);
  element.hidden = isHidden;
  if (hadFocus) next.focus({ preventScroll: true });
}

const SPOKEN = 5; // lines

/** For people who cannot see the page. A line for each: what the next one replaces at once is never read out. */
export function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  const place = byId("announce");
  place.append(line);
  while (place.children.length > SPOKEN) place.firstElementChild.remove();
}

/** A key of this user in this conversation. */
export const keyOf = (what) => `conversation:${what}:${user}:${conversation}:`;

/** localStorage that may be full, forbidden or emptied: a lost draft is a pity, a broken page is worse. */
export const store = {
  get(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  },
  set(key, value) {
    try { localStorage.setItem(key, value); return true; } catch { return false; }
  },
  remove(key) {
    try { localStorage.removeItem(key); } catch { /* there is nothing to remove */ }
  },
  keys(prefix) {
    try { return Object.keys(localStorage).filter((key) => key.startsWith(prefix)); } catch { return []; }
  },
};

/** `crypto.randomUUID` exists over https and on localhost only; a home server may have neither. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

const DEVICE = `conversation:device:${user}`;
const ID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

/** A revoked device stays revoked: whoever signs in again here does so as another one. */
export const forgetDevice = () => store.remove(DEVICE);

/** What this browser is to this user so far, or null. Something else under that key would never be let in. */
export function deviceId() {
  const id = store.get(DEVICE);
  return ID.test(id) ? id : null;
}

/** This browser, as this user's device. Another user of the same browser is another device. */
export function device() {
  const id = deviceId() ?? newId();
  store.set(DEVICE, id);
  return { id, name: deviceName(navigator.userAgent) };
}

/** "Firefox on Android": good enough to tell one's own devices apart; the devices page can rename it. */
export function deviceName(agent) {
  const first = (names) => names.find(([pattern]) => pattern.test(agent))?.[1];
  const browser = first([[/Edg/, "Edge"], [/OPR\//, "Opera"], [/Firefox|FxiOS/, "Firefox"], [/Chrom(e|ium)|CriOS/, "Chrome"], [/Safari/, "Safari"]]);
  const system = first([[/iPhone/, "iPhone"], [/iPad/, "iPad"], [/Android/, "Android"], [/Windows/, "Windows"], [/Mac OS/, "Mac"], [/CrOS/, "Chromebook"], [/Linux/, "Linux"]]);
  return `${browser ?? "A browser"}${system ? ` on ${system}` : ""}`;
}

/** Tell the other modules that something other than streamed text has changed on the page. */
export const changed = () => document.dispatchEvent(new Event("conversation:changed"));
export const onChanged = (react) => document.addEventListener("conversation:changed", react);
