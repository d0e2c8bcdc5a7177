/* What can be chosen in the header, tiers and collections, and the welcome that fits what is there. */

import { $, h } from "./dom.js";
import { getJson } from "./service.js";

export const SAMPLE_COLLECTION = "tidegate-docs"; // the example questions are about this one
const WATCH_MS = 3000; // between looks while files are being read

export let collections = []; // {id, name, file_counts}
let watch = 0;

export async function loadTiers() {
  const { data } = await getJson("/v1/models");
  const tiers = data.filter(({ tidegate }) => tidegate?.kind !== "embedding");
  if (!tiers.length) return;
  const box = $("tier");
  box.replaceChildren(...tiers.map(({ id, tidegate }) => h("option",
    { value: id, title: tidegate?.description ?? "" }, id.charAt(0).toUpperCase() + id.slice(1))));
  box.onchange = () => { box.title = box.selectedOptions[0]?.title ?? ""; };
  box.onchange();
}

export async function loadCollections() {
  ({ data: collections } = await getJson("/v1/vector_stores?limit=100"));
  const box = $("collection");
  const chosen = box.value;
  box.replaceChildren(h("option", { value: "" }, "All documents"), ...collections.map(({ id, name, file_counts: files }) =>
    h("option", { value: id }, `${name} (${files.total === 1 ? "1 file" : `${files.total} files`})`)));
  box.value = collections.some(({ id }) => id === chosen) ? chosen : "";
  showWelcome();
  clearTimeout(watch);
  if (count("in_progress")) watch = setTimeout(refreshCollections, WATCH_MS);
}

/** As loadCollections; a failure leaves what is shown, which is then at worst stale. */
export const refreshCollections = () => loadCollections().catch(() => {});

const count = (state) => collections.reduce((total, { file_counts: files }) => total + files[state], 0);

function showWelcome() {
  const isEmpty = count("completed") === 0;
  const isReading = isEmpty && count("in_progress") > 0;
  $("welcome-title").textContent = isReading ? "Reading your documents" : isEmpty ? "Add documents to begin" : "Ask your documents";
  $("welcome-text").textContent = isReading ? "The first ones can be asked about in a moment."
    : isEmpty ? "There is nothing to answer from yet."
      : "Every answer quotes the documents it came from. Open a number to read the source.";
  $("welcome-add").hidden = !isEmpty || isReading;
  $("examples").hidden = isEmpty || !collections.some(({ name }) => name === SAMPLE_COLLECTION);
}
