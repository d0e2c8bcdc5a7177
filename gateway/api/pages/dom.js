/* Building blocks. One rule above all: text from a model, a document or a server becomes a text node, never markup. */

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; strings become text nodes. `class`, `aria-*` and `data-*` are attributes. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class" || name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** A drawing of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Tells screen readers; the same text twice is still read. */
export function announce(text) {
  const region = $("announce");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

/** Focus goes to the question, except on a touch screen, where it would raise the keyboard over the answer. */
export function focusComposer() {
  (matchMedia("(pointer: coarse)").matches ? $("conversation") : $("question")).focus({ preventScroll: true });
}
