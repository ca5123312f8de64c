// A small good cache for LLM APIs, and faults of such caches. The engine must pass the cache and fail it with any of the faults.

import { once } from "node:events";
import http from "node:http";

const PRIVATE =
  /^(set-cookie|connection|keep-alive|transfer-encoding|content-length|date|proxy-.*|retry-after.*|cf-.*|x-served-by|.*ratelimit.*)$/;

const canonical = (value) =>
  Array.isArray(value)
    ? value.map(canonical)
    : value && typeof value === "object"
      ? Object.fromEntries(
          Object.keys(value)
            .sort()
            .map((name) => [name, canonical(value[name])]),
        )
      : value;

/**
 * Starts the cache in front of `upstream`; `faults` replace its parts.
 *
 * @param {{ origin: string }} upstream
 * @param {Record<string, any>} [faults]
 */
export async function startCache(upstream, faults = {}) {
  const entries = new Map();
  /** @type {Record<string, any>} */
  const parts = { cacheKey, isStored, storedHeaders, serve: ({ body }) => body, isFresh: () => true, ...faults };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const key = parts.cacheKey(request, body);
    const cacheable = isCacheable(request, body);
    const found = cacheable && entries.get(key);
    if (found && parts.isFresh(found)) {
      const sent = parts.serve(found);
      response.writeHead(found.status, { ...found.headers, age: "0", "content-length": sent.length });
      return response.end(sent);
    }
    const {
      connection,
      host,
      te,
      "keep-alive": keepAlive,
      "proxy-authorization": proxyCredential,
      ...headers
    } = request.headers;
    const options = { method: request.method, headers, agent: false };
    const call = http.request(`${upstream.origin}/v1${request.url}`, options, (upstreamResponse) => {
      const received = [];
      response.writeHead(upstreamResponse.statusCode, upstreamResponse.headers);
      response.flushHeaders();
      upstreamResponse.on("data", (chunk) => {
        received.push(chunk);
        response.write(chunk);
      });
      upstreamResponse.on("error", () => response.destroy());
      upstreamResponse.on("close", () => {
        const { statusCode: status, complete, headers: upstreamHeaders } = upstreamResponse;
        const whole = Buffer.concat(received);
        if (
          cacheable &&
          parts.isStored({ status, complete, text: whole.toString(), type: upstreamHeaders["content-type"] })
        ) {
          entries.set(key, { status, headers: parts.storedHeaders(upstreamHeaders), body: whole });
        }
        if (complete) response.end();
        else response.destroy();
      });
    });
    call.on("error", () => {
      response.writeHead(502);
      response.end("{}");
    });
    call.end(body);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    target: `http://127.0.0.1:${port}`,
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function cacheKey({ url, headers }, body) {
  const own = Object.entries(headers).filter(([name]) => /^(authorization|openai-|anthropic-)/.test(name));
  return JSON.stringify([url, own, body.toString()]);
}

/** @param {http.IncomingMessage} request */
function isCacheable({ method, url, headers }, body) {
  if (method !== "POST" || !/chat|completions|responses|messages|embeddings|speech/.test(url)) return false;
  if (/no-store|no-cache/.test(headers["cache-control"])) return false;
  return !/"(background|conversation|previous_response_id|thread|container|prompt":\{"id)"/.test(body);
}

function isStored({ status, complete, text, type }) {
  if (status !== 200 || !complete) return false;
  if (/"error":\{|"type":"error"|^data: \[DONE\]|"status":"(failed|queued)"/.test(text)) return false;
  if (!/event-stream/.test(type)) return /^\s*\{.*\}\s*$/s.test(text);
  return /\[DONE\]|message_stop|response\.completed/.test(text.slice(-9000)) && text.endsWith("\n");
}

const storedHeaders = (headers) => Object.fromEntries(Object.entries(headers).filter(([name]) => !PRIVATE.test(name)));

const credentialOf = ({ headers }) => headers.authorization;
const parsed = (body) => JSON.parse(body.length ? body : "{}");

/** A cache key without these members. */
const without = (...names) => ({
  cacheKey: (request, body) => {
    const members = parsed(body);
    for (const name of names) delete members[name];
    return JSON.stringify([
      request.url,
      credentialOf(request),
      request.headers["openai-organization"],
      JSON.stringify(members),
    ]);
  },
});

/** A cache key with the body in another form. */
const bodyAs = (form) => ({ cacheKey: (request, body) => request.url + credentialOf(request) + form(body) });

const lastMessage = (body) => {
  const members = parsed(body);
  return JSON.stringify(members.messages?.at(-1).content ?? members);
};

const allHeaders = ({ "content-length": _, "transfer-encoding": __, connection: ___, ...headers }) => headers;

/**
 * Fault → the replaced parts, and cases that must fail.
 *
 * @type {Record<string, [Record<string, any>, string[]]>}
 */
export const FAULTY = {
  "ignores the temperature": [without("temperature"), ["key-chat-temperature", "key-messages-temperature"]],
  "ignores unknown members": [
    without("frobnicate", "verbosity"),
    ["key-chat-parameter-of-the-future", "key-chat-verbosity"],
  ],
  "ignores the tools": [without("tools"), ["key-chat-tools", "key-responses-tools"]],
  "ignores the tenant": [
    { cacheKey: (request, body) => request.url + body },
    ["tenant-chat", "tenant-both-ways", "headers-openai-organization"],
  ],
  "ignores the path": [{ cacheKey: (request, body) => credentialOf(request) + body }, ["headers-api"]],
  "sorts schemas": [bodyAs((body) => JSON.stringify(canonical(parsed(body)))), ["key-chat-order-of-a-response-schema"]],
  "reads numbers as floats": [bodyAs((body) => JSON.stringify(parsed(body))), ["differ-big-numbers"]],
  "uses the last message alone": [
    bodyAs(lastMessage),
    ["key-chat-model", "key-chat-earlier-message", "key-chat-tools"],
  ],
  "uses the first thousand characters": [bodyAs((body) => body.toString().slice(0, 1000)), ["differ-late"]],
  "folds white space and case": [
    bodyAs((body) => body.toString().toLowerCase().replace(/\s+/g, " ")),
    ["differ-case", "differ-inner-space"],
  ],
  "ignores stream and converts nothing": [
    without("stream", "stream_options"),
    ["mode-chat-stream-then-plain", "usage-asked"],
  ],
  "stores errors": [
    { isStored: ({ complete }) => complete },
    ["status-500", "status-429", "status-500-like-an-answer", "status-200-error-body", "cut-chat-stream-quiet"],
  ],
  "stores everything": [
    { isStored: () => true },
    ["cut-json-length", "cut-sound-chunked", "cut-chat-stream", "status-200-html"],
  ],
  "stores cookies": [{ storedHeaders: allHeaders }, ["header-set-cookie", "header-rate-limit"]],
  "has an entry for each spelling and each mode": [
    {},
    [
      "spell-space",
      "spell-key-order",
      "spell-escape",
      "cross-chat-plain-then-stream",
      "cross-messages-stream-then-plain",
    ],
  ],
  "changes bytes": [
    { serve: ({ body }) => Buffer.from(body.toString().replace("no more", "no m0re")) },
    ["body-plain", "stream-chat-text"],
  ],
  "forgets everything": [{ isFresh: () => false }, ["cache-chat", "stream-chat-stored"]],
  "mixes up requests": [{ cacheKey: () => "one" }, ["cache-chat", "crowd-different", "differ-case"]],
};
