/** The copy button at each block of code. One listener for all of them, now and later. */

const SHOWN = 1_600; // ms

async function copy(text) {
  // The clipboard is for secure pages only; a home server over http still has the old way.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("copying is not allowed");
}

export function startCopy() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (button === null) return;
    try {
      await copy(button.closest(".code").querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, SHOWN);
  });
}
