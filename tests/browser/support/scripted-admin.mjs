// The dashboard with a scripted admin API: the responses of the real one, and its failures.
import { createServer } from "node:http";
import { page } from "../../../scripts/dashboard.mjs";

const SUMS = [
  "requests",
  "hits",
  "coalesced",
  "bytes",
  "usd_saved",
  "usd_spent",
  "unpriced_requests",
  "seconds_saved",
  "seconds_spent",
];
const TOKENS = ["tokens_saved", "tokens_spent"];
const DIMENSIONS = ["hour", "day", "provider", "endpoint", "model", "namespace", "outcome", "reason", "difference"];

const dashboard = await page();

/**
 * Starts it: { url, calls, script, close }. `script` is read at each call, so that a test can change it.
 *
 * @param {Record<string, any>} script
 */
export async function startScriptedAdmin(script) {
  /** @type {{ script: Record<string, any>, calls: any[] }} */
  const running = { script: { token: "adm", traffic: [], entries: [], ...script }, calls: [] };
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://x");
    if (url.pathname === "/dashboard") {
      response.writeHead(200, dashboard.headers).end(dashboard.html);
      return;
    }
    let body = "";
    for await (const chunk of request) body += chunk;
    running.calls.push({ method: request.method, path: url.pathname, query: url.searchParams, body });
    const { status, json, text, headers = {} } = await respond(running.script, request, url, body);
    response.writeHead(status, {
      "content-type": text === undefined ? "application/json" : "text/plain; charset=utf-8",
      ...headers,
    });
    response.end(text ?? JSON.stringify(json));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  return Object.assign(running, {
    url: `http://127.0.0.1:${address.port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  });
}

const failure = (status, code, message) => ({
  status,
  json: { error: { message, type: "proxy_error", code, param: null } },
});

async function respond(script, request, url, body) {
  if (request.headers.authorization !== `Bearer ${script.token}`) {
    return failure(401, "invalid_token", "This endpoint requires ADMIN_TOKEN as a bearer token.");
  }
  const [, , resource, key, more] = url.pathname.split("/");
  await script.delay?.(resource);
  if (script.fail?.[resource]) return failure(...script.fail[resource]);
  const route = `${request.method} ${resource}`;
  if (route === "GET ledger") return { status: 200, json: report(script, url.searchParams) };
  if (route === "GET status") return { status: 200, json: script.status };
  if (route === "GET entries" && more === "tape") return tape(script, key);
  if (route === "GET entries") return { status: 200, json: listed(script, url.searchParams) };
  if (route === "GET explain") return details(script, key);
  if (route === "POST explain") return { status: 200, json: script.explain(JSON.parse(body)) };
  if (route === "DELETE cache") {
    const before = script.entries.length;
    script.entries = script.entries.filter((entry) => entry.key !== key);
    return { status: 200, json: { deleted: before - script.entries.length, cursor: null } };
  }
  return failure(404, "not_found", "There is no such endpoint.");
}

/**
 * What the ledger reports of the scripted traffic.
 *
 * @param {Record<string, any>} script
 * @param {URLSearchParams} query
 */
export function report({ traffic, now, prices = "@pydantic/genai-prices 0.1.8" }, query) {
  const [from, to] = [Date.parse(query.get("from")), Date.parse(query.get("to"))];
  const by = (query.get("by") ?? "").split(",").filter((name) => DIMENSIONS.includes(name));
  const inside = traffic.filter(({ time }) => time >= from && time < to);
  const rows = new Map();
  const totals = zero();
  for (const row of inside) {
    add(totals, row);
    if (by.length === 0) continue;
    const names = by.map((name) => nameOf(row, name));
    const id = JSON.stringify(names);
    if (!rows.has(id)) rows.set(id, { ...Object.fromEntries(by.map((name, i) => [name, names[i]])), ...zero() });
    add(rows.get(id), row);
  }
  const last = now ? new Date(now - 30_000).toISOString() : null;
  return { from, to, complete_until: last, currency: "USD", prices, totals, rows: [...rows.values()] };
}

function nameOf(row, name) {
  const time = new Date(row.time).toISOString();
  if (name === "hour") return `${time.slice(0, 13)}:00:00Z`;
  return name === "day" ? time.slice(0, 10) : row[name];
}

/** @returns {Record<string, any>} */
function zero() {
  const counts = Object.fromEntries(SUMS.map((name) => [name, 0]));
  return { ...counts, tokens_saved: { input: 0, output: 0 }, tokens_spent: { input: 0, output: 0 } };
}

function add(sums, row) {
  for (const name of SUMS) sums[name] += row[name] ?? 0;
  for (const name of TOKENS) for (const kind of ["input", "output"]) sums[name][kind] += row[name][kind];
}

function listed({ entries, now }, query) {
  const matches = (value, pattern) =>
    pattern === null || (pattern.endsWith("*") ? value.startsWith(pattern.slice(0, -1)) : value === pattern);
  const age = (entry) => (now - Date.parse(entry.stored_at)) / 1000;
  const found = entries.filter(
    (entry) =>
      ["model", "endpoint", "namespace"].every((name) => matches(entry[name], query.get(name))) &&
      (!query.has("max_age") || age(entry) <= Number(query.get("max_age"))) &&
      (!query.has("min_age") || age(entry) >= Number(query.get("min_age"))),
  );
  const start = Number(query.get("cursor") ?? 0);
  const limit = Number(query.get("limit") ?? 50);
  const shown = found.slice(start, start + limit).map(({ kind, id, ...entry }) => entry);
  return { entries: shown, cursor: start + limit < found.length ? String(start + limit) : null, total: found.length };
}

function details({ entries, keepsRequests = false, now }, key) {
  const entry = entries.find((each) => each.key === key);
  if (!entry) return failure(404, "entry_not_found", "No response is stored under this key.");
  const { kind, id, hits, tokens_saved, usd_saved, last_used_at, bytes, ...known } = entry;
  const turns = Array.from({ length: 6 }, (_, i) => ({
    path: `messages[${i}].content`,
    length: 90 + ((i * 977) % 1800),
  }));
  const json = {
    ...known,
    status: 200,
    mode: "stream",
    body_bytes: bytes,
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "x-request-id": id,
      "openai-processing-ms": String(kind.ms),
    },
    age: Math.floor((now - Date.parse(entry.stored_at)) / 1000),
    upstream_ms: kind.ms,
    usage: { input: kind.input, output: kind.output, cached_input: 1024, cache_write: null, reasoning: 128 },
    parts: [
      { path: "url", length: 43 },
      { path: "model", length: kind.model.length },
      { path: "system", length: 5_120 },
      ...turns,
      { path: "tools[0]", length: 812 },
      { path: "tools[1]", length: 640 },
      { path: "temperature", length: 1 },
      { path: "response_format", length: 220 },
    ],
    tape: keepsRequests,
  };
  return { status: 200, json };
}

function tape({ entries, keepsRequests = false }, key) {
  const entry = entries.find((each) => each.key === key);
  if (!entry) return failure(404, "entry_not_found", "No response is stored under this key.");
  if (!keepsRequests) return failure(404, "request_not_kept", "The request is not kept: start with --keep-requests.");
  const name = `${entry.model}-${key.slice(0, 8)}.tape`;
  return {
    status: 200,
    text: `reprise-tape 1\nkey ${key}\n`,
    headers: { "content-disposition": `attachment; filename="${name}"` },
  };
}

/** A status with something of everything. */
export const STATUS = {
  version: "0.1.0",
  store: { kind: "kv", encrypted: true, ok: true, latency_ms: 14 },
  ledger: {
    ok: true,
    since: "2026-10-21T08:00:00Z",
    complete_until: "2026-11-24T21:59:00Z",
    hours: 812,
    entries: 5000,
  },
  coalescing: true,
  keep_requests: false,
  counters: {
    scope: "ledger",
    ...{
      requests: 132_811,
      upstream_requests: 44_090,
      retries: 612,
      store_errors: 3,
      store_timeouts: 41,
      entries_corrupt: 0,
    },
    not_stored: { status: 231, truncated: 44, incomplete: 37, "error-body": 12, "invalid-json-answer": 5 },
  },
  settings: [
    { name: "OPENAI_BASE_URL", value: "https://api.openai.com/v1", source: "default", secret: false },
    { name: "PROXY_TOKENS", value: null, source: "set", secret: true },
    { name: "ADMIN_TOKEN", value: null, source: "set", secret: true },
    { name: "CACHE_TTL", value: "2592000", source: "set", secret: false },
    { name: "CACHE_MAX_TTL", value: null, source: "default", secret: false },
    { name: "CACHE_ENCRYPTION_KEY", value: null, source: "set", secret: true },
    { name: "STALE_IF_ERROR", value: "86400", source: "set", secret: false },
    {
      name: "UPSTREAMS",
      value: '{"ours":{"base_url":"https://llm.example/v1","drop_params":["logprobs","top_logprobs"]}}',
      source: "set",
      secret: false,
    },
    { name: "KEY_IGNORE", value: null, source: "default", secret: false },
    { name: "MAX_RETRIES", value: "5", source: "default", secret: false },
  ],
  warnings: [],
};
