/* The API key: asked for only after a 401, kept for this tab, never in an address. */

import { $ } from "./dom.js";

const NAME = "tidegate.key";
let key = "";
try { key = sessionStorage.getItem(NAME) ?? ""; } catch { /* storage is switched off */ }

/** Runs `send(headers)`; when it is refused for want of a key, asks for one and runs it again. */
export async function withKey(send) {
  for (;;) {
    const sent = key;
    try {
      return await send(sent ? { Authorization: `Bearer ${sent}` } : {});
    } catch (error) {
      if (error.status !== 401 || !(await newKey(sent))) throw error;
    }
  }
}

let asking = null; // several refused requests share one dialog

/** Whether there is another key than the refused one; false when the person cancels. */
function newKey(refused) {
  if (key !== refused) return Promise.resolve(true);
  asking ??= ask(refused).finally(() => { asking = null; });
  return asking;
}

function ask(refused) {
  const dialog = $("key-dialog");
  $("key-text").textContent = refused
    ? "That key was not accepted. Check it and try again."
    : "This service answers only with a key. It is kept until you close this tab.";
  $("key").value = "";
  dialog.returnValue = "";
  $("key-cancel").onclick = () => dialog.close("");
  $("key-form").onsubmit = (event) => {
    event.preventDefault();
    // A header holds no other characters; anything else is no key and would fail with a riddle.
    key = $("key").value.replace(/[^\x21-\x7e]/g, "");
    try { sessionStorage.setItem(NAME, key); } catch { /* kept in memory only */ }
    dialog.close("given");
  };
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "given");
    dialog.showModal();
  });
}
