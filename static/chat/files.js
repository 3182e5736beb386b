/**
 * What is attached to the message being written: picked, dropped or pasted, sent to the server one after the other,
 * each with its progress, a reason if it is refused and another try if the network broke.
 */

import { announce, byId, keyOf, newId, page, store } from "./page.js";

const KEPT = keyOf("files");
const SILENCE = 60_000; // ms without any progress
const FAILED = "The network broke.";
const NOT_TAKEN = new Set(["unknown_file", "stale"]); // after these a file cannot be sent again

export class Tray {
  #items = []; // { id, name, size, state: waiting|sending|failed|refused|done, file, part, why, xhr, element }
  #list = byId("tray");
  limits = {};

  /** `address(id)` is where a file of that id goes; `remove(id)` tells the server that it is not wanted. */
  constructor({ address, remove }) {
    Object.assign(this, { address, remove });
    byId("attach").addEventListener("click", () => byId("attach-input").click());
    byId("attach-input").addEventListener("change", (event) => { this.add(event.target.files); event.target.value = ""; });
    byId("composer-text").addEventListener("paste", (event) => this.#paste(event));
    this.#startDropping();
    this.giveBack(kept());
  }

  add(files) {
    for (const file of files) {
      const item = { id: newId(), name: file.name || "pasted image", size: file.size, state: "waiting", file };
      const most = this.limits.file_bytes;
      if (most && file.size > most) Object.assign(item, { state: "refused", why: `It is too large: a file may have ${bytes(most)}.` });
      else if (this.limits.files && this.#wanted().length >= this.limits.files) Object.assign(item, { state: "refused", why: `A message may have ${this.limits.files} files.` });
      this.#show(item);
    }
    this.#next();
  }

  /** Of one that is not there yet, what to say to whoever wants to send it; else nothing. */
  get missing() {
    const one = this.#wanted().find(({ state }) => state !== "done");
    if (one === undefined) return "";
    return one.state === "failed" ? `${one.name} was not uploaded. Try again or remove it.` : `${one.name} is still being uploaded.`;
  }

  get isEmpty() { return this.#wanted().length === 0; }

  /** The parts of what is to be sent now; the tray is empty then. */
  take() {
    const parts = this.#wanted().map(({ part }) => part);
    for (const item of [...this.#items]) this.#forget(item);
    return parts;
  }

  /** What was not sent after all, or was here before the page was loaded anew. */
  giveBack(parts, code = "") {
    if (NOT_TAKEN.has(code)) return;
    for (const part of parts) {
      if (!this.#items.some(({ id }) => id === part.file)) this.#show({ id: part.file, name: part.name, size: part.size, state: "done", part });
    }
    this.#keep();
  }

  #wanted() { return this.#items.filter(({ state }) => state !== "refused"); }

  // --- on its way ---

  #next() {
    const item = this.#items.find(({ state }) => state === "waiting");
    if (item === undefined || this.#items.some(({ state }) => state === "sending")) return;
    const form = new FormData();
    form.append("file", item.file, item.name);
    const xhr = item.xhr = new XMLHttpRequest();
    let timer = 0;
    const alive = () => { clearTimeout(timer); timer = setTimeout(() => xhr.abort(), SILENCE); };
    const over = (change) => { clearTimeout(timer); if (this.#items.includes(item)) this.#change(item, change); this.#next(); };
    xhr.upload.addEventListener("progress", (event) => { alive(); progress(item, event.loaded / event.total); });
    xhr.addEventListener("load", () => over(outcome(xhr)));
    for (const kind of ["error", "abort"]) xhr.addEventListener(kind, () => over({ state: "failed", why: FAILED }));
    xhr.open("POST", this.address(item.id));
    alive();
    this.#change(item, { state: "sending", why: "" });
    xhr.send(form);
  }

  #retry(item) {
    this.#change(item, { state: "waiting", why: "" });
    this.#next();
  }

  #dismiss(item) {
    const next = item.element.nextElementSibling ?? item.element.previousElementSibling;
    const { state } = item;
    this.#forget(item);
    item.xhr?.abort();
    if (state !== "refused" && state !== "waiting") this.remove(item.id);
    (next?.querySelector(".remove-file") ?? byId("attach")).focus();
  }

  // --- as it is shown ---

  #show(item) {
    this.#items.push(item);
    item.element = document.createElement("li");
    item.element.className = "tray-item";
    this.#list.append(item.element);
    this.#list.hidden = false;
    this.#change(item, {});
  }

  #change(item, fields) {
    Object.assign(item, fields);
    if (item.state === "done") item.file = null;
    const hadFocus = item.element.contains(document.activeElement);
    item.element.dataset.state = item.state;
    item.element.replaceChildren(...pieces(item, { retry: () => this.#retry(item), dismiss: () => this.#dismiss(item) }));
    if (hadFocus) item.element.querySelector("button").focus();
    if (item.state === "done") announce(`${item.name} is attached.`);
    if (item.why) announce(`${item.name}: ${item.why}`);
    this.#keep();
  }

  #forget(item) {
    this.#items = this.#items.filter((other) => other !== item);
    item.element.remove();
    this.#list.hidden = this.#items.length === 0;
    this.#keep();
  }

  #keep() {
    const parts = this.#items.filter(({ state }) => state === "done").map(({ part }) => part);
    if (parts.length) store.set(KEPT, JSON.stringify(parts));
    else store.remove(KEPT);
  }

  // --- other ways in ---

  #paste(event) {
    const { files, types } = event.clipboardData;
    if (files.length === 0 || types.includes("text/plain")) return; // a table that is also a picture is meant as text
    event.preventDefault();
    this.add(files);
  }

  #startDropping() {
    const brings = (event) => event.dataTransfer?.types.includes("Files") && document.body.dataset.role !== "viewer";
    const show = (over) => document.body.toggleAttribute("data-dropping", over);
    document.addEventListener("dragover", (event) => { if (brings(event)) { event.preventDefault(); show(true); } });
    document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) show(false); });
    document.addEventListener("drop", (event) => {
      show(false);
      if (!brings(event)) return;
      event.preventDefault(); // or the browser would show the file in place of the page
      this.add(event.dataTransfer.files);
    });
  }
}

/** What the server's answer makes of an upload. */
function outcome(xhr) {
  let frame = null;
  try { frame = JSON.parse(xhr.responseText); } catch { /* not ours */ }
  if (frame?.type === "ack") return { state: "done", part: frame.part, why: "" };
  if (frame?.type === "nack") return { state: frame.retryable ? "failed" : "refused", why: frame.message };
  if (xhr.status === 413) return { state: "refused", why: "It is too large to be sent from here." };
  return { state: "failed", why: frame?.message ?? "The server did not answer." };
}

function pieces(item, { retry, dismiss }) {
  const about = element("span", "tray-about");
  about.append(element("span", "file-name", item.name), " ", element("span", "file-size", bytes(item.size)));
  if (item.why) about.append(element("span", "tray-why", item.why));
  const made = [about];
  if (item.part?.type === "image") made.unshift(picture(item.part));
  if (item.state === "waiting" || item.state === "sending") {
    const bar = element("progress", "");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${item.name}`);
    made.push(bar);
  }
  if (item.state === "failed") made.push(button("Retry", `Upload ${item.name} again`, "quiet", retry));
  made.push(button("×", `Remove ${item.name}`, "bare remove-file", dismiss));
  return made;
}

function progress({ element: place }, share) {
  const bar = place.querySelector("progress");
  if (bar !== null) bar.value = share;
}

function picture(part) {
  const image = document.createElement("img");
  image.src = `/conversations/${page.conversation}/files/${part.file}/view/`;
  image.alt = "";
  return image;
}

function button(text, label, kind, act) {
  const made = element("button", kind, text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function element(name, kind, text = "") {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

function bytes(size) {
  if (size < 1024) return `${size} bytes`;
  return size < 1_048_576 ? `${(size / 1024).toFixed(1)} KB` : `${(size / 1_048_576).toFixed(1)} MB`;
}

function kept() {
  try {
    const parts = JSON.parse(store.get(KEPT) ?? "[]");
    return Array.isArray(parts) ? parts.filter((part) => typeof part?.file === "string") : [];
  } catch { return []; }
}
