/* The chat page: the conversation, the composer, and the start of everything.
   Reading order: this file, turn.js (one question and its answer), prose.js and source.js (what an answer looks like),
   place.js (a document opened at a citation), service.js (how it is asked for), documents.js and collections.js (what
   it is asked about). */

import { loadTiers, refreshCollections } from "./collections.js";
import { listenToDocuments } from "./documents.js";
import { $, announce, focusComposer } from "./dom.js";
import { listenToPlaces } from "./place.js";
import { closeSource, isSourceOpen, listenToSource } from "./source.js";
import { Turn } from "./turn.js";

const HISTORY_MESSAGES = 20; // sent with a question; older ones stay on the page only
const AT_END_PX = 80;

const conversation = {
  turns: [],
  running: null,
  isFollowing: true, // the reader is at the end, so new text scrolls into view

  get isBusy() { return this.running !== null; },

  /** The last turns that have an answer, and this question, as the service takes them. */
  messages(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter(({ text }) => text);
    const messages = before.flatMap((earlier) => [
      { role: "user", content: earlier.question }, { role: "assistant", content: earlier.plain() },
    ]);
    const evenly = HISTORY_MESSAGES - (HISTORY_MESSAGES % 2) - 2; // whole turns, and room for the question
    return [...messages.slice(-evenly), { role: "user", content: turn.question }];
  },

  started(turn) { this.setRunning(turn); },

  ended(turn) { if (this.running === turn) this.setRunning(null); },

  setRunning(turn) {
    const hadFocus = [$("stop"), $("send")].includes(document.activeElement); // one of them goes
    this.running = turn;
    $("stop").hidden = !turn;
    $("send").hidden = Boolean(turn);
    $("conversation").setAttribute("aria-busy", String(this.isBusy));
    if (hadFocus) focusComposer();
  },

  changed() {
    const box = $("conversation");
    if (this.isFollowing) box.scrollTop = box.scrollHeight;
    $("jump").hidden = this.isFollowing || !this.turns.length;
  },

  scrolled() {
    const box = $("conversation");
    this.isFollowing = box.scrollHeight - box.scrollTop - box.clientHeight < AT_END_PX;
    $("jump").hidden = this.isFollowing || !this.turns.length;
  },

  toEnd() {
    this.isFollowing = true;
    this.changed();
  },

  ask(question) {
    const turn = new Turn(question, this);
    this.turns.push(turn);
    $("welcome").hidden = true;
    $("turns").append(turn.node);
    this.isFollowing = true;
    turn.run();
  },

  clear() {
    this.running?.stop();
    this.setRunning(null);
    if (isSourceOpen()) closeSource();
    this.turns = [];
    $("turns").replaceChildren();
    $("welcome").hidden = false;
    this.toEnd();
    announce("New chat");
    focusComposer();
  },
};

function fitComposer() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  $("send").disabled = !box.value.trim();
}

function submit(event) {
  event.preventDefault();
  const box = $("question");
  const question = box.value.trim();
  if (conversation.isBusy || !question) return;
  box.value = "";
  fitComposer();
  conversation.ask(question);
}

function onQuestionKey(event) {
  // While a word is being composed (Chinese, Japanese…), Enter belongs to the input method.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
}

function onExample(event) {
  const example = event.target.closest("button");
  if (!example || conversation.isBusy) return;
  focusComposer();
  conversation.ask(example.textContent);
}

function onEscape(event) {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog:modal")) return; // a modal closes itself
  if (isSourceOpen()) closeSource();
  else conversation.running?.stop();
}

function listen() {
  $("composer").addEventListener("submit", submit);
  $("question").addEventListener("input", fitComposer);
  $("question").addEventListener("keydown", onQuestionKey);
  $("stop").addEventListener("click", () => conversation.running?.stop());
  $("new-chat").addEventListener("click", () => conversation.clear());
  $("examples").addEventListener("click", onExample);
  $("conversation").addEventListener("scroll", () => conversation.scrolled());
  $("jump").addEventListener("click", () => { conversation.toEnd(); focusComposer(); });
  document.addEventListener("keydown", onEscape);
}

listen();
listenToSource();
listenToPlaces();
listenToDocuments();
fitComposer();
if (!matchMedia("(pointer: coarse)").matches) $("question").focus();
loadTiers().catch(() => {}); // a question can still be asked, with "auto"
refreshCollections();
