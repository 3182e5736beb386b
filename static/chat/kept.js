/**
 * What a person has opened, typed and is at: the server knows nothing of it, and it outlives what is drawn anew. An
 * element is the same as before if it has the same id.
 */

import { byId } from "./page.js";

/** Do `swap`, which draws `root` anew, and put back what was inside it. */
export function keeping(root, swap) {
  const open = [...root.querySelectorAll("details[id][open]")];
  const typed = [...root.querySelectorAll("input[id]:not([type]), textarea[id]")].filter((one) => one.value !== one.defaultValue);
  const at = root.contains(document.activeElement) ? document.activeElement : null;
  const around = ancestors(at);
  swap();
  for (const old of open) reopen(old, byId(old.id));
  for (const old of typed) retype(old, byId(old.id));
  if (at !== null && !at.isConnected && document.activeElement === document.body) goOn(at, around);
}

/** With the caret where it was. */
function retype({ value, selectionStart, selectionEnd }, now) {
  if (now === null) return;
  now.value = value;
  now.setSelectionRange(selectionStart, selectionEnd);
}

/** What was loaded into it is there until it was loaded again. */
function reopen(old, now) {
  if (now?.localName !== "details" || now.open) return;
  for (const loaded of old.querySelectorAll(".loaded")) now.append(loaded);
  now.open = true;
}

const ancestors = (element) => {
  const ids = [];
  for (let one = element?.parentElement; one; one = one.parentElement) if (one.id) ids.push(one.id);
  return ids;
};

/** At the same place, or else around it where something can have the focus: what was decided is read there. */
function goOn(at, around) {
  const same = at.localName === "summary" ? byId(at.parentElement.id)?.querySelector("summary") : null;
  const there = same ?? around.map(byId).find((one) => one?.hasAttribute("tabindex"));
  there?.focus({ preventScroll: true });
}
