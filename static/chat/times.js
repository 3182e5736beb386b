/** Times that are still to come: by the reader's clock, with how long that is. */

import { onChanged } from "./page.js";

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "always" });

/** Rounded down: who has "2 hours" has them. */
function left(seconds) {
  if (seconds < 1) return "any moment now";
  const [unit, size] = UNITS.find(([, size]) => seconds >= size * (size === 1 ? 1 : 2)) ?? UNITS.at(-1);
  return words.format(Math.floor(seconds / size), unit);
}

function clock(moment) {
  const isToday = moment.toDateString() === new Date().toDateString();
  const day = isToday ? {} : { day: "numeric", month: "short" };
  return moment.toLocaleString("en-GB", { hour: "2-digit", minute: "2-digit", ...day });
}

function show() {
  for (const time of document.querySelectorAll("time[data-until]")) {
    const moment = new Date(time.dateTime);
    const text = `${clock(moment)} (${left((moment - Date.now()) / 1000)})`;
    if (time.textContent !== text) time.textContent = text;
  }
}

/** From now on, and whenever something new is on the page. */
export function startTimes() {
  onChanged(show);
  setInterval(show, 1_000);
  show();
}
