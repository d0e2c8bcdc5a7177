/* The receipt under an answer: what was done with the question, why, and how long it took. */

import { h } from "./dom.js";

const OUTCOMES = { completed: "Answered from the passages found", cached: "Answered from the cache", rejected: "Refused before the queue",
  evicted: "Taken out of the queue", failed: "Failed" };

/** What is given up under load, in the order in which it is. */
const GIVEN_UP = { fewer_passages: "fewer passages read", no_rerank: "passages not put in order again", smaller_tier: "a smaller tier",
  shorter_answers: "a shorter answer", cached_neighbour: "the answer to a similar question", extractive_only: "quoted instead of written" };

export function givenUp(receipt) {
  return (receipt?.degraded ?? []).map((step) => GIVEN_UP[step] ?? String(step)).join(", ");
}

export function receiptNode(receipt) {
  const rows = h("dl", { class: "receipt" });
  const row = (name, ...value) => rows.append(h("dt", {}, name), h("dd", {}, ...value));
  row("Outcome", OUTCOMES[receipt.outcome] ?? String(receipt.outcome));
  row("Tier", [receipt.tier, receipt.tier_reason].filter(Boolean).join(": "));
  if (givenUp(receipt)) row("Given up under load", givenUp(receipt));
  row("Time", timesNode(receipt));
  const { prompt_tokens: read, completion_tokens: written } = receipt.usage ?? {};
  if (read || written) row("Tokens", `${read ?? 0} read, ${written ?? 0} written`);
  row("Receipt", h("code", {}, String(receipt.id)));
  return rows;
}

/** Stages in the order they happen, each as words, a bar (share of the total) and a number. -1 = not reached. */
function timesNode(receipt) {
  const total = Math.max(receipt.total_ms, 0.001);
  const stages = [["Reading the question", receipt.embed_ms], ["Searching", receipt.search_ms],
    ["Waiting for a place", receipt.queue_ms], ["Until the first words", receipt.ttft_ms], ["In total", receipt.total_ms]];
  const times = h("div", { class: "times" });
  for (const [name, ms] of stages.filter(([, value]) => value >= 0)) {
    const bar = h("i");
    bar.style.width = `${Math.min(100, (100 * ms) / total)}%`;
    times.append(h("span", {}, name), h("span", { class: "stage", "aria-hidden": "true" }, bar), h("span", {}, duration(ms)));
  }
  return times;
}

function duration(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${ms > 0 && ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
