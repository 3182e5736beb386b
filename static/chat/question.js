/**
 * The form in which a person answers what the agent asks them. It is in the page for everybody and shown to one. What
 * is half written outlives the form being drawn anew, and a reload; the first answer, on whichever device, ends it.
 */

import { announce, byId, onChanged, page } from "./page.js";

const FALLBACK = 10_000; // ms without an answer; then it is given up, and another one can be given
const DECLINED = "The person chose not to answer this question.";
const DRAFT = `question:${page.user}:`;

const announced = new Set();

function given(form) {
  const options = [...form.querySelectorAll("input:checked")].map(({ value }) => value);
  return { options, words: byId(`words-${form.dataset.call}`)?.value ?? "" };
}

// --- drafts: of this tab ---

function keep(form) {
  try { sessionStorage.setItem(DRAFT + form.dataset.call, JSON.stringify(given(form))); } catch { /* a pity */ }
}

function restore(form) {
  try {
    const { options, words } = JSON.parse(sessionStorage.getItem(DRAFT + form.dataset.call));
    for (const input of form.querySelectorAll("input")) input.checked = options.includes(input.value);
    const text = byId(`words-${form.dataset.call}`);
    if (text !== null) text.value = words;
  } catch { /* there is none */ }
}

/** Of questions that are over nothing is kept. */
function forget() {
  try {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(DRAFT) && byId(`ask-${key.slice(DRAFT.length)}`) === null) sessionStorage.removeItem(key);
  } catch { /* there is nothing */ }
}

// --- showing it to whom it is for ---

function untilWhen(moment) {
  const isToday = moment.toDateString() === new Date().toDateString();
  return `until ${moment.toLocaleString([], { ...(isToday ? {} : { weekday: "long" }), hour: "2-digit", minute: "2-digit" })}`;
}

function show(root) {
  for (const form of [...(root.matches?.("form.ask") ? [root] : []), ...root.querySelectorAll("form.ask")]) {
    if (form.dataset.for !== page.user) continue;
    restore(form);
    form.hidden = false;
    form.parentElement.classList.add("for-me");
    const until = form.querySelector("time");
    until.textContent = untilWhen(new Date(until.dateTime));
    if (announced.has(form.dataset.call)) continue;
    announced.add(form.dataset.call);
    announce(`A question for you: ${byId(`question-${form.dataset.call}`).textContent}`);
  }
}

// --- answering ---

function busy(form, isBusy) {
  for (const button of form.querySelectorAll("button")) {
    if (isBusy) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

function missing(form, why) {
  const line = byId(`missing-${form.dataset.call}`);
  line.textContent = why;
  line.hidden = why === "";
}

async function answer(form, said, { ask, complain }) {
  if (form.querySelector("[aria-disabled]") !== null) return;
  const { run, call } = form.dataset;
  missing(form, "");
  busy(form, true);
  const reply = await ask("tool.result", { run, call, ...said }, FALLBACK);
  busy(form, false);
  if (reply.type === "nack") complain(reply.message);
}

function submit(form, asking) {
  const { options, words } = given(form);
  const text = [...options, words.trim()].filter(Boolean).join("\n");
  if (text) answer(form, { result: text }, asking);
  else {
    missing(form, form.querySelector("input") === null ? "Write an answer first, or skip the question." : "Choose an answer first, or skip the question.");
    (form.querySelector("input, textarea"))?.focus();
  }
}

/** `ask(type, fields, patience)` and `complain(message)` as the page has them. */
export function startQuestions(asking) {
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form.ask")) return;
    event.preventDefault();
    submit(event.target, asking);
  });
  document.addEventListener("click", (event) => {
    const form = event.target.closest("[data-skip]")?.closest("form.ask");
    if (form) answer(form, { error: DECLINED }, asking);
  });
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.ask");
    if (form === null) return;
    keep(form);
    missing(form, "");
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches("form.ask textarea") || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (matchMedia("(pointer: coarse)").matches) return; // there Enter is a new line
    event.preventDefault();
    event.target.form.requestSubmit();
  });
  htmx.onLoad(show);
  onChanged(forget);
  show(document.body);
  forget();
}
