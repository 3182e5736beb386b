/** Lists of conversations that stay true: asked for again while somebody looks, never while nobody does. */

const EVERY = 5_000; // ms
const SOON = 600;

/** A conversation's page knows whether the server is there; asking into a tunnel only fills the console. */
const isReachable = () => (document.body.dataset.connection ?? "live") === "live";

/** Keep element `id` fresh through its htmx `refresh` trigger. Returns a function that asks for it soon. */
export function keepFresh(id, every = EVERY) {
  const element = document.getElementById(id);
  if (element === null) return () => {};
  let soon = 0;
  const refresh = () => document.visibilityState === "visible" && isReachable() && htmx.trigger(element, "refresh");
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pageshow", (event) => event.persisted && refresh());
  return () => {
    clearTimeout(soon);
    soon = setTimeout(refresh, SOON);
  };
}
