/**
 * What was thought is not on the page until somebody opens it, and no longer than it is open. While it is written, its
 * deltas come as those of every other text do; what came before is fetched.
 */

import { hold, release } from "./text.js";

const FAILED = "It could not be loaded. Close this and open it again.";

async function load(details) {
  const place = document.createElement("div");
  place.id = details.dataset.text;
  place.className = "loaded";
  place.hidden = true;
  const before = [...details.querySelectorAll(".loaded")];
  for (const old of before) old.removeAttribute("id");
  details.append(place);
  hold(place); // from here on nothing is missed, and what is fetched has all that came before
  const text = await fetchText(details.dataset.load);
  for (const old of before) old.remove();
  if (text === null) { place.removeAttribute("id"); place.textContent = FAILED; } else release(place, text);
  place.hidden = false;
}

async function fetchText(address) {
  try {
    const response = await fetch(address);
    return response.ok ? await response.text() : null;
  } catch { return null; }
}

function toggled(details) {
  if (details.open) load(details);
  else for (const loaded of details.querySelectorAll(".loaded")) loaded.remove();
}

/** `toggle` does not bubble. */
export function startThoughts() {
  document.addEventListener("toggle", (event) => { if (event.target.matches?.("details[data-load]")) toggled(event.target); }, true);
}
