/** The page of one's devices: which of them is this browser (only this browser knows), and a new token's secret. */

import { startCopy } from "./copy.js";
import { deviceId } from "./page.js";

function mark() {
  const row = document.querySelector(`[data-device="${CSS.escape(deviceId() ?? "")}"] .this-device`);
  if (row !== null) row.hidden = false;
}

/** Where the keyboard goes on when what it was on is gone: the secret to copy, the name to mend, the ended token. */
function goOn(part) {
  const next = part.querySelector(".secret .copy, .make-token [aria-invalid]") ?? part;
  if (next.matches(".token, button, input")) next.focus();
}

htmx.onLoad((part) => { mark(); goOn(part); });
mark();
startCopy();
// The back button shows a page as it was left, and a secret is shown once.
addEventListener("pagehide", () => document.querySelector(".secret")?.remove());
