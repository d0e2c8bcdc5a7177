/* Requests to the service, all to this page's own origin. */

import { ServiceError, errorOfReply } from "./errors.js";
import { withKey } from "./key.js";

/** A reply that is 2xx. Throws ServiceError, or AbortError when `options.signal` aborts. */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError({ code: "unreachable" });
  }
  if (response.ok) return response;
  throw errorOfReply(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

export const getJson = (path) => withKey(async (headers) => (await request(path, { headers })).json());

/** `begin` is called at every attempt: a person may have typed a key in between. after: the event to go on behind. */
export const post = (path, body, { signal, begin, after } = {}) => withKey((headers) => {
  begin?.();
  return request(path, { method: "POST", signal, body: JSON.stringify(body),
    headers: { ...headers, "Content-Type": "application/json", ...(after && { "Last-Event-ID": after }) } });
});

export const postJson = async (path, body) => (await post(path, body)).json();

/** Uploads a file; `progress(share)`. By XMLHttpRequest, because fetch cannot tell how much has been sent. */
export const postFile = (file, progress) => withKey((headers) => new Promise((resolve, reject) => {
  const call = new XMLHttpRequest();
  const form = new FormData();
  form.append("purpose", "assistants");
  form.append("file", file, file.name);
  call.open("POST", "/v1/files");
  for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
  call.upload.onprogress = ({ loaded, total }) => progress(loaded / total);
  call.onerror = () => reject(new ServiceError({ code: "unreachable" }));
  call.onload = () => {
    if (call.status >= 200 && call.status < 300) resolve(JSON.parse(call.responseText));
    else reject(errorOfReply(call.status, call.responseText, call.getResponseHeader("Retry-After")));
  };
  call.send(form);
}));

/** The data of each server-sent event. `heard` is called for every read, so keep-alives count as life. */
export async function* eventData(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return; // an event without its blank line never counts
    heard();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // a CR at the very end may be half of a CRLF
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) { yield data.join("\n"); data = []; }
    }
  }
}
