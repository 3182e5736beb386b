/**
 * Where the reader is. At the bottom, the page follows what is written; anywhere else what they look at does not move
 * by a pixel, whatever is put above or below it, and a button says that there is more. Done here and not left to the
 * browser: not every one does it, and none through a swap.
 */

import { byId } from "./page.js";

const NEAR = 24; // px from the bottom that still count as the bottom
const AHEAD = "800px 0px 0px 0px"; // older messages are asked for before the reader gets there
const PROBES = [8, 48, 120, 240]; // px below the top edge; between two messages there is nothing to hold on to

export class Scroll {
  #view = byId("view");
  #button = byId("new-text");
  #top = 0; // as we know it: any other value is the reader's doing
  #follows = true;
  #anchors = []; // what is at the top edge, and around it, with where it was seen

  start() {
    this.#view.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#button.addEventListener("click", () => { this.follow(); this.#view.focus({ preventScroll: true }); });
    // After layout and before paint: following costs no layout of its own, however many tokens came.
    const sizes = new ResizeObserver(() => (this.#follows ? this.#toBottom() : this.#hold()));
    sizes.observe(byId("flow"));
    sizes.observe(this.#view);
    this.follow();
    this.#loadOlder();
  }

  /** Go to the end and stay there. */
  follow() {
    this.#follows = true;
    this.#button.hidden = true;
    this.#toBottom();
  }

  /** Something was written. */
  noticed() {
    if (!this.#follows) this.#button.hidden = false;
  }

  #toBottom() {
    this.#go(this.#view.scrollHeight);
  }

  #go(top) {
    this.#view.scrollTop = top;
    this.#top = this.#view.scrollTop;
  }

  /** Only a move upwards is the reader's wish to stay: text that grows leaves us above the bottom, too. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#view;
    if (scrollTop === this.#top) return;
    const isAtBottom = scrollHeight - clientHeight - scrollTop <= NEAR;
    if (isAtBottom) { this.#follows = true; this.#button.hidden = true; }
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
    if (!this.#follows) this.#look();
  }

  /** Remember what the reader sees. All of its ancestors too: an answer is drawn anew when it ends. */
  #look() {
    const { left, top, width } = this.#view.getBoundingClientRect();
    this.#anchors = [];
    for (const probe of PROBES) {
      const turn = document.elementFromPoint(left + width / 2, top + probe)?.closest(".turn, .turn *");
      for (let one = turn; one && one.id !== "turns"; one = one.parentElement) this.#anchors.push([one, one.getBoundingClientRect().top]);
      if (this.#anchors.length) return;
    }
  }

  /** Put back what has moved. Where it should be stays as first seen, so that rounding does not add up. */
  #hold() {
    const [anchor, top] = this.#anchors.find(([element]) => element.isConnected) ?? [];
    if (anchor === undefined) return;
    const moved = anchor.getBoundingClientRect().top - top;
    if (Math.abs(moved) >= 1) this.#go(this.#view.scrollTop + moved);
  }

  #loadOlder() {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) htmx.trigger(entry.target, "near");
    }, { root: this.#view, rootMargin: AHEAD });
    const watch = (root) => {
      const older = root.id === "older" ? root : root.querySelector("#older");
      if (older) seen.observe(older);
    };
    htmx.onLoad(watch);
    watch(document.body);
    // The event of a scroll comes with the next frame: looked at only then, what is put above would be taken for it.
    this.#view.addEventListener("htmx:beforeSwap", () => this.#scrolled());
  }
}
