/* The source panel: one passage, its quoted sentences highlighted. Beside the conversation, or over it where there is
   no room. */

import { $, h } from "./dom.js";
import { placeLink } from "./place.js";

let opener = null; // what was clicked: gets the focus back

/** Shows source `n` of `sources`, the quote at place `chosen` marked stronger than the others of the same passage. */
export function openSource(sources, n, from, chosen) {
  const source = sources.find((one) => one.n === n);
  if (!source) return;
  opener?.setAttribute("aria-expanded", "false");
  opener = from;
  opener.setAttribute("aria-expanded", "true");
  $("source-title").replaceChildren(h("span", { class: "number" }, String(n)), source.filename || "Unnamed file");
  $("source-heading").textContent = [source.page ? `Page ${source.page}` : "", source.heading].filter(Boolean).join(" · ");
  $("source-text").replaceChildren(...passageNodes(source, Math.max(0, Math.min(chosen, source.quotes.length - 1))));
  $("source-score").textContent = Number.isFinite(source.score) ? `Match ${source.score.toFixed(2)}` : "";
  $("source-note").textContent = source.text ? "" : "The whole passage comes with the end of the answer.";
  linkDocument(source, source.quotes[chosen] ?? source.quotes[0]);
  linkNeighbours(sources, n);
  const dialog = $("source");
  if (!dialog.open) {
    if (matchMedia("(min-width: 1080px)").matches) dialog.show(); else dialog.showModal();
  }
  $("source-body").scrollTop = 0;
  $("source-text").querySelector("mark.now")?.scrollIntoView({ block: "nearest" });
}

export const isSourceOpen = () => $("source").open;

export const closeSource = () => $("source").close();

export function listenToSource() {
  $("source-close").addEventListener("click", closeSource);
  $("source").addEventListener("click", (event) => { if (event.target === $("source")) closeSource(); }); // the backdrop
  $("source").addEventListener("close", () => {
    opener?.setAttribute("aria-expanded", "false");
    const target = opener?.isConnected ? opener : $("question"); // a mark is redrawn while its answer grows
    opener = null;
    target.focus();
  });
}

/** The document at the quote, or at the passage where nothing is quoted. */
function linkDocument(source, quote) {
  const { start, end } = quote ?? source;
  const id = quote?.file_id ?? source.file_id;
  const isKnown = Boolean(id) && Number.isInteger(start) && Number.isInteger(end);
  $("source-open").hidden = !isKnown;
  if (isKnown) $("source-open").href = placeLink(id, start, end);
}

function linkNeighbours(sources, n) {
  const numbers = sources.filter((one) => one.quotes.length).map((one) => one.n);
  const targets = { "source-prev": numbers.filter((one) => one < n).at(-1), "source-next": numbers.find((one) => one > n) };
  for (const [id, target] of Object.entries(targets)) {
    $(id).disabled = target === undefined;
    $(id).onclick = () => openSource(sources, target, opener, 0);
  }
}

/** The passage as text nodes and <mark> elements. Without the passage (a stopped answer), its quotes. */
function passageNodes(source, chosen) {
  const text = source.text ?? source.quotes.map((quote) => quote.quote).join("\n\n");
  const places = source.quotes
    .map((quote, at) => ({ place: locate(text, quote.quote, quote.start - (source.start ?? 0)), isChosen: at === chosen }))
    .filter(({ place }) => place)
    .sort((a, b) => a.place[0] - b.place[0] || b.isChosen - a.isChosen);
  const shown = unwrapped(text);
  const nodes = [];
  let from = 0;
  for (const { place: [start, end], isChosen } of places) {
    if (start < from) continue; // the same sentence again
    nodes.push(shown.slice(from, start), h("mark", isChosen ? { class: "now" } : {}, shown.slice(start, end)));
    from = end;
  }
  return [...nodes, shown.slice(from)];
}

/** The place of `quote` in `text` as [start, end], or null. `near`: where the service says it starts, in code points. */
function locate(text, quote, near) {
  if (!quote) return null;
  const at = [...text].slice(0, Math.max(0, near)).join("").length;
  if (text.startsWith(quote, at)) return [at, at + quote.length];
  const found = text.indexOf(quote);
  if (found >= 0) return [found, found + quote.length];
  // Line breaks inside a sentence may have become spaces on the way.
  const words = quote.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const match = new RegExp(words.join("\\s+")).exec(text);
  return match && [match.index, match.index + match[0].length];
}

/** Prose that was wrapped by hand flows again. Same length as `text`, so that places stay right; lists and code keep
    their lines. */
function unwrapped(text) {
  return text.replace(/(?<=[^\n|]{50})\n(?=[^\s|#>`*\-+\d])/g, " ");
}
