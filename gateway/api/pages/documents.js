/* Adding documents: the dialog, dropped files, and each file's way from upload to ready. */

import { SAMPLE_COLLECTION, collections, loadCollections, refreshCollections } from "./collections.js";
import { $, announce, h, icon } from "./dom.js";
import { ServiceError, inWords } from "./errors.js";
import { getJson, postFile, postJson } from "./service.js";

const UPLOADS_AT_ONCE = 3;
const POLL_MS = { first: 200, last: 2000 };

export function listenToDocuments() {
  for (const id of ["add-documents", "welcome-add"]) $(id).addEventListener("click", openDocuments);
  $("documents-close").addEventListener("click", () => $("documents").close());
  $("destination").addEventListener("change", showNewName);
  $("choose").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    addFiles([...$("files").files]);
    $("files").value = ""; // the same file may be chosen again
  });
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(type, onDrag);
}

// Where files go

function openDocuments() {
  const own = collections.find(({ name }) => name !== SAMPLE_COLLECTION);
  showDestinations($("collection").value || own?.id || "");
  $("documents").showModal();
}

function showDestinations(chosen) {
  $("destination").replaceChildren(...collections.map(({ id, name }) => h("option", { value: id }, name)),
    h("option", { value: "" }, "New collection…"));
  $("destination").value = chosen;
  showNewName();
}

function showNewName() { $("new-name-field").hidden = $("destination").value !== ""; }

let creating = null; // files added together share the collection that is made for them

/** A promise of the id of the chosen collection, which is made now if it is to be new. */
function destination() {
  const chosen = $("destination").value;
  if (chosen) return Promise.resolve(chosen);
  creating ??= create($("new-name").value.trim() || "My documents").finally(() => { creating = null; });
  return creating;
}

async function create(name) {
  const { id } = await postJson("/v1/vector_stores", { name });
  await loadCollections();
  showDestinations(id);
  return id;
}

// Files

const waiting = [];
let numRunning = 0;

function addFiles(files) {
  if (!files.length) return;
  if (!$("documents").open) openDocuments();
  const target = destination();
  target.catch(() => {}); // every file tells it
  for (const file of files) waiting.push(new Upload(file, target));
  runNext();
}

function runNext() {
  while (numRunning < UPLOADS_AT_ONCE && waiting.length) {
    numRunning += 1;
    waiting.shift().run().finally(() => {
      numRunning -= 1;
      runNext();
    });
  }
}

class Upload {
  constructor(file, target) {
    this.file = file;
    this.target = target;
    this.state = h("span", { class: "state" }, "Waiting");
    this.progress = h("progress", { max: 1, value: 0, "aria-label": `Progress of ${file.name}` });
    this.node = h("li", { class: "upload" }, icon("doc"), h("span", { class: "name", title: file.name }, file.name),
      this.state, this.progress);
    $("uploads").prepend(this.node);
  }

  async run() {
    const { name, size } = this.file;
    try {
      if (size === 0) throw new ServiceError({ status: 422, message: "The file is empty." });
      const store = await this.target;
      const { id } = await postFile(this.file, (share) => this.sent(share));
      this.state.textContent = "Reading…";
      this.progress.removeAttribute("value");
      const files = `/v1/vector_stores/${encodeURIComponent(store)}/files`;
      await postJson(files, { file_id: id });
      await untilRead(`${files}/${encodeURIComponent(id)}`, (done, total) => this.indexed(done, total));
      this.end("ready", "Ready", "check");
      announce(`${name} is ready`);
    } catch (error) {
      this.end("failed", "Failed", "alert");
      this.node.append(h("span", { class: "more" }, inWords(error)));
      announce(`${name} failed: ${inWords(error)}`);
    }
    refreshCollections();
  }

  sent(share) {
    this.progress.value = share;
    this.state.textContent = `Uploading ${Math.round(100 * share)} %`;
  }

  indexed(done, total) {
    this.progress.value = done / total;
    this.state.textContent = `Indexing ${Math.round((100 * done) / total)} %`;
  }

  end(kind, text, drawing) {
    this.node.classList.add(kind);
    this.node.firstChild.replaceWith(icon(drawing));
    this.progress.remove();
    this.state.textContent = text;
  }
}

/** `progress(done, total)` in chunks, as soon as the file is read and their number is known. */
async function untilRead(path, progress) {
  for (let pause = POLL_MS.first; ; pause = Math.min(POLL_MS.last, pause * 1.5)) {
    const { status, last_error: error, tidegate } = await getJson(path);
    if (status === "completed") return;
    if (status !== "in_progress") {
      throw new ServiceError({ status: 422, message: error?.message || "The file could not be read." });
    }
    if (tidegate?.num_chunks) progress(tidegate.chunks_done, tidegate.num_chunks);
    await new Promise((resolve) => { setTimeout(resolve, pause); });
  }
}

// Drag and drop, anywhere on the page

let depth = 0; // enter and leave come once per element crossed

function onDrag(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  if (event.type === "dragenter") depth += 1;
  if (event.type === "dragleave") depth = Math.max(0, depth - 1);
  if (event.type === "drop") depth = 0;
  $("drop-veil").hidden = depth === 0 || $("documents").open;
  $("drop").classList.toggle("over", depth > 0);
  if (event.type === "drop") addFiles([...event.dataTransfer.files]);
}
