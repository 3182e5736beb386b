/** What was thought is not on the page until somebody opens it; while more of it comes, it is looked at again. */

const AGAIN = 1_000; // ms

async function fill(details) {
  if (!details.open || !details.isConnected) return;
  let more = true;
  try {
    const response = await fetch(details.dataset.load);
    if (response.ok) {
      const text = await response.text();
      const place = details.querySelector(".streaming");
      if (place.textContent !== text) place.textContent = text;
      more = response.headers.get("X-Part-State") === "open";
    }
  } catch { /* the network will be back */ }
  if (more) setTimeout(() => fill(details), AGAIN);
}

/** `toggle` does not bubble. */
export function startThoughts() {
  document.addEventListener("toggle", (event) => { if (event.target.matches?.("details[data-load]")) fill(event.target); }, true);
}
