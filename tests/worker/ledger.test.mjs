// What the cache saved: X-Cache-Saved, the log's tokens, and the ledger's totals, which are those of the upstream.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readRest, send } from "../../testkit/client.mjs";
import { chatCompletion, chatEvent, chatRequest, DONE, sseEvent } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { waitFor, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const ADMIN_TOKEN = "admin-geheim";
const VARS = { OPENAI_BASE_URL: `${upstream.origin}/v1`, MAX_RETRIES: "0", ADMIN_TOKEN };
const USAGE = { prompt_tokens: 12, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 4 } };
let prompts = 0;
const freshPrompt = () => `prompt ${(prompts += 1)}`;
const answer = (usage = USAGE) => ({ json: chatCompletion("Hello", { usage }) });
const ask = (proxy, prompt, fields = {}) => send(proxy.origin, chatRequest(prompt, { model: "gpt-4o", ...fields }));
const operator = async (proxy, path) => {
  const reply = await send(proxy.origin, { method: "GET", path, headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  assert.equal(reply.status, 200, `${path}: ${reply.body.toString()}`);
  return JSON.parse(reply.body.toString());
};

test("a hit says what it saved, and the log its tokens", async () => {
  const proxy = await worker({ vars: VARS });
  const prompt = freshPrompt();
  upstream.next(answer());
  const miss = await proxy.settled(() => ask(proxy, prompt));
  assert.equal(miss.headers["x-cache-saved"], undefined);
  const hit = await proxy.settled(() => ask(proxy, prompt));
  assert.match(hit.headers["x-cache-saved"], /^input_tokens=12, output_tokens=5, cached_input_tokens=4, ms=\d+$/);
  const lines = proxy.lines
    .slice(-2)
    .map(({ cache, input_tokens, output_tokens }) => [cache, input_tokens, output_tokens]);
  assert.deepEqual(lines, [
    ["MISS", 12, 5],
    ["HIT", 12, 5],
  ]);
  const converted = await proxy.settled(() => ask(proxy, prompt, { stream: true }));
  assert.match(converted.headers["x-cache-saved"], /^input_tokens=12, /);
  const again = await proxy.settled(() => ask(proxy, prompt));
  assert.match(again.headers["x-cache-saved"], /^input_tokens=12, /, "on the fast path too");
});

test("what is not known is not said", async () => {
  const proxy = await worker({ vars: VARS });
  const prompt = freshPrompt();
  upstream.next({ json: chatCompletion("Hello") });
  await proxy.settled(() => ask(proxy, prompt));
  const hit = await proxy.settled(() => ask(proxy, prompt));
  assert.match(hit.headers["x-cache-saved"], /^ms=\d+$/);
});

test("with X-Proxy-Usage: zero the counters of a hit are 0, and every other byte stays", async () => {
  const proxy = await worker({ vars: VARS });
  const prompt = freshPrompt();
  upstream.next(answer());
  const zero = { headers: { "x-proxy-usage": "zero" } };
  const miss = await proxy.settled(() => ask(proxy, prompt, zero));
  assert.deepEqual(JSON.parse(miss.body.toString()).usage, USAGE, "what was charged is said");
  for (let n = 0; n < 2; n += 1) {
    const hit = await proxy.settled(() => ask(proxy, prompt, zero));
    assert.equal(hit.body.toString(), miss.body.toString().replace(/:(12|5|4)\b/g, ":0"));
    assert.match(hit.headers["x-cache-saved"], /^input_tokens=12, /);
  }
  assert.equal((await proxy.settled(() => ask(proxy, prompt))).body.toString(), miss.body.toString());
  const byDefault = await worker({ vars: { ...VARS, USAGE_ON_HIT: "zero" } });
  upstream.next(answer());
  await byDefault.settled(() => ask(byDefault, prompt));
  assert.deepEqual(JSON.parse((await ask(byDefault, prompt)).body.toString()).usage.prompt_tokens, 0);
});

test("the ledger's totals are those of the upstream", async () => {
  const proxy = await worker({
    vars: { ...VARS, PRICES: '{"default/gpt-4o":{"input":1,"output":2,"cached_input":0.5}}' },
  });
  const repeated = freshPrompt();
  upstream.next(answer());
  await proxy.settled(() => ask(proxy, repeated));
  for (let n = 0; n < 3; n += 1) await proxy.settled(() => ask(proxy, repeated));
  // Not stored, and charged all the same.
  upstream.next({ json: chatCompletion("", { choice: { finish_reason: "content_filter" }, usage: USAGE }) });
  await proxy.settled(() => ask(proxy, freshPrompt(), { headers: { "x-proxy-namespace": "runs" } }));
  upstream.next({ json: { object: "list", data: [] } });
  await proxy.settled(() => send(proxy.origin, { method: "GET", path: "/proxy/models", headers: {} }));

  const { totals, rows, prices, currency } = await operator(proxy, "/admin/ledger?by=outcome,model,endpoint,namespace");
  assert.deepEqual(totals.tokens_saved, { input: 36, output: 15, cached_input: 12, cache_write: 0 });
  assert.deepEqual(totals.tokens_spent, { input: 24, output: 10, cached_input: 8, cache_write: 0 });
  assert.deepEqual([totals.requests, totals.hits, totals.coalesced, totals.unpriced_requests], [6, 3, 0, 0]);
  assert.deepEqual([totals.usd_saved, totals.usd_spent], [60e-6, 40e-6]);
  assert.match(prices, /^@pydantic\/genai-prices \d+\.\d+\.\d+$/);
  assert.equal(currency, "USD");
  assert.deepEqual(
    rows.map(({ outcome, model, endpoint, namespace, requests }) => [outcome, model, endpoint, namespace, requests]),
    [
      ["BYPASS", null, null, "", 1],
      ["HIT", "gpt-4o", "chat/completions", "", 3],
      ["MISS", "gpt-4o", "chat/completions", "", 1],
      ["MISS", "gpt-4o", "chat/completions", "runs", 1],
    ],
  );

  const { entries } = await operator(proxy, "/admin/entries?model=gpt-4o&namespace=");
  assert.deepEqual([entries.length, entries[0].requests, entries[0].hits], [1, 4, 3]);
  const deleted = await send(proxy.origin, {
    method: "DELETE",
    path: `/admin/cache/${entries[0].key}`,
    headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
  });
  assert.equal(deleted.body.toString(), '{"deleted":1,"cursor":null}', "the key is that of the entry");
});

test("clients that read a running stream along have saved its tokens", async () => {
  const proxy = await worker({ vars: { ...VARS, COALESCE: "true", PRICES: '{"*":{"input":1}}' } });
  const prompt = freshPrompt();
  const stream = controlledStream();
  upstream.next(stream.respond);
  const request = chatRequest(prompt, { model: "gpt-4o", stream: true, stream_options: { include_usage: true } });
  const leader = await open(proxy.origin, request);
  await withTimeout(stream.started, "the call to the upstream");
  const followers = [await open(proxy.origin, request), await open(proxy.origin, request)];
  for (const follower of followers) {
    assert.equal(xCacheStatusOf(follower), "COALESCED");
    assert.equal(follower.headers["x-cache-saved"], undefined, "the tokens are not known yet");
  }
  await stream.send(chatEvent({ content: "Hello" }, "stop"));
  await stream.send(sseEvent({ choices: [], usage: USAGE }) + DONE);
  await stream.end();
  await Promise.all([leader, ...followers].map(readRest));
  await proxy.logged(3);
  const { totals } = await operator(proxy, "/admin/ledger");
  assert.deepEqual([totals.requests, totals.coalesced, totals.unpriced_requests], [3, 2, 0]);
  assert.deepEqual([totals.tokens_saved.input, totals.tokens_spent.input], [24, 12]);
});

test("counts reach the ledger by themselves, and /metrics is that of all isolates", async () => {
  const proxy = await worker({ vars: { ...VARS, CACHE_TTL: "200" } });
  upstream.otherwise(answer());
  await proxy.settled(() => ask(proxy, freshPrompt()));
  const ledger = await proxy.ledger();
  await waitFor(async () => (await ledger("status", {})).rows === 1, "the batch of the first request");
  upstream.reset();
  const { body } = await send(proxy.origin, {
    method: "GET",
    path: "/metrics",
    headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
  });
  assert.match(body.toString(), /^# HELP reprise_requests_total .* of all isolates/m);
  assert.match(body.toString(), /^reprise_requests_total\{cache="MISS",status="200"\} 1$/m);
});

test("without a ledger, operators are told so, and /metrics is that of the isolate", async () => {
  const proxy = await worker({ vars: VARS, ledger: "none" });
  const headers = { authorization: `Bearer ${ADMIN_TOKEN}` };
  const reply = await send(proxy.origin, { method: "GET", path: "/admin/ledger", headers });
  assert.equal(reply.status, 404);
  assert.match(reply.body.toString(), /LEDGER/);
  const metrics = await send(proxy.origin, { method: "GET", path: "/metrics", headers });
  assert.match(metrics.body.toString(), /of this isolate/);
  const { ledger, settings, store, counters } = await operator(proxy, "/admin/status");
  assert.deepEqual([ledger, store.kind, store.ok, counters.scope], [null, "kv", true, "isolate"]);
  const setting = (name) => settings.find((each) => each.name === name);
  assert.deepEqual(setting("MAX_RETRIES"), { name: "MAX_RETRIES", value: "0", source: "set", secret: false });
  assert.deepEqual(setting("ADMIN_TOKEN"), { name: "ADMIN_TOKEN", value: null, source: "set", secret: true });
});

test("a parameter that cannot be read is a 400", async () => {
  const proxy = await worker({ vars: VARS });
  const headers = { authorization: `Bearer ${ADMIN_TOKEN}` };
  for (const path of ["/admin/ledger?by=tenant", "/admin/ledger?from=x", "/admin/entries?limit=x"]) {
    const reply = await send(proxy.origin, { method: "GET", path, headers });
    assert.equal(reply.status, 400, path);
    assert.equal(JSON.parse(reply.body.toString()).error.code, "invalid_parameter");
  }
  const reply = await send(proxy.origin, { method: "GET", path: "/admin/ledger", headers: {} });
  assert.equal(reply.status, 401);
});
