/* An answer as elements: paragraphs, lists, code, and the [n] marks as buttons. No HTML is ever parsed. */

import { h } from "./dom.js";

const ITEM = /^\s*(?:[-*•]|(\d+)[.)])\s+/;

/** Cuts an answer into blocks (a paragraph, a list, a fenced code), so that only the last one changes while it grows. */
function blocksOf(text) {
  const blocks = [];
  let kind = "";
  for (const line of text.split("\n")) {
    const fence = line.trimStart().startsWith("```");
    if (kind === "code") {
      if (fence) kind = ""; else blocks.at(-1).lines.push(line);
      continue;
    }
    const next = fence ? "code" : line.trim() === "" ? "" : ITEM.test(line) ? "list" : kind === "list" ? "list" : "text";
    if (next && (next !== kind || next === "code")) blocks.push({ kind: next, lines: [] });
    if (next && next !== "code") blocks.at(-1).lines.push(line);
    kind = next;
  }
  return blocks;
}

/** Inline text: `code`, **strong** and the citation marks of numbers that stand for a source. */
function inline(text, cited) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(/`([^`\n]+)`|\*\*([^*\n]+)\*\*|\s?\[(\d{1,3})\]/g)) {
    const [whole, code, strong, number] = match;
    if (number && !cited.has(Number(number))) continue;
    nodes.push(text.slice(from, match.index));
    from = match.index + whole.length;
    if (code) nodes.push(h("code", {}, code));
    else if (strong) nodes.push(h("strong", {}, strong));
    else nodes.push(h("button", { type: "button", class: "cite", "data-n": number, "aria-haspopup": "dialog",
      "aria-expanded": "false", "aria-label": `Source ${number}` }, number));
  }
  nodes.push(text.slice(from));
  return nodes;
}

function blockNode({ kind, lines }, cited) {
  if (kind === "code") return h("pre", { tabIndex: 0 }, h("code", {}, lines.join("\n")));
  if (kind === "text") {
    const heading = /^#{1,6}\s+(.+)/.exec(lines[0]);
    if (heading && lines.length === 1) return h("p", {}, h("strong", {}, ...inline(heading[1], cited)));
    return h("p", {}, ...inline(lines.join("\n"), cited));
  }
  const items = [];
  for (const line of lines) {
    if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  const first = ITEM.exec(lines[0])[1];
  const list = h(first ? "ol" : "ul", first ? { start: Number(first) } : {});
  list.append(...items.map((item) => h("li", {}, ...inline(item, cited))));
  return list;
}

/** Shows `text` in `node`, leaving the blocks that did not change (and a selection in them) alone. */
export function showProse(node, text, cited) {
  const marks = [...cited].join();
  const wanted = blocksOf(text).map((block) => ({ block, key: JSON.stringify([block, marks]) }));
  wanted.forEach(({ block, key }, at) => {
    const present = node.children[at];
    if (present?.blockKey === key) return;
    const fresh = blockNode(block, cited);
    fresh.blockKey = key;
    if (present) present.replaceWith(fresh); else node.append(fresh);
  });
  while (node.children.length > wanted.length) node.lastChild.remove();
}
