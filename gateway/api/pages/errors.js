/* Failures and the plain words for them. */

export class ServiceError extends Error {
  /** status 0: the failure has no HTTP status of its own (the network, or an event in a stream). retryAfter: seconds.
   *  ticket: keeps the place in line. last_event_id: where another worker goes on with the stream that it ended. */
  constructor({ message = "", code = "", type = "", status = 0, retry_after_s: delay = 0, retryAfter = delay, ticket = "",
    last_event_id: lastEventId = "" }) {
    super(message);
    Object.assign(this, { code: code || "", type, status, retryAfter: Number(retryAfter) || 0, ticket, lastEventId });
  }
}

const WORDS = {
  unreachable: "The service cannot be reached. Check your connection, then try again.",
  silent: "The service has gone quiet.",
  cut: "The connection broke before the answer was complete.",
  invalid_api_key: "The service needs a valid API key before it answers.",
  forbidden: "You are not allowed to do this.",
  rate_limit_exceeded: "You have reached your request limit.",
  capacity: "The service is busy right now.",
  displaced: "The service is busy right now.",
  overloaded: "The service is busy right now.",
  draining: "The service is restarting.",
  queue_ttl: "The service is busy, and the wait grew too long.",
  deadline_exceeded: "The answer took too long.",
  upstream_timeout: "The answer took too long.",
  upstream_unavailable: "The model that answers is not ready right now.",
  text_too_long: "That text is too long to send.",
  payload_too_large: "That is too large to send.",
  file_not_found: "This document is not there any more.",
  text_not_ready: "This document has not been read yet.",
  out_of_range: "The document has changed: that place is not in it any more.",
  file_too_large: "The file is larger than the service accepts.",
};
const CODE_OF_STATUS = { 401: "invalid_api_key", 403: "forbidden", 408: "deadline_exceeded", 413: "payload_too_large",
  429: "rate_limit_exceeded", 503: "capacity", 504: "upstream_timeout" };

/** What to tell a person. A caller's mistake that we have no words for is told in the service's own. */
export function inWords(error) {
  const known = WORDS[error.code] ?? WORDS[CODE_OF_STATUS[error.status]];
  const mine = error.type === "invalid_request_error" || (error.status >= 400 && error.status < 500);
  const words = known ?? ((mine && error.message) || "Something went wrong on the service's side.");
  return error.retryAfter > 0 ? `${words} Try again in about ${seconds(error.retryAfter)}.` : words;
}

export function seconds(value) {
  return value < 90 ? `${Math.max(1, Math.ceil(value))} s` : `${Math.ceil(value / 60)} min`;
}

/** The error of a reply that is not 2xx. */
export function errorOfReply(status, text, retryAfter) {
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { /* not ours: a proxy's page, perhaps */ }
  return new ServiceError({ message: String(error.message ?? ""), code: String(error.code ?? ""),
    type: String(error.type ?? ""), ticket: String(error.ticket ?? ""), status, retryAfter });
}
