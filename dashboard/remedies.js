// The meaning of each reason, and the setting that changes it. The reasons are those of `detail` in Cache-Status.

/**
 * @typedef {object} Remedy
 * @property {string} title
 * @property {string} text
 * @property {string} [set] a setting, header or command to copy
 * @property {boolean} [fine] nothing has to be changed
 */

/** A miss without a reason: the key is new. @type {Remedy} */
export const NEW_KEY = {
  title: "New requests",
  text: "No stored response has the same cache key. The first request of each kind is paid. The almost hits are listed below.",
  fine: true,
};

/** @type {Record<string, Remedy>} */
export const REMEDIES = {
  method: {
    title: "Not a POST",
    text: "Only POST requests are cached. Others, such as lists of models, pass through.",
    fine: true,
  },
  endpoint: {
    title: "Endpoint is not cached",
    text: "The endpoint changes state, or is not known to be cacheable. If it only computes, name it.",
    set: 'CACHE_PATHS="your/path"',
  },
  "content-type": {
    title: "Request is not JSON",
    text: "The body has no JSON content type, so it has no cache key. Send JSON.",
    set: "Content-Type: application/json",
  },
  "content-encoding": {
    title: "Compressed body",
    text: "The request body is compressed, or the response has a coding other than gzip and br. Send requests uncompressed.",
    set: "Content-Encoding: identity",
  },
  "body-empty": { title: "No request body", text: "There is nothing to look up.", fine: true },
  "not-an-object": {
    title: "Body is not an object",
    text: "The body is JSON but not an object, so it is no request of a known API.",
  },
  "server-state": {
    title: "State at the provider",
    text: "The request names a conversation, a previous response or a job at the provider. Its response depends on more than the request. Send the conversation itself instead.",
  },
  stream: {
    title: "Unknown stream",
    text: "The response is a stream whose protocol is not known, so its end cannot be checked.",
  },
  "not-convertible": {
    title: "Stored in the other mode",
    text: "The entry cannot be converted between stream and object, or lacks the usage that the client requests. Request the same mode each time.",
    set: '"stream_options": {"include_usage": true}',
  },
  "too-large": {
    title: "Too large",
    text: "The body of the request or the response is larger than the limit.",
    set: "CACHE_MAX_BYTES=26214400",
  },
  "too-complex": {
    title: "Too complex",
    text: "The request is nested too deeply, or has more than a million members.",
  },
  "no-store": {
    title: "The client forbids storing",
    text: "The client sends Cache-Control: no-store. Remove it where the response may be kept.",
    set: "Cache-Control: max-age=86400",
  },
  "no-cache": {
    title: "The client forces a refresh",
    text: "The client sends Cache-Control: no-cache. Remove it where a stored response will do.",
    set: "Cache-Control: max-age=86400",
  },
  "max-age": {
    title: "Older than the client accepts",
    text: "The entry is older than the client's max-age. Raise it where older responses will do.",
    set: "Cache-Control: max-age=604800",
  },
  refresh: {
    title: "The client requested a new response",
    text: "The client sends X-Proxy-Refresh: true. Remove it where a stored response will do.",
  },
  "ttl-zero": {
    title: "Lifetime is zero",
    text: "X-Proxy-TTL, CACHE_TTL or CACHE_MAX_TTL is 0, so nothing is read or stored.",
    set: "CACHE_TTL=86400",
  },
  expired: {
    title: "Expired",
    text: "The response was stored, and its lifetime was over. Raise the lifetime, or serve the stale response while it is revalidated.",
    set: "STALE_WHILE_REVALIDATE=86400",
  },
  memory: { title: "Served from memory", text: "The response came from the memory tier.", fine: true },
  coalesced: { title: "Shared", text: "The response came from an equal request in flight.", fine: true },
  "stale-while-revalidate": {
    title: "Served while revalidated",
    text: "The entry had expired, and was served while it was revalidated.",
    fine: true,
  },
  "read-disabled": {
    title: "Reading is off",
    text: "RESPOND_WITH_CACHE is off, so nothing is served from the cache.",
    set: "RESPOND_WITH_CACHE=true",
  },
  "store-disabled": {
    title: "Storing is off",
    text: "STORE_CACHE is off, so no response is kept.",
    set: "STORE_CACHE=true",
  },
  "only-if-cached": {
    title: "Only stored responses allowed",
    text: "The client accepts stored responses only, and there was none. Nothing was spent.",
    fine: true,
  },
  "store-timeout": {
    title: "Store too slow",
    text: "The store did not respond in time, so the request was paid again. Give it more time.",
    set: "STORE_TIMEOUT_MS=2000",
  },
  "store-error": { title: "Store failed", text: "The store returned an error. See Health below, and the log." },
  "store-missing": {
    title: "No store",
    text: "No store is bound, so nothing can be kept. Bind the KV namespace OPENAI_CACHE, or set Upstash.",
    set: "UPSTASH_REDIS_REST_URL=https://…",
  },
  "entry-corrupt": {
    title: "Unreadable entries",
    text: "Entries are damaged, of an old version, or encrypted with a secret that is no longer listed. The next response replaces each. Keep old secrets while you rotate.",
    set: "CACHE_ENCRYPTION_KEY=new,old",
  },
  "upstream-unreachable": {
    title: "Upstream unreachable",
    text: "No connection to the provider. A stale response can be served instead.",
    set: "STALE_IF_ERROR=86400",
  },
  "upstream-timeout": {
    title: "Upstream too slow",
    text: "The provider did not respond in time. A stale response can be served instead.",
    set: "STALE_IF_ERROR=86400",
  },
  "upstream-error": {
    title: "Upstream failed",
    text: "The provider responded with 429 or 5xx. A stale response can be served instead.",
    set: "STALE_IF_ERROR=86400",
  },
  "invalid-json": {
    title: "Invalid JSON",
    text: "The body is not JSON. The client got a 400, and nothing was spent.",
    fine: true,
  },
  "invalid-header": {
    title: "Invalid header",
    text: "A control header cannot be read, or a header of the key is not UTF-8. The message of the 400 names it.",
  },
  "invalid-token": {
    title: "Wrong token",
    text: "The client's proxy token is missing or wrong.",
    set: "PROXY_TOKENS=…",
  },
  "rate-limited": { title: "Rate limit", text: "The client sent more requests than the rate limit allows." },
  misconfigured: { title: "Misconfigured", text: "A variable cannot be read. Each response names it." },
  status: {
    title: "Error from the provider",
    text: "The response has an error status. Only successful responses are stored.",
    fine: true,
  },
  superseded: {
    title: "Superseded",
    text: "A newer response was stored first, or the entry was deleted meanwhile.",
    fine: true,
  },
  "response-empty": { title: "Empty response", text: "The response has no content." },
  vary: { title: "Vary", text: "The response varies by a header that is not part of the cache key." },
  "length-unknown": {
    title: "Length unknown",
    text: "The response has no length, so a truncated one would not be noticed.",
  },
  truncated: { title: "Truncated", text: "The connection broke before the response was complete." },
  stalled: { title: "Stalled", text: "The response paused for longer than the limit.", set: "IDLE_TIMEOUT=600" },
  "response-not-json": { title: "Response is not JSON", text: "The response should be JSON, and is not." },
  "response-type": {
    title: "Unexpected content type",
    text: "The response has a content type that the endpoint does not produce.",
  },
  "error-body": { title: "Error in the response", text: "The response has status 200 and holds an error." },
  "not-completed": { title: "Not completed", text: "The response says that it is not complete." },
  "content-filter": { title: "Content filter", text: "A content filter ended the response." },
  incomplete: {
    title: "Ended at the token limit",
    text: "The response ended at a token limit. Raise the limit, or store such responses too.",
    set: "CACHE_ADMISSION=any",
  },
  "invalid-json-answer": {
    title: "Response is not the requested JSON",
    text: "The request required JSON, and the text does not parse.",
    set: "CACHE_ADMISSION=any",
  },
  "invalid-tool-arguments": {
    title: "Invalid tool arguments",
    text: "The arguments of a function call do not parse.",
    set: "CACHE_ADMISSION=any",
  },
  sampled: {
    title: "Sampled requests",
    text: "CACHE_WHEN=repeatable caches only requests with temperature 0 or a seed. To cache every request:",
    set: "CACHE_WHEN=always",
  },
  "items-mismatch": {
    title: "Items do not fit",
    text: "The provider's list did not fit the inputs, so nothing of it was kept.",
  },
};

/** @param {string | null | undefined} reason @param {string} [outcome] @returns {Remedy} */
export function remedyOf(reason, outcome) {
  if (reason) return REMEDIES[reason] ?? { title: reason, text: "See the list of reasons in the documentation." };
  if (outcome === "MISS" || outcome === undefined) return NEW_KEY;
  if (outcome === "EXPIRED") return REMEDIES.expired;
  if (outcome === "REFRESH") return REMEDIES.refresh;
  if (outcome === "PARTIAL")
    return {
      title: "Partly stored",
      text: "Some inputs of a list were stored. Only the others were paid.",
      fine: true,
    };
  if (outcome === "BYPASS") return { title: "Passed through", text: "These requests are not cacheable.", fine: true };
  return { title: "Other", text: "Errors, and responses of the proxy's own.", fine: true };
}

/** @type {Record<string, Remedy>} */
const HINTS = {
  "volatile-time": {
    title: "A time changes",
    text: "The text holds a date or time that is new on each request. Round it to the day, or move it behind the part that stays.",
  },
  "volatile-id": {
    title: "An id changes",
    text: "The text holds an id that is new on each request. Leave it out; or send it in the field metadata, and ignore that.",
    set: "KEY_IGNORE=metadata",
  },
  "volatile-path": {
    title: "A temporary path changes",
    text: "The text holds a temporary path that is new on each run. Use a fixed folder.",
  },
  "identity-only": {
    title: "Only the end user changes",
    text: "The requests differ only in fields that name the end user. They do not change the response.",
    set: "KEY_IGNORE=@identity",
  },
  diagnostics: {
    title: "Only diagnostics change",
    text: "The requests differ only in fields for diagnostics.",
    set: "KEY_IGNORE=@identity",
  },
};

const SAMPLING =
  /^(temperature|top_p|top_k|seed|max_tokens|max_completion_tokens|max_output_tokens|presence_penalty|frequency_penalty|reasoning_effort)$/;

/**
 * The remedy for requests that differ from an earlier one only in these parts.
 *
 * @param {string} difference paths and, after a semicolon, the code of a hint
 * @returns {Remedy & { paths: string[] }}
 */
export function remedyOfDifference(difference) {
  const [list, code] = difference.split(";");
  const paths = list.split(" ").filter((path) => path !== "");
  if (code && HINTS[code]) return { ...HINTS[code], paths };
  const headers = paths.filter((path) => path.startsWith("headers."));
  if (headers.length > 0 && headers.length === paths.length) {
    const names = headers.map((path) => `header:${path.slice("headers.".length)}`);
    const text = "The client sends a header that changes. If it does not change the response, leave it out of the key.";
    return { paths, title: "A header changes", text, set: `KEY_IGNORE=${names.join(",")}` };
  }
  if (paths.includes("many") || paths.includes("(others)")) {
    return {
      paths: [],
      title: "More than two parts",
      text: "These requests differ in several parts. They are different requests.",
      fine: true,
    };
  }
  if (paths.length > 0 && paths.every((path) => SAMPLING.test(path))) {
    const text =
      "The same conversation with another parameter. If any of these responses will do, ignore the parameter. Otherwise send a fixed value.";
    return { paths, title: "A parameter changes", text, set: `KEY_IGNORE=${paths.join(",")}` };
  }
  if (paths.includes("model")) {
    const text =
      "The same conversation for another model. If any model's response will do, match conversations alone. Otherwise send one model.";
    return { paths, title: "The model changes", text, set: "CACHE_MATCH=chat" };
  }
  if (paths.some((path) => path.startsWith("tools"))) {
    return { paths, title: "The tools change", text: "Send tools in a fixed order, with fixed descriptions." };
  }
  if (paths.some((path) => /^(system|instructions)/.test(path))) {
    return {
      paths,
      title: "The system prompt changes",
      text: "Keep what changes, such as the date or the user's name, out of the system prompt.",
    };
  }
  if (paths.some((path) => /^(messages|input|contents|prompt|texts)/.test(path))) {
    return {
      paths,
      title: "The messages change",
      text: "The requests begin with the same messages and end in new ones, as in any conversation.",
      fine: true,
    };
  }
  if (paths.length === 1 && /^[a-z_]+$/.test(paths[0])) {
    const text = "One field differs. If it does not change the response, leave it out of the key.";
    return { paths, title: "One field changes", text, set: `KEY_IGNORE=${paths[0]}` };
  }
  return { paths, title: "Parts change", text: "Compare two such requests with reprise explain." };
}
