/* A document at one place: the stored text around a citation, with the cited part highlighted. The place is in the
   address (#source=ID&start=N&end=N), so it can be kept, shared and opened in a tab of its own. */

import { $, announce, h } from "./dom.js";
import { inWords } from "./errors.js";
import { getJson } from "./service.js";

const AROUND = 1500; // characters shown before and after the cited part
const MORE = 4000; // and those that a click on "earlier" or "later" adds

let shown = null; // {id, first, last, total}: characters of the document that are on the screen
let opening = 0; // a later place wins over one that is still loading

/** The address of a place. start, end: characters of the document's text. */
export const placeLink = (id, start, end) => `#${new URLSearchParams({ source: id, start, end })}`;

export function listenToPlaces() {
  addEventListener("hashchange", openPlace);
  $("place-close").addEventListener("click", () => $("place").close());
  $("place").addEventListener("click", (event) => { if (event.target === $("place")) $("place").close(); }); // the backdrop
  $("place").addEventListener("close", forget);
  for (const side of ["earlier", "later"]) $(`place-${side}`).addEventListener("click", () => more(side));
  $("place-copy").addEventListener("click", copyLink);
  openPlace();
}

/** What the address asks for; null when it asks for nothing, or for no place at all. */
function wanted() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const id = fields.get("source") ?? "";
  const [start, end] = ["start", "end"].map((name) => fields.get(name) ?? "");
  if (!/^[\w-]{1,64}$/.test(id) || !/^\d{1,12}$/.test(start) || !/^\d{1,12}$/.test(end)) return null;
  return { id, start: Number(start), end: Number(end) };
}

async function openPlace() {
  const place = wanted();
  if (!place) return;
  const turn = ++opening;
  shown = null;
  $("place-title").textContent = "Opening the document…";
  for (const id of ["place-heading", "place-note"]) $(id).textContent = "";
  $("place-text").replaceChildren();
  showEnds();
  if (!$("place").open) $("place").showModal();
  try {
    const found = await getJson(`${contentPath(place.id)}&start=${place.start}&end=${place.end}&context=${AROUND}`);
    if (turn === opening) show(place, found);
  } catch (error) {
    if (turn === opening) fail(error);
  }
}

const contentPath = (id) => `/v1/files/${encodeURIComponent(id)}/content?format=json`;

function show(place, found) {
  const { filename, page, heading, before, text, after, num_chars: total } = found;
  $("place-title").textContent = filename || "Unnamed file";
  $("place-heading").textContent = [page ? `Page ${page}` : "", heading].filter(Boolean).join(" · ");
  const mark = h("mark", { class: "now" }, text);
  $("place-text").replaceChildren(before, ...(text ? [mark] : []), after);
  shown = { id: place.id, first: place.start - length(before), last: found.end + length(after), total };
  showEnds();
  $("place-note").textContent = `Characters ${place.start} to ${found.end} of ${total}`;
  mark.scrollIntoView({ block: "center" });
  $("place-body").focus({ preventScroll: true });
  announce(`${filename}${page ? `, page ${page}` : ""}`);
}

const length = (text) => [...text].length; // the service counts code points, strings here count UTF-16

function showEnds() {
  $("place-earlier").hidden = !shown || shown.first <= 0;
  $("place-later").hidden = !shown || shown.last >= shown.total;
}

/** A second click before the first one's text is there would bring the same text twice. */
async function more(side) {
  const button = $(`place-${side}`);
  button.disabled = true;
  await extend(side).catch(fail);
  button.disabled = false;
}

/** More of the document at one end; what was on the screen stays where it was. */
async function extend(side) {
  const { id, first, last, total } = shown;
  const [start, end] = side === "earlier" ? [Math.max(0, first - MORE), first] : [last, Math.min(total, last + MORE)];
  const { text } = await getJson(`${contentPath(id)}&start=${start}&end=${end}`);
  if (shown?.id !== id) return;
  const body = $("place-body");
  const fromEnd = body.scrollHeight - body.scrollTop;
  if (side === "earlier") {
    $("place-text").prepend(text);
    shown.first = start;
  } else {
    $("place-text").append(text);
    shown.last = end;
  }
  showEnds();
  if (side === "earlier") body.scrollTop = body.scrollHeight - fromEnd;
}

function fail(error) {
  if (!shown) $("place-title").textContent = "This place cannot be shown";
  $("place-note").textContent = inWords(error);
  announce(inWords(error));
}

/** The address forgets the place too, so that the same link opens it again. */
function forget() {
  opening += 1;
  shown = null;
  if (wanted()) history.replaceState(null, "", location.pathname + location.search);
}

async function copyLink() {
  const button = $("place-copy");
  button.textContent = await navigator.clipboard.writeText(location.href).then(() => "Copied", () => "Could not copy");
  announce(button.textContent);
  setTimeout(() => { button.textContent = "Copy link"; }, 2000);
}
