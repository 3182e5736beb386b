/**
 * The text of an answer while it is written. The one thing done for every token, so: no parsing, no layout, no
 * look at what is there already except its length.
 */

const PIECE = 3_000; // code units; the browser then lays out only the piece that grows

const known = new WeakMap(); // element → { length in code points, node that grows, how many are shown }
const held = new WeakMap(); // element whose beginning is still to come → what came after it: [offset, text]

/** Code points, as the server counts: a surrogate pair is one. */
export function codePoints(text) {
  let count = text.length;
  for (let at = 0; at < text.length - 1; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xd800 && unit < 0xdc00) { count -= 1; at += 1; }
  }
  return count;
}

/**
 * "From `offset` on the text is this." What is there already is not said twice.
 * False: something before `offset` is missing, which only a fresh view can mend.
 */
export function append(element, offset, text) {
  const waiting = held.get(element);
  if (waiting) { waiting.push([offset, text]); return true; }
  const state = known.get(element) ?? look(element);
  if (offset > state.length) return false;
  const end = offset + codePoints(text);
  if (end <= state.length) return true;
  grow(element, state, offset === state.length ? text : [...text].slice(state.length - offset).join(""));
  state.length = end;
  return true;
}

/** Keep what comes until `release` says what was before it. */
export function hold(element) {
  held.set(element, []);
}

/** `text` is all there was when it was asked for, after `hold`. */
export function release(element, text) {
  const came = held.get(element);
  held.delete(element);
  element.textContent = text;
  for (const [offset, more] of came) append(element, offset, more);
}

/** `data-limit`: how much is shown of what may be endless. `data-length`: how much there is, if that is more. */
function look(element) {
  const { limit = Infinity, length } = element.dataset;
  const state = { length: Number(length ?? codePoints(element.textContent)), node: element.lastChild, limit: Number(limit) };
  if (state.node?.nodeType !== Node.TEXT_NODE) state.node = element.appendChild(new Text(""));
  known.set(element, state);
  return state;
}

function grow(element, state, all) {
  const room = state.limit - state.length;
  const text = room >= all.length ? all : [...all].slice(0, Math.max(0, room)).join("");
  if (text !== all) element.toggleAttribute("data-cut", true);
  if (!text) return;
  const cut = state.node.length > PIECE ? text.indexOf("\n") + 1 : 0;
  state.node.appendData(cut ? text.slice(0, cut) : text);
  if (!cut) return;
  // A block begins where a line ended, so nothing moves.
  const piece = document.createElement("span");
  piece.className = "piece";
  state.node = piece.appendChild(new Text(text.slice(cut)));
  element.append(piece);
}
