/* One turn: a question, the stream that answers it, and everything shown under the answer. */

import { $, announce, focusComposer, h, icon } from "./dom.js";
import { ServiceError, inWords, seconds } from "./errors.js";
import { showProse } from "./prose.js";
import { givenUp, receiptNode } from "./receipt.js";
import { eventData, post } from "./service.js";
import { openSource } from "./source.js";

const SILENCE_MS = 45_000; // the service sends a keep-alive every 15 s at the latest
const SEARCHING = "Searching your documents…";
const STAGES = { retrieving: SEARCHING, queued: "Waiting for a free place…", generating: "Writing the answer…" };
const MARK = /\s?\[(\d{1,3})\]/g;

export class Turn {
  /** conversation: {isBusy, messages(turn), started(turn), changed(), ended(turn)}. */
  constructor(question, conversation) {
    this.question = question;
    this.conversation = conversation;
    this.answer = h("div", { class: "answer" });
    this.node = h("article", { class: "turn", "aria-label": "Question and answer" },
      h("p", { class: "question" }, h("span", { class: "hidden" }, "You asked: "), question), this.answer);
    this.answer.addEventListener("click", (event) => {
      const mark = event.target.closest(".cite");
      if (mark) openSource(this.sources(), Number(mark.dataset.n), mark, this.occurrence(mark));
    });
  }

  // Running

  async run() {
    // state: running, done, stopped (by the person) or failed
    Object.assign(this, { state: "running", text: "", quotes: [], receipt: null, finish: "", silent: false, frame: 0 });
    this.status = h("p", { class: "status" }, SEARCHING);
    this.prose = h("div", { class: "prose" });
    this.answer.replaceChildren(this.prose, this.status);
    this.abort = new AbortController();
    this.conversation.started(this);
    announce(SEARCHING);
    try {
      await this.receive();
      this.settle("done");
    } catch (error) {
      if (this.silent) this.settle("failed", new ServiceError({ code: "silent" }));
      else if (this.abort.signal.aborted) this.settle("stopped");
      else {
        this.ticket = error.ticket;
        this.settle("failed", error);
      }
    } finally {
      clearTimeout(this.watch);
      this.conversation.ended(this);
    }
  }

  stop() { this.abort.abort(); }

  /** Any sign of life puts off the moment at which the connection is given up. */
  heard() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => { this.silent = true; this.stop(); }, SILENCE_MS);
  }

  async receive() {
    const collection = $("collection").value;
    const body = {
      model: $("tier").value, messages: this.conversation.messages(this), stream: true,
      stream_options: { include_usage: true },
      tidegate: { events: true, ...(collection && { collections: [collection] }), ...(this.ticket && { ticket: this.ticket }) },
    };
    this.ticket = ""; // good for one place
    let after = "";
    do after = await this.part(body, after); while (after);
  }

  /** Takes the answer, or the rest of it. Returns the event behind which another worker goes on; "" = all of it came. */
  async part(body, after) {
    const heard = () => this.heard();
    const response = await post("/v1/chat/completions", body, { signal: this.abort.signal, begin: heard, after });
    try {
      for await (const data of eventData(response.body, heard)) {
        if (data === "[DONE]") return "";
        this.take(JSON.parse(data));
      }
    } catch (error) {
      if (error.lastEventId) return error.lastEventId;
      if (error instanceof ServiceError || this.abort.signal.aborted) throw error;
    }
    throw new ServiceError({ code: "cut" });
  }

  take(chunk) {
    if (chunk.error) throw new ServiceError(chunk.error);
    const { queue, stage, receipt } = chunk.tidegate ?? {};
    const choice = chunk.choices?.[0];
    if (receipt) this.receipt = receipt;
    if (queue) this.say(`Waiting: position ${Number(queue.position)}, about ${seconds(Number(queue.eta_s) || 0)}`);
    else if (stage) this.say(STAGES[stage] ?? "Working on it…");
    for (const { file_citation: quote } of choice?.delta?.annotations ?? []) if (quote) this.quotes.push(quote);
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    if (choice?.delta?.content) this.text += choice.delta.content;
    // One drawing per frame, however many chunks come.
    if (choice && !this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  say(text) {
    this.status.textContent = text;
    announce(text);
    this.conversation.changed();
  }

  draw() {
    this.status.hidden = this.text !== "";
    showProse(this.prose, this.text, this.cited());
    this.conversation.changed();
  }

  // What came

  cited() { return new Set(this.quotes.map((quote) => quote.passage)); }

  /** The answer without its marks: they mean nothing aloud, and nothing in a later question. */
  plain() {
    const cited = this.cited();
    return this.text.replace(MARK, (mark, number) => (cited.has(Number(number)) ? "" : mark));
  }

  /** Passages of the receipt joined with the quotes taken from them; without a receipt, the quotes alone. */
  sources() {
    const known = new Map((this.receipt?.passages ?? []).map((passage) => [passage.n, { ...passage, quotes: [] }]));
    for (const quote of this.quotes) {
      const n = quote.passage;
      if (!known.has(n)) known.set(n, { n, filename: quote.filename, quotes: [] });
      known.get(n).quotes.push(quote);
    }
    return [...known.values()].sort((a, b) => a.n - b.n);
  }

  /** Which quote of its source a mark stands for: its place among the marks of the same number. */
  occurrence(mark) {
    return [...this.prose.querySelectorAll(`.cite[data-n="${Number(mark.dataset.n)}"]`)].indexOf(mark);
  }

  // Under the answer

  settle(state, error) {
    cancelAnimationFrame(this.frame);
    this.state = state;
    this.draw();
    this.status.remove();
    if (state === "stopped") this.answer.append(this.ending("Stopped.", "Ask again"));
    if (state === "failed") this.answer.append(this.failure(error));
    if (state === "done" && !this.text) this.answer.append(this.ending("The service sent no text.", "Ask again"));
    if (this.finish === "length") this.answer.append(h("p", { class: "end-note" }, "The answer reached its length limit."));
    if (givenUp(this.receipt)) this.answer.append(this.shortened());
    this.showSources();
    this.showTail();
    if (state === "stopped") announce("Stopped");
    if (state === "done") announce(`Answer: ${this.plain()}`);
    this.conversation.changed();
  }

  again(label) {
    const button = h("button", { type: "button", class: "ghost" }, icon("retry"), label);
    button.addEventListener("click", () => {
      if (this.conversation.isBusy) return;
      focusComposer(); // this button is about to go
      this.run();
    });
    return button;
  }

  ending(text, label) { return h("div", { class: "end-note" }, h("p", {}, text), this.again(label)); }

  shortened() {
    return h("p", { class: "end-note" }, `Shortened under load: ${givenUp(this.receipt)}. Asking again later may say more.`);
  }

  failure(error) {
    const words = inWords(error);
    const detail = error.message && !words.startsWith(error.message)
      ? h("span", { class: "note" }, error.code ? `${error.message} (${error.code})` : error.message) : null;
    return h("div", { class: "failure", role: "alert" }, icon("alert"), h("p", {}, words, detail), this.again("Retry"));
  }

  showSources() {
    const cited = this.sources().filter((source) => source.quotes.length);
    if (!cited.length) return;
    this.answer.append(h("section", { "aria-label": "Sources" }, h("h3", { class: "sources-title" }, "Sources"),
      this.sourceList(cited)));
  }

  sourceList(sources) {
    return h("ul", { class: "sources" }, ...sources.map((source) => {
      const button = h("button", { type: "button", class: "source", "data-n": source.n, "aria-haspopup": "dialog",
        "aria-expanded": "false" },
      h("span", { class: "number" }, String(source.n)), h("span", { class: "name" }, source.filename || "Unnamed file"),
      h("span", { class: "where" }, source.heading || source.quotes[0]?.quote || "Passage"));
      button.addEventListener("click", () => openSource(this.sources(), source.n, button, 0));
      return h("li", {}, button);
    }));
  }

  /** Copy, the passages that were read but not quoted, and the receipt. */
  showTail() {
    const tail = h("div", { class: "tail" });
    if (this.text && navigator.clipboard) tail.append(this.copyButton());
    const unquoted = this.sources().filter((source) => !source.quotes.length);
    if (unquoted.length) {
      const count = unquoted.length === 1 ? "1 passage" : `${unquoted.length} passages`;
      tail.append(this.disclosure(`Read but not quoted: ${count}`, this.sourceList(unquoted)));
    }
    if (this.receipt) tail.append(this.disclosure("How this was answered", receiptNode(this.receipt)));
    this.answer.append(tail);
  }

  disclosure(name, content) {
    const details = h("details", {}, h("summary", { class: "quiet" }, icon("chevron"), name), content);
    details.addEventListener("toggle", () => { if (details.open) details.scrollIntoView({ block: "nearest" }); });
    return details;
  }

  copyButton() {
    const label = h("span", {}, "Copy");
    const button = h("button", { type: "button", class: "quiet" }, icon("copy"), label);
    button.addEventListener("click", async () => {
      const names = this.sources().filter((source) => source.quotes.length)
        .map((source) => `[${source.n}] ${[source.filename, source.heading].filter(Boolean).join(", ")}`);
      const text = [this.text, names.join("\n")].filter(Boolean).join("\n\n");
      label.textContent = await navigator.clipboard.writeText(text).then(() => "Copied", () => "Could not copy");
      announce(label.textContent);
      setTimeout(() => { label.textContent = "Copy"; }, 2000);
    });
    return button;
  }
}
