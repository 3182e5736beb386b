/** The drawer with the other conversations, and the panel with people and details. */

import { byId } from "./page.js";

/** `rename(title)` asks for it and says what was wrong, if something was. */
export function startPanels({ rename }) {
  const panel = byId("panel");
  byId("open-panel").addEventListener("click", () => {
    byId("rename-title").value = byId("title").textContent;
    panel.showModal();
  });
  // A click on the backdrop is a click on the dialog itself.
  panel.addEventListener("click", (event) => event.target === panel && panel.close());
  byId("rename").addEventListener("submit", async (event) => {
    event.preventDefault();
    await rename(byId("rename-title").value);
    panel.close();
  });
  const add = byId("add-person");
  add.addEventListener("htmx:afterRequest", (event) => event.detail.xhr.status === 200 && add.reset());
  drawer();
}

function drawer() {
  const show = (open) => {
    document.body.classList.toggle("drawer-open", open);
    byId("open-drawer").setAttribute("aria-expanded", String(open));
    byId(open ? "close-drawer" : "open-drawer").focus();
  };
  byId("open-drawer").addEventListener("click", () => show(true));
  byId("close-drawer").addEventListener("click", () => show(false));
  document.addEventListener("click", (event) => {
    if (document.body.classList.contains("drawer-open") && !event.target.closest("#sidebar, #open-drawer")) show(false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("drawer-open")) show(false);
  });
}
