/**
 * Tools that run here: name → async function of the arguments that the model gave. What it returns, text or anything
 * that can be JSON, is what the model reads; what it throws is why there is nothing. It is called once per page and
 * call, on every page of the person who asked, and the first answer counts: so it reads or asks, and changes nothing.
 * `signal` is aborted when nobody waits for the answer any more.
 *
 * Yours: an entry here, or `deviceTool(…)` in a module of your own that the page loads; and a function marked
 * `device_tool` on the server, so that the model knows of it (docs/tools.md).
 */

const tools = new Map();

/** `act(arguments, { call, run, signal })`. Registered later, it is found by what is offered from then on. */
export const deviceTool = (name, act) => tools.set(name, act);
export const toolNamed = (name) => tools.get(name);

deviceTool("this_device", async () => {
  const { timeZone, locale } = Intl.DateTimeFormat().resolvedOptions();
  const now = new Date();
  return {
    time_zone: timeZone,
    local_time: now.toLocaleString("en", { dateStyle: "full", timeStyle: "long" }),
    language: navigator.language,
    languages: navigator.languages,
    writes_dates_as: locale,
    screen: `${screen.width} × ${screen.height}`,
    window: `${innerWidth} × ${innerHeight}`,
    touch: matchMedia("(pointer: coarse)").matches,
    online: navigator.onLine,
  };
});
